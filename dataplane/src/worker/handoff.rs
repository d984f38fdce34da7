//! Rings between workers: a packet that arrived where it is not owned goes to its owner, a
//! burst at a time, and a full ring drops.

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::io::Waker;
use crate::packet::Frame;
use crate::route::PortId;
use crate::verdict::{Side, WorkerId};

/// Packets on their way between two workers in one direction.
const RING_FRAMES: usize = 1024;

/// Packets put on a ring at once.
const BURST: usize = 64;

/// An IP packet in its frame, as `side` delivered it on `port`.
#[derive(Debug)]
pub struct HandedOff {
    /// The frame.
    pub frame: Frame,
    /// The side that the owner takes it from.
    pub side: Side,
    /// The interface it arrived on.
    pub port: PortId,
}

/// One worker's ends of the rings to and from all others.
#[derive(Debug)]
pub struct Handoff {
    to: Vec<Option<Lane>>,
    from: Vec<Consumer<HandedOff>>,
    next: usize,
}

/// The way to one other worker.
#[derive(Debug)]
struct Lane {
    ring: Producer<HandedOff>,
    burst: Vec<HandedOff>,
    waker: Arc<Waker>,
}

impl Handoff {
    /// Rings between every two of the workers that have these wakers.
    pub fn mesh(wakers: &[Arc<Waker>]) -> Vec<Handoff> {
        let count = wakers.len();
        let mut all: Vec<Handoff> = (0..count)
            .map(|_| Handoff {
                to: Vec::new(),
                from: Vec::new(),
                next: 0,
            })
            .collect();
        for sender in 0..count {
            for (receiver, waker) in wakers.iter().enumerate() {
                if sender == receiver {
                    all[sender].to.push(None);
                    continue;
                }
                let (ring, end) = RingBuffer::new(RING_FRAMES);
                all[receiver].from.push(end);
                all[sender].to.push(Some(Lane {
                    ring,
                    burst: Vec::with_capacity(BURST),
                    waker: Arc::clone(waker),
                }));
            }
        }
        all
    }

    /// Sends a packet to another worker with the next burst; hands it back where there is no
    /// such worker, or the ring is full.
    #[inline]
    pub(super) fn send(&mut self, worker: WorkerId, packet: HandedOff) -> Result<(), HandedOff> {
        let Some(Some(lane)) = self.to.get_mut(usize::from(worker.0)) else {
            return Err(packet);
        };
        if lane.burst.len() == BURST {
            lane.flush();
            if lane.burst.len() == BURST {
                return Err(packet);
            }
        }
        lane.burst.push(packet);
        Ok(())
    }

    /// Puts what was sent on the rings. What stays in front of a full ring goes with the next
    /// burst.
    pub(super) fn flush(&mut self) {
        for lane in self.to.iter_mut().flatten() {
            lane.flush();
        }
    }

    /// Appends up to `max` packets from the other workers, in turn. Answers how many.
    pub(super) fn receive(&mut self, max: usize, mut take: impl FnMut(HandedOff)) -> usize {
        let mut left = max;
        for _ in 0..self.from.len() {
            let index = self.next;
            self.next = (index + 1) % self.from.len();
            let ring = &mut self.from[index];
            let count = ring.slots().min(left);
            if let Ok(chunk) = ring.read_chunk(count) {
                chunk.into_iter().for_each(&mut take);
            }
            left -= count;
            if left == 0 {
                break;
            }
        }
        max - left
    }

    /// Whether a packet waits to be received, or to be put on a ring.
    pub(super) fn has_work(&self) -> bool {
        let arrived = self.from.iter().any(|ring| !ring.is_empty());
        arrived || self.to.iter().flatten().any(|lane| !lane.burst.is_empty())
    }
}

impl Lane {
    fn flush(&mut self) {
        let count = self.burst.len().min(self.ring.slots());
        if count == 0 {
            return;
        }
        if let Ok(chunk) = self.ring.write_chunk_uninit(count) {
            chunk.fill_from_iter(self.burst.drain(..count));
        }
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::FrameArea;

    #[test]
    fn packets_arrive_in_order_and_a_full_ring_hands_back() {
        let (_area, frames) = FrameArea::on_heap(1200);
        let wakers: Vec<_> = (0..2).map(|_| Arc::new(Waker::new().unwrap())).collect();
        let mut mesh = Handoff::mesh(&wakers);
        let mut receiver = mesh.pop().unwrap();
        let mut sender = mesh.pop().unwrap();
        let mut refused = 0;
        for frame in frames {
            let packet = HandedOff {
                frame,
                side: Side::V6,
                port: PortId(3),
            };
            refused += usize::from(sender.send(WorkerId(1), packet).is_err());
        }
        sender.flush();
        // The ring and one burst in front of it.
        assert_eq!(refused, 1200 - RING_FRAMES - BURST);
        let mut seen = Vec::new();
        while receiver.receive(100, |packet| seen.push(packet.frame.chunk())) > 0 {
            sender.flush();
        }
        let expected: Vec<u32> = (0..seen.len()).map(|n| u32::try_from(n).unwrap()).collect();
        assert_eq!(seen, expected);
        assert_eq!(seen.len(), RING_FRAMES + BURST);
        assert!(!sender.has_work());
    }

    #[test]
    fn there_is_no_way_to_oneself() {
        let (_area, mut frames) = FrameArea::on_heap(1);
        let mut mesh = Handoff::mesh(&[Arc::new(Waker::new().unwrap())]);
        let packet = HandedOff {
            frame: frames.pop().unwrap(),
            side: Side::V4,
            port: PortId(0),
        };
        assert!(mesh[0].send(WorkerId(0), packet).is_err());
    }
}
