//! Routes, neighbours and links as a worker sees them: one immutable snapshot with a number.
//!
//! `control` builds a snapshot from the kernel by netlink and publishes it; a worker looks a
//! destination up once per session and keeps the [`HopId`] as long as the number is the same.

/// Index of an interface that gate64 holds, in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u8);

/// Index of a resolved next hop in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HopId(pub u16);
