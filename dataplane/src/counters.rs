//! What a worker counts: one flat array it alone writes, published for a scrape to sum.

use std::sync::atomic::{AtomicU64, Ordering};

use gate64_wire::addr::Protocol;

use crate::config::POOLS_MAX;
use crate::verdict::{DropReason, HandoffReason, Side};

/// Gives every counter a place in the array; families take as many places as they have labels.
macro_rules! counter_ids {
    ($($(#[$doc:meta])* $name:ident: $count:expr,)*) => {
        /// First place of each family.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        mod base { use super::*; counter_ids!(@places 0usize; $($name: $count,)*); }
        $(
            $(#[$doc])*
            pub const fn $name(label: usize) -> CounterId {
                assert!(label < $count);
                #[allow(clippy::cast_possible_truncation)] // fewer than 65536 places, asserted below
                CounterId((base::$name + label) as u16)
            }
        )*
        /// Number of places.
        pub const COUNTER_COUNT: usize = 0 $(+ $count)*;
    };
    (@places $at:expr; $name:ident: $count:expr, $($rest:tt)*) => {
        #[allow(non_upper_case_globals)]
        pub(super) const $name: usize = $at;
        counter_ids!(@places $at + ($count); $($rest)*);
    };
    (@places $at:expr;) => {};
}

/// A place in [`Counters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterId(u16);

/// Steps of [`port_blocks_by_use`].
pub const USE_STEPS: usize = 6;

/// Steps of [`subscribers_by_ports`] and [`subscribers_by_sessions`]: step n counts those with
/// less than 2^n and, but for the last, not less than 2^(n-1).
pub const SUBSCRIBER_STEPS: usize = 18;

/// The step that a number of ports or sessions belongs to.
#[inline]
pub fn subscriber_step(count: u32) -> usize {
    let length = (u32::BITS - count.leading_zeros()) as usize;
    length.min(SUBSCRIBER_STEPS - 1)
}

const REASONS: usize = DropReason::COUNT;

/// Buckets of the log2 histograms: bucket n counts values below 2^n.
pub const HISTOGRAM_BUCKETS: usize = 32;

counter_ids! {
    /// Packets forwarded, by the [`Side`] they came from.
    packets_forwarded: 2,
    /// Octets of IP packets forwarded, as received, by side.
    bytes_forwarded: 2,
    /// Packets kept by the engine (fragments, held SYNs), by side.
    packets_held: 2,
    /// Packets handed to another worker, by side.
    packets_handed_off: 2,
    /// The same packets by [`HandoffReason`].
    handoffs: HandoffReason::ALL.len(),
    /// Packets dropped, place `side * DropReason::COUNT + reason`.
    drops: 2 * REASONS,
    /// Sessions at present, by [`Protocol`].
    sessions: 3,
    /// BIB entries at present, by protocol.
    bib_entries: 3,
    /// Sessions created, by protocol.
    sessions_created: 3,
    /// Sessions expired, by protocol.
    sessions_expired: 3,
    /// Subscribers at present.
    subscribers: 1,
    /// Port blocks held by subscribers at present.
    port_blocks_used: 1,
    /// Port blocks that this worker may give out, used ones included.
    port_blocks_total: 1,
    /// Ports mapped at present, by protocol.
    ports_used: 3,
    /// Port blocks held at present, by pool.
    pool_blocks_used: POOLS_MAX,
    /// Port blocks given back whose ports still rest, by pool.
    pool_blocks_resting: POOLS_MAX,
    /// Port blocks that this worker may give out, used ones included, by pool.
    pool_blocks_total: POOLS_MAX,
    /// Blocks given out so far, calculated ones not counted.
    port_blocks_allocated: 1,
    /// Blocks taken back so far, calculated ones not counted.
    port_blocks_released: 1,
    /// Held port blocks by how much of them is in use: nothing, up to a quarter, a half, three
    /// quarters, less than all, all.
    port_blocks_by_use: USE_STEPS,
    /// Subscribers by the binary length of the number of their ports.
    subscribers_by_ports: SUBSCRIBER_STEPS,
    /// Subscribers by the binary length of the number of their sessions.
    subscribers_by_sessions: SUBSCRIBER_STEPS,
    /// Packets routed on untranslated (RFC 6888 REQ-6).
    packets_bypassed: 1,
    /// ICMP errors made by gate64, by the side they are sent to.
    icmp_errors_generated: 2,
    /// ICMP errors not made because of the rate limit, by side.
    icmp_errors_suppressed: 2,
    /// ICMP errors translated, by the side they came from.
    icmp_errors_translated: 2,
    /// Probes sent to the hosts of silent TCP connections.
    tcp_probes: 1,
    /// Packets hairpinned.
    hairpinned: 1,
    /// Fragments received, by side.
    fragments_received: 2,
    /// Fragments made out of IPv4 packets without DF.
    fragments_created: 1,
    /// Fragments waiting at present.
    fragments_held: 1,
    /// SYN segments waiting at present.
    syn_held: 1,
    /// Packets that made a session and had a bare pseudo-header sum for a checksum (left to an
    /// offload that never happened), by side.
    checksums_left_to_offload: 2,
    /// Frames received from other workers.
    handoff_received: 1,
    /// Events for the log that found their ring full.
    events_lost: 1,
    /// Turns of the worker's loop.
    turns: 1,
    /// Turns in which something was done.
    turns_busy: 1,
    /// Nanoseconds spent in turns that did something.
    busy_nanoseconds: 1,
    /// System calls made to send and to wake the driver.
    syscalls: 1,
    /// Histogram of frames per burst.
    burst_frames: HISTOGRAM_BUCKETS,
    /// Histogram of nanoseconds per turn that did something.
    turn_nanoseconds: HISTOGRAM_BUCKETS,
}

const _: () = assert!(COUNTER_COUNT < u16::MAX as usize);

/// The place of a drop.
#[inline]
pub const fn drop_id(side: Side, reason: DropReason) -> CounterId {
    drops(side.index() * REASONS + reason as usize)
}

/// A worker's own counters: plain numbers, no sharing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    values: Box<[u64; COUNTER_COUNT]>,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            values: Box::new([0; COUNTER_COUNT]),
        }
    }
}

