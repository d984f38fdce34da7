//! A NAT64 of maps: what RFC 6146 says, searched linearly. Ports are the engine's choice and
//! learnt from its answers, but have to be allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use gate64_dataplane::clock::{Instant, ticks};
use gate64_dataplane::config::Filtering;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use crate::state::{Session, State, step};
use crate::support::embedded;

pub const POOL_FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
pub const PORTS: RangeInclusive<u16> = 1024..=1151;
pub const BLOCK_SIZE: u16 = 64;
pub const BLOCKS_MAX: u16 = 2;
pub const SUBSCRIBER_SESSIONS_MAX: u32 = 140;
/// Shorter than ports rest: a block that went back is not at once to be had.
pub const BLOCK_IDLE: Duration = Duration::from_secs(60);
pub(super) const REUSE_DELAY: Duration = Duration::from_secs(120);
pub(super) const ADDRESSES: u32 = 2;
pub(super) const BLOCKS_PER_ADDRESS: u16 = 2;
const HELD_PER_DESTINATION_MAX: usize = 8;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    ToV4(TransportAddr4, TransportAddr4),
    ToV6(TransportAddr6, TransportAddr6),
    /// An ICMP error that left on that side.
    Error(Side),
    Dropped(DropReason),
    Held,
}

/// A BIB entry with its sessions by peer.
#[derive(Debug)]
pub struct Entry {
    pub v4: TransportAddr4,
    pub(super) sessions: BTreeMap<TransportAddr4, Session>,
}

/// A block in somebody's hands: whose, and since when it is empty.
#[derive(Debug)]
pub struct Block {
    pub(super) subscriber: u16,
    pub(super) empty_since: u32,
}

/// Pool address and number of a block in it.
pub(super) type BlockKey = (Ipv4Addr, u16);
pub(super) type Fault = String;

#[derive(Debug)]
pub struct Naive {
    pub bib: BTreeMap<(Protocol, TransportAddr6), Entry>,
    pub blocks: BTreeMap<BlockKey, Block>,
    /// Held SYNs by pool transport address and peer: when they are answered, and whether the
    /// answer finds its way.
    pub held: BTreeMap<(TransportAddr4, TransportAddr4), (Instant, bool)>,
    /// Tick in which a port was freed last.
    pub(super) freed: BTreeMap<(Protocol, TransportAddr4), u32>,
    filtering: Filtering,
    sessions_max: u64,
    pub refused_for_ports: u64,
}

/// Addresses and ports, or an identifier twice, of a packet inside an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    pub addresses: (IpAddr, IpAddr),
    pub ports: (u16, u16),
}

/// What filtering and updating led to.
enum Passed {
    /// Translated by this entry.
    Yes(TransportAddr4),
    /// Refused.
    No(Answer),
}

fn opens(flags: u8) -> bool {
    flags & 7 == 2
}

pub(super) fn subscriber_of(v6: TransportAddr6) -> u16 {
    v6.ip.segments()[2]
}

pub(super) fn block_of(v4: TransportAddr4) -> BlockKey {
    (v4.ip, (v4.port - PORTS.start()) / BLOCK_SIZE)
}

fn peer(protocol: Protocol, remote: TransportAddr4) -> TransportAddr4 {
    let port = if protocol == Protocol::Icmp {
        0
    } else {
        remote.port
    };
    TransportAddr4 { port, ..remote }
}

pub fn is_pool(ip: Ipv4Addr) -> bool {
    u32::from(ip) & !1 == u32::from(POOL_FIRST)
}

fn expect(got: Answer, expected: Answer) -> Result<(), Fault> {
    if got == expected {
        Ok(())
    } else {
        Err(format!("expected {expected:?}, got {got:?}"))
    }
}

impl Naive {
    pub fn new(filtering: Filtering, sessions_max: u64) -> Naive {
        Naive {
            bib: BTreeMap::new(),
            blocks: BTreeMap::new(),
            held: BTreeMap::new(),
            freed: BTreeMap::new(),
            filtering,
            sessions_max,
            refused_for_ports: 0,
        }
    }

    pub fn session_count(&self, protocol: Protocol) -> u64 {
        let of = self.bib.iter().filter(|(key, _)| key.0 == protocol);
        of.map(|(_, entry)| entry.sessions.len() as u64).sum()
    }

