//! What control asks of a worker, and what it answers. Answers are pages made between bursts,
//! so that a listing never stalls traffic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crossbeam::channel::Sender;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use crate::clock::Instant;
use crate::config::Nat64Config;
use crate::nat64::pool4::{AddressState, PoolMap};
use crate::verdict::DropReason;

/// Which entries a listing or a clearing concerns; every given field must match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Only IPv6 sources in this prefix (address, length).
    pub v6: Option<(Ipv6Addr, u8)>,
    /// Only this pool address.
    pub v4: Option<Ipv4Addr>,
    /// Only this pool port.
    pub v4_port: Option<u16>,
    /// Only this IPv4 peer (sessions only).
    pub remote: Option<Ipv4Addr>,
}

/// One page of a worker's listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries.
    pub rows: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<u32>,
}

/// A session as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRow {
    /// Protocol.
    pub protocol: Protocol,
    /// X',x: the IPv6 host.
    pub v6: TransportAddr6,
    /// Y',y: the IPv6 form of the peer.
    pub v6_remote: TransportAddr6,
    /// T,t: the pool's transport address.
    pub v4: TransportAddr4,
    /// Z,z: the IPv4 peer.
    pub v4_remote: TransportAddr4,
    /// State in the words of RFC 6146 section 3.5.2, for TCP; otherwise empty.
    pub state: &'static str,
    /// Seconds until it expires if nothing more comes.
    pub expires_in_seconds: u32,
    /// Seconds since it was created.
    pub age_seconds: u32,
}

/// A BIB entry as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BibRow {
    /// Protocol.
    pub protocol: Protocol,
    /// X',x.
    pub v6: TransportAddr6,
    /// T,t.
    pub v4: TransportAddr4,
    /// Whether it is configured rather than learnt.
    pub is_static: bool,
    /// Sessions that use it.
    pub session_count: u32,
}

/// A subscriber as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberRow {
    /// The prefix.
    pub prefix: Ipv6Addr,
    /// Its length.
    pub prefix_length: u8,
    /// Its class: 0 for none, otherwise the place in the configuration, from 1.
    pub class: u16,
    /// Whether it has its blocks by calculation.
    pub is_deterministic: bool,
    /// Its pool address.
    pub v4: Ipv4Addr,
    /// First ports of its blocks.
    pub blocks: Vec<u16>,
    /// Ports in a block.
    pub block_size: u16,
    /// Ports in use, by protocol.
    pub ports_used: [u32; 3],
    /// Sessions at present.
    pub session_count: u32,
    /// New mappings and sessions refused so far.
    pub refusals: u64,
    /// Why the last of them was.
    pub last_refusal: Option<DropReason>,
}

/// How a port block is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockUse {
    /// A subscriber was given it.
    Held,
    /// A subscriber has it by calculation.
    Calculated,
    /// It went back, and its ports still rest.
    Resting,
}

impl BlockUse {
    /// The word on the command line and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            BlockUse::Held => "held",
            BlockUse::Calculated => "calculated",
            BlockUse::Resting => "resting",
        }
    }
}

/// A port block that is not free, as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRow {
    /// The pool address.
    pub v4: Ipv4Addr,
    /// The pool it is of: a place in the configuration's names.
    pub pool: u8,
    /// First port.
    pub port_first: u16,
    /// Number of ports.
    pub port_count: u16,
    /// How it is used.
    pub block_use: BlockUse,
    /// Who holds it, as a prefix.
    pub subscriber: Option<(Ipv6Addr, u8)>,
    /// Ports in use, by protocol.
    pub ports_used: [u16; 3],
    /// For how long it is held; 0 for one that rests.
    pub held_seconds: u32,
}

/// A pool address's use as shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRow {
    /// The address.
    pub v4: Ipv4Addr,
    /// The pool it is of: a place in the configuration's names.
    pub pool: u8,
    /// How far it takes part.
    pub state: AddressState,
    /// Blocks of it that this worker gives out, those held included.
    pub blocks_total: u32,
    /// Blocks held by subscribers.
    pub blocks_used: u32,
    /// Blocks given back whose ports still rest.
    pub blocks_resting: u32,
    /// Ports in use, by protocol.
    pub ports_used: [u32; 3],
    /// Subscribers on it.
    pub subscribers: u32,
}

/// What a subscriber may have most of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopBy {
    /// Ports mapped, over all protocols.
    Ports,
    /// Sessions.
    Sessions,
    /// Refusals so far.
    Refusals,
}

/// Jobs of one kind that a worker has under way at once: clearings, cuts, searches.
pub const JOBS_MAX: usize = 16;

/// A worker has as many jobs of a kind under way as it takes; this one was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{JOBS_MAX} of these are under way already; nothing was done")]
pub struct TooManyJobs;

