//! Expiry: a bounded number of sessions and blocks is visited in a turn of the worker.

use super::table::{SessionRef, Table, WheelRef};
use super::tcp_state::TcpState;
use super::{Context, Nat64};
use crate::clock::{Instant, Tick};
use crate::command::Event;
use crate::counters;
use crate::route::RouteSnapshot;

impl Nat64 {
    /// Whether sessions or blocks may be due.
    #[inline]
    pub fn is_due(&self, now: Instant) -> bool {
        self.table.wheel.is_behind(now.tick())
    }

    /// Visits `budget` due sessions and blocks, if there are as many, and does a step of whatever
    /// else goes by steps; returns how much was done. Zero means that nothing is due.
    pub fn expire(&mut self, routes: &RouteSnapshot, now: Instant, budget: usize) -> usize {
        let context = &Context::new(routes, self.pool_changes, now);
        // A clearing that goes on is work: the worker must not sleep over it.
        let mut visited = usize::from(self.work_off_clears(now));
        visited += usize::from(self.work_off_cuts(now));
        visited += usize::from(self.work_off_tops());
        self.expire_fragments(budget, now);
        self.expire_syns(budget, context);
        self.relog_blocks(context.now);
        while visited < budget {
            let Some(due) = self.table.wheel.take_due(context.tick, budget - visited) else {
                break;
            };
            for &reference in due.references() {
                match WheelRef::unpack(reference) {
                    WheelRef::Block(block) => self.blocks.prefetch(block),
                    session => self.table.prefetch_due(session),
                }
            }
            for &reference in due.references() {
                match WheelRef::unpack(reference) {
                    WheelRef::First(bib) => self.table.prefetch_removal(bib),
                    WheelRef::Block(block) => {
                        self.blocks.prefetch_return(block);
                        self.subscribers.prefetch(self.blocks.get(block).subscriber);
                    }
                    WheelRef::Extra(_) => {}
                }
            }
            for &reference in due.references() {
                self.visit(WheelRef::unpack(reference), context);
            }
            visited += due.references().len();
        }
        visited
    }

    fn visit(&mut self, due: WheelRef, context: &Context) {
        if self.table.let_go(due) {
            return;
        }
        match due {
            WheelRef::First(bib) => self.visit_session(SessionRef::First(bib), due, context),
            WheelRef::Extra(extra) => {
                let bib = self.table.extra(extra).bib;
                self.visit_session(SessionRef::Extra { extra, bib }, due, context);
            }
            WheelRef::Block(block) => self.visit_block(block, context.now, context.tick),
        }
    }

    fn visit_session(&mut self, at: SessionRef, due: WheelRef, context: &Context) {
        let tick = context.tick;
        let session = self.table.session(at);
        let (state, seen) = (session.state, session.seen);
        let over = self.lifetimes.over_at(state, Tick(seen));
        if over <= tick {
            if self.goes_transitory(at, tick) {
                self.probe(at, context);
                let over = self.lifetimes.over_at(TcpState::Trans as u8, tick);
                self.table
                    .wheel
                    .arm(self.lifetimes.visit_at(over, tick), due.pack());
                return;
            }
            if self.end_session(at, Table::remove_session, context.now) {
                self.unmap(at.bib(), tick);
            }
            return;
        }
        self.table
            .wheel
            .arm(self.lifetimes.visit_at(over, tick), due.pack());
    }

    /// RFC 6146 section 3.5.2.2: an established connection that said nothing for TCP_EST gets
    /// TCP_TRANS more, and a probe.
    fn goes_transitory(&mut self, at: SessionRef, tick: Tick) -> bool {
        let session = self.table.session_mut(at);
        if session.state != TcpState::Established as u8 {
            return false;
        }
        session.state = TcpState::Trans as u8;
        session.seen = tick.0;
        true
    }

    /// Ends a session: tells it, has `take_out` take it out of the table, and counts it. Whether
    /// that leaves a BIB entry that goes as well.
    pub(super) fn end_session(
        &mut self,
        at: SessionRef,
        take_out: fn(&mut Table, SessionRef),
        now: Instant,
    ) -> bool {
        if self.log_sessions {
            let event = self.session_event(at, now);
            self.tell(Event::SessionDeleted(event));
        }
        let bib = at.bib();
        let remote = u32::from(self.table.session(at).remote().ip);
        take_out(&mut self.table, at);
        if matches!(at, SessionRef::Extra { .. }) {
            self.forget_permission(bib, remote);
        }
        let entry = self.table.bib(bib);
        let (protocol, subscriber) = (entry.protocol(), entry.subscriber);
        let bib_goes = entry.session_count() == 0 && !entry.is_static();
        self.count_session(subscriber, false);
        self.counters.sub(counters::sessions(protocol.index()), 1);
        self.counters
            .add(counters::sessions_expired(protocol.index()), 1);
        bib_goes
    }

    fn forget_permission(&mut self, bib: u32, remote: u32) {
        if let hashbrown::hash_map::Entry::Occupied(mut entry) =
            self.permissions.entry((bib, remote))
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