    pub fn bib_count(&self, protocol: Protocol) -> u64 {
        self.bib.keys().filter(|key| key.0 == protocol).count() as u64
    }

    pub fn subscriber_count(&self) -> u64 {
        let mut all: BTreeSet<u16> = self.blocks.values().map(|block| block.subscriber).collect();
        all.extend(self.bib.keys().map(|key| subscriber_of(key.1)));
        all.len() as u64
    }

    pub fn listing(
        &self,
    ) -> Vec<(
        Protocol,
        TransportAddr6,
        TransportAddr4,
        TransportAddr4,
        &'static str,
    )> {
        let mut rows = Vec::new();
        for (&(protocol, v6), entry) in &self.bib {
            for (remote, session) in &entry.sessions {
                let mut remote = *remote;
                if protocol == Protocol::Icmp {
                    remote.port = entry.v4.port;
                }
                rows.push((protocol, v6, entry.v4, remote, session.state.name()));
            }
        }
        rows.sort_unstable();
        rows
    }

    /// One of the sessions, if there are any: client, mapping, peer.
    pub fn some_session(
        &self,
        draw: u16,
    ) -> Option<(Protocol, TransportAddr6, TransportAddr4, TransportAddr4)> {
        let all = self.bib.iter().flat_map(|(&(protocol, v6), entry)| {
            let peers = entry.sessions.keys();
            peers.map(move |&remote| (protocol, v6, entry.v4, remote))
        });
        let count = all.clone().count();
        all.clone().nth(usize::from(draw) % count.max(1))
    }

    /// The packet inside an ICMP error about what `mapped` sent to `peer`, as its client sent it.
    pub fn error_v4(
        &self,
        protocol: Protocol,
        mapped: TransportAddr4,
        remote: TransportAddr4,
    ) -> Result<Quoted, DropReason> {
        let v6 = self.owner(protocol, mapped).ok_or(DropReason::NoBib)?;
        let sessions = &self.bib[&(protocol, v6)].sessions;
        if !sessions.contains_key(&peer(protocol, remote)) {
            return Err(DropReason::NoSession);
        }
        let port = match protocol {
            Protocol::Icmp => v6.port,
            _ => remote.port,
        };
        Ok(Quoted {
            addresses: (v6.ip.into(), embedded(remote.ip).into()),
            ports: (v6.port, port),
        })
    }

    /// The packet inside an ICMP error about what `remote` sent to a client, as it was sent; and
    /// the side where the error leaves.
    pub fn error_v6(
        &self,
        protocol: Protocol,
        client: TransportAddr6,
        remote: TransportAddr4,
    ) -> (Side, Result<Quoted, DropReason>) {
        let Some(entry) = self.bib.get(&(protocol, client)) else {
            return (Side::V4, Err(DropReason::NoBib));
        };
        if !entry.sessions.contains_key(&peer(protocol, remote)) {
            return (Side::V4, Err(DropReason::NoSession));
        }
        let mapped = entry.v4;
        let port = match protocol {
            Protocol::Icmp => mapped.port,
            _ => remote.port,
        };
        if is_pool(remote.ip) {
            // It goes on as an error about what `remote`, a client's, sent to this one's mapping.
            let sender = TransportAddr4 { port, ..remote };
            return (Side::V6, self.error_v4(protocol, sender, mapped));
        }
        let quoted = Quoted {
            addresses: (remote.ip.into(), mapped.ip.into()),
            ports: (port, mapped.port),
        };
        (Side::V4, Ok(quoted))
    }

    /// A packet from IPv6, what the engine did with it, and the mapping it has now.
    #[allow(clippy::too_many_arguments)]
    pub fn check_v6(
        &mut self,
        now: Instant,
        protocol: Protocol,
        v6: TransportAddr6,
        remote: TransportAddr4,
        flags: u8,
        got: Answer,
        learnt: Option<TransportAddr4>,
    ) -> Result<(), Fault> {
        let v4 = match self.pass_v6(now, protocol, v6, remote, flags, learnt)? {
            Passed::No(answer) => return expect(got, answer),
            Passed::Yes(v4) => v4,
        };
        let mut dst = remote;
        if protocol == Protocol::Icmp {
            dst.port = v4.port;
        }
        if !is_pool(remote.ip) {
            return expect(got, Answer::ToV4(v4, dst));
        }
        let has_session = self.bib[&(protocol, v6)]
            .sessions
            .contains_key(&peer(protocol, remote));
        let refusal = if has_session {
            Answer::Error(Side::V6)
        } else {
            // The error in answer has no session to go back by.
            Answer::Held
        };
        let src = TransportAddr4 {
            port: if protocol == Protocol::Icmp {
                remote.port
            } else {
                v4.port
            },
            ..v4
        };
        let target = TransportAddr4 {
            port: if protocol == Protocol::Icmp {
                v4.port
            } else {
                remote.port
            },
            ..remote
        };
        self.v4(now, protocol, src, target, flags, got, refusal)
    }

