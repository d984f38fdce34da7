//! ICMP errors that the translator itself makes (sections 4.4 and 5.4; RFC 4443, RFC 1122).

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_dataplane::siit;
use gate64_dataplane::verdict::IcmpError;
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts};

use crate::judge::*;

const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
const ROUTER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

fn answer_v6(bytes: &[u8], error: IcmpError) -> Option<Vec<u8>> {
    let facts = Ipv6Facts::parse(bytes).unwrap();
    let (made, out) = in_chunk(bytes, |packet| {
        siit::make_error_v6(packet, &facts, error, ROUTER6)
    });
    if made {
        judge(&out);
        return Some(out);
    }
    assert_eq!(out, bytes, "what is not answered is intact");
    None
}

fn answer_v4(bytes: &[u8], error: IcmpError) -> Option<Vec<u8>> {
    let facts = Ipv4Facts::parse(bytes).unwrap();
    let (made, out) = in_chunk(bytes, |packet| {
        siit::make_error_v4(packet, &facts, error, ROUTER4)
    });
    if made {
        judge(&out);
        return Some(out);
    }
    assert_eq!(out, bytes, "what is not answered is intact");
    None
}

#[test]
fn icmpv6_octets() {
    let bytes = udp_v6(&[1, 2, 3]);
    let mut padded = bytes.clone();
    padded.extend_from_slice(&[0; 9]);
    let out = answer_v6(&padded, IcmpError::TooBig { mtu: 1400 }).unwrap();
    assert_eq!(out[..8], [0x60, 0, 0, 0, 0, 59, 58, 64]);
    assert_eq!(out[8..24], ROUTER6.octets());
    assert_eq!(out[24..40], HOST6.octets());
    assert_eq!(out[40..42], [2, 0]);
    assert_eq!(out[44..48], [0, 0, 0x05, 0x78]);
    assert_eq!(
        out[48..],
        bytes,
        "the packet as it came, without link padding"
    );
}

#[test]
fn icmpv4_octets() {
    let bytes = udp_v4(&[1, 2, 3]);
    let out = answer_v4(&bytes, IcmpError::TooBig { mtu: 1400 }).unwrap();
    assert_eq!(out[..10], [0x45, 0xc0, 0, 59, 0, 0, 0x40, 0, 255, 1]);
    assert_eq!(out[12..20], [192, 0, 2, 254, 198, 51, 100, 7]);
    assert_eq!(out[20..22], [3, 4]);
    assert_eq!(out[24..28], [0, 0, 0x05, 0x78]);
    assert_eq!(out[28..], bytes);
}

#[test]
fn types_and_codes() {
    let pointer = 43;
    for (error, v6, v4) in [
        (IcmpError::TimeExceeded, Some([3, 0, 0, 0]), [11, 0, 0, 0]),
        (
            IcmpError::AdminProhibited,
            Some([1, 1, 0, 0]),
            [3, 13, 0, 0],
        ),
        (
            IcmpError::AddressUnreachable,
            Some([1, 3, 0, 0]),
            [3, 1, 0, 0],
        ),
        (IcmpError::NoRoute, Some([1, 0, 0, 0]), [3, 0, 0, 0]),
        (IcmpError::PortUnreachable, Some([1, 4, 0, 0]), [3, 3, 0, 0]),
        (
            IcmpError::ParameterProblem { pointer },
            Some([4, 0, 0, 43]),
            [12, 0, 43, 0],
        ),
        (
            IcmpError::ProtocolUnreachable { pointer },
            Some([4, 1, 0, 43]),
            [3, 2, 0, 0],
        ),
        (IcmpError::SourceRouteFailed, None, [3, 5, 0, 0]),
    ] {
        let out = answer_v6(&udp_v6(&[]), error);
        assert_eq!(
            out.map(|out| [out[40], out[41], out[44], out[47]]),
            v6,
            "{error:?}"
        );
        let out = answer_v4(&udp_v4(&[]), error).unwrap();
        assert_eq!([out[20], out[21], out[24], out[27]], v4, "{error:?}");
    }
}

/// RFC 4443 section 2.4 (c), RFC 1812 section 4.3.2.3.
#[test]
fn size_is_limited() {
    assert_eq!(
        answer_v6(&udp_v6(&[5; 1400]), IcmpError::NoRoute)
            .unwrap()
            .len(),
        1280
    );
    assert_eq!(
        answer_v4(&udp_v4(&[5; 1400]), IcmpError::NoRoute)
            .unwrap()
            .len(),
        576
    );
}

/// RFC 4443 section 2.4 (e).
#[test]
fn icmpv6_is_not_answered() {
    let inner = sent_udp_v6(&[]);
    for icmp_type in [1, 2, 3, 4, 100, 127, 137] {
        assert_eq!(
            answer_v6(
                &icmp_v6(icmp_type, 0, [0; 4], &inner),
                IcmpError::TimeExceeded
            ),
            None
        );
    }
    assert!(answer_v6(&icmp_v6(128, 0, [0; 4], &inner), IcmpError::TimeExceeded).is_some());
    for src in ["::", "::1", "ff02::1"] {
        let mut bytes = udp_v6(&[]);
        bytes[8..24].copy_from_slice(&src.parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(answer_v6(&bytes, IcmpError::NoRoute), None, "{src}");
    }
    let mut bytes = udp_v6(&[]);
    bytes[24] = 0xff;
    assert_eq!(answer_v6(&bytes, IcmpError::NoRoute), None);
    assert!(answer_v6(&bytes, IcmpError::TooBig { mtu: 1280 }).is_some());
    let later = insert_v6(&udp_v6(&[]), 44, &[0, 0, 0x05, 0xc8, 0, 0, 0, 1]);
    assert_eq!(answer_v6(&later, IcmpError::NoRoute), None);
}

/// RFC 1122 section 3.2.2.
#[test]
fn icmpv4_is_not_answered() {
    for icmp_type in [3, 4, 5, 11, 12] {
        let bytes = icmp_v4(icmp_type, 0, [0; 4], &sent_udp_v4(&[]));
        assert_eq!(answer_v4(&bytes, IcmpError::TimeExceeded), None);
    }
    for (at, first) in [
        (12, 0),
        (12, 127),
        (12, 224),
        (12, 255),
        (16, 224),
        (16, 255),
    ] {
        let mut bytes = udp_v4(&[]);
        bytes[at] = first;
        repair_v4(&mut bytes);
        assert_eq!(answer_v4(&bytes, IcmpError::NoRoute), None, "{at} {first}");
    }
    let mut bytes = udp_v4(&[]);
    bytes[7] = 185;
    repair_v4(&mut bytes);
    assert_eq!(answer_v4(&bytes, IcmpError::NoRoute), None);
}

#[test]
fn missing_headroom() {
    let bytes = udp_v6(&[]);
    let facts = Ipv6Facts::parse(&bytes).unwrap();
    let (made, out) = in_chunk_with(47, &bytes, |packet| {
        siit::make_error_v6(packet, &facts, IcmpError::NoRoute, ROUTER6)
    });
    assert_eq!((made, out), (false, bytes));
    let bytes = udp_v4(&[]);
    let facts = Ipv4Facts::parse(&bytes).unwrap();
    let (made, out) = in_chunk_with(27, &bytes, |packet| {
        siit::make_error_v4(packet, &facts, IcmpError::NoRoute, ROUTER4)
    });
    assert_eq!((made, out), (false, bytes));
}
