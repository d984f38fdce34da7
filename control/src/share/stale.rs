//! Prefixes that clients may still have from before: kept in a file, so that also those of a
//! killed gate64 are told to be over (RFC 9096 section 3.5).

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::ra::PREFIX_PREFERRED_SECONDS;

/// As many as fit an advertisement beside all else.
const COUNT_MAX: usize = 8;

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// What is announced.
    announced: Vec<Ipv6Addr>,
    /// What is no more, since when in seconds of the Unix epoch; the latest last.
    ended: Vec<(Ipv6Addr, u64)>,
}

/// Notes what is announced from now on, and gives what clients may have from before.
///
/// # Errors
/// If the file cannot be written.
pub fn note(path: &Path, announced: &[Ipv6Addr]) -> io::Result<Vec<Ipv6Addr>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let text = fs::read_to_string(path).unwrap_or_default();
    let before: Memory = serde_json::from_str(&text).unwrap_or_default();
    let memory = turn_over(&before, announced, now);
    if memory != before {
        let new = path.with_extension("new-prefixes");
        fs::write(&new, serde_json::to_string(&memory)?)?;
        fs::rename(&new, path)?;
    }
    Ok(memory.ended.into_iter().map(|(prefix, _)| prefix).collect())
}

/// A prefix is told to be over for as long as clients that have not heard it would prefer it.
fn turn_over(before: &Memory, announced: &[Ipv6Addr], now: u64) -> Memory {
    let lasting = u64::from(PREFIX_PREFERRED_SECONDS);
    let gone = before.announced.iter().map(|prefix| (*prefix, now));
    let mut ended: Vec<(Ipv6Addr, u64)> = before.ended.iter().copied().chain(gone).collect();
    ended.retain(|(prefix, since)| {
        !announced.contains(prefix) && now.saturating_sub(*since) < lasting
    });
    ended.drain(..ended.len().saturating_sub(COUNT_MAX));
    Memory {
        announced: announced.to_vec(),
        ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n: u128) -> Ipv6Addr {
        Ipv6Addr::from(0x2001_0db8 << 96 | n << 64)
    }

    #[test]
    fn rfc9096_section_3_5_what_was_announced_is_told_to_be_over_for_a_while() {
        let first = turn_over(&Memory::default(), &[prefix(1)], 1000);
        assert_eq!(first.ended, []);
        let second = turn_over(&first, &[prefix(2)], 2000);
        assert_eq!(second.ended, [(prefix(1), 2000)]);
        let third = turn_over(&second, &[prefix(2)], 2000 + 14_399);
        assert_eq!(third.ended, [(prefix(1), 2000)]);
        let back = turn_over(&third, &[prefix(1)], 3000);
        assert_eq!(
            back.ended,
            [(prefix(2), 3000)],
            "one that is back is not over"
        );
        let later = turn_over(&third, &[prefix(2)], 2000 + 14_400);
        assert_eq!(later.ended, []);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut memory = Memory::default();
        for n in 0..20 {
            memory = turn_over(&memory, &[prefix(n)], 1000 + u64::try_from(n).unwrap());
        }
        assert_eq!(memory.ended.len(), COUNT_MAX);
        assert_eq!(memory.ended.last(), Some(&(prefix(18), 1019)));
    }
}
