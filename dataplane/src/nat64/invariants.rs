//! What always holds between the tables, for tests and fuzzing to ask after each step.

use std::collections::{BTreeMap, BTreeSet};

use gate64_wire::addr::Protocol;

use super::Nat64;
use super::table::SessionRef;
use crate::config::Filtering;
use crate::counters;

/// Sums over the live BIB entries.
#[derive(Default)]
struct Sums {
    bibs: [u64; 3],
    sessions: [u64; 3],
    /// Ports of dynamic entries by block and protocol.
    by_block: BTreeMap<(u32, usize), BTreeSet<u16>>,
    /// BIB entries and sessions by subscriber.
    by_subscriber: BTreeMap<u32, (u32, u32)>,
}

impl Nat64 {
    /// Walks all of the tables and panics where they contradict each other. Slow.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        let sums = self.check_bibs();
        self.check_extras();
        for protocol in Protocol::ALL {
            let index = protocol.index();
            let count = |id| self.counters.get(id);
            assert_eq!(count(counters::bib_entries(index)), sums.bibs[index]);
            assert_eq!(count(counters::sessions(index)), sums.sessions[index]);
            let used = sums.by_block.iter().filter(|(key, _)| key.1 == index);
            let used: usize = used.map(|(_, used)| used.len()).sum();
            assert_eq!(count(counters::ports_used(index)), used as u64);
        }
        self.check_blocks(&sums);
        self.check_subscribers(&sums);
        self.fragments.check(&self.counters);
        self.syn_hold.check(&self.counters);
    }

    /// Every live entry is found from both sides.
    fn check_bibs(&self) -> Sums {
        let mut sums = Sums::default();
        for (bib, entry) in self.table.bibs_from(0, u32::MAX).0 {
            let (v6, v4, protocol) = (entry.v6(), entry.v4(), entry.protocol());
            let probe = self.table.probe(v6.ip, v6.port, protocol);
            assert_eq!(
                self.table.find_v6(probe, v6.ip, v6.port, protocol),
                Some(bib),
                "by its IPv6 transport address"
            );
            let slot = self.pool.slot(v4.ip).expect("a pool address");
            assert_eq!(
                self.table.find_v4(slot, v4.port, protocol),
                Some(bib),
                "by its pool transport address"
            );
            assert!(
                entry.is_static() || entry.session_count() > 0,
                "a BIB entry goes with its last session"
            );
            sums.bibs[protocol.index()] += 1;
            sums.sessions[protocol.index()] += u64::from(entry.session_count());
            if !entry.is_static() {
                let block = self.pool.block(v4.ip, v4.port).expect("a dynamic port");
                let key = (block, protocol.index());
                assert!(sums.by_block.entry(key).or_default().insert(v4.port));
                assert_eq!(self.blocks.get(block).subscriber, entry.subscriber);
                assert!(self.blocks.is_in_use(block, protocol, v4.port));
            }
            let of = sums.by_subscriber.entry(entry.subscriber).or_default();
            of.0 += 1;
            of.1 += entry.session_count();
        }
        sums
    }

    /// Every further session is found, is counted by its entry and, under address-dependent
    /// filtering, is a permission.
    fn check_extras(&self) {
        let mut by_bib = BTreeMap::<u32, u32>::new();
        let mut permissions = BTreeMap::<(u32, u32), u32>::new();
        for (extra, one) in self.table.extras_from(0, u32::MAX).0 {
            *by_bib.entry(one.bib).or_default() += 1;
            *permissions
                .entry((one.bib, u32::from(one.session.remote().ip)))
                .or_default() += 1;
            if one.session.is_live() {
                let found = self.table.find_session(
                    one.bib,
                    one.session.remote().ip,
                    one.session.remote().port,
                );
                let bib = one.bib;
                assert_eq!(found, Some(SessionRef::Extra { extra, bib }));
            }
        }
        for (bib, entry) in self.table.bibs_from(0, u32::MAX).0 {
            assert_eq!(entry.extra_count, by_bib.remove(&bib).unwrap_or(0));
        }
        assert!(by_bib.is_empty(), "further sessions without a BIB entry");
        if self.config.filtering == Filtering::AddressDependent {
            let kept: BTreeMap<_, _> = self.permissions.iter().map(|(k, v)| (*k, *v)).collect();
            assert_eq!(kept, permissions);
        }
    }

    /// The ports marked as used are those of live entries and those that are set apart: a port
    /// that was excluded while it was in use is both.
    fn check_blocks(&self, sums: &Sums) {
        let mut held = 0;
        let mut by_use = [0; counters::USE_STEPS];
        let slots = 0..self.pool.slot_count();
        for block in slots.flat_map(|slot| self.pool.blocks_of(slot)) {
            let record = self.blocks.get(block);
            held += u32::from(record.subscriber != 0);
            by_use[self.blocks.use_step(block)] += u64::from(record.subscriber != 0);
            for protocol in Protocol::ALL {
                let live = sums.by_block.get(&(block, protocol.index()));
                let live = live.cloned().unwrap_or_default();
                assert_eq!(usize::from(record.used[protocol.index()]), live.len());
                if record.subscriber == 0 {
                    assert!(live.is_empty(), "a port of a block that nobody holds");
                    assert!(
                        !self.blocks.is_free_too_early(block),
                        "a free block that rests"
                    );
                    continue;
                }
                let first = self.pool.block_start(block).map_or(0, |start| start.2);
                let configured = self.config.static_bib.iter().filter(|entry| {
                    entry.protocol == protocol
                        && self.pool.block(entry.v4.ip, entry.v4.port) == Some(block)
                });
                let mut taken = live;
                taken.extend(configured.map(|entry| entry.v4.port));
                taken.extend(self.pool.excluded_in(block).map(|place| first + place));
                assert_eq!(
                    self.blocks.in_use_count(block, protocol) as usize,
                    taken.len()
                );
            }
        }
        assert_eq!(held, self.blocks.held());
        assert_eq!(
            self.counters.get(counters::port_blocks_used(0)),
            u64::from(held)
        );
        for (step, &count) in by_use.iter().enumerate() {
            let counted = self.counters.get(counters::port_blocks_by_use(step));
            assert_eq!(counted, count, "blocks by use, step {step}");
        }
    }

    /// Each subscriber's counts and chain of blocks.
    fn check_subscribers(&self, sums: &Sums) {
        let mut count = 0;
        let mut chained = 0;
        let mut by_ports = [0; counters::SUBSCRIBER_STEPS];
        let mut by_sessions = [0; counters::SUBSCRIBER_STEPS];
        let mut ports = BTreeMap::<u32, [u32; 3]>::new();
        for (&(block, protocol), used) in &sums.by_block {
            let holder = self.blocks.get(block).subscriber;
            let used = u32::try_from(used.len()).expect("at most a block's ports");
            ports.entry(holder).or_default()[protocol] += used;
        }
        for (id, one) in self.subscribers.iter_from(0) {
            count += 1;
            assert_eq!(self.subscribers.find(one.prefix), Some(id));
            let (bibs, sessions) = sums.by_subscriber.get(&id).copied().unwrap_or_default();
            assert_eq!((one.bib_count, one.session_count), (bibs, sessions));
            let mut block = one.first_block;
            let mut blocks = 0;
            while block != 0 {
                let record = self.blocks.get(block);
                assert_eq!(record.subscriber, id, "a block in the chain of another");
                let slot = self.pool.block_start(block).map(|(_, slot, _)| slot);
                assert_eq!(slot, one.slot, "RFC 6888 REQ-2: one address");
                blocks += 1;
                block = record.next;
            }
            assert_eq!(blocks, one.block_count + one.fixed_count);
            assert_eq!(one.ports, ports.get(&id).copied().unwrap_or_default());
            by_ports[counters::subscriber_step(one.ports_total())] += 1;
            by_sessions[counters::subscriber_step(one.session_count)] += 1;
            chained += u32::from(blocks);
        }
        assert_eq!(chained, self.blocks.held());
        assert_eq!(self.counters.get(counters::subscribers(0)), count);
        for step in 0..counters::SUBSCRIBER_STEPS {
            let counted = self.counters.get(counters::subscribers_by_ports(step));
            assert_eq!(counted, by_ports[step]);
            let counted = self.counters.get(counters::subscribers_by_sessions(step));
            assert_eq!(counted, by_sessions[step]);
        }
    }
}
