//! The translator's configuration: what is written, and what the machine's interfaces have.

use gate64_dataplane::config::{Nat64Config, Pool4Prefix};

use crate::config::{Config, Pool4Source};
use crate::exit::Failure;
use crate::machine;

/// The translator's configuration with the addresses that interfaces have now.
pub fn nat64_config(config: &Config) -> Result<Nat64Config, Failure> {
    let mut pool4 = Vec::new();
    for pool in &config.pools {
        pool4.push(match &pool.value {
            Pool4Source::Prefix(prefix) => prefix.clone(),
            Pool4Source::Interface {
                name,
                ports,
                exclude_ports,
                pool,
            } => Pool4Prefix {
                address: machine::interface_ipv4(name).ok_or_else(|| {
                    Failure::Interface(format!("interface {name} has no IPv4 address for the pool"))
                })?,
                length: 32,
                ports: ports.clone(),
                exclude_ports: exclude_ports.clone(),
                pool: *pool,
                shared_with_host: true,
                ..Pool4Prefix::default()
            },
        });
    }
    refuse_overlap(&pool4).map_err(Failure::Configuration)?;
    Ok(Nat64Config {
        pool4,
        ..config.nat64.clone()
    })
}

/// What an interface has may lie in a pool's prefix, which only the machine knows: the engine would give it out twice.
fn refuse_overlap(pools: &[Pool4Prefix]) -> Result<(), String> {
    for (number, shared) in (0..).zip(pools).filter(|(_, pool)| pool.shared_with_host) {
        let ip = shared.address;
        let mut others = (0..).zip(pools).filter(|(other, _)| *other != number);
        if let Some((_, other)) = others.find(|(_, other)| other.contains(ip)) {
            let (address, length) = (other.address, other.length);
            return Err(format!(
                "pool4: {ip}, the address of an interface that is a pool, is in {address}/{length} too: write \
                 exclude = [\"{ip}\"] there, or leave one of the two out"
            ));
        }
    }
    Ok(())
}
