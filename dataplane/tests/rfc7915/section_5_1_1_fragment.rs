//! IPv6 fragments become IPv4 fragments.

use gate64_wire::addr::Protocol;

use crate::judge::*;

fn fragment(offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = udp_v6(&[]);
    bytes.truncate(40);
    bytes.extend_from_slice(payload);
    let mut header = [0; 8];
    header[2..4].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
    header[4..].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    let mut bytes = insert_v6(&bytes, 44, &header);
    bytes[40] = 17;
    bytes
}

/// Identification is the low-order 16 bits, MF is M, DF is zero.
#[test]
fn first_fragment_octets() {
    let whole = udp_v6(&[3; 40]);
    let out = to_v4(&fragment(0, true, &whole[40..72]), Protocol::Udp, &rules());
    assert_eq!(out[..10], [0x45, 0, 0, 52, 0xbe, 0xef, 0x20, 0, 63, 17]);
    // The checksum covers the whole datagram: it is that of the datagram translated whole.
    let expected = to_v4(&whole, Protocol::Udp, &rules());
    assert_eq!(out[20..], expected[20..52]);
}

#[test]
fn later_fragment_octets() {
    let out = to_v4(&fragment(1480, false, &[3; 1300]), Protocol::Udp, &rules());
    assert_eq!(out[..10], [0x45, 0, 0x05, 0x28, 0xbe, 0xef, 0, 185, 63, 17]);
    assert_eq!(out[12..20], [192, 0, 2, 1, 198, 51, 100, 7]);
    assert_eq!(out[20..], [3; 1300], "payload is not touched");
    let out = to_v4(&fragment(1480, true, &[3; 8]), Protocol::Udp, &rules());
    assert_eq!(out[6..8], [0x20, 185]);
}

/// RFC 6946: an atomic fragment is whole, and keeps its identification.
#[test]
fn atomic_fragment() {
    let whole = udp_v6(&[3; 1300]);
    let out = to_v4(&fragment(0, false, &whole[40..]), Protocol::Udp, &rules());
    assert_eq!(out[4..8], [0xbe, 0xef, 0, 0]);
    judge(&out);
}
