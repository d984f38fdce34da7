//! Whether session memory fits the machine: a default shrinks with a note, a chosen number that
//! does not fit is an error.

use std::sync::Arc;

use gate64_dataplane::config::Nat64Config;
use gate64_dataplane::nat64::plan::{MemoryPlan, Settings, Shared};

use crate::config::Config;
use crate::exit::Failure;

/// Part of the available memory that session memory may take, in percent.
const PART_PERCENT: u64 = 90;

/// Fewer sessions are of no use to anybody.
const SESSIONS_LEAST: u64 = 1024;

/// The number of sessions to plan for; tells the log if it is less than the default.
pub fn fit_sessions(config: &Config, nat64: &Nat64Config) -> Result<u64, Failure> {
    let sessions = sessions_that_fit(config, nat64)?;
    let wanted = u64::from(config.dataplane.session_count_max);
    if sessions < wanted {
        tracing::warn!(
            sessions,
            wanted,
            "dataplane.session_count_max was lowered to fit the available memory"
        );
    }
    Ok(sessions)
}

/// The number of sessions that fit: the wanted one, or fewer where nobody asked for it.
pub fn sessions_that_fit(config: &Config, nat64: &Nat64Config) -> Result<u64, Failure> {
    let wanted = u64::from(config.dataplane.session_count_max);
    let Some(available) = available_octets() else {
        return Ok(wanted);
    };
    let room = available / 100 * PART_PERCENT;
    let nat64 = Arc::new(nat64.clone());
    let mut sessions = wanted;
    while plan(&nat64, sessions).total() > room {
        if config.dataplane.session_count_is_explicit || sessions / 2 < SESSIONS_LEAST {
            return Err(Failure::Configuration(format!(
                "dataplane.session_count_max = {wanted} needs {} MiB of session memory, {} MiB are available: lower it, or the pool",
                plan(&nat64, wanted).total() >> 20,
                available >> 20,
            )));
        }
        sessions /= 2;
    }
    Ok(sessions)
}

/// The plan as if one worker had all sessions.
pub fn plan(nat64: &Arc<Nat64Config>, sessions: u64) -> MemoryPlan {
    Shared::new(Arc::clone(nat64), Settings::new(1, sessions)).plan()
}

fn available_octets() -> Option<u64> {
    let value = meminfo("MemAvailable:")?;
    let kib: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Hugepages that can be had, and the octets of one.
pub fn hugepages() -> Option<(u64, u64)> {
    let free: u64 = meminfo("HugePages_Free:")?.parse().ok()?;
    let kib: u64 = meminfo("Hugepagesize:")?
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()?;
    let more = std::fs::read_to_string("/proc/sys/vm/nr_overcommit_hugepages").ok()?;
    let more: u64 = more.trim().parse().ok()?;
    Some((free.saturating_add(more), kib * 1024))
}

fn meminfo(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(value.trim().to_owned())
}
