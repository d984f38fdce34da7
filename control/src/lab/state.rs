//! What the lab leaves below `/run/gate64-lab`: the files of its processes and the state file by
//! which the next `gate64 lab` knows what to remove, however this one ended.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::LabError;
use super::topology::Namespace;

/// Everything that the lab keeps in files.
pub(super) const DIRECTORY: &str = "/run/gate64-lab";

/// Where the gateway's API listens.
pub(super) const SOCKET: &str = "/run/gate64-lab/gate64.sock";

fn file(name: impl AsRef<Path>) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// The gateway's configuration.
pub(super) fn gateway_config() -> PathBuf {
    file("gate64.toml")
}

/// The log of one of the lab's processes.
pub(super) fn log(process: &str) -> PathBuf {
    file(format!("{process}.log"))
}

/// The resolv.conf that programs in a namespace see.
pub(super) fn resolv_conf(namespace: Namespace) -> PathBuf {
    file(format!("{}.resolv.conf", namespace.name()))
}

/// The nsswitch.conf that they see: no resolver daemon of the host may answer for them.
pub(super) fn nsswitch_conf() -> PathBuf {
    file("nsswitch.conf")
}

/// A file for a check to work with.
pub(super) fn scratch(name: &str) -> PathBuf {
    file(name)
}

fn state_file() -> PathBuf {
    file("state.json")
}

/// Held by the process that runs a lab. The kernel lets go of it when that process ends, however
/// it ends, and no file is left behind.
pub(super) struct Lock(#[allow(dead_code)] UnixListener);

/// Becomes the one process that runs a lab.
pub(super) fn lock() -> Result<Lock, LabError> {
    let taken = SocketAddr::from_abstract_name("gate64-lab")
        .and_then(|address| UnixListener::bind_addr(&address));
    match taken {
        Ok(listener) => Ok(Lock(listener)),
        Err(source) if source.kind() == io::ErrorKind::AddrInUse => Err(LabError::AlreadyRunning {
            supervisor: read().and_then(|state| state.supervisor),
        }),
        Err(source) => Err(LabError::io("cannot take the lab's lock")(source)),
    }
}

/// What the state file says.
pub(super) struct State {
    /// The process that runs the lab, or ran it.
    pub(super) supervisor: Option<u32>,
}

/// The state that a lab left, if one did.
pub(super) fn read() -> Option<State> {
    let text = fs::read_to_string(state_file()).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    Some(State {
        supervisor: value["supervisor"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok()),
    })
}

/// Whether this process still owns the lab: another `lab down` removes the file.
pub(super) fn is_ours() -> bool {
    read().and_then(|state| state.supervisor) == Some(std::process::id())
}

/// Makes the directory and the state file, before anything else is made.
pub(super) fn begin(workers: u16) -> Result<(), LabError> {
    fs::create_dir_all(DIRECTORY).map_err(LabError::io(format!("cannot make {DIRECTORY}")))?;
    let state = json!({ "supervisor": std::process::id(), "workers": workers });
    write(&state_file(), &state.to_string())
}

/// Writes one of the lab's files.
pub(super) fn write(path: &Path, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(LabError::io(format!("cannot write {}", path.display())))
}

/// Removes every file; with `keep_logs`, all but the logs.
pub(super) fn clear(keep_logs: bool) -> Result<(), LabError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(LabError::io(format!("cannot read {DIRECTORY}"))(source)),
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if !(keep_logs && is_log) {
            // The gateway's journal is a directory.
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(LabError::io(format!("cannot remove {}", path.display())))?;
        }
    }
    if !keep_logs {
        fs::remove_dir(DIRECTORY).map_err(LabError::io(format!("cannot remove {DIRECTORY}")))?;
    }
    Ok(())
}

/// The last lines of a log.
pub(super) fn log_tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
