//! The MSS option of SYN segments is lowered, with its checksum.

use gate64_dataplane::siit::clamp_mss;

use crate::judge::*;

fn syn(options: &[u8], syn: bool) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ipv4(SERVER4.octets(), HOST4.octets(), 64).tcp(
        SERVER_PORT,
        PORT4,
        1,
        1000,
    );
    let builder = if syn { builder.syn() } else { builder.ack(1) };
    let mut bytes = Vec::new();
    builder
        .options_raw(options)
        .unwrap()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

#[test]
fn lowered_at_even_and_odd_places() {
    for options in [&[2, 4, 0x05, 0xb4][..], &[1, 2, 4, 0x05, 0xb4, 0, 0, 0]] {
        let mut bytes = syn(options, true);
        assert!(clamp_mss(&mut bytes[20..], 1220));
        let at = if options[0] == 2 { 42 } else { 43 };
        assert_eq!(bytes[at..at + 2], [0x04, 0xc4]);
        judge(&bytes);
    }
}

#[test]
fn left_alone() {
    for (options, is_syn) in [
        (&[2, 4, 0x04, 0xc4][..], true), // not above
        (&[2, 4, 0x05, 0xb4], false),    // no SYN
        (&[1, 1, 1, 1], true),           // no option
        (&[], true),
    ] {
        let before = syn(options, is_syn);
        let mut bytes = before.clone();
        assert!(!clamp_mss(&mut bytes[20..], 1220));
        assert_eq!(bytes, before);
    }
    assert!(!clamp_mss(&mut [0; 7], 1220));
}
