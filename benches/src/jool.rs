//! A comparison line: how Jool finds and refreshes sessions.
//!
//! One lock for each protocol's table, taken for every packet; the BIB in two search trees, by
//! IPv6 and by IPv4 transport address, sessions below their BIB entry, and a list in order of
//! expiry into whose end a packet moves its session (`src/mod/common/db/bib/db.c`). Kinder to Jool
//! than it is: B-trees in place of red-black trees touch fewer lines, the only session of a BIB
//! entry lies inside it, and no kernel network stack is run through.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use gate64_wire::addr::{TransportAddr4, TransportAddr6};

use crate::contender::{Key4, Key6, Tables};

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Entry {
    client: TransportAddr6,
    mapped: TransportAddr4,
    remote: TransportAddr4,
    updated: u32,
    before: u32,
    after: u32,
}

struct Table {
    by_v6: BTreeMap<TransportAddr6, u32>,
    by_v4: BTreeMap<TransportAddr4, u32>,
    entries: Vec<Entry>,
    oldest: u32,
    newest: u32,
}

impl Table {
    fn append(&mut self, at: u32) {
        let newest = self.newest;
        let entry = &mut self.entries[at as usize];
        (entry.before, entry.after) = (newest, NONE);
        match self.entries.get_mut(newest as usize) {
            Some(last) => last.after = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Entry { before, after, .. } = self.entries[at as usize];
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.after = after,
            None => self.oldest = after,
        }
        match self.entries.get_mut(after as usize) {
            Some(entry) => entry.before = before,
            None => self.newest = before,
        }
    }

    fn refresh(&mut self, at: u32, remote: TransportAddr4, now: u32) -> Option<Entry> {
        if self.entries[at as usize].remote != remote {
            return None;
        }
        self.entries[at as usize].updated = now;
        self.unlink(at);
        self.append(at);
        Some(self.entries[at as usize])
    }
}

/// The tables.
pub struct Jool {
    tables: [Mutex<Table>; 3],
}

impl Jool {
    pub fn new() -> Jool {
        let table = || {
            Mutex::new(Table {
                by_v6: BTreeMap::new(),
                by_v4: BTreeMap::new(),
                entries: Vec::new(),
                oldest: NONE,
                newest: NONE,
            })
        };
        Jool {
            tables: [table(), table(), table()],
        }
    }
}

impl Tables for Jool {
    fn insert(&mut self, key: Key6, mapped: TransportAddr4) {
        let mut table = self.tables[key.protocol.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let at = u32::try_from(table.entries.len()).unwrap_or(NONE);
        table.entries.push(Entry {
            client: key.client,
            mapped,
            remote: key.remote,
            updated: 0,
            before: NONE,
            after: NONE,
        });
        table.by_v6.insert(key.client, at);
        table.by_v4.insert(mapped, at);
        table.append(at);
    }

    fn find_v6(&mut self, key: &Key6, now: u32) -> Option<TransportAddr4> {
        let lock = &self.tables[key.protocol.index()];
        let mut table = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let at = *table.by_v6.get(&key.client)?;
        Some(table.refresh(at, key.remote, now)?.mapped)
    }

    fn find_v4(&mut self, key: &Key4, now: u32) -> Option<TransportAddr6> {
        let lock = &self.tables[key.protocol.index()];
        let mut table = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let at = *table.by_v4.get(&key.mapped)?;
        Some(table.refresh(at, key.remote, now)?.client)
    }
}
