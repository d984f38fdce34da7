//! The routes, the time and the generation that all packets of a burst meet.

use crate::clock::{Instant, Tick};
use crate::route::{NextHop, RouteSnapshot};

/// What holds for a whole burst.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub routes: &'a RouteSnapshot,
    /// The snapshot's next hops, close at hand.
    pub hops: &'a [NextHop],
    /// What sessions keep of the number of changes.
    pub generation: u16,
    pub now: Instant,
    pub tick: Tick,
}

impl<'a> Context<'a> {
    /// `pool_changes`: how often the pool has changed. What sessions keep holds until the routes or
    /// the pool change.
    pub fn new(routes: &'a RouteSnapshot, pool_changes: u32, now: Instant) -> Context<'a> {
        Context {
            routes,
            hops: routes.hops(),
            generation: kept_generation(routes.generation().wrapping_add(pool_changes)),
            now,
            tick: now.tick(),
        }
    }
}

/// What a session keeps of a number of changes: 16 bits, another after each change. 0 means none.
#[inline]
#[allow(clippy::cast_possible_truncation)] // at most 65535
fn kept_generation(changes: u32) -> u16 {
    (1 + changes % u32::from(u16::MAX)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_another_generation() {
        for changes in (65_530..65_542).chain(131_065..131_075) {
            let kept = kept_generation(changes);
            assert_ne!(kept, 0);
            assert_ne!(kept, kept_generation(changes + 1), "{changes}");
        }
    }
}
