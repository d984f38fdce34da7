//! `gate64 run`: everything is put together, waits for signals, and is taken apart again.
//!
//! What can fail without touching the host fails first: configuration, sockets of our own, then
//! session memory, then the interfaces. A failure on the way drops what was made before it.

mod events;
mod log;
pub mod memory;
mod nat64;
mod offload;
mod pool_address;
mod pool_change;
mod reload;
mod surroundings;

use std::io::{ErrorKind, IsTerminal as _};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use gate64_dataplane::clock::{Clock as _, MonotonicClock};
use gate64_dataplane::counters::checksums_left_to_offload;
use gate64_dataplane::gateway::{self, Gateway, StartError};
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::route::RouteSnapshot;
use gate64_dataplane::verdict::Side;
use gate64_dataplane::worker::Idle;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::ApiSocket;
use crate::cli::ConfigArgs;
use crate::config::{self, Config, Workers};
use crate::exit::Failure;
use crate::netlink::{NetlinkError, PortSpec, Router};
use crate::state::{State, Watch, WorkerState};
use crate::{check, machine, metrics, share};
use log::Log;
pub use nat64::nat64_config;
use offload::OffloadWarning;
use pool_address::PoolAddressWarning;
use surroundings::Kernel;

/// How often workers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Threads for everything that is not a worker.
const CONTROL_THREADS: usize = 2;

/// Runs the command until a signal ends it.
pub fn run(args: &ConfigArgs) -> ExitCode {
    let served = prepare(args).and_then(|config| match config.share {
        Some(_) => share::serve(config),
        None => serve_until(config, |_| {}, std::future::pending()).map(drop),
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Reads the configuration and judges it on this machine.
pub fn prepare(args: &ConfigArgs) -> Result<Config, Failure> {
    let refuse = |report: &config::problem::Report, kind: fn(String) -> Failure| {
        eprint!("{report}");
        Err(kind(check::summary(report)))
    };
    let (config, mut report) = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => return refuse(&report, Failure::Configuration),
    };
    let interface_is_missing = machine::check(&config, &mut report);
    if report.has_errors() {
        let kind = if interface_is_missing {
            Failure::Interface
        } else {
            Failure::Configuration
        };
        return refuse(&report, kind);
    }
    eprint!("{report}");
    Ok(config)
}

/// The part that translates, while it runs.
#[derive(Clone)]
struct Translator {
    gateway: Arc<Mutex<Gateway>>,
    router: Arc<Router>,
    routes: Arc<ArcSwap<RouteSnapshot>>,
    drains: Arc<pool_change::Drains>,
}

/// What ended a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The operator, by a signal.
    Signal,
    /// Who started it.
    Stopped,
}

/// Runs a gateway until a signal or `stop` ends it. `started` gets its state when it takes packets.
///
/// # Errors
/// One line that says what kept it from running.
pub fn serve_until(
    config: Config,
    started: impl FnOnce(&Arc<State>),
    stop: impl Future<Output = ()>,
) -> Result<End, Failure> {
    start_log(&config);
    let sockets = Sockets::take(&config)?;
    let routes = Arc::new(ArcSwap::from_pointee(RouteSnapshot::builder().build(1)));
    let clock = MonotonicClock::start();
    let gateway = match config.has_nat64() {
        true => Some(start_gateway(&config, &routes, clock)?),
        false => None,
    };
    let cpus = gateway
        .as_ref()
        .map(|started| started.gateway.cpus())
        .unwrap_or_default();
    let runtime = runtime(&cpus)?;
    runtime.block_on(serve_async(
        config, sockets, gateway, routes, clock, started, stop,
    ))
}

/// What others may hold: taken before an interface is touched.
struct Sockets {
    api: ApiSocket,
    metrics: TcpListener,
    dns64: Option<gate64_dns64::Sockets>,
}

impl Sockets {
    fn take(config: &Config) -> Result<Sockets, Failure> {
        let dns64 = config.dns64.as_ref().map(gate64_dns64::Sockets::bind);
        Ok(Sockets {
            api: ApiSocket::take(&config.api_socket.value)?,
            // Another share has the default port.
            metrics: metrics::listen(
                config.metrics.value,
                config.share.is_some() && !config.metrics.is_explicit(),
            )?,
            dns64: dns64.transpose().map_err(dns64_failure)?,
        })
    }
}

/// The workers, and how many sessions they have room for.
struct Started {
    gateway: Gateway,
    session_capacity: u64,
}

/// Begins to log; a second time does nothing.
pub fn start_log(config: &Config) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::prelude::*;
    // hickory logs every query at info, and its recursor each name that does not exist as a warning.
    let targets = Targets::new()
        .with_default(config.log_level)
        .with_target("hickory_server", LevelFilter::WARN.min(config.log_level))
        .with_target("hickory_resolver", LevelFilter::ERROR.min(config.log_level))
        .with_target("hickory_net", LevelFilter::WARN.min(config.log_level));
    // journald puts a time before each line itself.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = if under_systemd {
        lines.without_time().boxed()
    } else {
        lines.boxed()
    };
    // A second subscriber is refused; there is none in this process.
    let _ = tracing_subscriber::registry()
        .with(targets)
        .with(lines)
        .try_init();
}

