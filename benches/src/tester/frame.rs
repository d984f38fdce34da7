//! Test frames: UDP datagrams or ICMP echoes with a mark, the run, the flow and the time of sending in
//! their payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gate64_wire::checksum::{Sum, pseudo_header_v4, pseudo_header_v6};

use super::flow::Endpoint;

/// Octets of the mark, run, flow and time: what the smallest IPv4 frame has behind UDP or ICMP.
pub const TAG_LEN: usize = 18;
const MARK: [u8; 4] = *b"g64t";
const ETHERNET_LEN: usize = 14;
/// Octets of a UDP header, and of an ICMP echo's.
const L4_LEN: usize = 8;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Octets of the longest frame, without frame check sequence.
pub const FRAME_LEN_MAX: usize = 1538;
/// Octets of the frame check sequence, which RFC 2544 counts as the frame's.
pub const FCS_LEN: usize = 4;
/// Octets of the smallest frame on the IPv6 side (RFC 8219 section 5.1.1: 64 on the IPv4 side, 20 more).
pub const FRAME_OCTETS_MIN: usize = ETHERNET_LEN + 40 + L4_LEN + TAG_LEN + FCS_LEN;
const _: () = assert!(FRAME_OCTETS_MIN == 84);

/// What a test frame is above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A UDP datagram.
    Udp,
    /// An echo request, whose identifier stands for the source port.
    EchoRequest,
    /// An echo reply, whose identifier stands for the destination port.
    EchoReply,
}

impl Message {
    /// The protocol number over IPv6 or IPv4.
    const fn number(self, over_ipv6: bool) -> u8 {
        match (self, over_ipv6) {
            (Message::Udp, _) => UDP,
            (_, true) => ICMPV6,
            (_, false) => ICMP,
        }
    }

    /// The ICMP type (RFC 792, RFC 4443 section 4).
    const fn icmp_type(self, over_ipv6: bool) -> u8 {
        match (self, over_ipv6) {
            (Message::EchoRequest, true) => 128,
            (Message::EchoReply, true) => 129,
            (Message::EchoRequest, false) => 8,
            _ => 0,
        }
    }
}

/// What a test frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Which run, so that late frames of an earlier one do not count.
    pub run: u16,
    /// Which flow.
    pub flow: u32,
    /// When it was sent, in nanoseconds of the ports' clock.
    pub sent_at: u64,
}

/// Octets of payload of frames that are `frame_octets` long on the IPv6 side, check sequence included.
pub fn payload_len(frame_octets: usize) -> usize {
    frame_octets.saturating_sub(FRAME_OCTETS_MIN) + TAG_LEN
}