impl Counters {
    /// Counts `by` more.
    #[inline]
    pub fn add(&mut self, id: CounterId, by: u64) {
        let value = &mut self.values[usize::from(id.0)];
        *value = value.wrapping_add(by);
    }

    /// Lowers a present number (sessions, subscribers).
    #[inline]
    pub fn sub(&mut self, id: CounterId, by: u64) {
        let value = &mut self.values[usize::from(id.0)];
        *value = value.wrapping_sub(by);
    }

    /// Moves one from a place of a family to another.
    #[inline]
    pub fn shift(&mut self, from: CounterId, to: CounterId) {
        if from != to {
            self.sub(from, 1);
            self.add(to, 1);
        }
    }

    /// Sets a present number.
    #[inline]
    pub fn set(&mut self, id: CounterId, to: u64) {
        self.values[usize::from(id.0)] = to;
    }

    /// The value.
    #[inline]
    pub fn get(&self, id: CounterId) -> u64 {
        self.values[usize::from(id.0)]
    }

    /// Counts a value into a log2 histogram family whose place 0 is `first`.
    #[inline]
    pub fn observe(&mut self, first: CounterId, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        let bucket = bucket.min(HISTOGRAM_BUCKETS - 1);
        self.values[usize::from(first.0) + bucket] += 1;
    }

    /// Copies everything to where others may read it.
    pub fn publish(&self, to: &PublishedCounters) {
        for (value, place) in self.values.iter().zip(to.values.iter()) {
            place.store(*value, Ordering::Relaxed);
        }
    }
}

/// A worker's counters as others see them: single writer, relaxed stores.
#[derive(Debug)]
#[repr(align(128))]
pub struct PublishedCounters {
    values: Box<[AtomicU64]>,
}

impl Default for PublishedCounters {
    fn default() -> PublishedCounters {
        PublishedCounters {
            values: (0..COUNTER_COUNT).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl PublishedCounters {
    /// The value as last published.
    pub fn get(&self, id: CounterId) -> u64 {
        self.values[usize::from(id.0)].load(Ordering::Relaxed)
    }
}

/// Shorthand: the place of a per-protocol family's label.
#[inline]
pub const fn of(protocol: Protocol) -> usize {
    protocol as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_do_not_overlap() {
        let mut counters = Counters::default();
        counters.add(drop_id(Side::V4, DropReason::FramesExhausted), 3);
        counters.add(sessions(0), 5);
        counters.observe(burst_frames(0), 64);
        assert_eq!(counters.get(sessions(0)), 5);
        assert_eq!(
            counters.get(drop_id(Side::V4, DropReason::FramesExhausted)),
            3
        );
        assert_eq!(counters.get(burst_frames(7)), 1);
        let published = PublishedCounters::default();
        counters.publish(&published);
        assert_eq!(published.get(sessions(0)), 5);
        assert_eq!(published.get(turn_nanoseconds(0)), 0);
    }
}
