//! Random numbers that need not be secret: delays, and the global id of a prefix.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    #[cfg(test)]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A sequence of its own, seeded from the system's randomness.
    pub fn seeded() -> Random {
        Random(RandomState::new().hash_one(std::process::id()))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration, equally likely anywhere between two, to the microsecond.
    pub fn within(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_micros();
        let part = (u128::from(self.bits()) * (span + 1)) >> 64;
        least + Duration::from_micros(u64::try_from(part).unwrap_or(0))
    }
}