/// Writes a frame; gives its length without check sequence. `link` is destination and source.
pub fn write(
    out: &mut [u8; FRAME_LEN_MAX],
    link: &[u8; 12],
    message: Message,
    (src, dst): (Endpoint, Endpoint),
    tag: &Tag,
    payload_len: usize,
) -> usize {
    let l4_len = u16::try_from(L4_LEN + payload_len).unwrap_or(u16::MAX);
    out[..12].copy_from_slice(link);
    let number = message.number(src.ip.is_ipv6());
    let (l4_at, pseudo) = match (src.ip, dst.ip) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => write_ipv6(out, src, dst, number, l4_len),
        (IpAddr::V4(src), IpAddr::V4(dst)) => write_ipv4(out, src, dst, number, l4_len),
        _ => unreachable!("both ends of a frame are of one family"),
    };
    let end = l4_at + L4_LEN + payload_len;
    let l4 = &mut out[l4_at..end];
    l4[8..12].copy_from_slice(&MARK);
    l4[12..14].copy_from_slice(&tag.run.to_be_bytes());
    l4[14..18].copy_from_slice(&tag.flow.to_be_bytes());
    l4[18..26].copy_from_slice(&tag.sent_at.to_be_bytes());
    // What follows is zero: the buffer is this function's alone, and only the tag of an IPv6
    // frame lay further back, by the 20 octets of the longer header.
    let rest_end = l4.len().min(L4_LEN + TAG_LEN + 20);
    l4[L4_LEN + TAG_LEN..rest_end].fill(0);
    match message {
        Message::Udp => {
            l4[..2].copy_from_slice(&src.port.to_be_bytes());
            l4[2..4].copy_from_slice(&dst.port.to_be_bytes());
            l4[4..6].copy_from_slice(&l4_len.to_be_bytes());
            l4[6..8].fill(0);
            let checksum = pseudo.bytes(&l4[..L4_LEN + TAG_LEN]).udp_checksum();
            l4[6..8].copy_from_slice(&checksum.to_be_bytes());
        }
        Message::EchoRequest | Message::EchoReply => {
            let is_request = message == Message::EchoRequest;
            let identifier = if is_request { src.port } else { dst.port };
            l4[..8].copy_from_slice(&[message.icmp_type(src.ip.is_ipv6()), 0, 0, 0, 0, 0, 0, 0]);
            l4[4..6].copy_from_slice(&identifier.to_be_bytes());
            // Only ICMPv6 sums its pseudo-header (RFC 4443 section 2.3).
            let before = if src.ip.is_ipv6() { pseudo } else { Sum::ZERO };
            let checksum = before.bytes(&l4[..L4_LEN + TAG_LEN]).checksum();
            l4[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    end
}

fn write_ipv6(
    out: &mut [u8],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    number: u8,
    l4_len: u16,
) -> (usize, Sum) {
    out[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, number, 64]);
    out[18..20].copy_from_slice(&l4_len.to_be_bytes());
    out[22..38].copy_from_slice(&src.octets());
    out[38..54].copy_from_slice(&dst.octets());
    (54, pseudo_header_v6(src, dst, number, l4_len))
}

fn write_ipv4(
    out: &mut [u8],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    number: u8,
    l4_len: u16,
) -> (usize, Sum) {
    out[12..26].copy_from_slice(&[0x08, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, number, 0, 0]);
    out[16..18].copy_from_slice(&l4_len.saturating_add(20).to_be_bytes());
    out[26..30].copy_from_slice(&src.octets());
    out[30..34].copy_from_slice(&dst.octets());
    let checksum = Sum::ZERO.bytes(&out[14..34]).checksum();
    out[24..26].copy_from_slice(&checksum.to_be_bytes());
    (34, pseudo_header_v4(src, dst, number, l4_len))
}

/// A test frame as it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// What it is above IP.
    pub message: Message,
    /// Where it says it is from.
    pub src: Endpoint,
    /// Where it is to.
    pub dst: Endpoint,
    /// What it carries.
    pub tag: Tag,
    /// Octets of payload.
    pub payload_len: usize,
    /// Whether the UDP or ICMP checksum is right; over IPv4 UDP may have none (RFC 768).
    pub checksum_is_right: bool,
}

/// Reads a frame; `None` if it is no test frame.
pub fn read(frame: &[u8]) -> Option<Received> {
    let packet = frame.get(ETHERNET_LEN..)?;
    let word = |octets: &[u8], at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
    let (number, l4_len, l4, src, dst) = match frame[12..14] {
        [0x86, 0xdd] => {
            let (head, l4) = packet.split_first_chunk::<40>()?;
            let at =
                |from: usize| IpAddr::from(*head[from..].first_chunk::<16>().unwrap_or(&[0; 16]));
            (head[6], word(head, 4), l4, at(8), at(24))
        }
        [0x08, 0] => {
            let (head, l4) = packet.split_first_chunk::<20>()?;
            if head[0] != 0x45 {
                return None;
            }
            let at = |from: usize| {
                IpAddr::from([head[from], head[from + 1], head[from + 2], head[from + 3]])
            };
            (head[9], word(head, 2).checked_sub(20)?, l4, at(12), at(16))
        }
        _ => return None,
    };
    // Ethernet pads what is short.
    let l4 = l4.get(..usize::from(l4_len))?;
    let head = l4.first_chunk::<{ L4_LEN + TAG_LEN }>()?;
    if head[8..12] != MARK {
        return None;
    }
    let pseudo = match (src, dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => pseudo_header_v6(src, dst, number, l4_len),
        (IpAddr::V4(src), IpAddr::V4(dst)) => pseudo_header_v4(src, dst, number, l4_len),
        _ => return None,
    };
    let (message, ports, checksum_is_right) = match number {
        UDP => (
            Message::Udp,
            (word(head, 0), word(head, 2)),
            udp_is_right(l4, src.is_ipv6(), pseudo)?,
        ),
        _ => read_echo(l4, number, src.is_ipv6(), pseudo)?,
    };
    let mut sent_at = [0; 8];
    sent_at.copy_from_slice(&head[18..26]);
    let end = |ip: IpAddr, port: u16| Endpoint { ip, port };
    Some(Received {
        message,
        src: end(src, ports.0),
        dst: end(dst, ports.1),
        tag: Tag {
            run: word(head, 12),
            flow: u32::from_be_bytes([head[14], head[15], head[16], head[17]]),
            sent_at: u64::from_be_bytes(sent_at),
        },
        payload_len: l4.len() - L4_LEN,
        checksum_is_right,
    })
}

