//! SIGHUP: the file is read and validated whole; what can change live does, all or nothing.

use std::sync::Arc;
use std::time::Instant;

use gate64_dataplane::config::Nat64Config;
use gate64_dataplane::nat64::plan;

use super::pool_change::{self, PoolChange};
use super::{Translator, lock, nat64_config};
use crate::api::model::Preview;
use crate::config::{self, Config, PoolRemoval};
use crate::state::State;

/// Reads the file again and takes it over, or keeps everything and says why.
pub(super) fn reload(state: &State, translator: Option<&Translator>) {
    // Without systemd there is nobody to tell.
    if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading, now]);
    }
    match take_over(state, translator) {
        Ok(()) => tracing::info!("took over the new configuration"),
        Err(reason) => tracing::error!("keeps the old configuration: {reason}"),
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

fn take_over(state: &State, translator: Option<&Translator>) -> Result<(), String> {
    let old = state.config.load_full();
    let (new, report) = config::load(&old.path).map_err(|report| report.to_string())?;
    // What only judges comes first, then what undoes itself when it fails, then the workers.
    let change = judge(state, translator, &old, &new)?;
    if let Some(refusal) = change.as_ref().and_then(PoolChange::refusal) {
        return Err(refusal);
    }
    reload_dns64(state, &new)?;
    if let (Some(translator), Some(change)) = (translator, &change)
        && let Err(reason) = reconfigure(state, translator, &new, change)
    {
        return Err(match reload_dns64(state, &old) {
            Ok(()) => reason,
            Err(error) => format!(
                "{reason}; DNS64 goes by the new one until it is reloaded again, since it cannot be put \
                 back: {error}"
            ),
        });
    }
    let warnings = report.to_string();
    if !warnings.is_empty() {
        tracing::warn!("{}", warnings.trim_end());
    }
    state.config.store(Arc::new(new));
    Ok(())
}

/// What a new configuration does to the pools, if it can be taken over without a restart.
fn judge(
    state: &State,
    translator: Option<&Translator>,
    old: &Config,
    new: &Config,
) -> Result<Option<PoolChange>, String> {
    if let Some(key) = needs_restart(old, new) {
        return Err(format!("{key} changed, which needs a restart"));
    }
    let Some(translator) = translator else {
        return Ok(None);
    };
    let nat64 = live_nat64(old, new)?;
    pool_change::plan(state, translator, new, &nat64).map(Some)
}

/// What a reload with this text would do, line by line. Asks workers, so it blocks.
pub(super) fn preview(
    state: &State,
    translator: Option<&Translator>,
    text: &str,
) -> Result<Preview, String> {
    let old = state.config.load_full();
    let (new, _) = config::parse(&old.path, text).map_err(|report| report.to_string())?;
    let changes = config::difference(&old.text, &new.text);
    match judge(state, translator, &old, &new) {
        Err(reason) => Ok(Preview {
            is_accepted: false,
            lines: vec![format!("refused: {reason}")],
            changes,
        }),
        Ok(change) => Ok(Preview {
            is_accepted: change
                .as_ref()
                .is_none_or(|change| change.refusal().is_none()),
            lines: change.map_or(Vec::new(), |change| {
                let refusal = change.refusal().map(|reason| format!("refused: {reason}"));
                change.lines().into_iter().chain(refusal).collect()
            }),
            changes,
        }),
    }
}

/// The first key that differs and cannot change while gate64 runs.
fn needs_restart(old: &Config, new: &Config) -> Option<&'static str> {
    let interfaces = |config: &Config| {
        config
            .interfaces
            .iter()
            .map(|one| one.value.clone())
            .collect::<Vec<_>>()
    };
    let keys = [
        (interfaces(old) == interfaces(new), "[[interface]]"),
        (
            old.dataplane.workers.value == new.dataplane.workers.value,
            "dataplane.workers",
        ),
        (
            old.dataplane.session_count_max == new.dataplane.session_count_max,
            "dataplane.session_count_max",
        ),
        (
            old.dataplane.hugepages == new.dataplane.hugepages,
            "dataplane.hugepages",
        ),
        (
            old.dataplane.idle_after == new.dataplane.idle_after,
            "dataplane.idle_after",
        ),
        (old.dns64.is_some() == new.dns64.is_some(), "[dns64]"),
        (old.metrics.value == new.metrics.value, "metrics.listen"),
        (old.api_socket.value == new.api_socket.value, "api.socket"),
        (old.log_level == new.log_level, "log.level"),
        (
            old.log.journal.as_ref().map(|journal| &journal.path)
                == new.log.journal.as_ref().map(|journal| &journal.path),
            "log.journal.path",
        ),
    ];
    let key = keys.into_iter().find(|(same, _)| !same).map(|(_, key)| key);
    key.or_else(|| match (&old.dns64, &new.dns64) {
        (Some(old), Some(new)) => old.needs_restart(new),
        _ => None,
    })
}

/// The translator's new configuration, if it can be taken over without a restart.
fn live_nat64(old: &Config, new: &Config) -> Result<Nat64Config, String> {
    let old = nat64_config(old).map_err(|failure| failure.to_string())?;
    let new = nat64_config(new).map_err(|failure| failure.to_string())?;
    plan::reconfigurable(&old, &new)
        .map_err(|key| format!("{key} changed, which needs a restart"))?;
    Ok(new)
}

fn reload_dns64(state: &State, config: &Config) -> Result<(), String> {
    let (Some(server), Some(dns64)) = (&state.dns64, &config.dns64) else {
        return Ok(());
    };
    server
        .reload(dns64.clone())
        .map_err(|error| error.to_string())
}

fn reconfigure(
    state: &State,
    translator: &Translator,
    new: &Config,
    change: &PoolChange,
) -> Result<(), String> {
    let nat64 = nat64_config(new).map_err(|failure| failure.to_string())?;
    let effective = Arc::new(change.effective.clone());
    lock(&translator.gateway)
        .reconfigure(&effective, &change.map)
        .map_err(|error| format!("{error}; send SIGHUP again"))?;
    translator
        .drains
        .note(&nat64, &effective, &change.ports, Instant::now());
    for line in change.lines() {
        tracing::info!("{line}");
    }
    let stranded = match change.removal {
        PoolRemoval::Cut => &change.stranded[..],
        PoolRemoval::Drain | PoolRemoval::Refuse => &[],
    };
    let cut = stranded.iter().chain(&change.lost);
    let addresses: Vec<_> = cut.map(|(ip, _)| *ip).collect();
    if !addresses.is_empty() {
        pool_change::cut_or_owe(state, &translator.drains, &addresses);
    }
    Ok(())
}