fn start_gateway(
    config: &Config,
    routes: &Arc<ArcSwap<RouteSnapshot>>,
    clock: MonotonicClock,
) -> Result<Started, Failure> {
    let nat64 = Arc::new(nat64_config(config)?);
    let settings = gateway::DataplaneSettings {
        workers: match &config.dataplane.workers.value {
            Workers::Auto => gateway::Workers::Auto,
            Workers::Cpus(cpus) => gateway::Workers::Cpus(cpus.clone()),
        },
        session_count_max: memory::fit_sessions(config, &nat64)?,
        hugepages: config.dataplane.hugepages,
        log_sessions: false,
        idle: Idle {
            after: config.dataplane.idle_after,
        },
    };
    let interfaces: Vec<_> = config
        .interfaces
        .iter()
        .map(|one| one.value.clone())
        .collect();
    let gateway =
        Gateway::start(&settings, &interfaces, &nat64, routes, clock).map_err(gateway_failure)?;
    let workers = u8::try_from(gateway.cpus().len()).unwrap_or(u8::MAX);
    let plan = Shared::new(nat64, Settings::new(workers, settings.session_count_max)).plan();
    Ok(Started {
        gateway,
        session_capacity: plan.sessions_per_worker * u64::from(plan.workers),
    })
}

pub(crate) fn gateway_failure(error: StartError) -> Failure {
    let text = error.to_string();
    match error {
        StartError::MissingPrivilege { .. }
        | StartError::KernelFeature { .. }
        | StartError::LockedMemory { .. } => Failure::Privilege(text),
        StartError::NoSuchInterface { .. }
        | StartError::InterfaceDown { .. }
        | StartError::NotEthernet { .. }
        | StartError::ProgramAttached { .. }
        | StartError::AttachFailed { .. }
        | StartError::Busy { .. }
        | StartError::NoZeroCopy { .. }
        | StartError::TooFewQueues { .. }
        | StartError::Socket { .. } => Failure::Interface(text),
        _ => Failure::Failed(text),
    }
}

fn netlink_failure(error: NetlinkError) -> Failure {
    let text = error.to_string();
    match error {
        NetlinkError::MissingInterface { .. } | NetlinkError::NotEthernet { .. } => {
            Failure::Interface(text)
        }
        NetlinkError::NoPrivilege => Failure::Privilege(text),
        _ => Failure::Failed(text),
    }
}

fn dns64_failure(error: gate64_dns64::StartError) -> Failure {
    use gate64_dns64::StartError;
    let text = format!("{}: {error}", error.key());
    match error {
        StartError::Listen { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            Failure::Privilege(text)
        }
        StartError::InUse { .. } | StartError::Listen { .. } => Failure::Failed(text),
        _ => Failure::Configuration(text),
    }
}

/// Threads for control, kept off the workers' CPUs where there are others.
fn runtime(worker_cpus: &[usize]) -> Result<Runtime, Failure> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let others: Vec<_> = cores
        .into_iter()
        .filter(|core| !worker_cpus.contains(&core.id))
        .collect();
    let next = AtomicU64::new(0);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .on_thread_start(move || {
            let number = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
            if let Some(core) = others.get(number.checked_rem(others.len()).unwrap_or(0)) {
                core_affinity::set_for_current(*core);
            }
        })
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))
}

