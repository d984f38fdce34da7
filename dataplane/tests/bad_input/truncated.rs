//! Packets cut at every octet.

use gate64_dataplane::verdict::{DropReason, Side};

use super::support::fragments::{cut_v4, cut_v6};
use super::support::packets::{error4, error6, repair4, tcp4, tcp6};
use super::support::{HOST, POOL, SERVER, embedded};
use super::{ACK, Live, PORT, SIDES, cut_to};

const UDP: usize = 0;
const TCP: usize = 1;
const ICMP: usize = 2;

/// The link delivers fewer octets than the IP header says.
#[test]
fn fewer_octets_than_the_ip_header_says() {
    let mut live = Live::new();
    for side in SIDES {
        let mut all = live.of(side).to_vec();
        let inner = live.of(side)[UDP].clone();
        match side {
            Side::V6 => {
                all.extend(cut_v6(&inner, 7, &[8]));
                let ends = (HOST, embedded(SERVER));
                all.push(error6(ends, (1, 4), [0; 4], &inner));
            }
            Side::V4 => {
                all.extend(cut_v4(&inner, 7, &[8]));
                all.push(error4((SERVER, POOL), (3, 3), [0; 4], &inner));
            }
        }
        for packet in all {
            for len in 0..packet.len() {
                live.gateway
                    .refuses(side, &packet[..len], DropReason::Truncated);
            }
        }
    }
    live.is_undisturbed();
}

/// The IP header says that the packet ends inside its upper-layer header.
#[test]
fn the_upper_layer_header_is_incomplete() {
    let mut live = Live::new();
    for side in SIDES {
        let whole = live.of(side).clone();
        for len in 0..whole[UDP].len() {
            let nothing = match side {
                Side::V6 if len == 0 => Some(DropReason::PayloadLength),
                _ => None,
            };
            for (which, header) in [(UDP, 8), (TCP, 20), (ICMP, 8)] {
                if len < header {
                    let packet = cut_to(side, &whole[which], len);
                    let reason = nothing.unwrap_or(DropReason::L4Truncated);
                    live.gateway.refuses(side, &packet, reason);
                }
            }
        }
        // Behind the header UDP's own length tells.
        let payload = whole[UDP].len() - super::header_len(side);
        for len in 8..payload {
            let packet = cut_to(side, &whole[UDP], len);
            live.gateway.refuses(side, &packet, DropReason::UdpLength);
        }
    }
    live.is_undisturbed();
}

#[test]
fn tcp_options_are_incomplete() {
    let mut live = Live::new();
    let port = u16::from_be_bytes([live.v4[TCP][22], live.v4[TCP][23]]);
    for side in SIDES {
        let mut packet = match side {
            Side::V6 => tcp6((HOST, PORT), (embedded(SERVER), 80), ACK, &[1; 40]),
            Side::V4 => tcp4((SERVER, 80), (POOL, port), ACK, &[1; 40]),
        };
        // The 40 octets of payload become options.
        packet[super::header_len(side) + 12] = 0xf0;
        for len in 20..60 {
            let cut = cut_to(side, &packet, len);
            live.gateway.refuses(side, &cut, DropReason::TcpOffset);
        }
        live.gateway
            .put(side, &cut_to(side, &packet, 60))
            .sent(side.other());
    }
    live.is_undisturbed();
}

#[test]
fn ipv4_options_are_incomplete() {
    let mut live = Live::new();
    let plain = live.v4[UDP].clone();
    let mut packet = plain[..20].to_vec();
    packet[0] = 0x4f;
    packet.extend_from_slice(&[1; 40]);
    packet.extend_from_slice(&plain[20..]);
    let len = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    repair4(&mut packet);
    for len in 0..packet.len() {
        let reason = match len {
            20..60 => DropReason::HeaderLength,
            _ => DropReason::Truncated,
        };
        live.gateway.refuses(Side::V4, &packet[..len], reason);
    }
    // Options are left behind (RFC 7915 section 4.1).
    let with_options = live.gateway.v4(&packet);
    assert_eq!(with_options, live.gateway.v4(&plain));
    live.is_undisturbed();
}
