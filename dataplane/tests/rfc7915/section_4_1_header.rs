//! IPv4 headers become IPv6 headers.

use etherparse::PacketBuilder;
use gate64_dataplane::siit;
use gate64_dataplane::verdict::{DropReason, IcmpError, Refusal};
use gate64_wire::addr::Protocol;
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts};

use crate::judge::*;

#[test]
fn udp_octets() {
    let mut bytes = udp_v4(&[1, 2, 3, 4]);
    bytes[1] = 0xb8;
    repair_v4(&mut bytes);
    bytes.extend_from_slice(&[0xaa; 14]); // link padding
    let out = to_v6(&bytes, Protocol::Udp, &rules());
    assert_eq!(
        out,
        [
            0x6b, 0x80, 0, 0, 0, 12, 17, 63, // flow label zero
            0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 198, 51, 100, 7, //
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, //
            0, 80, 0x12, 0x34, 0, 12, 0x91, 0x57, 1, 2, 3, 4,
        ]
    );
    judge(&out);
}

/// A packet without DF that fits gets no fragment header (RFC 8021).
#[test]
fn no_atomic_fragments() {
    for flags in [0x00, 0x40] {
        let mut bytes = udp_v4(&[5; 100]);
        bytes[6] = flags;
        repair_v4(&mut bytes);
        let out = to_v6(&bytes, Protocol::Udp, &rules());
        assert_eq!((out[6], out.len()), (17, 148));
        judge(&out);
    }
}

#[test]
fn options_are_ignored() {
    let plain = to_v6(&udp_v4(&[5; 9]), Protocol::Udp, &rules());
    for options in [&[1u8, 1, 1, 0][..], &[7, 39, 40, 0], &[0; 40]] {
        let mut bytes = udp_v4(&[5; 9]);
        let mut padded = options.to_vec();
        padded.resize(if options[0] == 7 { 40 } else { options.len() }, 0);
        bytes.splice(20..20, padded.iter().copied());
        bytes[0] = 0x45 + u8::try_from(padded.len() / 4).unwrap();
        bytes[3] += u8::try_from(padded.len()).unwrap();
        repair_v4(&mut bytes);
        assert_eq!(to_v6(&bytes, Protocol::Udp, &rules()), plain);
    }
}

/// The fragment header: offset and M copied, identification with zeroes in front.
#[test]
fn fragment_octets() {
    let whole = udp_v4(&[3; 40]);
    let mut bytes = whole[..52].to_vec();
    bytes[3] = 52;
    bytes[4..8].copy_from_slice(&[0xbe, 0xef, 0x20, 0]);
    repair_v4(&mut bytes);
    let out = to_v6(&bytes, Protocol::Udp, &rules());
    assert_eq!(out[4..8], [0, 40, 44, 63]);
    assert_eq!(out[40..48], [17, 0, 0, 1, 0, 0, 0xbe, 0xef]);
    assert_eq!(out[48..], to_v6(&whole, Protocol::Udp, &rules())[40..72]);

    let mut bytes = whole[..20].to_vec();
    bytes.extend_from_slice(&[9; 11]);
    bytes[3] = 31;
    bytes[4..8].copy_from_slice(&[0xbe, 0xef, 0, 185]);
    repair_v4(&mut bytes);
    let out = to_v6(&bytes, Protocol::Udp, &rules());
    assert_eq!(out[40..48], [17, 0, 0x05, 0xc8, 0, 0, 0xbe, 0xef]);
    assert_eq!(out[48..], [9; 11]);
}

#[test]
fn echo_messages() {
    for reply in [false, true] {
        let builder = PacketBuilder::ipv4(SERVER4.octets(), HOST4.octets(), 64);
        let mut bytes = Vec::new();
        if reply {
            builder
                .icmpv4_echo_reply(PORT4, 3)
                .write(&mut bytes, &[9; 57])
        } else {
            builder
                .icmpv4_echo_request(PORT4, 3)
                .write(&mut bytes, &[9; 57])
        }
        .unwrap();
        let out = to_v6(&bytes, Protocol::Icmp, &rules());
        assert_eq!(out[6], 58);
        assert_eq!(out[40..42], [if reply { 129 } else { 128 }, 0]);
        assert_eq!(out[44..48], [0x12, 0x34, 0, 3]);
        judge(&out);
    }
}