async fn serve_async(
    config: Config,
    sockets: Sockets,
    gateway: Option<Started>,
    routes: Arc<ArcSwap<RouteSnapshot>>,
    clock: MonotonicClock,
    started: impl FnOnce(&Arc<State>),
    stop_serving: impl Future<Output = ()>,
) -> Result<End, Failure> {
    let is_forwarding = Arc::new(AtomicBool::new(gateway.is_none()));
    let session_capacity = gateway
        .as_ref()
        .map_or(0, |started| started.session_capacity);
    let (translator, mut events) = match gateway {
        Some(started) => {
            let (translator, events) = start_router(&config, started.gateway, routes).await?;
            (Some(translator), events)
        }
        None => (None, Vec::new()),
    };
    let dns64 = match (&config.dns64, sockets.dns64) {
        (Some(dns64), Some(bound)) => Some(Arc::new(
            gate64_dns64::Server::start_on(bound, dns64.clone(), Arc::clone(&is_forwarding))
                .map_err(dns64_failure)?,
        )),
        _ => None,
    };
    let mut state = state(config, translator.as_ref(), dns64, is_forwarding, clock);
    state.session_capacity = session_capacity;
    let state = Arc::new(state);
    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // The sender is dropped only at the end as well.
        let _ = stopped.wait_for(|&stop| stop).await;
    };
    let mut log = match translator {
        Some(_) => Some(Log::start(&state.config.load().log, &state.log)?),
        None => None,
    };
    let metrics_router = metrics::router(Arc::clone(&state))?;
    let serving = [
        tokio::spawn(metrics::serve(
            sockets.metrics,
            metrics_router,
            until(stopped.clone()),
        )),
        tokio::spawn(
            sockets
                .api
                .serve(Arc::clone(&state), until(stopped.clone())),
        ),
    ];
    let pump = translator.as_ref().map(|translator| {
        let pump = events::Pump::new(translator, clock, Arc::clone(&state));
        tokio::spawn(pump.run(std::mem::take(&mut events), until(stopped)))
    });
    started(&state);
    let outcome = attend(&state, translator.as_ref(), log.as_mut(), stop_serving).await;
    // Nobody may be left to hear it.
    let _ = stop.send(true);
    for task in serving.into_iter().chain(pump) {
        let _ = tokio::time::timeout(Duration::from_secs(2), task).await;
    }
    take_apart(translator, &state).await;
    if let Some(log) = log {
        log.stop().await;
    }
    outcome
}

async fn start_router(
    config: &Config,
    mut gateway: Gateway,
    routes: Arc<ArcSwap<RouteSnapshot>>,
) -> Result<
    (
        Translator,
        Vec<rtrb::Consumer<gate64_dataplane::command::Event>>,
    ),
    Failure,
> {
    let ports = config.interfaces.iter().map(|interface| PortSpec {
        name: interface.value.name.clone(),
        vlan: interface.value.vlan,
    });
    // What is shared is the upstream: other uplinks of the host are not its.
    let held_only = config.share.is_some();
    let router = Router::follow(ports.collect(), held_only, Arc::clone(&routes))
        .await
        .map_err(netlink_failure)?;
    for report in gateway.interfaces() {
        tracing::info!(
            interface = report.name,
            driver = report.driver,
            mode = report.mode.name(),
            zero_copy = report.zero_copy,
            queues = report.queues,
            "takes packets"
        );
        for note in &report.notes {
            tracing::warn!(interface = report.name, "{note}");
        }
    }
    let events = gateway.take_events();
    gateway.wake();
    let translator = Translator {
        gateway: Arc::new(Mutex::new(gateway)),
        router: Arc::new(router),
        routes,
        drains: Arc::default(),
    };
    if let Ok(nat64) = nat64_config(config) {
        let none = pool_change::PortsGone::default();
        translator
            .drains
            .note(&nat64, &nat64, &none, Instant::now());
    }
    Ok((translator, events))
}

/// The workers' handle, whether or not a thread panicked while it held it: every use is whole.
fn lock(gateway: &Mutex<Gateway>) -> std::sync::MutexGuard<'_, Gateway> {
    gateway.lock().unwrap_or_else(PoisonError::into_inner)
}

