//! Network namespaces: entering one with a thread or with the whole process, and removing them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::LabError;
use super::state;
use super::tool;
use super::topology::Namespace;

/// Time that processes in a namespace get between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// Where `ip netns` keeps a namespace.
fn handle(namespace: Namespace) -> PathBuf {
    Path::new("/run/netns").join(namespace.name())
}

/// Whether the namespace is there.
pub(super) fn exists(namespace: Namespace) -> bool {
    handle(namespace).exists()
}

fn open(namespace: Namespace) -> Result<File, LabError> {
    File::open(handle(namespace)).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LabError::NotUp,
        _ => LabError::io(format!("cannot open namespace {}", namespace.name()))(source),
    })
}

/// Makes an empty namespace.
pub(super) fn create(namespace: Namespace) -> Result<(), LabError> {
    tool::run("ip", &["netns", "add", namespace.name()]).map_err(|error| match error {
        LabError::ToolFailed { command, reason } => LabError::NamespaceRefused { command, reason },
        other => other,
    })?;
    Ok(())
}

/// Runs `work` on a thread that stands in the namespace: sockets it makes belong there.
pub(super) fn within<T: Send>(
    namespace: Namespace,
    work: impl FnOnce() -> T + Send,
) -> Result<T, LabError> {
    let handle = open(namespace)?;
    let name = namespace.name();
    let enter_and_work = move || {
        setns(&handle, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            LabError::io(format!("cannot enter namespace {name}"))(errno.into())
        })?;
        Ok(work())
    };
    thread::scope(|scope| match scope.spawn(enter_and_work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Sets a kernel parameter below `/proc/sys` in the namespace.
pub(super) fn set(namespace: Namespace, parameter: &str, value: &str) -> Result<(), LabError> {
    let path = Path::new("/proc/sys").join(parameter);
    within(namespace, || fs::write(&path, value))?.map_err(LabError::io(format!(
        "cannot set {parameter} in {}",
        namespace.name()
    )))
}

/// Becomes `command` inside the namespace, with the namespace's own resolv.conf. Returns only on
/// failure. The process must have a single thread, because the mount namespace is the process's.
pub(super) fn exec(namespace: Namespace, command: &[OsString]) -> LabError {
    if let Err(error) = enter(namespace) {
        return error;
    }
    let Some((program, args)) = command.split_first() else {
        return LabError::NotUp;
    };
    let source = Command::new(program)
        .args(args)
        .env("GATE64_LAB", namespace.name())
        .exec();
    LabError::io(format!("cannot run {}", program.to_string_lossy()))(source)
}

fn enter(namespace: Namespace) -> Result<(), LabError> {
    let name = namespace.name();
    let step = |what: &str| {
        let what = format!("namespace {name}: {what}");
        move |errno: nix::Error| LabError::io(what)(errno.into())
    };
    setns(open(namespace)?, CloneFlags::CLONE_NEWNET).map_err(step("cannot enter it"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(step("no mount namespace of its own"))?;
    let nothing = None::<&str>;
    // Slave: what is mounted here stays here, what the host mounts later still arrives.
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
        nothing,
    )
    .map_err(step("cannot make mounts private"))?;
    // A /sys of this namespace, so that /sys/class/net shows its interfaces.
    mount(Some(name), "/sys", Some("sysfs"), MsFlags::empty(), nothing)
        .map_err(step("cannot mount /sys"))?;
    for (ours, place) in [
        (state::resolv_conf(namespace), "/etc/resolv.conf"),
        (state::nsswitch_conf(), "/etc/nsswitch.conf"),
    ] {
        if Path::new(place).exists() {
            mount(Some(&ours), place, nothing, MsFlags::MS_BIND, nothing)
                .map_err(step(&format!("cannot put its own file over {place}")))?;
        }
    }
    Ok(())
}

/// Removes a namespace, its interfaces and every process in it.
pub(super) fn remove(namespace: Namespace) -> Result<(), LabError> {
    if !exists(namespace) {
        return Ok(());
    }
    end_processes(namespace);
    tool::run("ip", &["netns", "delete", namespace.name()])?;
    Ok(())
}

/// Asks every process in the namespace to end, and ends what does not.
pub(super) fn end_processes(namespace: Namespace) {
    let deadline = Instant::now() + TERM_GRACE;
    signal_all(namespace, Signal::SIGTERM);
    while !processes(namespace).is_empty() {
        if Instant::now() >= deadline {
            signal_all(namespace, Signal::SIGKILL);
            thread::sleep(Duration::from_millis(50));
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn signal_all(namespace: Namespace, signal: Signal) {
    for pid in processes(namespace) {
        // It may have ended in between.
        let _ = kill(pid, signal);
    }
}

/// Processes in the namespace; this one never counts.
fn processes(namespace: Namespace) -> Vec<Pid> {
    tool::run("ip", &["netns", "pids", namespace.name()])
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| *pid != Pid::this())
        .collect()
}
