//! How much memory a configuration needs, by named terms, and the translators built in it.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use gate64_wire::addr::Protocol;
use gate64_wire::rfc6052::Pref64;
use hashbrown::HashMap;

use super::block::Blocks;
use super::class::Classes;
use super::fragment::Fragments;
use super::icmp::ErrorBudget;
use super::lifetime::LifetimeTable;
use super::outbox::Outbox;
use super::ownership::Ownership;
use super::pool4::PoolMap;
use super::relog::Relog;
use super::subscriber::Subscribers;
use super::syn_hold::SynHold;
use super::table::{NUMBER_MAX, Table, TableSizes};
use super::{EVENTS_MAX, Nat64, Places};
use crate::clock::ticks;
use crate::command::Event;
use crate::config::{AutoOnOff, Filtering, Nat64Config, Pool4Prefix};
use crate::counters::{self, Counters};
use crate::memory::arena::Pages;
use crate::memory::hash::Rng;
use crate::memory::{Arena, ArenaError, HashKey};
use crate::route::PortId;
use crate::siit;
use crate::verdict::WorkerId;

/// What a translator needs to know besides its configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Number of workers, at least 1.
    pub workers: u8,
    /// Sessions over all workers.
    pub session_count_max: u64,
    /// Whether session memory lies on hugepages.
    pub hugepages: AutoOnOff,
    /// Whether each session is told to the log.
    pub log_sessions: bool,
    /// By interface: layer 4 checksums of arriving packets are computed anew.
    pub recompute_checksums: Vec<bool>,
    /// Secret of the hashes; all workers have the same.
    pub key: HashKey,
    /// Seed of port choice.
    pub seed: u64,
}

impl Settings {
    /// Random secrets, everything else at its default.
    pub fn new(workers: u8, session_count_max: u64) -> Settings {
        let key = HashKey::random();
        Settings {
            workers: workers.max(1),
            session_count_max,
            hugepages: AutoOnOff::Auto,
            log_sessions: false,
            recompute_checksums: Vec::new(),
            key,
            seed: key.words(1, 2, 3),
        }
    }
}

/// What all workers have in common: configuration, pool, ownership, sizes.
#[derive(Debug)]
pub struct Shared {
    /// The configuration.
    pub config: Arc<Nat64Config>,
    /// The pool.
    pub pool: Arc<PoolMap>,
    /// The ownership function.
    pub ownership: Arc<Ownership>,
    settings: Settings,
    sizes: TableSizes,
    subscribers: usize,
}

/// Octets by what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Name and octets for one worker.
    pub terms: Vec<(&'static str, u64)>,
    /// Number of workers.
    pub workers: u8,
    /// Sessions that one worker takes.
    pub sessions_per_worker: u64,
}

impl MemoryPlan {
    /// Octets over all terms and workers. Further sessions, pool ports, bitmaps of blocks and packets
    /// become resident when first used, the rest at start.
    pub fn total(&self) -> u64 {
        self.terms.iter().map(|(_, octets)| octets).sum::<u64>() * u64::from(self.workers)
    }
}

impl Shared {
    /// Numbers the pool and sizes the tables.
    pub fn new(config: Arc<Nat64Config>, settings: Settings) -> Shared {
        let pool = Arc::new(PoolMap::new(&config, settings.workers));
        let ownership = Arc::new(Ownership::new(&config, settings.workers, settings.key));
        let sessions = sessions_per_worker(&settings);
        let statics = config.static_bib.len();
        let blocks = pool.block_number_max() as usize;
        let sizes = TableSizes {
            sessions,
            statics,
            slots: pool.slot_capacity() as usize,
            blocks,
        };
        // A subscriber has a block, or only static entries; one more is being tried.
        let subscribers = blocks.min(sessions) + statics + 1;
        Shared {
            config,
            pool,
            ownership,
            settings,
            sizes,
            subscribers,
        }
    }

