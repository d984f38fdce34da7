//! Unique local prefixes (RFC 4193): one random global id for a machine, kept in a file, and a
//! subnet for each interface.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::random::Random;

/// Its file in the state directory.
const FILE: &str = "ula.json";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Ula {
    /// 40 random bits (section 3.2).
    global_id: u64,
    /// Subnet ids by interface.
    subnets: BTreeMap<String, u16>,
}

/// The /64 of an interface: the same each time on the same machine.
///
/// # Errors
/// If the file cannot be written: then the prefix would be another the next time.
pub fn prefix(directory: &Path, interface: &str, random: &mut Random) -> io::Result<Ipv6Addr> {
    fs::create_dir_all(directory)?;
    let path = directory.join(FILE);
    let kept = fs::read_to_string(&path).ok();
    let mut ula: Ula = kept
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_else(|| Ula {
            global_id: random.bits() >> 24,
            subnets: BTreeMap::new(),
        });
    if !ula.subnets.contains_key(interface) {
        let used: Vec<u16> = ula.subnets.values().copied().collect();
        let free = (1..=u16::MAX).find(|id| !used.contains(id)).unwrap_or(0);
        ula.subnets.insert(interface.to_owned(), free);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_string_pretty(&ula)?)?;
        fs::rename(&new, &path)?;
    }
    Ok(address(ula.global_id, ula.subnets[interface]))
}

/// fd00::/8, global id, subnet id (section 3.1).
fn address(global_id: u64, subnet: u16) -> Ipv6Addr {
    let bits =
        0xfd << 120 | u128::from(global_id & 0xff_ffff_ffff) << 80 | u128::from(subnet) << 64;
    Ipv6Addr::from(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4193_section_3_1_a_prefix_has_its_parts_in_place() {
        let expected: Ipv6Addr = "fd12:3456:789a:1::".parse().unwrap();
        assert_eq!(address(0x12_3456_789a, 1), expected);
    }

    #[test]
    fn a_machine_keeps_its_prefix_and_interfaces_differ() {
        let directory = std::env::temp_dir().join(format!("gate64-ula-{}", std::process::id()));
        let mut random = Random::seeded();
        let first = prefix(&directory, "eth1", &mut random).unwrap();
        let second = prefix(&directory, "eth2", &mut random).unwrap();
        assert_eq!(prefix(&directory, "eth1", &mut random).unwrap(), first);
        assert_eq!(first.octets()[..6], second.octets()[..6]);
        assert_ne!(first, second);
        assert!(first.is_unique_local());
        fs::remove_dir_all(&directory).unwrap();
    }
}
