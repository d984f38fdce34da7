//! What is logged, in plain values.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

/// An IPv6 prefix: a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix6 {
    /// Its first address.
    pub ip: Ipv6Addr,
    /// Leading bits.
    pub length: u8,
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

/// A port block and who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    /// The subscriber.
    pub subscriber: Prefix6,
    /// The pool address.
    pub v4: Ipv4Addr,
    /// First port.
    pub port_first: u16,
    /// Number of ports, at least 1.
    pub port_count: u16,
}

impl Block {
    /// Its last port.
    pub fn port_last(&self) -> u16 {
        self.port_first
            .saturating_add(self.port_count.saturating_sub(1))
    }

    /// Whether the port of that address lies in it.
    pub fn holds(&self, v4: Ipv4Addr, port: u16) -> bool {
        self.v4 == v4 && (self.port_first..=self.port_last()).contains(&port)
    }
}

/// What happened to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockAction {
    /// The subscriber got it.
    Allocated,
    /// The subscriber has it still; repeated at intervals.
    Live,
    /// It went back.
    Released,
}

/// A session's four transport addresses, in the words of RFC 6146 section 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session {
    /// Its protocol.
    pub protocol: Protocol,
    /// X',x: the IPv6 host.
    pub v6: TransportAddr6,
    /// Y',y: the IPv6 form of the peer.
    pub v6_remote: TransportAddr6,
    /// T,t: the pool's transport address.
    pub v4: TransportAddr4,
    /// Z,z: the IPv4 peer.
    pub v4_remote: TransportAddr4,
}

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionAction {
    /// It began.
    Created,
    /// It ended.
    Deleted,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlarmKind {
    /// Ports of a pool.
    Pool,
    /// Port blocks.
    PortBlocks,
    /// The session table.
    SessionTable,
    /// The log itself: a sink or the journal cannot be written.
    Log,
}

impl AlarmKind {
    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            AlarmKind::Pool => "pool",
            AlarmKind::PortBlocks => "port_blocks",
            AlarmKind::SessionTable => "session_table",
            AlarmKind::Log => "log",
        }
    }
}

/// An alarm that was raised or cleared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Alarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// Which one, such as a pool's prefix; empty if there is only one.
    pub subject: String,
    /// Raised, or cleared.
    pub raised: bool,
    /// How much is used, in percent.
    pub used_percent: u8,
    /// The threshold that was crossed, in percent.
    pub threshold_percent: u8,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// gate64 began: nobody has a block.
    Started,
    /// gate64 ended in good order: every block is back.
    Stopped,
    /// To a block.
    Block(BlockAction, Block),
    /// To a session.
    Session(SessionAction, Session),
    /// An alarm.
    Alarm(Arc<Alarm>),
    /// So many events did not reach the log since the record before.
    Lost(u64),
    /// The wall clock was set: what it showed before, and what after, in milliseconds since 1970.
    ClockStep {
        /// Before.
        from_ms: i64,
        /// After.
        to_ms: i64,
    },
}

/// What a sink may be asked to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// Port blocks.
    Block,
    /// Sessions.
    Session,
    /// Alarms.
    Alarm,
}

impl What {
    /// Which of the kinds of the configuration it belongs to; `None` for what every reader gets.
    pub fn kind(&self) -> Option<EventKind> {
        match self {
            What::Block(..) => Some(EventKind::Block),
            What::Session(..) => Some(EventKind::Session),
            What::Alarm(_) => Some(EventKind::Alarm),
            What::Started | What::Stopped | What::Lost(_) | What::ClockStep { .. } => None,
        }
    }
}

/// Something that happened, when, and in which order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Grows by one with every record, over restarts too if there is a journal.
    pub sequence: u64,
    /// Wall-clock time in milliseconds since 1970.
    pub at_ms: i64,
    /// What happened.
    pub what: What,
}
