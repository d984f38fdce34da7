//! `gate64 share`: an IPv6-only network behind this host's own IPv4 address, in one command.
//!
//! [`setup`] chooses and makes what the host needs, each change in the [`journal`] first; the
//! main thread runs the gateway ([`crate::run`]) anew for each address that the upstream has; a
//! thread beside it ([`attend`]) advertises, answers DHCP, follows the upstream and shows a line
//! of status. At the end all changes are undone, and after a crash by the next start.

mod args;
mod attend;
mod beside;
mod delegation;
mod dhcpv4;
mod dhcpv6;
mod fitness;
mod host;
mod journal;
mod names;
mod native;
mod network;
mod ports;
mod proxy;
mod ra;
mod random;
mod resolvers;
mod retry;
mod setup;
mod stale;
mod status;
mod thread;
mod ula;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

pub use args::ShareArgs;
pub use ra::message::Preference;

use crate::config::{Config, ShareSettings};
use crate::exit::Failure;
use crate::run::{self, End};
use crate::state::State;
use attend::Upstream;
use journal::{Journal, JournalError};
use network::Network;
use ports::HeldPorts;
use thread::{Attendant, Ended, Listening};

/// An address that comes is taken when it has stayed for so long: a renewal is a removal and an
/// addition.
const SETTLE: Duration = Duration::from_millis(100);
/// How long, and how often, a change that is being made at the end is waited for: half a minute, for it may itself wait
/// for another share that undoes all that it made for its clients.
const CHANGE_WAIT: Duration = Duration::from_millis(10);
const CHANGE_WAITS_MAX: u32 = 3000;
/// After a gateway could not start again.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the command until a signal ends it.
pub fn run(args: &ShareArgs) -> ExitCode {
    match args.config().and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What the main thread and the attendant have in common.
pub(crate) struct Common {
    network: Network,
    journal: Journal,
    /// Whether DNS64 asks the host's resolvers.
    follows_resolvers: bool,
    /// The gateway, while it runs.
    gateway: ArcSwapOption<State>,
    /// Whether all is to end.
    stop: watch::Sender<bool>,
    upstream: watch::Sender<Option<Upstream>>,
}

/// Shares by a configuration that has `[share]`.
///
/// # Errors
/// One line that says what kept it from running. What was changed is undone then as well.
pub fn serve(config: Config) -> Result<(), Failure> {
    run::start_log(&config);
    let Some(settings) = config.share.clone() else {
        return Err(Failure::Configuration("there is no [share]".to_owned()));
    };
    setup::check(&settings)?;
    for note in fitness::check(&settings.upstream.value, &settings.downstream.value)? {
        tracing::warn!("{note}");
    }
    let mut listening = Listening::begin()?;
    loop {
        let (ended, still_listening) = serve_once(&config, &settings, listening)?;
        if ended == Ended::Stopped {
            return Ok(());
        }
        listening = still_listening;
    }
}

/// From the first change to the undoing of all, for the IPv6 that the upstream has at present.
fn serve_once(
    config: &Config,
    settings: &ShareSettings,
    listening: Listening,
) -> Result<(Ended, Listening), Failure> {
    let (journal, undone) = Journal::begin(
        &settings.state,
        &settings.upstream.value,
        &settings.downstream.value,
    )
    .map_err(journal_failure)?;
    for interface in undone {
        tracing::warn!("undid what a killed gate64 had left of its network on {interface}");
    }
    let network = match setup::choose(config, settings) {
        Ok(network) => network,
        Err(failure) => {
            journal.end().map_err(journal_failure)?;
            return Err(failure);
        }
    };
    let common = Arc::new(Common {
        network,
        journal,
        follows_resolvers: config.dns64.is_none(),
        gateway: ArcSwapOption::empty(),
        stop: watch::Sender::new(false),
        upstream: watch::Sender::new(None),
    });
    let outcome = share(config, settings, listening, &common);
    // A change that is being made for a client ends soon.
    for _ in 0..CHANGE_WAITS_MAX {
        if Arc::strong_count(&common) == 1 {
            break;
        }
        std::thread::sleep(CHANGE_WAIT);
    }
    let Some(common) = Arc::into_inner(common) else {
        return Err(Failure::Failed("a thread still runs: a bug".to_owned()));
    };
    common.journal.end().map_err(journal_failure)?;
    outcome
}

fn journal_failure(error: JournalError) -> Failure {
    Failure::Failed(error.to_string())
}

/// Everything between the first change and the undoing of all.
fn share(
    config: &Config,
    settings: &ShareSettings,
    listening: Listening,
    common: &Arc<Common>,
) -> Result<(Ended, Listening), Failure> {
    setup::make(&common.journal, &common.network).map_err(journal_failure)?;
    let attendant = Attendant::start(listening, config, settings, Arc::clone(common))?;
    let outcome = translate(config, settings, common);
    // The attendant may have ended, and all with it.
    common.stop.send_replace(true);
    let attended = attendant.join();
    common.gateway.store(None);
    outcome.and(attended)
}

/// Runs a gateway for each address of the upstream, one after the other.
fn translate(
    config: &Config,
    settings: &ShareSettings,
    common: &Arc<Common>,
) -> Result<(), Failure> {
    let mut has_run = false;
    while let Some(upstream) = wait_for_address(common) {
        let ended = translate_at(upstream, config, settings, common, &mut has_run);
        common.gateway.store(None);
        match ended {
            Ok(End::Signal) => return Ok(()),
            // An interface that is gone is what has ended it, and ends all.
            Ok(End::Stopped) => setup::check(settings)?,
            Err(failure) if !has_run => return Err(failure),
            Err(failure) => {
                setup::check(settings)?;
                tracing::error!("{failure}; trying again");
                std::thread::sleep(RETRY);
            }
        }
    }
    Ok(())
}

fn translate_at(
    upstream: Upstream,
    config: &Config,
    settings: &ShareSettings,
    common: &Arc<Common>,
    has_run: &mut bool,
) -> Result<End, Failure> {
    let held = HeldPorts::take(upstream.ipv4, settings.ports.as_ref())
        .map_err(|error| Failure::Configuration(error.to_string()))?;
    let config = setup::gateway_config(config, &common.network, upstream.ipv4, held.range())?;
    setup::check_dns_port(&config, &common.network.downstream)?;
    let shown = config.clone();
    let started = |state: &Arc<State>| {
        status::print_banner(
            &common.network,
            &shown,
            upstream.ipv4,
            &held.range(),
            *has_run,
        );
        *has_run = true;
        common.gateway.store(Some(Arc::clone(state)));
    };
    run::serve_until(config, started, ended(common, upstream))
}

/// Completes when all is to end, or when the upstream has another address.
async fn ended(common: &Common, present: Upstream) {
    let mut stop = common.stop.subscribe();
    let mut upstream = common.upstream.subscribe();
    // The senders live as long as `common`.
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        _ = upstream.wait_for(|now| *now != Some(present)) => {}
    }
}

/// The upstream's address, once it has one; nothing if all is to end before.
fn wait_for_address(common: &Common) -> Option<Upstream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .ok()?;
    runtime.block_on(async {
        let mut stop = common.stop.subscribe();
        let mut upstream = common.upstream.subscribe();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return None,
                found = upstream.wait_for(Option::is_some) => {
                    let found = *found.ok()?;
                    tokio::time::sleep(SETTLE).await;
                    if *common.upstream.borrow() == found {
                        return found;
                    }
                }
            }
        }
    })
}
