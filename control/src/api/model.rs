//! The JSON of the API, version 1. The command line reads what the server writes here; fields
//! are added, never renamed.

use std::net::Ipv4Addr;

use gate64_dataplane::command::{BibRow, BlockRow, PoolRow, SessionRow, SubscriberRow};
use gate64_dataplane::config::SubscriberClass;
use serde::{Deserialize, Serialize};

/// A page of a listing over all workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing<T> {
    /// The entries.
    pub rows: Vec<T>,
    /// What to give as `cursor` for the next page; absent at the end.
    pub next: Option<String>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The worker that owns it.
    pub worker: u8,
    /// udp, tcp, icmp.
    pub protocol: String,
    /// X',x: the IPv6 host.
    pub v6: String,
    /// Y',y: the IPv6 form of the peer.
    pub v6_remote: String,
    /// T,t: the pool's transport address.
    pub v4: String,
    /// Z,z: the IPv4 peer.
    pub v4_remote: String,
    /// TCP state in the words of RFC 6146; empty for other protocols.
    pub state: String,
    /// Seconds until it expires if nothing more comes.
    pub expires_in_seconds: u32,
    /// Seconds since it was created.
    pub age_seconds: u32,
}

impl Session {
    /// As a worker listed it.
    pub fn new(worker: u8, row: SessionRow) -> Session {
        Session {
            worker,
            protocol: row.protocol.name().to_owned(),
            v6: row.v6.to_string(),
            v6_remote: row.v6_remote.to_string(),
            v4: row.v4.to_string(),
            v4_remote: row.v4_remote.to_string(),
            state: row.state.to_owned(),
            expires_in_seconds: row.expires_in_seconds,
            age_seconds: row.age_seconds,
        }
    }
}

/// A BIB entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bib {
    /// The worker that owns it.
    pub worker: u8,
    /// udp, tcp, icmp.
    pub protocol: String,
    /// X',x.
    pub v6: String,
    /// T,t.
    pub v4: String,
    /// Whether it is configured rather than learnt.
    #[serde(rename = "static")]
    pub is_static: bool,
    /// Sessions that use it.
    pub session_count: u32,
}

impl Bib {
    /// As a worker listed it.
    pub fn new(worker: u8, row: BibRow) -> Bib {
        Bib {
            worker,
            protocol: row.protocol.name().to_owned(),
            v6: row.v6.to_string(),
            v4: row.v4.to_string(),
            is_static: row.is_static,
            session_count: row.session_count,
        }
    }
}

/// Ports in use by protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounts {
    /// UDP ports.
    pub udp: u32,
    /// TCP ports.
    pub tcp: u32,
    /// ICMP identifiers.
    pub icmp: u32,
}

impl From<[u32; 3]> for PortCounts {
    fn from([udp, tcp, icmp]: [u32; 3]) -> PortCounts {
        PortCounts { udp, tcp, icmp }
    }
}

/// A pool address, as far as one worker owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolAddress {
    /// The worker.
    pub worker: u8,
    /// The address.
    pub v4: Ipv4Addr,
    /// The pool it is of.
    pub pool: String,
    /// open, draining or closed.
    pub state: String,
    /// Blocks of it that this worker gives out.
    pub blocks_total: u32,
    /// Blocks held by subscribers.
    pub blocks_used: u32,
    /// Blocks given back whose ports still rest.
    pub blocks_resting: u32,
    /// Ports in use.
    pub ports_used: PortCounts,
    /// Subscribers on it.
    pub subscribers: u32,
}

impl PoolAddress {
    /// As a worker listed it; `names` are those of the pools.
    pub fn new(worker: u8, row: PoolRow, names: &[String]) -> PoolAddress {
        let name = names.get(usize::from(row.pool));
        PoolAddress {
            worker,
            v4: row.v4,
            pool: name.cloned().unwrap_or_default(),
            state: row.state.name().to_owned(),
            blocks_resting: row.blocks_resting,
            blocks_total: row.blocks_total,
            blocks_used: row.blocks_used,
            ports_used: row.ports_used.into(),
            subscribers: row.subscribers,
        }
    }
}

