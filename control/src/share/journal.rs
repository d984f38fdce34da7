//! The record of what was changed on the host: written before each change, so that a gate64 that
//! is killed at any moment is cleaned up after by the next one.
//!
//! One file for each share, in a directory of all shares; a lock says whether its share still
//! runs. Kernel parameters that several shares want are put back by the last of them.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::host::{self, Change, Host, HostError, Made};

/// What a file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The kernel's boot id: after a reboot there is nothing to undo.
    boot: String,
    /// The interfaces of the share.
    #[serde(default)]
    interfaces: Vec<String>,
    changes: Vec<Change>,
}

/// Why changes cannot be recorded or made.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another gate64 has the interface.
    #[error("another gate64 shares to {0} already: stop it first")]
    Taken(String),
    /// Another gate64 has an interface of this share.
    #[error(
        "another gate64 shares {0} already ({1}), and an interface is in one share only: stop that one \
         first, or share another interface"
    )]
    InUse(String, String),
    /// A file.
    #[error(
        "cannot write {path}: {source}; what has to be undone after a crash is kept there, or where \
         --state says"
    )]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// The record of one share that runs.
pub struct Journal {
    directory: PathBuf,
    path: PathBuf,
    host: Host,
    /// Held as long as the share runs; the kernel lets go of it when the process ends.
    _owner: Flock<File>,
}

impl Journal {
    /// Takes the downstream interface for this process, after undoing what dead shares have left.
    /// The names of those are given too.
    ///
    /// # Errors
    /// If another process shares to that interface, or the directory cannot be used.
    pub fn begin(
        directory: &Path,
        upstream: &str,
        downstream: &str,
    ) -> Result<(Journal, Vec<String>), JournalError> {
        fs::create_dir_all(directory).map_err(file_error(directory))?;
        let host = Host::open()?;
        let _all = lock_all(directory)?;
        let mut undone = Vec::new();
        let (own, owner_path) = paths(directory, downstream);
        let owner =
            try_lock(&owner_path)?.ok_or_else(|| JournalError::Taken(downstream.to_owned()))?;
        for path in records(directory)? {
            // The lock of a share that runs is not to be had.
            let lock_path = path.with_extension("lock");
            let is_dead = path == own || try_lock(&lock_path)?.is_some();
            if is_dead {
                if undo(directory, &path, &host)? {
                    undone.push(name_of(&path));
                }
                continue;
            }
            let theirs = read(&path).interfaces;
            let own = [upstream, downstream].map(str::to_owned);
            if let Some(common) = own.into_iter().find(|name| theirs.contains(name)) {
                return Err(JournalError::InUse(common, theirs.join(" to ")));
            }
        }
        let record = Record {
            boot: boot_id(),
            interfaces: [upstream, downstream].map(str::to_owned).to_vec(),
            changes: Vec::new(),
        };
        write(&own, &record)?;
        let journal = Journal {
            directory: directory.to_owned(),
            path: own,
            host,
            _owner: owner,
        };
        Ok((journal, undone))
    }

    /// Records a change and makes it. What is so already is left, and nobody's to undo.
    pub fn make(&self, change: Change) -> Result<(), JournalError> {
        let _all = lock_all(&self.directory)?;
        self.make_locked(change)
    }

    fn make_locked(&self, change: Change) -> Result<(), JournalError> {
        let mut record = read(&self.path);
        record.changes.push(change);
        write(&self.path, &record)?;
        let made = record.changes.last().map(|change| self.host.make(change));
        if let Some(Ok(Made::Now)) = made {
            return Ok(());
        }
        record.changes.pop();
        write(&self.path, &record)?;
        made.unwrap_or(Ok(Made::Already))
            .map(drop)
            .map_err(JournalError::Host)
    }

    /// Undoes one change of this share's; one that is not recorded is not its own.
    pub fn unmake(&self, change: &Change) -> Result<(), JournalError> {
        let _all = lock_all(&self.directory)?;
        let mut record = read(&self.path);
        let Some(at) = record.changes.iter().rposition(|made| made == change) else {
            return Ok(());
        };
        self.host.undo(change)?;
        record.changes.remove(at);
        write(&self.path, &record)
    }

    /// Neighbours of an interface that the kernel keeps fresh already.
    pub fn kept_neighbors(&self, interface: &str) -> Result<Vec<IpAddr>, JournalError> {
        Ok(self.host.kept_neighbors(interface)?)
    }

    /// The file beside the record that keeps which prefixes were announced.
    pub fn prefixes_path(&self) -> PathBuf {
        // The record's own extension, not that of an interface's name.
        self.path.with_extension("prefixes")
    }

    /// Sets a kernel parameter. One that has the value already is recorded only if another share
    /// has set it: whoever ends last puts it back.
    pub fn set(&self, key: &str, value: &str) -> Result<(), JournalError> {
        self.set_where(key, |_| true, value)
    }

    /// Sets a kernel parameter whose present value is one to be changed.
    ///
    /// The value is read under the lock: one read before could be what another share, starting or
    /// ending at the same moment, has changed since, and would be put back to what is no more.
    pub fn set_where(
        &self,
        key: &str,
        is_to_change: impl Fn(&str) -> bool,
        value: &str,
    ) -> Result<(), JournalError> {
        let _all = lock_all(&self.directory)?;
        let Some(before) = host::sysctl(key).filter(|before| is_to_change(before)) else {
            return Ok(());
        };
        if before == value && !self.is_set_by_another(key)? {
            return Ok(());
        }
        self.make_locked(Change::Sysctl {
            key: key.to_owned(),
            before,
            after: value.to_owned(),
        })
    }