    /// A packet from IPv4, and what the engine did with it.
    pub fn check_v4(
        &mut self,
        now: Instant,
        protocol: Protocol,
        src: TransportAddr4,
        mapped: TransportAddr4,
        flags: u8,
        got: Answer,
    ) -> Result<(), Fault> {
        self.v4(
            now,
            protocol,
            src,
            mapped,
            flags,
            got,
            Answer::Error(Side::V4),
        )
    }

    pub(super) fn owner(&self, protocol: Protocol, v4: TransportAddr4) -> Option<TransportAddr6> {
        let mut found = self
            .bib
            .iter()
            .filter(|(key, entry)| key.0 == protocol && entry.v4 == v4);
        let owner = found.next().map(|(key, _)| key.1);
        assert!(found.next().is_none(), "{v4:?} is mapped twice");
        owner
    }

    fn may_open(&self, subscriber: u16) -> Result<(), DropReason> {
        let of = |id: u16| {
            let mine = self
                .bib
                .iter()
                .filter(move |(key, _)| subscriber_of(key.1) == id);
            mine.map(|(_, entry)| entry.sessions.len()).sum::<usize>()
        };
        if of(subscriber) >= SUBSCRIBER_SESSIONS_MAX as usize {
            return Err(DropReason::SubscriberSessions);
        }
        let all: u64 = Protocol::ALL.iter().map(|&p| self.session_count(p)).sum();
        if all >= self.sessions_max {
            return Err(DropReason::SessionTableFull);
        }
        Ok(())
    }

    fn pass_v6(
        &mut self,
        now: Instant,
        protocol: Protocol,
        v6: TransportAddr6,
        remote: TransportAddr4,
        flags: u8,
        learnt: Option<TransportAddr4>,
    ) -> Result<Passed, Fault> {
        let tick = now.tick().0;
        let to = peer(protocol, remote);
        if let Some(entry) = self.bib.get_mut(&(protocol, v6)) {
            if let Some(session) = entry.sessions.get_mut(&to) {
                step(session, Side::V6, flags, tick);
                return Ok(Passed::Yes(entry.v4));
            }
            if protocol == Protocol::Tcp && !opens(flags) {
                return Ok(Passed::Yes(entry.v4));
            }
        } else if protocol == Protocol::Tcp && !opens(flags) {
            return Ok(Passed::No(Answer::Dropped(DropReason::TcpNotSyn)));
        }
        if self.may_open(subscriber_of(v6)).is_err() {
            return Ok(Passed::No(Answer::Error(Side::V6)));
        }
        if !self.bib.contains_key(&(protocol, v6)) {
            let Some(v4) = learnt else {
                self.check_exhausted(v6, protocol, tick)?;
                self.refused_for_ports += 1;
                return Ok(Passed::No(Answer::Error(Side::V6)));
            };
            self.map(protocol, v6, v4, tick)?;
        }
        let v4 = self.bib[&(protocol, v6)].v4;
        let state = match protocol {
            Protocol::Udp => State::Udp,
            Protocol::Icmp => State::Icmp,
            Protocol::Tcp if self.held.remove(&(v4, remote)).is_some() => State::Established,
            Protocol::Tcp => State::V6Init,
        };
        let entry = self.bib.get_mut(&(protocol, v6)).expect("mapped above");
        entry.sessions.insert(to, Session { state, seen: tick });
        Ok(Passed::Yes(v4))
    }