/// A port block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBlock {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    /// The worker that owns it.
    pub worker: u8,
    /// The IPv6 prefix.
    pub prefix: String,
    /// Its class; empty for none.
    pub class: String,
    /// Whether it has its blocks by calculation.
    pub deterministic: bool,
    /// Its pool address.
    pub v4: Ipv4Addr,
    /// Its port blocks.
    pub blocks: Vec<PortBlock>,
    /// Ports in use.
    pub ports_used: PortCounts,
    /// Sessions at present.
    pub session_count: u32,
    /// New mappings and sessions refused so far.
    pub refusals: u64,
    /// Why the last of them was: a reason of `gate64 show drops`; empty for none.
    #[serde(default)]
    pub last_refusal: String,
}

impl Subscriber {
    /// As a worker listed it; `classes` are the configured ones.
    pub fn new(worker: u8, row: SubscriberRow, classes: &[SubscriberClass]) -> Subscriber {
        let class = usize::from(row.class).checked_sub(1);
        let class = class.and_then(|place| classes.get(place));
        let last = |first: u16| first.saturating_add(row.block_size.saturating_sub(1));
        Subscriber {
            worker,
            prefix: format!("{}/{}", row.prefix, row.prefix_length),
            class: class.map_or(String::new(), |class| class.name.clone()),
            deterministic: row.is_deterministic,
            v4: row.v4,
            blocks: row
                .blocks
                .iter()
                .map(|first| PortBlock {
                    first: *first,
                    last: last(*first),
                })
                .collect(),
            ports_used: row.ports_used.into(),
            session_count: row.session_count,
            refusals: row.refusals,
            last_refusal: row
                .last_refusal
                .map_or(String::new(), |reason| reason.label().to_owned()),
        }
    }
}

/// A port block that is not free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The worker that owns it.
    pub worker: u8,
    /// The pool address.
    pub v4: Ipv4Addr,
    /// The pool it is of.
    pub pool: String,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// held, calculated or resting.
    #[serde(rename = "use")]
    pub block_use: String,
    /// Who has it; empty for one that rests.
    pub subscriber: String,
    /// Ports in use.
    pub ports_used: PortCounts,
    /// For how long it is held.
    pub held_seconds: u32,
}

impl Block {
    /// As a worker listed it; `names` are those of the pools.
    pub fn new(worker: u8, row: BlockRow, names: &[String]) -> Block {
        let name = names.get(usize::from(row.pool));
        let subscriber = row.subscriber.map(|(ip, length)| format!("{ip}/{length}"));
        Block {
            worker,
            v4: row.v4,
            pool: name.cloned().unwrap_or_default(),
            first: row.port_first,
            last: row
                .port_first
                .saturating_add(row.port_count.saturating_sub(1)),
            block_use: row.block_use.name().to_owned(),
            subscriber: subscriber.unwrap_or_default(),
            ports_used: row.ports_used.map(u32::from).into(),
            held_seconds: row.held_seconds,
        }
    }
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub worker: u8,
    /// The CPU it runs on.
    pub cpu: Option<usize>,
    /// Whether its loop turns.
    pub is_alive: bool,
    /// Part of the last second spent in turns that did something, 0 to 1.
    pub busy_ratio: f64,
    /// Turns of its loop.
    pub turns: u64,
    /// Packets forwarded, from both sides.
    pub packets_forwarded: u64,
    /// Packets dropped, from both sides.
    pub packets_dropped: u64,
    /// Sessions at present.
    pub sessions: u64,
    /// Frames handed to other workers.
    pub handed_off: u64,
    /// Why.
    pub handed_off_reasons: HandoffReasons,
    /// Frames that other workers handed over.
    pub handed_over: u64,
    /// System calls.
    pub syscalls: u64,
}

/// Frames handed to other workers, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffReasons {
    /// The interface's hash chose a queue of another worker than the session's owner.
    pub queue: u64,
    /// ICMP errors, which belong to the packet inside them.
    pub icmp_error: u64,
    /// Fragments, which one worker gathers.
    pub fragment: u64,
    /// Hairpins between clients of two workers.
    pub hairpin: u64,
}

