//! Packets that wait, a short while and not many, for the kernel to resolve their next hop.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Instant;
use crate::packet::Frame;
use crate::route::{HopId, PortId, RouteSnapshot};
use crate::verdict::Side;

/// Packets that wait in all.
pub(super) const WAITING_MAX: usize = 256;

/// Packets that wait for one next hop.
const WAITING_PER_NEIGHBOR_MAX: usize = 8;

/// How long a packet waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// A packet that waits: an IP packet in its frame.
#[derive(Debug)]
pub(super) struct Waiting {
    pub frame: Frame,
    /// The side it came from, for the counters.
    pub from: Side,
    /// The side it leaves to.
    pub to: Side,
    pub neighbor: Neighbor,
    since: Instant,
}

/// A next hop by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbor {
    pub port: PortId,
    pub ip: IpAddr,
}

/// The store.
#[derive(Debug)]
pub(super) struct WaitingRoom {
    packets: Vec<Waiting>,
}

impl WaitingRoom {
    pub fn new() -> WaitingRoom {
        WaitingRoom {
            packets: Vec::with_capacity(WAITING_MAX),
        }
    }

    /// Lets a packet wait. Answers whether it is the first for its neighbour, who then has to be
    /// asked for; hands the frame back if there is no room.
    pub fn add(
        &mut self,
        frame: Frame,
        (from, to): (Side, Side),
        neighbor: Neighbor,
        now: Instant,
    ) -> Result<bool, Frame> {
        let same = self.packets.iter().filter(|p| p.neighbor == neighbor);
        let count = same.count();
        if count >= WAITING_PER_NEIGHBOR_MAX || self.packets.len() >= WAITING_MAX {
            return Err(frame);
        }
        self.packets.push(Waiting {
            frame,
            from,
            to,
            neighbor,
            since: now,
        });
        Ok(count == 0)
    }

    /// Takes a packet whose next hop a snapshot knows, oldest first.
    pub fn take_resolved(&mut self, routes: &RouteSnapshot) -> Option<(Waiting, HopId)> {
        for index in 0..self.packets.len() {
            let Neighbor { port, ip } = self.packets[index].neighbor;
            if let Some(hop) = routes.hop_to(port, ip) {
                return Some((self.packets.remove(index), hop));
            }
        }
        None
    }

    /// Takes a packet that has waited too long.
    pub fn take_late(&mut self, now: Instant) -> Option<Waiting> {
        // They stand in the order in which they came.
        let oldest = self.packets.first()?;
        (now.since(oldest.since) >= PATIENCE).then(|| self.packets.remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::FrameArea;

    const SIDES: (Side, Side) = (Side::V6, Side::V4);

    fn neighbor(last: u8) -> Neighbor {
        Neighbor {
            port: PortId(0),
            ip: IpAddr::from([192, 0, 2, last]),
        }
    }

    #[test]
    fn both_bounds_hold() {
        let (_area, frames) = FrameArea::on_heap(400);
        let mut frames = frames.into_iter();
        let mut room = WaitingRoom::new();
        for count in 0..WAITING_PER_NEIGHBOR_MAX {
            let frame = frames.next().unwrap();
            let first = room.add(frame, SIDES, neighbor(0), Instant::ZERO).unwrap();
            assert_eq!(first, count == 0);
        }
        let frame = frames.next().unwrap();
        assert!(room.add(frame, SIDES, neighbor(0), Instant::ZERO).is_err());
        let mut taken = WAITING_PER_NEIGHBOR_MAX;
        for (frame, count) in frames.zip(0u16..) {
            let last = u8::try_from(1 + count / 8).unwrap();
            taken += usize::from(
                room.add(frame, SIDES, neighbor(last), Instant::ZERO)
                    .is_ok(),
            );
        }
        assert_eq!(taken, WAITING_MAX);
    }

    #[test]
    fn after_a_second_they_come_out() {
        let (_area, mut frames) = FrameArea::on_heap(1);
        let mut room = WaitingRoom::new();
        let frame = frames.pop().unwrap();
        room.add(frame, SIDES, neighbor(1), Instant::ZERO).unwrap();
        let late = Instant::ZERO + PATIENCE;
        assert!(room.take_late(Instant::from_nanos(999_999_999)).is_none());
        assert!(room.take_late(late).is_some());
        assert!(room.take_late(late).is_none());
    }
}
