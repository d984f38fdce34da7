//! A packet of the engine's own while it is being worked on, outside the burst.

use super::outbox::BUFFER_LEN;
use super::{Hop, Nat64};
use crate::counters;
use crate::packet::{Packet, Window};
use crate::verdict::{DropReason, Side, Verdict};

/// Where a packet begins, so that its header can grow or an ICMP error be put in front.
const HEADROOM: usize = 128;

/// One packet with headroom, on the stack.
pub(super) struct Scratch {
    chunk: [u8; BUFFER_LEN + HEADROOM],
    window: Window,
}

impl Scratch {
    /// A copy of a stored packet, which is never longer than a buffer.
    pub fn of(bytes: &[u8]) -> Scratch {
        let len = bytes.len().min(BUFFER_LEN);
        let mut chunk = [0; BUFFER_LEN + HEADROOM];
        chunk[HEADROOM..HEADROOM + len].copy_from_slice(&bytes[..len]);
        #[allow(clippy::cast_possible_truncation)] // both at most BUFFER_LEN
        let window = Window {
            start: HEADROOM as u16,
            len: len as u16,
        };
        Scratch { chunk, window }
    }

    /// Works on it as a packet.
    pub fn with<T>(&mut self, work: impl FnOnce(&mut Packet) -> T) -> T {
        let mut packet = Packet::new(&mut self.chunk, &mut self.window);
        // The window is the one made above, or one that `Packet` moved inside the chunk.
        work(packet.as_mut().expect("a window inside its chunk"))
    }

    fn bytes(&self) -> &[u8] {
        &self.chunk[usize::from(self.window.start)..][..usize::from(self.window.len)]
    }
}

impl Nat64 {
    /// Posts a worked packet if it is to leave; what has no room is counted as dropped.
    pub(super) fn post_scratch(
        &mut self,
        scratch: &Scratch,
        side: Side,
        verdict: Verdict,
        hop: Hop,
    ) {
        if !matches!(verdict, Verdict::Forward(_) | Verdict::Handoff { .. }) {
            return;
        }
        let bytes = scratch.bytes();
        let posted = self.outbox.post(bytes.len(), verdict, hop, |to| {
            to.copy_from_slice(bytes);
            true
        });
        if !posted {
            self.counters
                .add(counters::drop_id(side, DropReason::FramesExhausted), 1);
        }
    }
}
