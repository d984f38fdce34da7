//! BIBs and session tables (RFC 6146 section 3.1 and 3.2) in session memory.
//!
//! A BIB entry and its first session share one cache line; further sessions of the same mapping
//! are small entries of their own, found by a hash of the entry's number and the IPv4 peer. The
//! IPv6 side is found by hash, the IPv4 side by position: pool address, protocol, port.

mod sizes;

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

pub use self::sizes::TableSizes;
pub use super::entry::{
    BibEntry, Ends, ExtraSession, Fit, NUMBER_MAX, Session, SessionRef, WheelRef,
};
use super::entry::{FLAG_AWAITED, FLAG_LIVE, FLAG_STATIC};
use super::lifetime;
use super::pool4::Slot;
use crate::clock::Tick;
use crate::memory::{Arena, ArenaError, HashKey, Index, Probe, Slab, Wheel};

/// A BIB entry and one of its sessions.
#[derive(Debug)]
pub struct Met<'a> {
    /// Both of the BIB entry's transport addresses.
    pub ends: &'a Ends,
    /// The session, to write.
    pub session: &'a mut Session,
}

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFull;

const PORTS: usize = 1 << 16;

/// The place of a pool port in its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortPlace(usize);

impl PortPlace {
    /// What stands where none was computed yet.
    pub const NOWHERE: PortPlace = PortPlace(0);

    /// The place of a port of a pool address.
    #[inline]
    pub fn of(slot: Slot, port: u16, protocol: Protocol) -> PortPlace {
        PortPlace((slot as usize * 3 + protocol.index()) << 16 | usize::from(port))
    }
}

/// The tables of one worker.
#[derive(Debug)]
pub struct Table {
    bibs: Slab<BibEntry>,
    bib_free: u32,
    bib_fresh: u32,
    extras: Slab<ExtraSession>,
    extra_free: u32,
    extra_fresh: u32,
    by_v6: Index,
    by_session: Index,
    ports: Slab<u32>,
    /// When which session or block is looked at again.
    pub wheel: Wheel,
    key: HashKey,
    session_count: u32,
    session_count_max: u32,
}

impl Table {
    /// Takes its slabs from the arena, as [`TableSizes::plan`] sums them.
    ///
    /// # Errors
    /// The arena is used up.
    pub fn new(arena: &mut Arena, sizes: &TableSizes, key: HashKey) -> Result<Table, ArenaError> {
        Ok(Table {
            bibs: arena.resident_slab(sizes.bibs() + 1)?,
            bib_free: 0,
            bib_fresh: 1,
            // Most mappings have one session, and most ports of the pool are another worker's.
            extras: arena.slab(sizes.sessions + 1)?,
            extra_free: 0,
            extra_fresh: 1,
            by_v6: Index::new(arena, sizes.bibs())?,
            by_session: Index::new(arena, sizes.sessions)?,
            ports: arena.slab(sizes.slots * 3 * PORTS)?,
            wheel: Wheel::new(arena, sizes.references())?,
            key,
            session_count: 0,
            session_count_max: u32::try_from(sizes.sessions)
                .unwrap_or(NUMBER_MAX)
                .min(NUMBER_MAX),
        })
    }

    /// Where an IPv6 transport address leads.
    #[inline]
    pub fn probe(&self, ip: Ipv6Addr, port: u16, protocol: Protocol) -> Probe {
        self.by_v6
            .probe(self.key.transport(ip, port, protocol as u8))
    }

    /// First stage of prefetching, IPv6 side: the bucket.
    #[inline]
    pub fn prefetch_bucket(&self, probe: Probe) {
        self.by_v6.prefetch(probe);
    }

    /// The BIB entry that a probe most likely leads to, 0 for none.
    #[inline]
    pub fn guess(&self, probe: Probe) -> u32 {
        self.by_v6.guess(probe)
    }

    /// First stage, IPv4 side: the place of the port.
    #[inline]
    pub fn prefetch_place(&self, place: PortPlace) {
        self.ports.prefetch(place.0);
    }

    /// The BIB entry at a place, 0 for none.
    #[inline]
    pub fn at_place(&self, place: PortPlace) -> u32 {
        self.ports[place.0]
    }

    /// Second stage, both sides: the entry.
    #[inline]
    pub fn prefetch_bib(&self, bib: u32) {
        self.bibs.prefetch(bib as usize);
    }

    /// The BIB entry of an IPv6 transport address.
    #[inline]
    pub fn find_v6(
        &self,
        probe: Probe,
        ip: Ipv6Addr,
        port: u16,
        protocol: Protocol,
    ) -> Option<u32> {
        self.by_v6
            .find(probe, |bib| self.bibs[bib as usize].is(ip, port, protocol))
    }

