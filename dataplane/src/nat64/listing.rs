//! What control asks for: pages of entries, clearing, a new configuration.
//!
//! Pages, searches and clearing take bounded steps between bursts; clearing cuts, see [`super::cut`]. A new configuration is taken
//! over in one go, which looks at every port block once (see [`super::cut`]) and makes the classes
//! anew.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crossbeam::channel::Sender;
use gate64_wire::addr::{Protocol, TransportAddr6};

use super::class::Classes;
use super::cut::EVENTS_WAITING_MAX;
use super::lifetime::LifetimeTable;
use super::ownership::mask;
use super::pool4::BlockId;
use super::subscriber::Subscriber;
use super::table::{BibEntry, Session, SessionRef};
use super::tcp_state::TcpState;
use super::tuples::shown_peer;
use super::{EVENTS_MAX, Nat64};
use crate::clock::{Instant, TICK, Tick, ticks};
use crate::command::{
    BibRow, BlockRow, BlockUse, Command, Filter, JOBS_MAX, Page, PoolRow, SessionRow,
    SubscriberRow, TooManyJobs, TopBy,
};
use crate::config::Nat64Config;
use crate::siit;

/// Entries looked at for one page or one step of clearing.
const LOOK_MAX: u32 = 2048;

/// Sessions ended in one step of clearing: each is looked for in memory, some ten microseconds in all.
const CLEAR_MAX: usize = 64;

const _: () = assert!(CLEAR_MAX <= EVENTS_MAX / 8); // beside a cut in the same turn

/// Cursors from here on walk the further sessions.
const EXTRA_CURSOR: u32 = 1 << 31;

/// A clearing that is worked off in steps.
#[derive(Debug)]
pub(super) struct Clear {
    filter: Filter,
    cursor: u32,
    count: u64,
    reply: Sender<Result<u64, TooManyJobs>>,
}

pub(super) type Clears = VecDeque<Clear>;

/// A search for the subscribers that have most of something, worked off in steps.
#[derive(Debug)]
pub(super) struct Top {
    by: TopBy,
    limit: usize,
    cursor: u32,
    /// Value and number of the best so far, least first.
    best: BTreeSet<(u64, u32)>,
    reply: Sender<Result<Vec<SubscriberRow>, TooManyJobs>>,
}

pub(super) type Tops = VecDeque<Top>;

impl Nat64 {
    /// Carries out a command of control, or begins it. `Stop` is the worker's own.
    pub fn command(&mut self, command: Command, now: Instant) {
        // Who asked may be gone: a reply that nobody takes is dropped.
        match command {
            Command::Sessions {
                filter,
                cursor,
                limit,
                reply,
            } => {
                let _ = reply.try_send(self.sessions(&filter, cursor, limit, now.tick()));
            }
            Command::Bib {
                filter,
                cursor,
                limit,
                reply,
            } => {
                let _ = reply.try_send(self.bib(&filter, cursor, limit));
            }
            Command::Subscribers {
                filter,
                cursor,
                limit,
                reply,
            } => {
                let _ = reply.try_send(self.subscriber_rows(&filter, cursor, limit));
            }
            Command::TopSubscribers { by, limit, reply } => {
                if self.tops.len() < JOBS_MAX {
                    self.tops.push_back(Top {
                        by,
                        limit,
                        cursor: 0,
                        best: BTreeSet::new(),
                        reply,
                    });
                } else {
                    let _ = reply.try_send(Err(TooManyJobs));
                }
            }
            Command::Pool {
                filter,
                cursor,
                limit,
                reply,
            } => {
                let _ = reply.try_send(self.pool_rows(&filter, cursor, limit));
            }
            Command::Blocks {
                filter,
                cursor,
                limit,
                reply,
            } => {
                let _ = reply.try_send(self.block_rows(&filter, cursor, limit, now.tick()));
            }
            Command::ClearSessions { filter, reply } => {
                if self.clears.len() < JOBS_MAX {
                    self.clears.push_back(Clear {
                        filter,
                        cursor: 0,
                        count: 0,
                        reply,
                    });
                } else {
                    let _ = reply.try_send(Err(TooManyJobs));
                }
            }
            Command::Reconfigure { config, pool } => {
                self.reconfigure(config);
                self.adopt_pool(pool);
            }
            Command::Stranded { pool, reply } => {
                let _ = reply.try_send(self.stranded(&pool));
            }
            Command::CutBlocks {
                addresses,
                begun,
                reply,
            } => {
                let _ = begun.try_send(self.begin_cut(addresses, reply));
            }
            Command::Log(mode) => self.set_log(mode, now.tick()),
        }
    }