/// What control asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// List sessions from `cursor` (0 first), at most `limit` rows.
    Sessions {
        /// Which.
        filter: Filter,
        /// Where to go on.
        cursor: u32,
        /// Rows at most.
        limit: usize,
        /// Where the page goes.
        reply: Sender<Page<SessionRow>>,
    },
    /// List BIB entries, as above.
    Bib {
        /// Which.
        filter: Filter,
        /// Where to go on.
        cursor: u32,
        /// Rows at most.
        limit: usize,
        /// Where the page goes.
        reply: Sender<Page<BibRow>>,
    },
    /// List subscribers, as above; only `filter.v6` and `filter.v4` count.
    Subscribers {
        /// Which.
        filter: Filter,
        /// Where to go on.
        cursor: u32,
        /// Rows at most.
        limit: usize,
        /// Where the page goes.
        reply: Sender<Page<SubscriberRow>>,
    },
    /// List the subscribers that have most of something, most first.
    TopSubscribers {
        /// Of what.
        by: TopBy,
        /// Rows at most.
        limit: usize,
        /// Where the rows go.
        reply: Sender<Result<Vec<SubscriberRow>, TooManyJobs>>,
    },
    /// List pool addresses, as above; only `filter.v4` counts.
    Pool {
        /// Which.
        filter: Filter,
        /// Where to go on.
        cursor: u32,
        /// Rows at most.
        limit: usize,
        /// Where the page goes.
        reply: Sender<Page<PoolRow>>,
    },
    /// List blocks that are not free, as above; `filter.v4`, `filter.v4_port` (with `v4`) and
    /// `filter.v6` count.
    Blocks {
        /// Which.
        filter: Filter,
        /// Where to go on.
        cursor: u32,
        /// Rows at most.
        limit: usize,
        /// Where the page goes.
        reply: Sender<Page<BlockRow>>,
    },
    /// Remove the matching sessions; answers how many.
    ClearSessions {
        /// Which.
        filter: Filter,
        /// Where the number goes.
        reply: Sender<Result<u64, TooManyJobs>>,
    },
    /// Take over a configuration whose memory plan is the same (lifetimes, filtering, quotas …).
    Reconfigure {
        /// The new one.
        config: Arc<Nat64Config>,
        /// Its pools, numbered so that what was there before keeps its numbers.
        pool: Arc<PoolMap>,
    },
    /// Tell how many blocks of each address are held that other pools would not give out.
    Stranded {
        /// The other pools.
        pool: Arc<PoolMap>,
        /// Where the numbers go.
        reply: Sender<Vec<(Ipv4Addr, u32)>>,
    },
    /// Cut the held blocks of these addresses that are not given out any more; answers how many.
    CutBlocks {
        /// Which addresses.
        addresses: Vec<Ipv4Addr>,
        /// Told at once whether the cut was begun.
        begun: Sender<Result<(), TooManyJobs>>,
        /// Where the number goes in the end.
        reply: Sender<u64>,
    },
    /// What to tell the log from now on.
    Log(LogMode),
}

/// What a worker tells the log, and what it does while nobody can write it down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogMode {
    /// Whether the beginning and end of every session is told.
    pub sessions: bool,
    /// How often every held block is told again; `None` for never.
    pub relog_interval: Option<std::time::Duration>,
    /// Whether what would have to be logged is refused.
    pub refuse_new: bool,
}

/// What a worker tells control, over a bounded ring whose losses are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A port block was given to a subscriber.
    BlockAllocated(BlockEvent),
    /// A port block went back.
    BlockReleased(BlockEvent),
    /// A port block is held still: told again at intervals, so that a reader who missed its
    /// allocation learns of it.
    BlockLive(BlockEvent),
    /// A session began (only where the session log is on).
    SessionCreated(SessionEvent),
    /// A session ended (only where the session log is on).
    SessionDeleted(SessionEvent),
    /// A next hop has to be resolved by the kernel.
    NeighborWanted {
        /// Index of the interface.
        port: crate::route::PortId,
        /// The neighbour.
        ip: IpAddr,
    },
}

/// Who got or gave back which block, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEvent {
    /// When.
    pub at: Instant,
    /// The subscriber's prefix.
    pub subscriber: Ipv6Addr,
    /// Its length.
    pub prefix_length: u8,
    /// The pool address.
    pub v4: Ipv4Addr,
    /// First port.
    pub port_first: u16,
    /// Number of ports.
    pub port_count: u16,
}

/// A session's addresses, and when it began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEvent {
    /// When.
    pub at: Instant,
    /// Protocol.
    pub protocol: Protocol,
    /// X',x.
    pub v6: TransportAddr6,
    /// Y',y.
    pub v6_remote: TransportAddr6,
    /// T,t.
    pub v4: TransportAddr4,
    /// Z,z.
    pub v4_remote: TransportAddr4,
}
