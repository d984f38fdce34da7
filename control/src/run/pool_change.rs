//! Changes of the pools while traffic flows: what a new configuration would take from whom,
//! whether that may be, and the addresses that are being drained.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gate64_dataplane::command::Command;
use gate64_dataplane::config::{Nat64Config, Pool4Prefix};
use gate64_dataplane::nat64::pool4::{AddressState, BlockId, PoolMap};

use super::{Translator, lock};
use crate::config::{Config, PoolRemoval};
use crate::state::State;

/// Addresses named in a message.
const NAMED_MAX: usize = 8;

/// An address that gets no new blocks.
#[derive(Debug, Clone)]
struct Drain {
    since: Instant,
    /// How it was, if the configuration no longer has it.
    gone: Option<Pool4Prefix>,
    is_cut: bool,
}

/// What is being drained.
#[derive(Debug, Default)]
struct Draining {
    /// Whole addresses.
    addresses: BTreeMap<Ipv4Addr, Drain>,
    /// Addresses with blocks in ports that their pool no longer has.
    ports: BTreeMap<Ipv4Addr, PortsDrain>,
    /// Addresses of a configuration that cuts, whose cut was not begun everywhere.
    owed: BTreeSet<Ipv4Addr>,
}

/// Ports of an address that get no new blocks.
#[derive(Debug, Clone, Copy)]
struct PortsDrain {
    since: Instant,
    is_cut: bool,
}

/// The addresses that are being drained.
#[derive(Debug, Default)]
pub(super) struct Drains {
    all: Mutex<Draining>,
}

/// What a new configuration does to the pools.
#[derive(Debug)]
pub(super) struct PoolChange {
    /// The configuration with the addresses that go on being drained.
    pub effective: Nat64Config,
    /// Its numbering.
    pub map: Arc<PoolMap>,
    /// Held blocks by address that would have to be cut because of this change.
    pub stranded: Vec<(Ipv4Addr, u32)>,
    /// What happens to these.
    pub removal: PoolRemoval,
    /// Held blocks by address to which no packet comes any more, whatever is to happen to others.
    pub lost: Vec<(Ipv4Addr, u32)>,
    /// Whether what goes on is cut at some time.
    pub has_deadline: bool,
    /// Addresses that stay, with blocks in ports that go.
    pub ports: PortsGone,
    /// Addresses that come new.
    pub added: Vec<Ipv4Addr>,
    /// Addresses that go.
    pub removed: Vec<Ipv4Addr>,
    /// Addresses that get no new blocks from now on.
    pub draining: Vec<Ipv4Addr>,
}

/// Addresses that stay in the pool, with blocks in ports that it no longer has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PortsGone {
    /// Those that go on from now on, until the deadline.
    new: Vec<Ipv4Addr>,
    /// All that have such blocks.
    all: Vec<Ipv4Addr>,
}

impl PoolChange {
    /// Why the change must not be, if it must not.
    pub fn refusal(&self) -> Option<String> {
        if self.stranded.is_empty() || self.removal != PoolRemoval::Refuse {
            return None;
        }
        Some(format!(
            "{} would be cut: {}. Name the addresses in `drain` first and remove them when they \
             are empty, or set nat64.pool4_removal = \"drain\" or \"cut\"",
            blocks_text(&self.stranded),
            stranded_text(&self.stranded)
        ))
    }

