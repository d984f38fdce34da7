//! Link headers: Ethernet, with one 802.1Q tag where the port has one.

use gate64_wire::ethernet::{self, Header};

use crate::packet::Packet;
use crate::route::NextHop;
use crate::verdict::{DropReason, Side};

/// Takes the link header off a received frame and tells the side it is from. The header has to
/// be of the port's VLAN, or untagged where it has none.
#[inline]
pub(super) fn strip(packet: &mut Packet, vlan: Option<u16>) -> Result<Side, DropReason> {
    let header = Header::parse(packet.bytes()).map_err(|_| DropReason::LinkMalformed)?;
    if header.vlan != vlan {
        return Err(DropReason::LinkMalformed);
    }
    let side = match header.ether_type {
        ethernet::IPV6 => Side::V6,
        ethernet::IPV4 => Side::V4,
        _ => return Err(DropReason::LinkMalformed),
    };
    packet.trim_front(match header.vlan {
        None => 14,
        Some(_) => 18,
    });
    Ok(side)
}

/// Puts the link header to a next hop in front of an IP packet.
#[inline]
pub(super) fn write(packet: &mut Packet, hop: &NextHop, side: Side) -> Result<(), DropReason> {
    let header = Header {
        dst: hop.destination_mac,
        src: hop.source_mac,
        vlan: hop.vlan,
        ether_type: match side {
            Side::V6 => ethernet::IPV6,
            Side::V4 => ethernet::IPV4,
        },
    };
    if !packet.grow_front(if hop.vlan.is_some() { 18 } else { 14 }) {
        return Err(DropReason::Headroom);
    }
    header.write(packet.bytes_mut());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Window;
    use crate::route::PortId;

    const HOP: NextHop = NextHop {
        port: PortId(0),
        destination_mac: [1, 2, 3, 4, 5, 6],
        source_mac: [7, 8, 9, 10, 11, 12],
        vlan: Some(7),
        mtu: 1500,
    };

    #[test]
    fn what_is_written_is_read() {
        let mut chunk = [0u8; 64];
        let mut window = Window { start: 32, len: 20 };
        let mut packet = Packet::new(&mut chunk, &mut window).unwrap();
        assert_eq!(write(&mut packet, &HOP, Side::V4), Ok(()));
        assert_eq!(packet.len(), 38);
        assert_eq!(packet.bytes()[12..18], [0x81, 0, 0, 7, 8, 0]);
        assert_eq!(strip(&mut packet, None), Err(DropReason::LinkMalformed));
        assert_eq!(strip(&mut packet, Some(8)), Err(DropReason::LinkMalformed));
        assert_eq!(strip(&mut packet, Some(7)), Ok(Side::V4));
        assert_eq!(window, Window { start: 32, len: 20 });
    }

    #[test]
    fn without_headroom_nothing_is_written() {
        let mut chunk = [0u8; 64];
        let mut window = Window { start: 17, len: 20 };
        let mut packet = Packet::new(&mut chunk, &mut window).unwrap();
        assert_eq!(
            write(&mut packet, &HOP, Side::V6),
            Err(DropReason::Headroom)
        );
        assert_eq!(packet.len(), 20);
    }

    #[test]
    fn other_frames_are_malformed() {
        for frame in [&[0u8; 13][..], &[0; 14], &[0; 60]] {
            let mut chunk = frame.to_vec();
            let len = u16::try_from(chunk.len()).unwrap();
            let mut window = Window { start: 0, len };
            let mut packet = Packet::new(&mut chunk, &mut window).unwrap();
            assert_eq!(strip(&mut packet, None), Err(DropReason::LinkMalformed));
        }
    }
}