    /// Undoes everything.
    pub fn end(self) -> Result<(), JournalError> {
        let _all = lock_all(&self.directory)?;
        undo(&self.directory, &self.path, &self.host)?;
        // Nobody needs the lock's file; one that stays does no harm.
        let _ = fs::remove_file(self.path.with_extension("lock"));
        Ok(())
    }

    fn is_set_by_another(&self, key: &str) -> Result<bool, JournalError> {
        let others = records(&self.directory)?;
        let others = others.iter().filter(|path| **path != self.path);
        Ok(others
            .flat_map(|path| read(path).changes)
            .any(|change| sets(&change, key)))
    }
}

fn sets(change: &Change, wanted: &str) -> bool {
    matches!(change, Change::Sysctl { key, .. } if key == wanted)
}

/// Undoes a record from its end, one change at a time, and removes it. Whether there was any.
fn undo(directory: &Path, path: &Path, host: &Host) -> Result<bool, JournalError> {
    if !path.exists() {
        return Ok(false);
    }
    let mut record = read(path);
    if record.boot != boot_id() {
        record.changes.clear();
    }
    let any = !record.changes.is_empty();
    while let Some(change) = record.changes.last() {
        undo_one(directory, path, host, change);
        record.changes.pop();
        write(path, &record)?;
    }
    fs::remove_file(path).map_err(file_error(path))?;
    Ok(any)
}

/// A change that cannot be undone is told, and keeps nothing else from being undone.
fn undo_one(directory: &Path, path: &Path, host: &Host, change: &Change) {
    let undone = match heir(directory, path, change) {
        Some(heir) => hand_over(&heir, change),
        None => host.undo(change).map_err(JournalError::Host),
    };
    if let Err(error) = undone {
        tracing::error!("{error}; left as it is");
    }
}

/// Another share that wants the same kernel parameter.
fn heir(directory: &Path, path: &Path, change: &Change) -> Option<PathBuf> {
    let Change::Sysctl { key, .. } = change else {
        return None;
    };
    let others = records(directory).ok()?.into_iter();
    others
        .filter(|other| other != path)
        .find(|other| read(other).changes.iter().any(|change| sets(change, key)))
}

/// The other share undoes it to what was before this one, if it found this one's value.
fn hand_over(heir: &Path, change: &Change) -> Result<(), JournalError> {
    let Change::Sysctl { key, before, after } = change else {
        return Ok(());
    };
    let mut record = read(heir);
    for theirs in &mut record.changes {
        if let Change::Sysctl {
            key: their_key,
            before: found,
            after: wanted,
        } = theirs
            && their_key == key
            && (found == after || wanted == before)
        {
            if found == after {
                found.clone_from(before);
            }
            // Undoing conf/all has changed it along with all others.
            let _ = fs::write(Path::new("/proc/sys").join(their_key), wanted);
        }
    }
    write(heir, &record)
}

/// The files of this network namespace's shares begin so.
fn namespace_prefix() -> String {
    let inode = fs::metadata("/proc/thread-self/ns/net").map_or(0, |found| found.ino());
    format!("{inode}-")
}

fn paths(directory: &Path, downstream: &str) -> (PathBuf, PathBuf) {
    let stem = format!("{}{downstream}", namespace_prefix());
    // Not `with_extension`: names of interfaces have dots.
    (
        directory.join(format!("{stem}.json")),
        directory.join(format!("{stem}.lock")),
    )
}

fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.split_once('-')
        .map_or(stem.to_string(), |(_, name)| name.to_owned())
}

fn records(directory: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let prefix = namespace_prefix();
    let entries = fs::read_dir(directory).map_err(file_error(directory))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".json")
        })
        .collect())
}

/// The record of a file; an empty one where there is none. A file is replaced whole, so it is
/// never half written.
fn read(path: &Path) -> Record {
    let text = fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|_| Record {
        boot: boot_id(),
        ..Record::default()
    })
}

fn write(path: &Path, record: &Record) -> Result<(), JournalError> {
    let new = path.with_extension("new");
    let text = serde_json::to_string_pretty(record).unwrap_or_default();
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .map_err(file_error(path))
}

fn boot_id() -> String {
    host::sysctl("kernel/random/boot_id").unwrap_or_default()
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> JournalError {
    let path = path.display().to_string();
    move |source| JournalError::File {
        path: path.clone(),
        source,
    }
}

/// Keeps other shares out of the directory for a moment.
fn lock_all(directory: &Path) -> Result<Flock<File>, JournalError> {
    let path = directory.join("lock");
    let file = File::create(&path).map_err(file_error(&path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| file_error(&path)(errno.into()))
}

/// Nothing if another process has it.
fn try_lock(path: &Path) -> Result<Option<Flock<File>>, JournalError> {
    let file = File::create(path).map_err(file_error(path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(file_error(path)(errno.into())),
    }
}

#[cfg(test)]
mod tests;
