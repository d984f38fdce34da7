//! Which neighbours gate64 has asked the kernel to look after, and when it may ask again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use netlink_packet_route::neighbour::NeighbourState;

use super::kernel::{Neighbor, NeighborKey};

/// A neighbour is asked for at most this often. The kernel itself gives up on one after three
/// solicitations, a second apart.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// On-link neighbours asked for in one second, all together: whoever sends to every address of
/// a prefix must not fill the kernel's neighbour table (RFC 6583).
const ASKS_PER_SECOND_MAX: u32 = 256;

/// On-link neighbours that the kernel is told to keep fresh. Others are resolved all the same,
/// and again each time the kernel's entry has grown stale.
const KEPT_COUNT_MAX: usize = 4096;

/// How to ask for a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Resolve it and keep it fresh.
    Keep,
    /// Resolve it once.
    Once,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    is_gateway: bool,
    /// The kernel had no entry before gate64 asked.
    is_ours: bool,
    asked_at: Instant,
}

/// The neighbours looked after.
pub struct Keeper {
    kept: HashMap<NeighborKey, Kept>,
    asks_left: u32,
}

impl Keeper {
    pub fn new() -> Keeper {
        Keeper {
            kept: HashMap::new(),
            asks_left: ASKS_PER_SECOND_MAX,
        }
    }

    /// To be called once a second.
    pub fn tick(&mut self) {
        self.asks_left = ASKS_PER_SECOND_MAX;
    }

    /// Whether gate64 has asked the kernel to keep it fresh.
    pub fn contains(&self, key: &NeighborKey) -> bool {
        self.kept.contains_key(key)
    }

    /// Whether it is the gateway of a route.
    pub fn is_gateway(&self, key: &NeighborKey) -> bool {
        self.kept.get(key).is_some_and(|kept| kept.is_gateway)
    }

    /// All that are kept.
    pub fn keys(&self) -> Vec<NeighborKey> {
        self.kept.keys().copied().collect()
    }

    /// Whether and how the kernel is to be asked for a neighbour of which it knows `neighbor`;
    /// if so, the asking is noted.
    pub fn ask(
        &mut self,
        key: NeighborKey,
        neighbor: Option<&Neighbor>,
        is_gateway: bool,
        now: Instant,
    ) -> Option<Ask> {
        let before = self.kept.get_mut(&key);
        if let Some(kept) = before {
            kept.is_gateway |= is_gateway;
            let is_due = now.duration_since(kept.asked_at) >= ASK_INTERVAL;
            if !is_due || !needs_asking(neighbor, true) {
                return None;
            }
            kept.asked_at = now;
            kept.is_ours |= neighbor.is_none();
            return Some(Ask::Keep);
        }
        if !needs_asking(neighbor, false) {
            return None;
        }
        if !is_gateway {
            self.asks_left = self.asks_left.checked_sub(1)?;
            if self.kept.len() >= KEPT_COUNT_MAX {
                return Some(Ask::Once);
            }
        }
        let kept = Kept {
            is_gateway,
            is_ours: neighbor.is_none(),
            asked_at: now,
        };
        self.kept.insert(key, kept);
        Some(Ask::Keep)
    }

    /// Stops keeping a neighbour. Whether gate64 made its entry, if it was kept.
    pub fn release(&mut self, key: &NeighborKey) -> Option<bool> {
        self.kept.remove(key).map(|kept| kept.is_ours)
    }
}

/// Whether packets may be sent to a neighbour. A stale entry that nobody refreshes may be long
/// gone; it is asked for first.
pub fn is_usable(neighbor: &Neighbor, is_kept: bool) -> bool {
    neighbor.state != NeighbourState::Stale || is_kept || neighbor.is_managed
}

fn needs_asking(neighbor: Option<&Neighbor>, is_kept: bool) -> bool {
    let Some(neighbor) = neighbor else {
        return true;
    };
    if neighbor.is_fixed() || (is_kept && neighbor.is_in_progress()) {
        return false;
    }
    let is_valid = neighbor.valid_mac().is_some();
    // Where the kernel does not know NTF_EXT_MANAGED, gate64 itself probes what grows stale.
    let is_fresh = neighbor.is_managed || (is_kept && neighbor.state != NeighbourState::Stale);
    !(is_valid && is_fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u32) -> NeighborKey {
        (3, std::net::Ipv4Addr::from_bits(0xc000_0200 + last).into())
    }

    fn neighbor(state: NeighbourState, is_managed: bool) -> Neighbor {
        Neighbor {
            mac: Some([2, 0, 0, 0, 0, 1]),
            state,
            is_managed,
        }
    }

    #[test]
    fn a_dead_neighbor_is_asked_for_once_a_second() {
        let mut keeper = Keeper::new();
        let start = Instant::now();
        let failed = neighbor(NeighbourState::Failed, false);
        assert_eq!(keeper.ask(key(1), None, false, start), Some(Ask::Keep));
        for milliseconds in [0, 10, 999] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(keeper.ask(key(1), Some(&failed), false, now), None);
        }
        let later = start + ASK_INTERVAL;
        assert_eq!(
            keeper.ask(key(1), Some(&failed), false, later),
            Some(Ask::Keep)
        );
        let probing = neighbor(NeighbourState::Incomplete, true);
        let much_later = start + 5 * ASK_INTERVAL;
        assert_eq!(keeper.ask(key(1), Some(&probing), false, much_later), None);
    }

    #[test]
    fn many_neighbors_at_once_are_bounded_and_gateways_are_not() {
        let mut keeper = Keeper::new();
        let now = Instant::now();
        let asked = (0..1000)
            .filter(|&n| keeper.ask(key(n), None, false, now).is_some())
            .count();
        assert_eq!(asked, 256);
        assert_eq!(keeper.ask(key(5000), None, true, now), Some(Ask::Keep));
        keeper.tick();
        assert_eq!(keeper.ask(key(1000), None, false, now), Some(Ask::Keep));
    }

    #[test]
    fn beyond_the_limit_neighbors_are_resolved_but_not_kept() {
        let mut keeper = Keeper::new();
        let now = Instant::now();
        for n in 0..4096 {
            keeper.tick();
            keeper.ask(key(n), None, false, now);
        }
        assert_eq!(keeper.ask(key(9999), None, false, now), Some(Ask::Once));
        assert!(!keeper.contains(&key(9999)));
    }

    #[test]
    fn what_an_operator_set_is_left_alone() {
        let mut keeper = Keeper::new();
        let now = Instant::now();
        let permanent = neighbor(NeighbourState::Permanent, false);
        let managed = neighbor(NeighbourState::Stale, true);
        assert_eq!(keeper.ask(key(1), Some(&permanent), true, now), None);
        assert_eq!(keeper.ask(key(2), Some(&managed), true, now), None);
        assert!(is_usable(&permanent, false) && is_usable(&managed, false));
    }

    #[test]
    fn a_stale_neighbor_is_used_only_while_it_is_refreshed() {
        let stale = neighbor(NeighbourState::Stale, false);
        assert!(!is_usable(&stale, false));
        assert!(is_usable(&stale, true));
        let mut keeper = Keeper::new();
        let now = Instant::now();
        assert_eq!(
            keeper.ask(key(1), Some(&stale), false, now),
            Some(Ask::Keep)
        );
        assert_eq!(
            keeper.release(&key(1)),
            Some(false),
            "the entry was there before"
        );
        assert_eq!(keeper.release(&key(1)), None);
    }
}