    /// The memory that the workers will reserve.
    pub fn plan(&self) -> MemoryPlan {
        let octets = |octets: usize| u64::try_from(octets).unwrap_or(u64::MAX);
        let mut terms: Vec<_> = self
            .sizes
            .plan()
            .into_iter()
            .map(|(name, size)| (name, octets(size)))
            .collect();
        terms.push(("port blocks", octets(Blocks::bytes(&self.pool))));
        terms.push(("subscribers", octets(Subscribers::bytes(self.subscribers))));
        // A key of two numbers, a count and an octet of the map for each place.
        let places = permissions(&self.config, self.sizes.sessions);
        let octets_each = (3 * size_of::<u32>() + 1) as u64;
        terms.push((
            "permissions of address-dependent filtering",
            octets((places * 8 / 7).next_power_of_two()) * octets_each * u64::from(places > 0),
        ));
        terms.push((
            "packets held and made",
            octets(Outbox::bytes() + Fragments::bytes() + SynHold::bytes()),
        ));
        MemoryPlan {
            terms,
            workers: self.settings.workers,
            sessions_per_worker: octets(self.sizes.sessions),
        }
    }
}

/// An equal share, and an eighth more where the subscribers' hash decides who gets how many.
fn sessions_per_worker(settings: &Settings) -> usize {
    let workers = u64::from(settings.workers.max(1));
    let share = settings.session_count_max.div_ceil(workers);
    let share = if workers == 1 {
        share
    } else {
        share + share / 8
    };
    usize::try_from(share.clamp(1, u64::from(NUMBER_MAX))).unwrap_or(usize::MAX)
}

/// Whether workers can take over `new` while they run: what sizes or numbers their memory has to
/// stay.
///
/// # Errors
/// The key that would need a restart.
pub fn reconfigurable(old: &Nat64Config, new: &Nat64Config) -> Result<(), &'static str> {
    let (was, is) = (&old.subscriber, &new.subscriber);
    for (same, key) in [
        (old.pref64 == new.pref64, "nat64.pref64"),
        (
            old.deterministic == new.deterministic,
            "[[subscriber.deterministic]]",
        ),
        (
            deterministic_pools(old) == deterministic_pools(new),
            "[[pool4]] of a deterministic set",
        ),
        (
            old.pool_names
                .iter()
                .zip(&new.pool_names)
                .all(|(a, b)| a == b),
            "the order of pools",
        ),
        (
            old.pool4_address_count_max == new.pool4_address_count_max,
            "dataplane.pool4_address_count_max",
        ),
        (old.static_bib == new.static_bib, "[[static]]"),
        (old.filtering == new.filtering, "nat64.filtering"),
        (
            was.prefix_length == is.prefix_length,
            "subscriber.prefix_length",
        ),
        (
            was.port_block_size == is.port_block_size,
            "subscriber.port_block_size",
        ),
        (
            was.port_reuse_delay == is.port_reuse_delay,
            "subscriber.port_reuse_delay",
        ),
    ] {
        if !same {
            return Err(key);
        }
    }
    Ok(())
}

/// What the calculation of blocks rests on.
fn deterministic_pools(config: &Nat64Config) -> Vec<&Pool4Prefix> {
    let is_taken = |prefix: &&Pool4Prefix| {
        let mut sets = config.deterministic.iter();
        sets.any(|set| set.pool == prefix.pool)
    };
    config.pool4.iter().filter(is_taken).collect()
}

/// Places for permissions: twice the sessions, so that the map never grows; none where no
/// filtering asks for them.
fn permissions(config: &Nat64Config, sessions: usize) -> usize {
    match config.filtering {
        Filtering::EndpointIndependent => 0,
        Filtering::AddressDependent => sessions * 2,
    }
}

fn reserve(octets: usize, wish: AutoOnOff) -> Result<Arena, ArenaError> {
    match wish {
        AutoOnOff::Off => Arena::reserve(octets, Pages::Ordinary),
        AutoOnOff::On => Arena::reserve(octets, Pages::Huge),
        AutoOnOff::Auto => {
            Arena::reserve(octets, Pages::Huge).or_else(|_| Arena::reserve(octets, Pages::Ordinary))
        }
    }
}

