//! How large the tables of a worker are, by named terms.

use super::super::entry::{BibEntry, ExtraSession};
use super::PORTS;
use crate::memory::arena::slab_bytes;
use crate::memory::{Index, Wheel};

/// Sizes of the tables of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSizes {
    /// Sessions, and so BIB entries, at most.
    pub sessions: usize,
    /// Static BIB entries besides.
    pub statics: usize,
    /// Pool addresses.
    pub slots: usize,
    /// Port blocks.
    pub blocks: usize,
}

impl TableSizes {
    pub(super) fn bibs(&self) -> usize {
        self.sessions + self.statics
    }

    /// References that the wheel can hold at once: one for each number of an entry, of a further
    /// session and of a block. That is more than there are sessions: a cut makes room for another
    /// session at once, and its own number is used again only when the wheel has let go of it.
    pub(super) fn references(&self) -> usize {
        self.bibs() + self.sessions + self.blocks
    }

    /// The named terms of the memory plan, in octets.
    pub fn plan(&self) -> [(&'static str, usize); 6] {
        [
            (
                "BIB entries with first session",
                slab_bytes::<BibEntry>(self.bibs() + 1),
            ),
            (
                "further sessions",
                slab_bytes::<ExtraSession>(self.sessions + 1),
            ),
            (
                "index of IPv6 transport addresses",
                Index::bytes(self.bibs()),
            ),
            ("index of further sessions", Index::bytes(self.sessions)),
            (
                "index of pool ports",
                slab_bytes::<u32>(self.slots * 3 * PORTS),
            ),
            ("timer wheel", Wheel::bytes(self.references())),
        ]
    }
}