    /// What happens, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, addresses) in [
            ("added", &self.added),
            ("removed", &self.removed),
            ("draining from now on", &self.draining),
        ] {
            if !addresses.is_empty() {
                lines.push(format!("pool4: {what}: {}", addresses_text(addresses)));
            }
        }
        if !self.lost.is_empty() {
            lines.push(format!(
                "pool4: {} are cut, since packets there are the host's from now on: {}",
                blocks_text(&self.lost),
                stranded_text(&self.lost)
            ));
        }
        if self.stranded.is_empty() {
            return lines;
        }
        let (blocks, addresses) = (blocks_text(&self.stranded), stranded_text(&self.stranded));
        lines.push(match self.removal {
            PoolRemoval::Refuse => format!("pool4: refused: {blocks} in use: {addresses}"),
            PoolRemoval::Drain if self.has_deadline => {
                format!("pool4: {blocks} in use go on until the drain deadline: {addresses}")
            }
            PoolRemoval::Drain => format!(
                "pool4: {blocks} in use go on until nobody uses them (nat64.pool4_drain_deadline is not \
                 set): {addresses}"
            ),
            PoolRemoval::Cut => format!("pool4: {blocks} in use are cut: {addresses}"),
        });
        lines
    }
}

fn blocks_text(stranded: &[(Ipv4Addr, u32)]) -> String {
    let blocks: u32 = stranded.iter().map(|(_, blocks)| blocks).sum();
    let (a, b) = (plural(blocks as usize), stranded.len());
    format!(
        "{blocks} port block{a} of {b} address{}",
        if b == 1 { "" } else { "es" }
    )
}

