//! A keyed hash of transport addresses: an attacker who does not know the key cannot aim at a
//! bucket. Folded multiplication, as in wyhash and foldhash, with all of its secrets random.

use std::net::Ipv6Addr;

/// The secret of one process. Workers share it, so that all agree on owners.
#[derive(Debug, Clone, Copy)]
pub struct HashKey {
    secrets: [u64; 4],
}

impl HashKey {
    /// From a seed, spread over four words: for tests and simulations that have to repeat.
    pub fn seeded(seed: u64) -> HashKey {
        let mut rng = Rng::new(seed);
        HashKey {
            secrets: std::array::from_fn(|_| rng.next_u64()),
        }
    }

    /// From the kernel's random numbers.
    pub fn random() -> HashKey {
        use std::hash::{BuildHasher, RandomState};
        // The standard library seeds `RandomState` from the kernel.
        HashKey {
            secrets: std::array::from_fn(|place| RandomState::new().hash_one(place)),
        }
    }

    /// Hash of an IPv6 transport address of a protocol.
    #[inline]
    pub fn transport(&self, ip: Ipv6Addr, port: u16, protocol: u8) -> u64 {
        // As packets have it: nothing is turned round.
        let bits = u128::from_ne_bytes(ip.octets());
        let rest = u64::from(port.to_be()) | u64::from(protocol) << 16;
        self.words(high(bits), low(bits), rest)
    }

    /// Hash of an IPv6 address alone (a subscriber's prefix).
    #[inline]
    pub fn prefix(&self, bits: u128) -> u64 {
        self.words(high(bits), low(bits), 0x5ab5_c81b)
    }

    /// Hash of a session behind a BIB entry: the entry's index and the IPv4 peer.
    #[inline]
    pub fn session(&self, bib: u32, remote: u32, remote_port: u16) -> u64 {
        self.words(
            u64::from(bib) << 32 | u64::from(remote),
            u64::from(remote_port),
            0x5e55_1013,
        )
    }

    /// Hash of three words.
    #[inline]
    pub fn words(&self, a: u64, b: u64, c: u64) -> u64 {
        let [k0, k1, k2, k3] = self.secrets;
        fold(fold(a ^ k0, b ^ k1) ^ k2, c ^ k3)
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // the halves of a product, both used
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // the upper half fits
fn high(bits: u128) -> u64 {
    (bits >> 64) as u64
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // the lower half is what is meant
fn low(bits: u128) -> u64 {
    bits as u64
}

/// A small generator for port choice (RFC 6056): not for secrets, but seeded from the kernel so
/// that a sequence cannot be foreseen without having watched it. SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// Starts from a seed; tests give a fixed one.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound` (not zero), by multiplication.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the product of two 32-bit numbers, upper half
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(bound)) >> 32) as u32
    }
}
