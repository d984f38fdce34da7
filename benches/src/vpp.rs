//! A comparison line: how VPP's nat64 finds and refreshes sessions.
//!
//! Two bounded-index hashes with 48-octet keys, one for each direction: an array of buckets that
//! point to pages of four pairs, which split as they fill (`vppinfra/bihash_template.c`); the value
//! is a place in a pool of sessions, whose entry names its BIB entry in another pool
//! (`plugins/nat/nat64/nat64_db.c`). One packet at a time, nothing prefetched. Kinder to VPP than
//! it is by default: as many buckets as its manual recommends for the number of sessions.

use gate64_wire::addr::{TransportAddr4, TransportAddr6};

use crate::contender::{Key4, Key6, Tables};

type Key = [u64; 6];

#[derive(Clone, Copy, Default)]
struct Pair {
    key: Key,
    /// Place in the pool plus one; 0 in an empty pair.
    value: u64,
}

type Page = [Pair; 4];

#[derive(Clone, Copy, Default)]
struct Bucket {
    first_page: u32,
    log2_pages: u8,
    in_use: bool,
}

struct Bihash {
    buckets: Vec<Bucket>,
    pages: Vec<Page>,
}

impl Bihash {
    fn new(sessions: usize) -> Bihash {
        Bihash {
            buckets: vec![Bucket::default(); (sessions / 2).next_power_of_two()],
            pages: Vec::new(),
        }
    }

    #[allow(clippy::cast_possible_truncation)] // the halves of a product
    fn hash(key: &Key) -> u64 {
        let mut hash = 0u64;
        for word in key {
            let product = u128::from(hash ^ word) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
            hash = (product as u64) ^ (product >> 64) as u64;
        }
        hash
    }

    fn place(&self, hash: u64) -> usize {
        usize::try_from(hash).unwrap_or(0) & (self.buckets.len() - 1)
    }

    fn page_of(bucket: Bucket, hash: u64) -> usize {
        let page = (hash >> 40) & ((1 << bucket.log2_pages) - 1);
        bucket.first_page as usize + usize::try_from(page).unwrap_or(0)
    }

    #[inline]
    fn find(&self, key: &Key) -> Option<u64> {
        let hash = Bihash::hash(key);
        let bucket = self.buckets[self.place(hash)];
        if !bucket.in_use {
            return None;
        }
        let page = &self.pages[Bihash::page_of(bucket, hash)];
        let pair = page
            .iter()
            .find(|pair| pair.key == *key && pair.value != 0)?;
        Some(pair.value - 1)
    }

    fn insert(&mut self, pair: Pair) {
        let hash = Bihash::hash(&pair.key);
        let place = self.place(hash);
        if !self.buckets[place].in_use {
            self.buckets[place] = self.bucket_of(0);
        }
        while !self.put(self.buckets[place], hash, pair) {
            self.buckets[place] = self.split(self.buckets[place]);
        }
    }

    fn bucket_of(&mut self, log2_pages: u8) -> Bucket {
        let first_page = u32::try_from(self.pages.len()).unwrap_or(u32::MAX);
        self.pages
            .resize(self.pages.len() + (1 << log2_pages), Page::default());
        Bucket {
            first_page,
            log2_pages,
            in_use: true,
        }
    }

    fn put(&mut self, bucket: Bucket, hash: u64, pair: Pair) -> bool {
        let page = &mut self.pages[Bihash::page_of(bucket, hash)];
        match page.iter_mut().find(|pair| pair.value == 0) {
            Some(free) => {
                *free = pair;
                true
            }
            None => false,
        }
    }

    /// Twice the pages, or more, until every pair has a place.
    fn split(&mut self, old: Bucket) -> Bucket {
        let first = old.first_page as usize;
        let pairs: Vec<Pair> = self.pages[first..first + (1 << old.log2_pages)]
            .iter()
            .flatten()
            .filter(|pair| pair.value != 0)
            .copied()
            .collect();
        let mut log2_pages = old.log2_pages + 1;
        loop {
            let bucket = self.bucket_of(log2_pages);
            let all = pairs
                .iter()
                .all(|&pair| self.put(bucket, Bihash::hash(&pair.key), pair));
            if all {
                return bucket;
            }
            log2_pages += 1;
        }
    }
}

struct Session {
    bib: u32,
    expires: u32,
}

struct BibEntry {
    client: TransportAddr6,
    mapped: TransportAddr4,
}

/// The tables.
pub struct Vpp {
    in_to_out: Bihash,
    out_to_in: Bihash,
    sessions: Vec<Session>,
    bib: Vec<BibEntry>,
}

impl Vpp {
    pub fn new(sessions: usize) -> Vpp {
        Vpp {
            in_to_out: Bihash::new(sessions),
            out_to_in: Bihash::new(sessions),
            sessions: Vec::with_capacity(sessions),
            bib: Vec::with_capacity(sessions),
        }
    }

    fn refresh(&mut self, at: u64, now: u32) -> Option<&BibEntry> {
        let session = self.sessions.get_mut(usize::try_from(at).ok()?)?;
        session.expires = now + 300;
        self.bib.get(session.bib as usize)
    }
}

fn inward(key: &Key6) -> Key {
    let client = u128::from(key.client.ip).to_ne_bytes();
    let (high, low) = client.split_at(8);
    let word = |octets: &[u8]| u64::from_ne_bytes(octets.try_into().unwrap_or([0; 8]));
    let ports = u64::from(key.client.port) << 16 | u64::from(key.remote.port);
    // The IPv6 form of the peer under the well-known prefix.
    let remote = u64::from(u32::from(key.remote.ip));
    [
        word(high),
        word(low),
        0x64_ff9b << 32,
        remote,
        ports,
        key.protocol as u64,
    ]
}

fn outward(key: &Key4) -> Key {
    let ports = u64::from(key.mapped.port) << 16 | u64::from(key.remote.port);
    let (mapped, remote) = (u32::from(key.mapped.ip), u32::from(key.remote.ip));
    [
        u64::from(remote),
        0,
        u64::from(mapped),
        0,
        ports,
        key.protocol as u64,
    ]
}

impl Tables for Vpp {
    fn insert(&mut self, key: Key6, mapped: TransportAddr4) {
        self.bib.push(BibEntry {
            client: key.client,
            mapped,
        });
        let bib = u32::try_from(self.bib.len() - 1).unwrap_or(u32::MAX);
        self.sessions.push(Session { bib, expires: 0 });
        let value = self.sessions.len() as u64;
        let outside = Key4 {
            mapped,
            remote: key.remote,
            protocol: key.protocol,
        };
        self.in_to_out.insert(Pair {
            key: inward(&key),
            value,
        });
        self.out_to_in.insert(Pair {
            key: outward(&outside),
            value,
        });
    }

    fn find_v6(&mut self, key: &Key6, now: u32) -> Option<TransportAddr4> {
        let at = self.in_to_out.find(&inward(key))?;
        Some(self.refresh(at, now)?.mapped)
    }

    fn find_v4(&mut self, key: &Key4, now: u32) -> Option<TransportAddr6> {
        let at = self.out_to_in.find(&outward(key))?;
        Some(self.refresh(at, now)?.client)
    }
}