fn stranded_text(stranded: &[(Ipv4Addr, u32)]) -> String {
    let named = stranded.iter().take(NAMED_MAX);
    let mut text: Vec<String> = named
        .map(|(ip, blocks)| format!("{ip} ({blocks})"))
        .collect();
    if stranded.len() > NAMED_MAX {
        text.push("…".to_owned());
    }
    text.join(", ")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn addresses_text(addresses: &[Ipv4Addr]) -> String {
    let mut text: Vec<String> = addresses
        .iter()
        .take(NAMED_MAX)
        .map(Ipv4Addr::to_string)
        .collect();
    if addresses.len() > NAMED_MAX {
        text.push(format!("… ({} in all)", addresses.len()));
    }
    text.join(", ")
}

/// Works out what `nat64`, the translator's part of `config`, does to the pools in use. Asks
/// workers, so it blocks.
pub(super) fn plan(
    state: &State,
    translator: &Translator,
    config: &Config,
    nat64: &Nat64Config,
) -> Result<PoolChange, String> {
    let current = Arc::clone(lock(&translator.gateway).pool());
    let removal = config.pool4_removal;
    let mut effective = translator.drains.with_removed(nat64);
    let mut map = numbered(state, &current, &effective)?;
    let held = held_beyond(state, &map)?;
    // What was taken from its pool before goes on as was said then.
    let stranded = added(&held, &held_beyond(state, &current)?, &current, &map);
    let own = crate::machine::own_addresses();
    let (lost, stranded) = stranded
        .into_iter()
        .partition(|(ip, _)| is_lost(*ip, &map, removal, &own));
    let stranded: Vec<(Ipv4Addr, u32)> = stranded;
    if removal == PoolRemoval::Drain && !stranded.is_empty() {
        let old = super::nat64_config(&state.config.load()).map_err(|error| error.to_string())?;
        let old = translator.drains.with_removed(&old);
        for (ip, _) in &stranded {
            keep_draining(&mut effective, &old, *ip);
        }
        map = numbered(state, &current, &effective)?;
    }
    let ports = ports_gone(&map, &held, &stranded, removal);
    let states = |map: &PoolMap| map.addresses().collect::<BTreeMap<_, _>>();
    let (before, after) = (states(&current), states(&map));
    let is = |states: &BTreeMap<Ipv4Addr, AddressState>, ip: &Ipv4Addr, wanted| {
        states.get(ip).is_some_and(|state| *state == wanted)
    };
    let is_there = |states: &BTreeMap<Ipv4Addr, AddressState>, ip: &Ipv4Addr| {
        states
            .get(ip)
            .is_some_and(|state| *state != AddressState::Closed)
    };
    let listed = |ip: &Ipv4Addr| is(&after, ip, AddressState::Draining);
    let was_listed = |ip: &Ipv4Addr| is(&before, ip, AddressState::Draining);
    Ok(PoolChange {
        added: after
            .keys()
            .copied()
            .filter(|ip| is_there(&after, ip) && !is_there(&before, ip))
            .collect(),
        removed: before
            .keys()
            .copied()
            .filter(|ip| is_there(&before, ip) && !is_there(&after, ip))
            .collect(),
        draining: after
            .keys()
            .copied()
            .filter(|ip| listed(ip) && !was_listed(ip))
            .collect(),
        effective,
        map: Arc::new(map),
        stranded,
        lost,
        removal,
        has_deadline: config.pool4_drain_deadline.is_some(),
        ports,
    })
}

/// Whether what an address loses can neither go on nor be waited for: of one that is shared with the host from now on,
/// or was when it was removed, the host gets the packets at once, and one that the host no longer has gets none.
fn is_lost(ip: Ipv4Addr, map: &PoolMap, removal: PoolRemoval, own: &[IpAddr]) -> bool {
    let is_there = own.contains(&IpAddr::V4(ip));
    !map.is_whole(ip) && (removal == PoolRemoval::Drain || !is_there)
}

/// What would be taken by `map` and was not by `current`: `now` is held beyond the one, `before` beyond the other.
fn added(
    now: &[(Ipv4Addr, u32)],
    before: &[(Ipv4Addr, u32)],
    current: &PoolMap,
    map: &PoolMap,
) -> Vec<(Ipv4Addr, u32)> {
    let known = |ip: &Ipv4Addr| {
        let found = before.iter().find(|(known, _)| known == ip);
        found.map_or(0, |(_, blocks)| *blocks)
    };
    let more = now.iter().map(|(ip, blocks)| {
        let is_same = goes_on(*ip, current, map);
        (
            *ip,
            blocks.saturating_sub(if is_same { known(ip) } else { 0 }),
        )
    });
    more.filter(|(_, blocks)| *blocks > 0).collect()
}

/// Whether what an address holds beyond `current` goes on beyond `map` as it did. Otherwise all that is held there is
/// taken anew: the address goes whole, or the numbers cannot tell the ports that go from those that come back.
fn goes_on(ip: Ipv4Addr, current: &PoolMap, map: &PoolMap) -> bool {
    let open = |map: &PoolMap| {
        let slot = map.slot(ip)?;
        (map.state(slot) == AddressState::Open).then(|| map.open_blocks_of(slot))
    };
    match (open(current), open(map)) {
        (Some(was), Some(is)) => {
            let holds =
                |a: &Range<BlockId>, b: &Range<BlockId>| a.start <= b.start && b.end <= a.end;
            holds(&was, &is) || holds(&is, &was)
        }
        (Some(_), None) => false,
        (None, _) => true,
    }
}

/// Which of these addresses stay, so that only a part of their ports is drained.
fn ports_gone(
    map: &PoolMap,
    held: &[(Ipv4Addr, u32)],
    stranded: &[(Ipv4Addr, u32)],
    removal: PoolRemoval,
) -> PortsGone {
    let stays = |ip: &Ipv4Addr| {
        let slot = map.slot(*ip);
        slot.is_some_and(|slot| map.state(slot) == AddressState::Open)
    };
    let of = |blocks: &[(Ipv4Addr, u32)]| -> Vec<Ipv4Addr> {
        let addresses = blocks.iter().map(|(ip, _)| *ip);
        addresses.filter(stays).collect()
    };
    match removal {
        PoolRemoval::Drain => PortsGone {
            new: of(stranded),
            all: of(held),
        },
        // They are cut at once, or there are none.
        PoolRemoval::Cut | PoolRemoval::Refuse => PortsGone {
            new: Vec::new(),
            all: of(held)
                .into_iter()
                .filter(|ip| !stranded.iter().any(|(cut, _)| cut == ip))
                .collect(),
        },
    }
}

fn numbered(state: &State, current: &PoolMap, nat64: &Nat64Config) -> Result<PoolMap, String> {
    let workers = u8::try_from(state.workers.len()).unwrap_or(u8::MAX);
    let closed: Vec<Ipv4Addr> = current
        .addresses()
        .filter(|(_, state)| *state == AddressState::Closed)
        .map(|(ip, _)| ip)
        .collect();
    // Closed addresses were cut when they were closed: what is held there still is being cut.
    let held = match closed.is_empty() {
        true => Vec::new(),
        false => held_beyond(state, current)?,
    };
    current
        .changed(nat64, workers, &|ip| {
            !held.iter().any(|(held, _)| *held == ip)
        })
        .map_err(|error| error.to_string())
}

/// Held blocks by address that `map` would not give out, but for those being drained.
fn held_beyond(state: &State, map: &PoolMap) -> Result<Vec<(Ipv4Addr, u32)>, String> {
    let map = Arc::new(map.clone());
    let mut all = BTreeMap::new();
    for worker in state.worker_ids() {
        let rows = state
            .ask_worker(worker, |reply| Command::Stranded {
                pool: Arc::clone(&map),
                reply,
            })
            .ok_or_else(|| format!("worker {} does not answer", worker.0))?;
        for (ip, blocks) in rows {
            let is_draining = map
                .slot(ip)
                .is_some_and(|slot| map.state(slot) == AddressState::Draining);
            if !is_draining {
                *all.entry(ip).or_insert(0) += blocks;
            }
        }
    }
    Ok(all.into_iter().collect())
}

/// Lets an address go on as it was, without new blocks.
fn keep_draining(effective: &mut Nat64Config, old: &Nat64Config, ip: Ipv4Addr) {
    let Some(before) = old.pool4.iter().find(|prefix| prefix.contains(ip)) else {
        return;
    };
    // A range of ports that became smaller: the rest of the address goes on (`PortsGone`).
    if effective.pool4.iter().any(|prefix| prefix.contains(ip)) {
        return;
    }
    effective.pool4.push(Pool4Prefix {
        address: ip,
        length: 32,
        exclude: Vec::new(),
        drain: vec![ip],
        ..before.clone()
    });
}

impl Drains {
    /// The configuration with the addresses that it no longer has, but which are being drained.
    fn with_removed(&self, nat64: &Nat64Config) -> Nat64Config {
        let mut effective = nat64.clone();
        let configured = PoolMap::new(nat64, 1);
        for (ip, drain) in &self.lock().addresses {
            if let Some(gone) = &drain.gone
                && !drain.is_cut
                && configured.slot(*ip).is_none()
            {
                effective.pool4.push(gone.clone());
            }
        }
        effective
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Draining> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which addresses are drained in a configuration that was taken over. `nat64` is what
    /// the file has, `effective` what is in use, `ports` what is drained of addresses that stay.
    pub fn note(
        &self,
        nat64: &Nat64Config,
        effective: &Nat64Config,
        ports: &PortsGone,
        now: Instant,
    ) {
        let mut draining = self.lock();
        draining.ports.retain(|ip, _| ports.all.contains(ip));
        let begin = PortsDrain {
            since: now,
            is_cut: false,
        };
        draining
            .ports
            .extend(ports.new.iter().map(|ip| (*ip, begin)));
        // What is drained now has a deadline of its own, whatever was owed before.
        draining.owed.retain(|ip| !ports.new.contains(ip));
        let before = std::mem::take(&mut draining.addresses);
        for (number, prefix) in effective.pool4.iter().enumerate() {
            let is_gone = number >= nat64.pool4.len();
            for ip in &prefix.drain {
                draining.owed.remove(ip);
                let known = before.get(ip);
                draining.addresses.insert(
                    *ip,
                    Drain {
                        since: known.map_or(now, |drain| drain.since),
                        gone: is_gone.then(|| prefix.clone()),
                        is_cut: known.is_some_and(|drain| drain.is_cut),
                    },
                );
            }
        }
    }

    /// Addresses whose deadline has come, each once.
    fn take_overdue(&self, deadline: Duration, now: Instant) -> Vec<Ipv4Addr> {
        let mut draining = self.lock();
        let is_over = |since: Instant| now.duration_since(since) >= deadline;
        let mut overdue = Vec::new();
        for (ip, drain) in &mut draining.addresses {
            if !drain.is_cut && is_over(drain.since) {
                drain.is_cut = true;
                overdue.push(*ip);
            }
        }
        for (ip, drain) in &mut draining.ports {
            if !drain.is_cut && is_over(drain.since) {
                drain.is_cut = true;
                overdue.push(*ip);
            }
        }
        overdue
    }

    /// The cut of these was not begun everywhere: it is owed.
    fn owe(&self, addresses: &[Ipv4Addr]) {
        self.lock().owed.extend(addresses);
    }

    /// Addresses whose cut is owed, each once.
    fn take_owed(&self) -> Vec<Ipv4Addr> {
        let owed = std::mem::take(&mut self.lock().owed);
        owed.into_iter().collect()
    }

    /// These were not cut: their deadline comes again.
    fn still_to_cut(&self, addresses: &[Ipv4Addr]) {
        let mut draining = self.lock();
        for ip in addresses {
            if let Some(drain) = draining.addresses.get_mut(ip) {
                drain.is_cut = false;
            }
            if let Some(drain) = draining.ports.get_mut(ip) {
                drain.is_cut = false;
            }
        }
    }
}

/// Cuts what a new configuration takes. What a worker does not begin is owed: `look_after` tries it again.
pub(super) fn cut_or_owe(state: &State, drains: &Drains, addresses: &[Ipv4Addr]) {
    if let Err(reason) = cut(state, addresses) {
        tracing::error!("pool4: {reason}; tried again until it is");
        drains.owe(addresses);
    }
}

/// Cuts what is left of addresses whose deadline has come, and what is owed.
pub(super) fn look_after(state: &State, translator: &Translator, now: Instant) {
    cut_owed(state, &translator.drains);
    let Some(deadline) = state.config.load().pool4_drain_deadline else {
        return;
    };
    let overdue = translator.drains.take_overdue(deadline, now);
    if !overdue.is_empty() {
        tracing::warn!(
            addresses = addresses_text(&overdue),
            "drain deadline: what is left of these addresses is cut"
        );
        if let Err(reason) = tokio::task::block_in_place(|| cut(state, &overdue)) {
            tracing::error!("{reason}; tried again in a moment");
            translator.drains.still_to_cut(&overdue);
        }
    }
}

fn cut_owed(state: &State, drains: &Drains) {
    let owed = drains.take_owed();
    if owed.is_empty() {
        return;
    }
    match tokio::task::block_in_place(|| cut(state, &owed)) {
        Ok(()) => tracing::info!("pool4: {} cut everywhere now", addresses_text(&owed)),
        // That it fails was said when it was owed.
        Err(reason) => {
            tracing::debug!("pool4: {reason}");
            drains.owe(&owed);
        }
    }
}

/// Has the workers cut what these addresses hold besides what they still give out.
///
/// # Errors
/// Who does not, and why; the others do.
fn cut(state: &State, addresses: &[Ipv4Addr]) -> Result<(), String> {
    let mut reasons = Vec::new();
    for worker in state.worker_ids() {
        let begun = state.ask_worker(worker, |begun| Command::CutBlocks {
            addresses: addresses.to_vec(),
            begun,
            // Nobody waits for the number: the cut goes on by itself.
            reply: crossbeam::channel::bounded(1).0,
        });
        match begun {
            Some(Ok(())) => {}
            Some(Err(error)) => reasons.push(format!("worker {}: {error}", worker.0)),
            None => reasons.push(format!("worker {} does not answer", worker.0)),
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} not cut everywhere: {}",
        addresses_text(addresses),
        reasons.join(", ")
    ))
}

#[cfg(test)]
mod tests;
