//! Length fields that contradict the packet or each other.

use gate64_dataplane::verdict::{DropReason, Side};

use super::support::packets::{repair4, with_length};
use super::{Live, SIDES, header_len};

const UDP: usize = 0;
const TCP: usize = 1;

#[test]
fn version_is_not_the_ether_types() {
    let mut live = Live::new();
    for side in SIDES {
        let packet = live.of(side)[UDP].clone();
        for version in (0..16).filter(|version| *version != packet[0] >> 4) {
            let mut wrong = packet.clone();
            wrong[0] = (version << 4) | (packet[0] & 0xf);
            live.gateway.refuses(side, &wrong, DropReason::Version);
        }
    }
    live.is_undisturbed();
}

#[test]
fn ipv4_header_length() {
    let mut live = Live::new();
    let packet = live.v4[UDP].clone();
    for ihl in 0..5 {
        let mut wrong = packet.clone();
        wrong[0] = 0x40 | ihl;
        live.gateway
            .refuses(Side::V4, &wrong, DropReason::HeaderLength);
    }
    // 40 octets are there, up to 60 are said to be the header.
    for ihl in 11..16 {
        let mut wrong = packet.clone();
        wrong[0] = 0x40 | ihl;
        repair4(&mut wrong);
        live.gateway
            .refuses(Side::V4, &wrong, DropReason::HeaderLength);
    }
    // The total length says that the packet ends inside its header.
    for len in 0..20 {
        live.gateway.refuses(
            Side::V4,
            &with_length(&packet, len),
            DropReason::HeaderLength,
        );
    }
    live.is_undisturbed();
}

#[test]
fn ipv4_options_of_lengths_that_do_not_fit() {
    let mut live = Live::new();
    let plain = live.v4[UDP].clone();
    for options in [
        [7, 0, 0, 0],   // of no length
        [7, 1, 0, 0],   // shorter than type and length
        [7, 5, 4, 0],   // beyond the header
        [1, 1, 1, 131], // a type without a length
        [131, 2, 1, 1], // a source route without a pointer
        [1, 1, 137, 3], // a source route beyond the header
    ] {
        let mut packet = plain[..20].to_vec();
        packet[0] = 0x46;
        packet.extend_from_slice(&options);
        packet.extend_from_slice(&plain[20..]);
        let packet = with_length(&packet, packet.len());
        live.gateway
            .refuses(Side::V4, &packet, DropReason::OptionsMalformed);
    }
    live.is_undisturbed();
}

#[test]
fn ip_length_beyond_the_frame() {
    let mut live = Live::new();
    for side in SIDES {
        for packet in live.of(side).clone() {
            let there = match side {
                Side::V6 => packet.len() - 40,
                Side::V4 => packet.len(),
            };
            for more in [1, 2, 8, 1000, 65535 - there] {
                let wrong = with_length(&packet, there + more);
                live.gateway.refuses(side, &wrong, DropReason::Truncated);
            }
        }
    }
    live.is_undisturbed();
}

#[test]
fn ipv6_without_payload_and_jumbograms() {
    let mut live = Live::new();
    let packet = with_length(&live.v6[UDP].clone(), 0);
    for next_header in [0, 17, 43, 44, 58, 59, 60] {
        let mut empty = packet.clone();
        empty[6] = next_header;
        live.gateway
            .refuses(Side::V6, &empty, DropReason::PayloadLength);
    }
    live.is_undisturbed();
}

#[test]
fn udp_length() {
    let mut live = Live::new();
    for side in SIDES {
        let packet = live.of(side)[UDP].clone();
        let at = header_len(side) + 4;
        let whole = packet.len() - header_len(side);
        let beyond = [whole + 1, whole + 8, 0x7fff, 0xffff];
        for len in (0..8).chain(beyond) {
            let mut wrong = packet.clone();
            wrong[at..at + 2].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
            live.gateway.refuses(side, &wrong, DropReason::UdpLength);
        }
    }
    live.is_undisturbed();
}

#[test]
fn tcp_data_offset() {
    let mut live = Live::new();
    for side in SIDES {
        let packet = live.of(side)[TCP].clone();
        let at = header_len(side) + 12;
        // 32 octets are there: an offset of 8 is the last that fits.
        for offset in (0..5).chain(9..16) {
            let mut wrong = packet.clone();
            wrong[at] = offset << 4;
            live.gateway.refuses(side, &wrong, DropReason::TcpOffset);
        }
    }
    live.is_undisturbed();
}

/// What lies behind the IP packet is the link's padding, and stays behind.
#[test]
fn link_padding_is_cut() {
    let mut live = Live::new();
    for side in SIDES {
        for packet in live.of(side).clone() {
            let mut padded = packet.clone();
            padded.extend_from_slice(&[0xee; 18]);
            let mut out = live.gateway.put(side, &padded).sent(side.other());
            let mut plain = live.gateway.put(side, &packet).sent(side.other());
            if side == Side::V6 {
                for one in [&mut out, &mut plain] {
                    one[4..6].fill(0); // one packet, one identification
                    repair4(one);
                }
            }
            assert_eq!(out, plain);
        }
    }
    live.is_undisturbed();
}

/// Each fragment but the last has a multiple of eight octets, none ends beyond the largest
/// packet, and none is empty (RFC 791 section 3.2, RFC 8200 section 4.5).
#[test]
fn fragments_of_lengths_that_cannot_be() {
    let mut live = Live::new();
    for side in SIDES {
        let plain = live.of(side)[UDP].clone();
        for (octets, offset, more) in [
            (9, 0, true),
            (15, 8, true),
            (0, 8, true),
            (0, 8, false),
            (8, 65528, false),
            (16, 65520, false),
            (8, 65528, true),
        ] {
            let packet = fragment(side, &plain, octets, offset, more);
            live.gateway
                .refuses(side, &packet, DropReason::FragmentLength);
        }
    }
    live.is_undisturbed();
}

/// A fragment of the first octets behind the header, at any place.
fn fragment(side: Side, whole: &[u8], octets: usize, offset: u16, more: bool) -> Vec<u8> {
    let header = header_len(side);
    let mut bytes = whole[..header].to_vec();
    if side == Side::V6 {
        bytes[6] = 44;
        bytes.extend_from_slice(&[whole[6], 0]);
        bytes.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 9]);
    } else {
        bytes[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
    }
    bytes.extend_from_slice(&whole[header..header + octets]);
    let len = if side == Side::V6 {
        bytes.len() - 40
    } else {
        bytes.len()
    };
    with_length(&bytes, len)
}
