//! Packets that the engine sends of its own accord: fragments, answers to what was held. They
//! wait in buffers reserved at start until the worker copies them into frames.

use std::collections::VecDeque;

use super::Hop;
use crate::verdict::Verdict;

/// Packets that wait at most.
const OUTBOX_BUFFERS: usize = 256;

/// Octets of a buffer: a whole frame's worth.
pub(super) const BUFFER_LEN: usize = 2048;

/// A fixed number of buffers for packets, numbered.
#[derive(Debug)]
pub(super) struct Buffers {
    memory: Vec<u8>,
    free: Vec<u32>,
}

/// A packet in a buffer. Neither `Copy` nor `Clone`: it has to be given back.
#[derive(Debug)]
pub(super) struct Stored {
    buffer: u32,
    len: usize,
}

impl Stored {
    /// The number of its buffer, which no other packet has at the same time.
    pub fn number(&self) -> u32 {
        self.buffer
    }
}

impl Buffers {
    /// `count` buffers of [`BUFFER_LEN`] octets.
    pub fn new(count: usize) -> Buffers {
        Buffers {
            memory: vec![0; count * BUFFER_LEN],
            free: (0..u32::try_from(count).unwrap_or(u32::MAX)).collect(),
        }
    }

    /// Buffers that are free.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Keeps a packet that `write` puts down; `None` if no buffer is free, it is too long, or
    /// `write` says no.
    pub fn store(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> bool) -> Option<Stored> {
        let &buffer = self.free.last()?;
        let at = buffer as usize * BUFFER_LEN;
        if len > BUFFER_LEN || !write(&mut self.memory[at..at + len]) {
            return None;
        }
        self.free.pop();
        Some(Stored { buffer, len })
    }

    /// The packet's octets.
    pub fn bytes(&self, stored: &Stored) -> &[u8] {
        &self.memory[stored.buffer as usize * BUFFER_LEN..][..stored.len]
    }

    /// Forgets the packet.
    pub fn give_back(&mut self, stored: Stored) {
        self.free.push(stored.buffer);
    }
}

/// A packet that the engine made.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The IP packet.
    pub bytes: &'a [u8],
    /// [`Verdict::Forward`] or [`Verdict::Handoff`].
    pub verdict: Verdict,
    /// The next hop, for one that leaves.
    pub hop: Hop,
}

/// The packets and their order.
#[derive(Debug)]
pub(super) struct Outbox {
    buffers: Buffers,
    waiting: VecDeque<(Stored, Verdict, Hop)>,
    /// The packet lent out last; its buffer is free again at the next call.
    lent: Option<Stored>,
}

impl Outbox {
    /// Octets it takes.
    pub fn bytes() -> usize {
        OUTBOX_BUFFERS * BUFFER_LEN
    }

    pub fn new() -> Outbox {
        Outbox {
            buffers: Buffers::new(OUTBOX_BUFFERS),
            waiting: VecDeque::with_capacity(OUTBOX_BUFFERS),
            lent: None,
        }
    }

    /// Packets that still fit.
    pub fn room(&self) -> usize {
        self.buffers.free_count()
    }

    /// Puts a packet of `len` octets, written by `write`, at the end; false if there is no room.
    #[must_use]
    pub fn post(
        &mut self,
        len: usize,
        verdict: Verdict,
        hop: Hop,
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool {
        let Some(stored) = self.buffers.store(len, write) else {
            return false;
        };
        self.waiting.push_back((stored, verdict, hop));
        true
    }

    /// The oldest packet.
    pub fn next(&mut self) -> Option<Outgoing<'_>> {
        if let Some(lent) = self.lent.take() {
            self.buffers.give_back(lent);
        }
        let (stored, verdict, hop) = self.waiting.pop_front()?;
        let stored = self.lent.insert(stored);
        Some(Outgoing {
            bytes: self.buffers.bytes(stored),
            verdict,
            hop,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Side;

    #[test]
    fn packets_leave_in_order_and_buffers_come_back() {
        let mut outbox = Outbox::new();
        let post = |outbox: &mut Outbox, octet: u8, len: usize| {
            outbox.post(len, Verdict::Forward(Side::V6), Hop::None, |to| {
                to.fill(octet);
                true
            })
        };
        for round in 0..3u8 {
            let mut posted = 0;
            while post(&mut outbox, round, 100) {
                posted += 1;
            }
            assert!(posted >= OUTBOX_BUFFERS - 1);
            while let Some(packet) = outbox.next() {
                assert_eq!(packet.bytes, [round; 100]);
                posted -= 1;
            }
            assert_eq!((posted, outbox.room()), (0, OUTBOX_BUFFERS));
        }
        assert!(!post(&mut outbox, 0, BUFFER_LEN + 1));
    }
}
