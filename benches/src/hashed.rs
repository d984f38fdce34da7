//! A comparison line: gate64's one-line entries behind `hashbrown` tables, one packet at a time.

use gate64_dataplane::memory::HashKey;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use hashbrown::HashTable;

use crate::contender::{Key4, Key6, Tables};

#[repr(C, align(64))]
struct Entry {
    client: TransportAddr6,
    mapped: TransportAddr4,
    remote: TransportAddr4,
    protocol: Protocol,
    updated: u32,
}

/// The tables.
pub struct Hashed {
    by_v6: HashTable<u32>,
    by_v4: HashTable<u32>,
    entries: Vec<Entry>,
    key: HashKey,
}

impl Hashed {
    pub fn new(sessions: usize) -> Hashed {
        Hashed {
            by_v6: HashTable::with_capacity(sessions),
            by_v4: HashTable::with_capacity(sessions),
            entries: Vec::with_capacity(sessions),
            key: HashKey::seeded(1),
        }
    }

    fn hash_v6(key: &HashKey, client: TransportAddr6, protocol: Protocol) -> u64 {
        key.transport(client.ip, client.port, protocol as u8)
    }

    fn hash_v4(key: &HashKey, mapped: TransportAddr4, protocol: Protocol) -> u64 {
        key.session(protocol as u32, u32::from(mapped.ip), mapped.port)
    }
}

impl Tables for Hashed {
    fn insert(&mut self, key: Key6, mapped: TransportAddr4) {
        let at = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry {
            client: key.client,
            mapped,
            remote: key.remote,
            protocol: key.protocol,
            updated: 0,
        });
        let (entries, secret) = (&self.entries, &self.key);
        let v6_of = |at: &u32| {
            let entry = &entries[*at as usize];
            Hashed::hash_v6(secret, entry.client, entry.protocol)
        };
        let v4_of = |at: &u32| {
            let entry = &entries[*at as usize];
            Hashed::hash_v4(secret, entry.mapped, entry.protocol)
        };
        self.by_v6.insert_unique(v6_of(&at), at, v6_of);
        self.by_v4.insert_unique(v4_of(&at), at, v4_of);
    }

    fn find_v6(&mut self, key: &Key6, now: u32) -> Option<TransportAddr4> {
        let hash = Hashed::hash_v6(&self.key, key.client, key.protocol);
        let entries = &self.entries;
        let at = *self.by_v6.find(hash, |&at| {
            let entry = &entries[at as usize];
            entry.client == key.client && entry.protocol == key.protocol
        })?;
        let entry = &mut self.entries[at as usize];
        entry.updated = now;
        (entry.remote == key.remote).then_some(entry.mapped)
    }

    fn find_v4(&mut self, key: &Key4, now: u32) -> Option<TransportAddr6> {
        let hash = Hashed::hash_v4(&self.key, key.mapped, key.protocol);
        let entries = &self.entries;
        let at = *self.by_v4.find(hash, |&at| {
            let entry = &entries[at as usize];
            entry.mapped == key.mapped && entry.protocol == key.protocol
        })?;
        let entry = &mut self.entries[at as usize];
        entry.updated = now;
        (entry.remote == key.remote).then_some(entry.client)
    }
}