/// Whether a datagram's checksum is right; `None` where a receiver would not take it for one.
fn udp_is_right(l4: &[u8], over_ipv6: bool, pseudo: Sum) -> Option<bool> {
    if usize::from(u16::from_be_bytes([l4[4], l4[5]])) != l4.len() {
        return None;
    }
    match (l4[6..8] == [0, 0], over_ipv6) {
        // A receiver discards a datagram over IPv6 without checksum (RFC 8200 section 8.1).
        (true, true) => None,
        (true, false) => Some(true),
        (false, _) => Some(pseudo.bytes(l4).folded() == 0xffff),
    }
}

/// What it is, the identifier where its port would be, and whether the checksum is right.
fn read_echo(
    l4: &[u8],
    number: u8,
    over_ipv6: bool,
    pseudo: Sum,
) -> Option<(Message, (u16, u16), bool)> {
    let both = [Message::EchoRequest, Message::EchoReply];
    let message = both.into_iter().find(|message| {
        let is = (message.number(over_ipv6), message.icmp_type(over_ipv6));
        is == (number, l4[0])
    })?;
    let identifier = u16::from_be_bytes([l4[4], l4[5]]);
    let ports = match message {
        Message::EchoReply => (0, identifier),
        _ => (identifier, 0),
    };
    let before = if over_ipv6 { pseudo } else { Sum::ZERO };
    Some((message, ports, before.bytes(l4).folded() == 0xffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag {
        run: 3,
        flow: 70_000,
        sent_at: 0x0102_0304_0506_0708,
    };

    fn endpoint(ip: &str, port: u16) -> Endpoint {
        let ip = ip.parse().unwrap();
        Endpoint { ip, port }
    }

    #[test]
    fn what_is_written_is_read() {
        // One buffer for all, as the tester has.
        let mut out = [0; FRAME_LEN_MAX];
        for (src, dst) in [
            ("2001:2::1", "64:ff9b::c613:101"),
            ("198.19.1.1", "192.0.2.1"),
        ] {
            let (src, dst) = (endpoint(src, 1024), endpoint(dst, 4000));
            for (octets, message) in [84, 128, 1538].into_iter().zip([
                Message::Udp,
                Message::EchoRequest,
                Message::EchoReply,
            ]) {
                let ends = (src, dst);
                let payload_len = payload_len(octets);
                let len = write(&mut out, &[2; 12], message, ends, &TAG, payload_len);
                if src.ip.is_ipv6() {
                    assert_eq!(len + FCS_LEN, octets);
                }
                let got = read(&out[..len]).unwrap();
                let ports = match message {
                    Message::Udp => (src.port, dst.port),
                    Message::EchoRequest => (src.port, 0),
                    Message::EchoReply => (0, dst.port),
                };
                assert_eq!((got.src.ip, got.dst.ip), (src.ip, dst.ip));
                assert_eq!((got.src.port, got.dst.port), ports);
                assert_eq!((got.message, got.tag), (message, TAG));
                assert!(got.checksum_is_right);
                out[len - 1] ^= 1;
                assert!(!read(&out[..len]).unwrap().checksum_is_right);
                out[len - 1] ^= 1;
                assert_eq!(read(&out[..len - 1]), None);
            }
        }
    }

    #[test]
    fn only_over_ipv4_a_datagram_may_lack_its_checksum() {
        for (src, may) in [("2001:2::1", false), ("198.19.1.1", true)] {
            let mut out = [0; FRAME_LEN_MAX];
            let ends = (endpoint(src, 1), endpoint(src, 2));
            let len = write(&mut out, &[2; 12], Message::Udp, ends, &TAG, TAG_LEN);
            out[len - TAG_LEN - 2..len - TAG_LEN].fill(0);
            let got = read(&out[..len]);
            assert_eq!(got.is_some_and(|got| got.checksum_is_right), may);
        }
    }

    #[test]
    fn other_frames_are_not_the_testers() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0; 60]), None);
        let mut out = [0; FRAME_LEN_MAX];
        let ends = (endpoint("198.19.1.1", 1), endpoint("192.0.2.1", 2));
        let len = write(&mut out, &[2; 12], Message::Udp, ends, &TAG, TAG_LEN);
        out[42] = b'x';
        assert_eq!(read(&out[..len]), None);
    }
}
