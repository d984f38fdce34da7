//! Packets that the engine sends of its own accord: fragments, answers to what was held. They
//! wait in buffers reserved at start until the worker copies them into frames.

use std::collections::VecDeque;

use super::Hop;
use crate::packet::{LINK_HEADER_MAX, Packet, Window};
use crate::verdict::Verdict;

/// Packets that wait at most.
const BUFFERS: usize = 256;

/// Octets of a buffer: a whole frame's worth.
pub(super) const BUFFER_LEN: usize = 2048;

/// Where a packet begins in its buffer, so that its header can grow.
const HEADROOM: u16 = 128;

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

#[derive(Debug)]
struct Waiting {
    buffer: usize,
    window: Window,
    verdict: Verdict,
    hop: Hop,
}

/// The buffers and their order.
#[derive(Debug)]
pub(super) struct Outbox {
    memory: Vec<u8>,
    free: Vec<usize>,
    waiting: VecDeque<Waiting>,
    /// The buffer lent out last; it is free again at the next call.
    lent: Option<usize>,
}

/// A packet being made: fill it, then [`Outbox::post`] it.
#[derive(Debug)]
pub(super) struct Draft {
    buffer: usize,
    window: Window,
}

impl Outbox {
    /// Octets it takes.
    pub fn bytes() -> usize {
        BUFFERS * BUFFER_LEN
    }

    pub fn new() -> Outbox {
        Outbox {
            memory: vec![0; Outbox::bytes()],
            free: (0..BUFFERS).collect(),
            waiting: VecDeque::with_capacity(BUFFERS),
            lent: None,
        }
    }

    /// A buffer with a copy of `bytes`; `None` if none is free or it does not fit.
    pub fn draft(&mut self, bytes: &[u8]) -> Option<Draft> {
        let len = u16::try_from(bytes.len()).ok()?;
        if bytes.len() + usize::from(HEADROOM) > BUFFER_LEN {
            return None;
        }
        let buffer = self.free.pop()?;
        let window = Window {
            start: HEADROOM,
            len,
        };
        let at = buffer * BUFFER_LEN + usize::from(HEADROOM);
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        Some(Draft { buffer, window })
    }

    /// The draft as a packet.
    pub fn packet<'a>(&'a mut self, draft: &'a mut Draft) -> Option<Packet<'a>> {
        let chunk = self
            .memory
            .get_mut(draft.buffer * BUFFER_LEN..(draft.buffer + 1) * BUFFER_LEN)?;
        Packet::new(chunk, &mut draft.window)
    }

    /// Puts the draft at the end of the queue.
    pub fn post(&mut self, draft: Draft, verdict: Verdict, hop: Hop) {
        self.waiting.push_back(Waiting {
            buffer: draft.buffer,
            window: draft.window,
            verdict,
            hop,
        });
    }

    /// Gives the draft's buffer back.
    pub fn discard(&mut self, draft: Draft) {
        self.free.push(draft.buffer);
    }

    /// The oldest packet. Its buffer is reused after the next call.
    pub fn next(&mut self) -> Option<Outgoing<'_>> {
        self.free.extend(self.lent.take());
        let Waiting {
            buffer,
            window,
            verdict,
            hop,
        } = self.waiting.pop_front()?;
        self.lent = Some(buffer);
        let start = buffer * BUFFER_LEN + usize::from(window.start);
        let bytes = self.memory.get(start..start + usize::from(window.len))?;
        Some(Outgoing {
            bytes,
            verdict,
            hop,
        })
    }
}

const _: () = assert!(HEADROOM as usize > 48 + LINK_HEADER_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Side;

    #[test]
    fn packets_leave_in_order_and_buffers_come_back() {
        let mut outbox = Outbox::new();
        for round in 0..3u8 {
            let mut posted = 0u16;
            while let Some(draft) = outbox.draft(&[round; 100]) {
                outbox.post(draft, Verdict::Forward(Side::V6), Hop::None);
                posted += 1;
            }
            assert!(usize::from(posted) >= BUFFERS - 1);
            while let Some(packet) = outbox.next() {
                assert_eq!(packet.bytes, [round; 100]);
                posted -= 1;
            }
            assert_eq!(posted, 0);
        }
        assert!(outbox.draft(&[0; BUFFER_LEN]).is_none());
    }
}