    fn reconfigure(&mut self, config: Arc<Nat64Config>) {
        self.rules = siit::Rules::new(&config);
        self.lifetimes = LifetimeTable::new(&config.lifetimes);
        self.error_budget = super::icmp::ErrorBudget::new(config.icmp_error_rate_max);
        self.block_idle_ticks = ticks(config.subscriber.block_idle);
        self.block_active_ticks = config.subscriber.block_active.map(ticks);
        self.classes = Classes::new(&config);
        self.class_generation = self.class_generation.wrapping_add(1);
        self.config = config;
    }

    fn sessions(&self, filter: &Filter, cursor: u32, limit: usize, now: Tick) -> Page<SessionRow> {
        let mut rows = Vec::new();
        let next = self.walk_sessions(cursor, &mut |at| {
            let (entry, session) = (self.table.bib(at.bib()), self.table.session(at));
            if selects(filter, entry) && selects_remote(filter, session) {
                rows.push(self.session_row(entry, session, now));
            }
            rows.len() < limit
        });
        Page { rows, next }
    }

    /// Shows sessions to `take` until it has enough or enough were looked at; the cursor to go on
    /// from, `None` at the end.
    fn walk_sessions(&self, cursor: u32, take: &mut dyn FnMut(SessionRef) -> bool) -> Option<u32> {
        if cursor < EXTRA_CURSOR {
            let (rows, next) = self.table.bibs_from(cursor, LOOK_MAX);
            for (bib, entry) in rows {
                if entry.session.state != 0 && !take(SessionRef::First(bib)) {
                    return Some(bib + 1);
                }
            }
            return Some(next.unwrap_or(EXTRA_CURSOR));
        }
        let (rows, next) = self.table.extras_from(cursor - EXTRA_CURSOR, LOOK_MAX);
        for (extra, one) in rows {
            if !take(SessionRef::Extra {
                extra,
                bib: one.bib,
            }) {
                return Some(EXTRA_CURSOR + extra + 1);
            }
        }
        next.map(|next| EXTRA_CURSOR + next)
    }

    fn session_row(&self, entry: &BibEntry, session: &Session, now: Tick) -> SessionRow {
        let over = self.lifetimes.over_at(session.state, Tick(session.seen));
        let remote = shown_peer(entry, session);
        SessionRow {
            protocol: entry.protocol(),
            v6: entry.v6(),
            v6_remote: TransportAddr6 {
                ip: self.pref64(session.pref64).embed(remote.ip),
                port: remote.port,
            },
            v4: entry.v4(),
            v4_remote: remote,
            state: if entry.protocol() == Protocol::Tcp {
                TcpState::from_octet(session.state).name()
            } else {
                ""
            },
            expires_in_seconds: seconds(over.0.saturating_sub(now.0)),
            age_seconds: seconds(now.0.saturating_sub(session.created)),
        }
    }

    fn bib(&self, filter: &Filter, cursor: u32, limit: usize) -> Page<BibRow> {
        let mut rows = Vec::new();
        let (entries, next) = self.table.bibs_from(cursor, LOOK_MAX);
        for (bib, entry) in entries {
            if selects(filter, entry) {
                rows.push(BibRow {
                    protocol: entry.protocol(),
                    v6: entry.v6(),
                    v4: entry.v4(),
                    is_static: entry.is_static(),
                    session_count: entry.session_count(),
                });
                if rows.len() >= limit {
                    return Page {
                        rows,
                        next: Some(bib + 1),
                    };
                }
            }
        }
        Page { rows, next }
    }

    fn subscriber_rows(&self, filter: &Filter, cursor: u32, limit: usize) -> Page<SubscriberRow> {
        let mut rows = Vec::new();
        for (looked, (id, one)) in (0..).zip(self.subscribers.iter_from(cursor)) {
            if rows.len() >= limit || looked >= LOOK_MAX {
                return Page {
                    rows,
                    next: Some(id),
                };
            }
            let address = one.address();
            let is_wanted = self.selects_subscriber(filter, address)
                && filter.v4.is_none_or(|ip| ip == self.address_of(one));
            if is_wanted {
                rows.push(self.subscriber_row(one));
            }
        }
        Page { rows, next: None }
    }

    /// Whether a subscriber lies in the prefix that is asked for, or that in the subscriber.
    fn selects_subscriber(&self, filter: &Filter, subscriber: Ipv6Addr) -> bool {
        let length_max = self.config.subscriber.prefix_length;
        filter
            .v6
            .is_none_or(|(ip, length)| in_prefix(subscriber, (ip, length.min(length_max))))
    }