#[test]
fn tcp() {
    let builder = PacketBuilder::ipv4(SERVER4.octets(), HOST4.octets(), 64);
    let mut bytes = Vec::new();
    builder
        .tcp(SERVER_PORT, PORT4, 1, 1000)
        .ack(2)
        .write(&mut bytes, &[0xab; 1399])
        .unwrap();
    judge(&to_v6(&bytes, Protocol::Tcp, &rules()));
}

#[test]
fn ttl_and_source_route_are_refused() {
    let mut bytes = udp_v4(&[]);
    bytes[8] = 1;
    repair_v4(&mut bytes);
    assert_eq!(
        siit::check_v4(&Ipv4Facts::parse(&bytes).unwrap(), &rules()),
        Err(Refusal::Reject(
            DropReason::HopLimit,
            IcmpError::TimeExceeded
        ))
    );
    let mut bytes = udp_v4(&[]);
    bytes.splice(20..20, [1, 131, 7, 4, 10, 0, 0, 1]);
    bytes[0] = 0x47;
    bytes[3] += 8;
    repair_v4(&mut bytes);
    assert_eq!(
        siit::check_v4(&Ipv4Facts::parse(&bytes).unwrap(), &rules()),
        Err(Refusal::Reject(
            DropReason::SourceRoute,
            IcmpError::SourceRouteFailed
        ))
    );
    let mut bytes = udp_v4(&[]);
    bytes[9] = 47;
    repair_v4(&mut bytes);
    assert_eq!(
        siit::check_v4(&Ipv4Facts::parse(&bytes).unwrap(), &rules()),
        Err(Refusal::Reject(
            DropReason::UnknownProtocol,
            IcmpError::ProtocolUnreachable { pointer: 9 }
        ))
    );
}

fn fragments(bytes: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    siit::fragments_v6(bytes, 0xbeef, mtu)
        .map(|fragment| {
            let mut out = vec![0; fragment.len()];
            assert!(fragment.write(&mut out));
            assert!(!fragment.write(&mut out[1..]));
            out
        })
        .collect()
}

/// Without DF, a packet too large for IPv6 leaves as fragments of at most 1280 octets.
#[test]
fn too_large_without_dont_fragment() {
    let payload: Vec<u8> = (0..1472u16)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let whole = to_v6(&udp_v4(&payload), Protocol::Udp, &rules());
    assert_eq!(whole.len(), 1520);
    let parts = fragments(&whole, 1280);
    assert_eq!(
        parts.iter().map(Vec::len).collect::<Vec<_>>(),
        [1280, 48 + 248]
    );
    assert_eq!(parts[0][4..8], [0x04, 0xd8, 44, 63]);
    assert_eq!(parts[0][40..48], [17, 0, 0, 1, 0, 0, 0xbe, 0xef]);
    assert_eq!(parts[1][40..48], [17, 0, 0x04, 0xd0, 0, 0, 0xbe, 0xef]);
    let payload: Vec<u8> = parts.iter().flat_map(|part| &part[48..]).copied().collect();
    assert_eq!(payload, whole[40..]);
    for part in &parts {
        assert_eq!(part[8..40], whole[8..40]);
        Ipv6Facts::parse(part).unwrap();
    }
}

/// A fragment that is still too large is cut further: offsets add up, M stays on the last one.
#[test]
fn too_large_fragment() {
    let mut bytes = udp_v4(&[]);
    bytes.truncate(20);
    bytes.extend_from_slice(&[7; 1480]);
    bytes[2..8].copy_from_slice(&[0x05, 0xdc, 0x12, 0x34, 0x20, 185]);
    repair_v4(&mut bytes);
    let parts = fragments(&to_v6(&bytes, Protocol::Udp, &rules()), 1280);
    assert_eq!(parts.len(), 2);
    assert_eq!(parts[0][40..48], [17, 0, 0x05, 0xc9, 0, 0, 0x12, 0x34]);
    assert_eq!(parts[1][40..48], [17, 0, 0x0a, 0x99, 0, 0, 0x12, 0x34]);
    assert_eq!(parts[0].len() + parts[1].len(), 1480 + 96);
}