    /// The BIB entry of a pool transport address.
    #[inline]
    pub fn find_v4(&self, slot: Slot, port: u16, protocol: Protocol) -> Option<u32> {
        let bib = self.at_place(PortPlace::of(slot, port, protocol));
        (bib != 0).then_some(bib)
    }

    /// A BIB entry.
    #[inline]
    pub fn bib(&self, bib: u32) -> &BibEntry {
        &self.bibs[bib as usize]
    }

    /// The session of a BIB entry with this IPv4 peer.
    #[inline]
    pub fn find_session(&self, bib: u32, remote: Ipv4Addr, remote_port: u16) -> Option<SessionRef> {
        let entry = &self.bibs[bib as usize];
        let peer = TransportAddr4 {
            ip: remote,
            port: remote_port,
        };
        if entry.session.is_with(peer) {
            return Some(SessionRef::First(bib));
        }
        if entry.extra_count == 0 {
            return None;
        }
        let extra = self.find_extra(bib, peer)?;
        Some(SessionRef::Extra { extra, bib })
    }

    fn find_extra(&self, bib: u32, peer: TransportAddr4) -> Option<u32> {
        self.by_session
            .find(self.probe_session(bib, peer), |extra| {
                let extra = &self.extras[extra as usize];
                extra.bib == bib && extra.session.is_with(peer)
            })
    }

    /// Where a further session leads.
    fn probe_session(&self, bib: u32, peer: TransportAddr4) -> Probe {
        self.by_session
            .probe(self.key.session(bib, u32::from(peer.ip), peer.port))
    }

    /// A session.
    #[inline]
    pub fn session(&self, at: SessionRef) -> &Session {
        match at {
            SessionRef::First(bib) => &self.bibs[bib as usize].session,
            SessionRef::Extra { extra, .. } => &self.extras[extra as usize].session,
        }
    }

    /// A session, to write.
    #[inline]
    pub fn session_mut(&mut self, at: SessionRef) -> &mut Session {
        match at {
            SessionRef::First(bib) => &mut self.bibs[bib as usize].session,
            SessionRef::Extra { extra, .. } => &mut self.extras[extra as usize].session,
        }
    }

    /// T,t of a session's BIB entry, and the session to write: one access for all that a packet
    /// of it needs.
    #[inline]
    pub fn touch(&mut self, at: SessionRef) -> (TransportAddr4, &mut Session) {
        match at {
            SessionRef::First(bib) => {
                let entry = &mut self.bibs[bib as usize];
                (entry.v4(), &mut entry.session)
            }
            SessionRef::Extra { extra, bib } => {
                let v4 = self.bibs[bib as usize].v4();
                (v4, &mut self.extras[extra as usize].session)
            }
        }
    }