    fn address_of(&self, one: &Subscriber) -> Ipv4Addr {
        one.slot
            .and_then(|slot| self.pool.address(slot))
            .unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn subscriber_row(&self, one: &Subscriber) -> SubscriberRow {
        let (blocks, ports_used) = self.blocks_of(one.first_block);
        SubscriberRow {
            prefix: one.address(),
            prefix_length: self.config.subscriber.prefix_length,
            v4: self.address_of(one),
            class: self.class_number(one),
            is_deterministic: one.fixed_count > 0,
            blocks,
            block_size: self.pool.block_size(),
            ports_used,
            session_count: one.session_count,
            refusals: one.refusals,
            last_refusal: one.last_refusal,
        }
    }

    /// A step of the oldest search for the subscribers that have most; whether there was one.
    pub(super) fn work_off_tops(&mut self) -> bool {
        let Some(mut top) = self.tops.pop_front() else {
            return false;
        };
        let mut next = None;
        for (looked, (id, one)) in (0..).zip(self.subscribers.iter_from(top.cursor)) {
            if looked >= LOOK_MAX {
                next = Some(id);
                break;
            }
            let value = match top.by {
                TopBy::Ports => one.ports_total().into(),
                TopBy::Sessions => one.session_count.into(),
                TopBy::Refusals => one.refusals,
            };
            top.best.insert((value, id));
            if top.best.len() > top.limit {
                top.best.pop_first();
            }
        }
        match next {
            Some(cursor) => {
                top.cursor = cursor;
                self.tops.push_front(top);
            }
            None => {
                // Some may be gone since they were looked at; their numbers hold others then.
                let best = top.best.iter().rev();
                let best = best.map(|&(_, id)| self.subscribers.get(id));
                let best = best.filter(|one| one.is_in_use());
                let rows = best.map(|one| self.subscriber_row(one));
                let _ = top.reply.try_send(Ok(rows.collect()));
            }
        }
        true
    }

    fn blocks_of(&self, first: u32) -> (Vec<u16>, [u32; 3]) {
        let mut ports = Vec::new();
        let mut used = [0; 3];
        let mut block = first;
        while block != 0 {
            let record = self.blocks.get(block);
            if let Some((_, _, port)) = self.pool.block_start(block) {
                ports.push(port);
            }
            for (sum, one) in used.iter_mut().zip(record.used) {
                *sum += u32::from(one);
            }
            block = record.next;
        }
        (ports, used)
    }

    fn pool_rows(&self, filter: &Filter, cursor: u32, limit: usize) -> Page<PoolRow> {
        let mut rows = Vec::new();
        let slots = match filter.v4 {
            None => 0..self.pool.slot_count(),
            Some(ip) => self.pool.slot(ip).map_or(0..0, |slot| slot..slot + 1),
        };
        // A row looks at all blocks of its address.
        let look_max = LOOK_MAX.div_ceil(self.pool.stride());
        for (looked, slot) in (0..).zip(slots.start.max(cursor)..slots.end) {
            if rows.len() >= limit || looked >= look_max {
                return Page {
                    rows,
                    next: Some(slot),
                };
            }
            let v4 = self.pool.address(slot);
            rows.extend(v4.and_then(|v4| self.pool_row(slot, v4)));
        }
        Page { rows, next: None }
    }

    /// An address of which this worker owns at least one block.
    fn pool_row(&self, slot: u32, v4: Ipv4Addr) -> Option<PoolRow> {
        let mut row = PoolRow {
            v4,
            pool: self.pool.pool_of(slot),
            state: self.pool.state(slot),
            blocks_total: 0,
            blocks_used: 0,
            blocks_resting: 0,
            ports_used: [0; 3],
            subscribers: 0,
        };
        let mut holders = Vec::new();
        let open = self.pool.open_blocks_of(slot);
        let all = self.pool.blocks_of(slot);
        for block in all.filter(|&b| self.ownership.of_block(&self.pool, b) == self.worker) {
            let record = self.blocks.get(block);
            row.blocks_total += u32::from(open.contains(&block));
            row.blocks_resting += u32::from(self.blocks.is_resting(block));
            if record.subscriber != 0 {
                row.blocks_used += 1;
                holders.push(record.subscriber);
            }
            for (sum, one) in row.ports_used.iter_mut().zip(record.used) {
                *sum += u32::from(one);
            }
        }
        holders.sort_unstable();
        holders.dedup();
        row.subscribers = u32::try_from(holders.len()).unwrap_or(u32::MAX);
        (row.blocks_total + row.blocks_used > 0).then_some(row)
    }

    fn block_rows(&self, filter: &Filter, cursor: u32, limit: usize, now: Tick) -> Page<BlockRow> {
        let mut rows = Vec::new();
        let numbers = self.blocks_asked(filter);
        for (looked, block) in (0..).zip(numbers.start.max(cursor)..numbers.end) {
            if rows.len() >= limit || looked >= LOOK_MAX {
                return Page {
                    rows,
                    next: Some(block),
                };
            }
            rows.extend(self.block_row(block, now).filter(|row| {
                let holder = row.subscriber.map(|(prefix, _)| prefix);
                filter.v6.is_none()
                    || holder.is_some_and(|prefix| self.selects_subscriber(filter, prefix))
            }));
        }
        Page { rows, next: None }
    }

    /// Numbers among which the blocks lie that are asked for.
    fn blocks_asked(&self, filter: &Filter) -> std::ops::Range<BlockId> {
        let Some(ip) = filter.v4 else {
            return 1..self.pool.block_number_max() + 1;
        };
        match (self.pool.slot(ip), filter.v4_port) {
            (None, _) => 0..0,
            (Some(slot), None) => self.pool.blocks_of(slot),
            (Some(_), Some(port)) => self
                .pool
                .block(ip, port)
                .map_or(0..0, |block| block..block + 1),
        }
    }

    /// A block that this worker gave out, or that rests.
    fn block_row(&self, block: BlockId, now: Tick) -> Option<BlockRow> {
        let record = self.blocks.get(block);
        let is_held = record.subscriber != 0;
        let block_use = match (is_held, record.is_fixed()) {
            (true, true) => BlockUse::Calculated,
            (true, false) => BlockUse::Held,
            (false, _) if self.blocks.is_resting(block) => BlockUse::Resting,
            (false, _) => return None,
        };
        let (v4, slot, port_first) = self.pool.block_start(block)?;
        let holder = is_held.then(|| self.subscribers.get(record.subscriber).address());
        Some(BlockRow {
            v4,
            pool: self.pool.pool_of(slot),
            port_first,
            port_count: self.pool.block_size(),
            block_use,
            subscriber: holder.map(|prefix| (prefix, self.config.subscriber.prefix_length)),
            ports_used: record.used,
            held_seconds: match is_held {
                true => seconds(now.0.saturating_sub(record.taken_at.0)),
                false => 0,
            },
        })
    }

    /// A step of the oldest clearing; whether there was one. None is made while the log has to
    /// catch up, as with cuts. What is cleared counts nowhere any more.
    pub(super) fn work_off_clears(&mut self, now: Instant) -> bool {
        if self.events.len() >= EVENTS_WAITING_MAX {
            return false;
        }
        let Some(mut clear) = self.clears.pop_front() else {
            return false;
        };
        let mut doomed = Vec::new();
        let next = self.walk_sessions(clear.cursor, &mut |at| {
            let (entry, session) = (self.table.bib(at.bib()), self.table.session(at));
            if selects(&clear.filter, entry) && selects_remote(&clear.filter, session) {
                doomed.push(at);
            }
            doomed.len() < CLEAR_MAX
        });
        clear.count += doomed.len() as u64;
        for at in doomed {
            self.cut_session(at, now);
        }
        match next {
            Some(cursor) => {
                clear.cursor = cursor;
                self.clears.push_front(clear);
            }
            None => {
                let _ = clear.reply.try_send(Ok(clear.count));
            }
        }
        true
    }
}

fn selects(filter: &Filter, entry: &BibEntry) -> bool {
    filter
        .protocol
        .is_none_or(|protocol| protocol == entry.protocol())
        && filter
            .v6
            .is_none_or(|prefix| in_prefix(entry.v6().ip, prefix))
        && filter.v4.is_none_or(|ip| ip == entry.v4().ip)
        && filter.v4_port.is_none_or(|port| port == entry.v4().port)
}

fn selects_remote(filter: &Filter, session: &Session) -> bool {
    filter.remote.is_none_or(|ip| ip == session.remote().ip)
}

fn in_prefix(ip: Ipv6Addr, (prefix, length): (Ipv6Addr, u8)) -> bool {
    (u128::from(ip) ^ u128::from(prefix)) & mask(length) == 0
}

fn seconds(ticks: u32) -> u32 {
    u32::try_from(u128::from(ticks) * TICK.as_millis() / 1000).unwrap_or(u32::MAX)
}