    /// The part of a packet from IPv4, hairpinned or not. `refusal`: what an answer to it looks
    /// like; `Held` stands for none.
    #[allow(clippy::too_many_arguments)]
    fn v4(
        &mut self,
        now: Instant,
        protocol: Protocol,
        src: TransportAddr4,
        mapped: TransportAddr4,
        flags: u8,
        got: Answer,
        refusal: Answer,
    ) -> Result<(), Fault> {
        let refused = |reason| match refusal {
            Answer::Held => Answer::Dropped(reason),
            error => error,
        };
        let tick = now.tick().0;
        let is_syn = protocol == Protocol::Tcp && opens(flags);
        let Some(v6) = self.owner(protocol, mapped) else {
            if is_syn && PORTS.contains(&mapped.port) {
                let expected = self.hold(now, mapped, src, refusal != Answer::Held);
                return expect(got, expected);
            }
            return expect(got, Answer::Dropped(DropReason::NoBib));
        };
        let from = peer(protocol, src);
        let filtering = self.filtering;
        let may_open = self.may_open(subscriber_of(v6));
        let entry = self.bib.get_mut(&(protocol, v6)).expect("it has an owner");
        if let Some(session) = entry.sessions.get_mut(&from) {
            step(session, Side::V4, flags, tick);
        } else {
            let known = entry.sessions.keys().any(|peer| peer.ip == src.ip);
            if filtering == Filtering::AddressDependent && !known {
                if is_syn {
                    let expected = self.hold(now, mapped, src, refusal != Answer::Held);
                    return expect(got, expected);
                }
                return expect(got, refused(DropReason::Filtered));
            }
            let stateless = protocol == Protocol::Tcp && !is_syn;
            if !stateless {
                if let Err(reason) = may_open {
                    return expect(got, refused(reason));
                }
                let state = match protocol {
                    Protocol::Udp => State::Udp,
                    Protocol::Icmp => State::Icmp,
                    Protocol::Tcp => State::V4Init,
                };
                entry.sessions.insert(from, Session { state, seen: tick });
            }
        }
        let port = if protocol == Protocol::Icmp {
            v6.port
        } else {
            src.port
        };
        let ip = embedded(src.ip);
        expect(got, Answer::ToV6(TransportAddr6 { ip, port }, v6))
    }

    fn hold(
        &mut self,
        now: Instant,
        mapped: TransportAddr4,
        src: TransportAddr4,
        is_answered: bool,
    ) -> Answer {
        if self.held.contains_key(&(mapped, src)) {
            return Answer::Dropped(DropReason::TcpIncomingSyn);
        }
        if self.held.keys().filter(|key| key.0 == mapped).count() >= HELD_PER_DESTINATION_MAX {
            return Answer::Dropped(DropReason::SynHoldFull);
        }
        let over = now + Duration::from_secs(6);
        self.held.insert((mapped, src), (over, is_answered));
        Answer::Held
    }

    /// Lets go of what is over; how many packets that makes: answers to held SYNs, and probes of
    /// connections whose TCP_EST has run out.
    pub fn expire(&mut self, now: Instant) -> usize {
        let tick = now.tick().0;
        let answered = self.held.values().filter(|held| held.0 <= now && held.1);
        let mut sent = answered.count();
        self.held.retain(|_, held| held.0 > now);
        let mut gone = Vec::new();
        for (&(protocol, _), entry) in &mut self.bib {
            entry.sessions.retain(|_, session| {
                if session.seen + session.state.lifetime() >= tick {
                    return true;
                }
                let goes_transitory = session.state == State::Established;
                if goes_transitory {
                    sent += 1;
                    *session = Session {
                        state: State::Trans,
                        seen: tick,
                    };
                }
                goes_transitory
            });
            if entry.sessions.is_empty() {
                gone.push((protocol, entry.v4));
            }
        }
        self.bib.retain(|_, entry| !entry.sessions.is_empty());
        for (protocol, v4) in gone {
            self.freed.insert((protocol, v4), tick);
            if !self
                .bib
                .values()
                .any(|other| block_of(other.v4) == block_of(v4))
            {
                let block = self.blocks.get_mut(&block_of(v4)).expect("of a holder");
                block.empty_since = tick;
            }
        }
        let used: BTreeSet<_> = self.bib.values().map(|entry| block_of(entry.v4)).collect();
        let idle = ticks(BLOCK_IDLE);
        self.blocks
            .retain(|key, block| used.contains(key) || block.empty_since + idle > tick);
        sent
    }
}