fn state(
    config: Config,
    translator: Option<&Translator>,
    dns64: Option<Arc<gate64_dns64::Server>>,
    is_forwarding: Arc<AtomicBool>,
    mut clock: MonotonicClock,
) -> State {
    let workers = translator.map_or_else(Vec::new, |translator| {
        let gateway = lock(&translator.gateway);
        let cpus = gateway.cpus();
        gateway
            .counters()
            .into_iter()
            .zip(cpus)
            .map(|(counters, cpu)| WorkerState::new(Some(cpu), counters))
            .collect()
    });
    let asked = translator.map(|translator| Arc::clone(&translator.gateway));
    let judged = translator.cloned();
    State {
        started: Instant::now(),
        config: ArcSwap::from_pointee(config),
        workers,
        ask: Box::new(move |worker, command| {
            asked
                .as_ref()
                .is_some_and(|gateway| lock(gateway).command(worker, command).is_ok())
        }),
        session_capacity: 0,
        surroundings: Box::new(Kernel::of(translator)),
        dns64,
        log: Arc::new(gate64_log::Bus::new(clock.now().as_nanos())),
        alarms: crate::alarm::Alarms::default(),
        preview: Box::new(move |state, text| reload::preview(state, judged.as_ref(), text)),
        is_forwarding,
    }
}

/// Says that it is ready, and does what signals ask until one ends it.
async fn attend(
    state: &Arc<State>,
    translator: Option<&Translator>,
    mut log: Option<&mut Log>,
    stop: impl Future<Output = ()>,
) -> Result<End, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::Failed(format!("cannot wait for signals: {error}")))
    };
    let mut hangup = listen(SignalKind::hangup())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut watch = Watch::begin(state, Instant::now());
    let mut offload = OffloadWarning::default();
    let mut pool_address = PoolAddressWarning::default();
    notify_ready(state);
    tokio::pin!(stop);
    // What is shared is made anew from its start only.
    let can_reload = state.config.load().share.is_none();
    let end = loop {
        tokio::select! {
            _ = hangup.recv(), if can_reload => {
                // It waits for answers of workers.
                tokio::task::block_in_place(|| reload::reload(state, translator));
                if let Some(log) = &mut log {
                    let config = state.config.load_full();
                    log.reload(&config.log).await;
                }
            }
            _ = terminate.recv() => break End::Signal,
            _ = interrupt.recv() => break End::Signal,
            () = &mut stop => return Ok(End::Stopped),
            _ = look.tick() => {
                look_after(state, translator, &mut watch)?;
                if let Some(log) = &mut log {
                    log.look_after(state);
                }
                let count = |side: Side| state.total(checksums_left_to_offload(side.index()));
                for text in offload.look(count) {
                    tracing::warn!("{text}");
                }
                if let (true, Some(translator)) = (can_reload, translator) {
                    pool_address.look_at(&state.config.load(), translator);
                }
            }
        }
    };
    tracing::info!("stops");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    Ok(end)
}

fn notify_ready(state: &State) {
    let config = state.config.load();
    tracing::info!(
        role = config.roles(),
        workers = state.workers.len(),
        sessions = state.session_capacity,
        "ready"
    );
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Sees whether the workers turn and DNS64 has all its threads, and tells DNS64 and systemd.
fn look_after(
    state: &State,
    translator: Option<&Translator>,
    watch: &mut Watch,
) -> Result<(), Failure> {
    let all_turn = watch.look(state, Instant::now());
    crate::alarm::look(state);
    if let Some(translator) = translator {
        pool_change::look_after(state, translator, Instant::now());
        if let Some(worker) = lock(&translator.gateway).failed_worker() {
            return Err(Failure::Failed(format!(
                "worker {} ended by itself: a bug; the log above says where",
                worker.0
            )));
        }
        let problems = state.readiness().nat64.unwrap_or_default();
        let is_forwarding = problems.is_empty();
        if state.is_forwarding.swap(is_forwarding, Ordering::Relaxed) != is_forwarding {
            match is_forwarding {
                true => tracing::info!("forwards"),
                false => tracing::warn!("does not forward: {}", problems.join("; ")),
            }
        }
    }
    let dns64 = state.dns64.as_ref();
    if let Some(thread) = dns64.and_then(|server| server.failed_thread()) {
        return Err(Failure::Failed(format!(
            "DNS64's thread {thread} ended by itself: a bug; the log above says where"
        )));
    }
    if all_turn {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
    Ok(())
}

/// Stops what runs, the interfaces first. Who still holds a part keeps nothing attached.
async fn take_apart(translator: Option<Translator>, state: &State) {
    if let Some(Translator {
        gateway, router, ..
    }) = translator
    {
        tokio::task::block_in_place(|| lock(&gateway).halt());
        router.stop().await;
    }
    if let Some(dns64) = &state.dns64 {
        dns64.stop().await;
    }
}
