//! The lab's long-running processes, each in its namespace, each with a log file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::LabError;
use super::netns;
use super::state;
use super::topology::Namespace;

/// Time that a process gets to become ready.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Time that a process gets to stop after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How often a process is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(50);

/// This program, to be run again.
pub(super) fn own_program() -> OsString {
    std::env::current_exe()
        .ok()
        .filter(|path| path.exists())
        .map_or_else(|| OsString::from("/proc/self/exe"), PathBuf::into_os_string)
}

/// A command that runs in a namespace.
pub(super) fn command_in<I>(namespace: Namespace, command: I) -> Command
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    let mut enter = Command::new(own_program());
    enter.args(["lab", "exec", namespace.name(), "--"]);
    enter.args(command.into_iter().map(Into::into));
    enter
}

/// A process of the lab.
pub(super) struct Process {
    name: &'static str,
    namespace: Namespace,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts this program again in a namespace, with the given arguments.
    pub(super) fn start(
        name: &'static str,
        namespace: Namespace,
        args: &[OsString],
    ) -> Result<Process, LabError> {
        Process::start_program(name, namespace, own_program(), args)
    }

    /// Starts a program in a namespace.
    pub(super) fn start_program(
        name: &'static str,
        namespace: Namespace,
        program: OsString,
        args: &[OsString],
    ) -> Result<Process, LabError> {
        let log = state::log(&name.replace(' ', "-"));
        let out =
            File::create(&log).map_err(LabError::io(format!("cannot make {}", log.display())))?;
        let err = out
            .try_clone()
            .map_err(LabError::io(format!("cannot share {}", log.display())))?;
        let command = std::iter::once(program).chain(args.iter().cloned());
        let child = command_in(namespace, command)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .env("NO_COLOR", "1")
            // Its own group: Ctrl-C is for the lab, which then stops its processes in order.
            .process_group(0)
            .spawn()
            .map_err(LabError::io(format!("cannot start the {name}")))?;
        Ok(Process {
            name,
            namespace,
            log,
            child,
        })
    }

    /// An error if the process has ended.
    pub(super) fn check(&mut self) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(LabError::ProcessEnded {
                name: self.name,
                status,
                log: self.log.clone(),
                tail: state::log_tail(&self.log, 12),
            }),
            Err(source) => Err(LabError::io(format!("cannot watch the {}", self.name))(
                source,
            )),
        }
    }

    /// Waits until `probe` succeeds in the process's namespace.
    pub(super) fn wait_ready(
        &mut self,
        probe: impl Fn() -> Result<(), String> + Sync,
    ) -> Result<(), LabError> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            self.check()?;
            let Err(reason) = netns::within(self.namespace, &probe)? else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(LabError::NotReady {
                    name: self.name,
                    seconds: READY_LIMIT.as_secs(),
                    reason,
                    log: self.log.clone(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Asks the process to stop, and ends it if it does not.
    pub(super) fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(POLL);
        }
    }
}

/// A probe: does something accept TCP connections there?
pub(super) fn accepts(address: SocketAddr) -> Result<(), String> {
    TcpStream::connect_timeout(&address, Duration::from_secs(1))
        .map(drop)
        .map_err(|error| format!("no connection to {address}: {error}"))
}

/// A plain HTTP GET, for the gateway's small pages.
pub(super) fn http_get(address: SocketAddr, path: &str) -> Result<String, String> {
    let limit = Duration::from_secs(5);
    let get = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        // HTTP/1.0: the body ends with the connection and is never chunked.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let answer = get().map_err(|error| format!("http://{address}{path}: {error}"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("http://{address}{path}: not an HTTP answer"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(format!("http://{address}{path}: {status}"))
    }
}