    /// A BIB entry if its IPv6 side, in network order, and its first session fit: all that a packet
    /// of an established session needs, in one access. `guess` is what [`Table::guess`] said.
    #[inline]
    pub fn first_v6(
        &mut self,
        guess: u32,
        (ip, port): (&[u8; 16], &[u8; 2]),
        fit: Fit,
    ) -> Option<Met<'_>> {
        let entry = self.bibs.get_mut(guess as usize)?;
        // Each state is of one protocol.
        let is_it = entry.ends.is_v6(ip, port) && entry.session.fit() == fit;
        is_it.then_some(Met {
            ends: &entry.ends,
            session: &mut entry.session,
        })
    }

    /// As [`Table::first_v6`] for the BIB entry that a place names, 0 for none. Any prefix fits.
    #[inline]
    pub fn first_v4(&mut self, bib: u32, fit: Fit) -> Option<Met<'_>> {
        let entry = self.bibs.get_mut(bib as usize)?;
        let is_it = entry.session.fit().is_but_for_prefix(fit);
        is_it.then_some(Met {
            ends: &entry.ends,
            session: &mut entry.session,
        })
    }

    /// The BIB entry with this IPv6 side in network order and a session that fits. `guess` is what
    /// [`Table::guess`] said.
    pub fn meet_v6(
        &mut self,
        guess: u32,
        probe: Probe,
        (ip, port): (&[u8; 16], &[u8; 2]),
        fit: Fit,
    ) -> Option<Met<'_>> {
        let protocol = lifetime::protocol_of(fit.state())?;
        let is_it = |bib| {
            let entry = &self.bibs[bib as usize];
            entry.is_live() && entry.ends.is_v6(ip, port) && entry.protocol() == protocol
        };
        // It is the right one if what did not fit was its first session.
        let bib = match is_it(guess) {
            true => guess,
            false => self.by_v6.find(probe, is_it)?,
        };
        let met = self.meet(bib, fit.remote())?;
        (met.session.fit() == fit).then_some(met)
    }

    /// As [`Table::meet_v6`] for the BIB entry that a place names, 0 for none. Any prefix fits.
    pub fn meet_v4(&mut self, bib: u32, fit: Fit) -> Option<Met<'_>> {
        let met = self.meet(bib, fit.remote())?;
        met.session.fit().is_but_for_prefix(fit).then_some(met)
    }

    fn meet(&mut self, bib: u32, peer: TransportAddr4) -> Option<Met<'_>> {
        let at = self.find_session(bib, peer.ip, peer.port)?;
        let entry = &mut self.bibs[bib as usize];
        let session = match at {
            SessionRef::First(_) => &mut entry.session,
            SessionRef::Extra { extra, .. } => &mut self.extras[extra as usize].session,
        };
        Some(Met {
            ends: &entry.ends,
            session,
        })
    }

    /// A further session with its BIB entry, by number.
    pub fn extra(&self, extra: u32) -> &ExtraSession {
        &self.extras[extra as usize]
    }

    /// Prefetches what a wheel reference means.
    #[inline]
    pub fn prefetch_due(&self, due: WheelRef) {
        match due {
            WheelRef::First(bib) => self.bibs.prefetch(bib as usize),
            WheelRef::Extra(extra) => self.extras.prefetch(extra as usize),
            WheelRef::Block(_) => {}
        }
    }

    /// Prefetches what removing the first session of an entry will touch.
    #[inline]
    pub fn prefetch_removal(&self, bib: u32) {
        let entry = &self.bibs[bib as usize];
        let v6 = entry.v6();
        self.by_v6
            .prefetch(self.probe(v6.ip, v6.port, entry.protocol()));
        self.ports
            .prefetch(PortPlace::of(entry.slot, entry.v4().port, entry.protocol()).0);
    }

    /// Whether one more session fits.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.session_count < self.session_count_max
    }

    /// Makes a BIB entry without sessions. The caller has made sure that neither transport
    /// address has one.
    ///
    /// # Errors
    /// No room; nothing is changed.
    pub fn add_bib(
        &mut self,
        v6: TransportAddr6,
        v4: TransportAddr4,
        slot: Slot,
        protocol: Protocol,
        subscriber: u32,
        is_static: bool,
    ) -> Result<u32, TableFull> {
        let bib = if self.bib_free != 0 {
            self.bib_free
        } else {
            self.bib_fresh
        };
        if bib as usize >= self.bibs.len() {
            return Err(TableFull);
        }
        let probe = self.probe(v6.ip, v6.port, protocol);
        self.by_v6.insert(probe, bib).map_err(|_| TableFull)?;
        if self.bib_free != 0 {
            self.bib_free = self.bibs[bib as usize].subscriber;
        } else {
            self.bib_fresh += 1;
        }
        self.ports[PortPlace::of(slot, v4.port, protocol).0] = bib;
        self.bibs[bib as usize] = BibEntry {
            ends: Ends::new(v6, v4),
            subscriber,
            extra_count: 0,
            slot,
            protocol: protocol as u8,
            flags: FLAG_LIVE | if is_static { FLAG_STATIC } else { 0 },
            reserved: [0; 2],
            session: Session::default(),
        };
        Ok(bib)
    }

    /// Removes a BIB entry that has no sessions.
    pub fn remove_bib(&mut self, bib: u32) {
        let entry = self.bibs[bib as usize];
        debug_assert!(
            entry.session_count() == 0,
            "a BIB entry goes after its sessions"
        );
        let probe = self.probe(entry.v6().ip, entry.v6().port, entry.protocol());
        let found = self.by_v6.remove(probe, bib);
        debug_assert!(found, "every live BIB entry is indexed");
        self.ports[PortPlace::of(entry.slot, entry.v4().port, entry.protocol()).0] = 0;
        let entry = &mut self.bibs[bib as usize];
        entry.flags &= FLAG_AWAITED;
        if entry.flags == 0 {
            self.free_bib(bib);
        }
    }

    fn free_bib(&mut self, bib: u32) {
        self.bibs[bib as usize].subscriber = self.bib_free;
        self.bib_free = bib;
    }

    /// Takes a session out before the wheel's visit. Its number is not used again before
    /// [`Table::let_go`].
    pub fn cut_session(&mut self, at: SessionRef) {
        match at {
            SessionRef::First(bib) => {
                let entry = &mut self.bibs[bib as usize];
                entry.session = Session::default();
                entry.flags |= FLAG_AWAITED;
            }
            SessionRef::Extra { extra, bib } => {
                self.forget_extra(extra, bib);
                self.extras[extra as usize].bib = 0;
            }
        }
        self.session_count -= 1;
    }

    /// The wheel no longer refers to what this names; true if it was cut, and so is no session.
    pub fn let_go(&mut self, due: WheelRef) -> bool {
        match due {
            WheelRef::First(bib) => {
                let entry = &mut self.bibs[bib as usize];
                if entry.flags & FLAG_AWAITED == 0 {
                    return false;
                }
                entry.flags &= !FLAG_AWAITED;
                if entry.flags == 0 {
                    self.free_bib(bib);
                }
                true
            }
            WheelRef::Extra(extra) => {
                if self.extras[extra as usize].session.state != 0 {
                    return false;
                }
                self.extras[extra as usize].bib = self.extra_free;
                self.extra_free = extra;
                true
            }
            WheelRef::Block(_) => false,
        }
    }

    /// Makes a session of a BIB entry and has the wheel visit it.
    ///
    /// # Errors
    /// No room; nothing is changed.
    pub fn add_session(
        &mut self,
        bib: u32,
        session: Session,
        visit: Tick,
    ) -> Result<SessionRef, TableFull> {
        if !self.has_room() {
            return Err(TableFull);
        }
        let entry = &self.bibs[bib as usize];
        // The wheel's reference to a cut session would be taken for one to the new session.
        let at = if entry.session.state == 0 && entry.flags & FLAG_AWAITED == 0 {
            self.bibs[bib as usize].session = session;
            self.wheel.arm(visit, WheelRef::First(bib).pack());
            SessionRef::First(bib)
        } else {
            self.add_extra(bib, session, visit)?
        };
        self.session_count += 1;
        Ok(at)
    }

    fn add_extra(
        &mut self,
        bib: u32,
        session: Session,
        visit: Tick,
    ) -> Result<SessionRef, TableFull> {
        let extra = if self.extra_free != 0 {
            self.extra_free
        } else {
            self.extra_fresh
        };
        if extra as usize >= self.extras.len() {
            return Err(TableFull);
        }
        let probe = self.probe_session(bib, session.remote());
        self.by_session
            .insert(probe, extra)
            .map_err(|_| TableFull)?;
        if self.extra_free != 0 {
            self.extra_free = self.extras[extra as usize].bib;
        } else {
            self.extra_fresh += 1;
        }
        self.extras[extra as usize] = ExtraSession {
            session,
            bib,
            reserved: 0,
        };
        self.bibs[bib as usize].extra_count += 1;
        self.wheel.arm(visit, WheelRef::Extra(extra).pack());
        Ok(SessionRef::Extra { extra, bib })
    }

    /// Takes a session out at the wheel's visit; the wheel no longer refers to it.
    pub fn remove_session(&mut self, at: SessionRef) {
        match at {
            SessionRef::First(bib) => self.bibs[bib as usize].session = Session::default(),
            SessionRef::Extra { extra, bib } => {
                self.forget_extra(extra, bib);
                self.extras[extra as usize].bib = self.extra_free;
                self.extra_free = extra;
            }
        }
        self.session_count -= 1;
    }

    fn forget_extra(&mut self, extra: u32, bib: u32) {
        let session = self.extras[extra as usize].session;
        let probe = self.probe_session(bib, session.remote());
        let found = self.by_session.remove(probe, extra);
        debug_assert!(found, "every further session is indexed");
        self.bibs[bib as usize].extra_count -= 1;
        self.extras[extra as usize].session = Session::default();
    }

    /// Live BIB entries from number `from` on, at most `look` numbers looked at; the number to go
    /// on from, if any is left.
    pub fn bibs_from(
        &self,
        from: u32,
        look: u32,
    ) -> (impl Iterator<Item = (u32, &BibEntry)>, Option<u32>) {
        let from = from.max(1);
        let end = from.saturating_add(look).min(self.bib_fresh);
        let rows = (from..end)
            .map(|bib| (bib, &self.bibs[bib as usize]))
            .filter(|(_, entry)| entry.is_live());
        (rows, (end < self.bib_fresh).then_some(end))
    }

    /// Further sessions from number `from` on, as [`Table::bibs_from`].
    pub fn extras_from(
        &self,
        from: u32,
        look: u32,
    ) -> (impl Iterator<Item = (u32, &ExtraSession)>, Option<u32>) {
        let from = from.max(1);
        let end = from.saturating_add(look).min(self.extra_fresh);
        let rows = (from..end)
            .map(|extra| (extra, &self.extras[extra as usize]))
            .filter(|(_, extra)| extra.session.state != 0);
        (rows, (end < self.extra_fresh).then_some(end))
    }
}
