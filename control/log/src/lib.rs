//! The log of allocations: who had which address and ports, and when.
//!
//! Workers tell what happened over rings; control turns that into [`Record`]s with wall-clock
//! time and a sequence number, and the [`Bus`] gives each to the local journal and to every
//! sink. Nothing here is ever waited for: each reader has a bounded queue, and what finds
//! it full is counted.
#![forbid(unsafe_code)]

mod bus;
mod clock;
pub mod config;

pub mod journal;
mod queue;
mod record;
pub mod sink;

pub use bus::{Bus, Condition, Event, ReaderReport};
pub use clock::{LAST_SECOND, Step, WallClock, rfc3339};
pub use queue::{Queue, Reader};
pub use record::{
    Alarm, AlarmKind, Block, BlockAction, EventKind, Prefix6, Record, Session, SessionAction, What,
};