/// Packets dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// The label in metrics.
    pub reason: String,
    /// Packets from the IPv6 side.
    pub v6_to_v4: u64,
    /// Packets from the IPv4 side.
    pub v4_to_v6: u64,
    /// What happened and what to look at.
    pub sentence: String,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up and has a carrier.
    pub is_up: bool,
    /// native or generic.
    pub xdp_mode: String,
    /// Whether frames are shared with the driver.
    pub zero_copy: bool,
    /// Whether the workers drive its queues themselves.
    #[serde(default)]
    pub busy_poll: bool,
    /// Receive queues, each with a socket.
    pub queues: u32,
    /// Its driver.
    pub driver: String,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU.
    pub mtu: u32,
    /// The 802.1Q id, if any.
    pub vlan: Option<u16>,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// Why it is not better than it is.
    pub notes: Vec<String>,
}

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// The interface it is on.
    pub interface: String,
    /// Its address.
    pub ip: String,
    /// Its MAC address, empty while it is not known.
    pub mac: String,
}

/// A number for each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directions {
    /// From IPv6 clients.
    pub v6_to_v4: u64,
    /// From the IPv4 Internet.
    pub v4_to_v6: u64,
}

/// A number for each protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols {
    /// UDP.
    pub udp: u64,
    /// TCP.
    pub tcp: u64,
    /// ICMP queries.
    pub icmp: u64,
}

/// The DNS64 server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns64 {
    /// Where it listens.
    pub listen: Vec<String>,
    /// Its upstreams, and whether each answers; none: names are found from the root servers down.
    pub upstreams: Vec<Upstream>,
    /// Queries so far.
    pub queries: u64,
    /// Answers with synthetic AAAA records so far.
    pub synthesized: u64,
    /// Answers in the cache.
    pub cache_entries: u64,
    /// Questions answered from it.
    pub cache_hits: u64,
    /// Questions that were not in it.
    pub cache_misses: u64,
    /// Answers kept as they are sent, in front of it.
    pub wire_cache_entries: u64,
    /// The octets that these take.
    pub wire_cache_octets: u64,
    /// Queries answered from them.
    pub wire_cache_hits: u64,
    /// Clients that wait for an answer.
    pub clients_waiting: u64,
    /// Questions at the upstreams now.
    pub upstream_in_flight: u64,
    /// Queries by what they came to.
    pub outcomes: Vec<DnsOutcome>,
}

/// Queries that came to the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOutcome {
    /// udp, tcp, tls or https.
    pub transport: String,
    /// The type asked for.
    pub qtype: String,
    /// What it came to, as in the metric.
    pub outcome: String,
    /// How many.
    pub queries: u64,
}

/// An upstream resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// How and where.
    pub target: String,
    /// Whether it answers.
    pub is_up: bool,
}

/// The gateway at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of gate64.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Which roles run.
    pub roles: String,
    /// The configuration in use.
    pub config: String,
    /// Why it is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// Alarms that are on.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// Translation prefixes.
    pub pref64: Vec<String>,
    /// Workers.
    pub workers: usize,
    /// Sessions at present.
    pub sessions: Protocols,
    /// Sessions that fit.
    pub session_capacity: u64,
    /// Sessions created so far.
    pub sessions_created: u64,
    /// Subscribers at present.
    pub subscribers: u64,
    /// Port blocks held by subscribers.
    pub port_blocks_used: u64,
    /// Port blocks of the pool.
    pub port_blocks_total: u64,
    /// Packets forwarded so far.
    pub packets_forwarded: Directions,
    /// Octets forwarded so far.
    pub bytes_forwarded: Directions,
    /// Packets dropped so far.
    pub packets_dropped: Directions,
    /// Prefixes in the routing table: IPv4, IPv6.
    pub routes: (usize, usize),
    /// The DNS64 server, if it runs.
    pub dns64: Option<Dns64>,
}

/// How many sessions were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// Sessions.
    pub sessions: u64,
}

/// The configuration in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigText {
    /// The file.
    pub path: String,
    /// Its text when it was taken over.
    pub text: String,
}

/// What a reload with another configuration would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Whether it would be taken over.
    pub is_accepted: bool,
    /// What would happen, or why not.
    pub lines: Vec<String>,
    /// Keys whose values differ.
    pub changes: Vec<String>,
}

/// What gate64 does with an address, line by line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The address.
    pub address: String,
    /// One fact each.
    pub lines: Vec<String>,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// One sentence.
    pub error: String,
}
