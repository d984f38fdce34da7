//! Session memory: plain-old-data slabs in one arena per worker, sized at start.
//!
//! Everything is reached by `u32` indices, never by pointers, so that an arena could as well be
//! a mapped file that another process takes over. Index 0 of every slab means "none".

pub mod arena;
pub mod hash;
pub mod index;
pub mod wheel;

pub use arena::{Arena, ArenaError, Plain, Slab};
pub use hash::HashKey;
pub use index::{Index, Probe};
pub use wheel::Wheel;