pub(super) fn build(shared: &Shared, worker: WorkerId) -> Result<Nat64, ArenaError> {
    let Shared {
        config,
        pool,
        ownership,
        settings,
        sizes,
        subscribers,
    } = shared;
    let octets = sizes.plan().iter().map(|(_, octets)| octets).sum::<usize>() + Blocks::bytes(pool);
    let mut arena = reserve(octets, settings.hugepages)?;
    let mut rng = Rng::new(settings.seed ^ u64::from(worker.0).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let delay = ticks(config.subscriber.port_reuse_delay);
    let table = Table::new(&mut arena, sizes, settings.key)?;
    let blocks = Blocks::new(
        &mut arena,
        Arc::clone(pool),
        ownership,
        worker,
        delay,
        HashKey::seeded(rng.next_u64()),
    )?;
    let mut nat64 = Nat64 {
        pref64_first: config.pref64.first().copied().unwrap_or(Pref64::WELL_KNOWN),
        rules: siit::Rules::new(config),
        lifetimes: LifetimeTable::new(&config.lifetimes),
        pool: Arc::clone(pool),
        ownership: Arc::clone(ownership),
        pool_changes: 0,
        is_alone: ownership.is_alone(),
        worker,
        table,
        blocks,
        subscribers: Subscribers::new(*subscribers, settings.key),
        permissions: HashMap::with_capacity(permissions(config, sizes.sessions)),
        counters: Counters::default(),
        events: resident_events(),
        error_budget: ErrorBudget::new(config.icmp_error_rate_max),
        clears: VecDeque::new(),
        cuts: VecDeque::new(),
        tops: VecDeque::new(),
        outbox: Outbox::new(),
        fragments: Fragments::new(),
        syn_hold: SynHold::new(),
        classes: Classes::new(config),
        class_generation: 0,
        block_idle_ticks: ticks(config.subscriber.block_idle),
        block_active_ticks: config.subscriber.block_active.map(ticks),
        log_sessions: settings.log_sessions,
        relog: Relog::default(),
        refuse_new: false,
        recompute_checksums: settings.recompute_checksums.clone(),
        identification: u16::try_from(rng.below(1 << 16)).unwrap_or(0),
        places: Places::new(),
        config: Arc::clone(config),
    };
    nat64.count_blocks();
    nat64.add_static_entries();
    Ok(nat64)
}

impl Nat64 {
    /// Takes the configured ports out of the dynamic ones of the pools in use.
    pub(super) fn reserve_static_ports(&mut self) {
        self.blocks.unreserve();
        for entry in &self.config.static_bib {
            if let Some(block) = self.pool.block(entry.v4.ip, entry.v4.port) {
                self.blocks.reserve(block, entry.protocol, entry.v4.port);
            }
        }
    }

    /// Enters the configured BIB entries whose hosts this worker owns, and takes all configured
    /// ports out of the dynamic ones.
    fn add_static_entries(&mut self) {
        self.reserve_static_ports();
        let config = Arc::clone(&self.config);
        for entry in &config.static_bib {
            let Some(slot) = self.pool.slot(entry.v4.ip) else {
                continue;
            };
            if self.ownership.of_v6(entry.v6.ip) != self.worker {
                continue;
            }
            let prefix = self.ownership.subscriber_prefix(entry.v6.ip);
            let known = self.subscribers.find(prefix);
            let now = crate::clock::Tick(0);
            let Some(subscriber) = known.or_else(|| self.add_subscriber(prefix, now)) else {
                continue;
            };
            if self
                .table
                .add_bib(entry.v6, entry.v4, slot, entry.protocol, subscriber, true)
                .is_ok()
            {
                self.subscribers.get_mut(subscriber).bib_count += 1;
                self.counters
                    .add(counters::bib_entries(Protocol::index(entry.protocol)), 1);
            }
        }
    }
}

/// A queue of events whose memory is resident: no packet and no turn waits for the kernel to find
/// a page.
fn resident_events() -> VecDeque<Event> {
    let nothing = Event::NeighborWanted {
        port: PortId(0),
        ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let mut events: VecDeque<Event> = std::iter::repeat_n(nothing, EVENTS_MAX).collect();
    events.clear();
    events
}
