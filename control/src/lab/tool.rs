//! Running the machine's own programs: found in advance, bounded in time, and a missing one is
//! named with its Debian package.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::error::LabError;

/// The Debian package of each program that the lab runs.
const PACKAGES: [(&str, &str); 13] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("curl", "curl"),
    ("ping", "iputils-ping"),
    ("dig", "bind9-dnsutils"),
    ("traceroute", "traceroute"),
    ("iperf3", "iperf3"),
    ("ncat", "ncat"),
    ("sha256sum", "coreutils"),
    ("ss", "iproute2"),
    ("dropbear", "dropbear-bin"),
    ("dropbearkey", "dropbear-bin"),
    ("ssh", "openssh-client"),
];

/// Directories that a root shell made by `su` may lack in its PATH.
const SYSTEM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(5);

/// What a program said.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Whether it was ended because its time was over.
    pub(super) timed_out: bool,
}

impl Output {
    /// One line for a person: why the program did not succeed.
    pub(super) fn reason(&self) -> String {
        let said = [&self.stderr, &self.stdout]
            .into_iter()
            .flat_map(|text| text.lines())
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or("no output");
        if self.timed_out {
            format!("ended after its time was over: {said}")
        } else {
            format!("{}: {said}", self.status)
        }
    }
}

/// Where a program is, or an error that names its package.
pub(super) fn find(program: &str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
        .ok_or_else(|| LabError::ToolMissing {
            program: program.to_owned(),
            package: package_of(program),
        })
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn package_of(program: &str) -> &'static str {
    PACKAGES
        .iter()
        .find(|(name, _)| *name == program)
        .map_or("the package that brings it", |(_, package)| package)
}

/// Runs a program to its end and gives its output; failure is an error.
pub(super) fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String, LabError> {
    let mut command = Command::new(find(program)?);
    command.args(args);
    let output = complete(command, Duration::from_secs(20))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let args: Vec<_> = args
        .iter()
        .map(|arg| arg.as_ref().to_string_lossy())
        .collect();
    Err(LabError::ToolFailed {
        command: format!("{program} {}", args.join(" ")),
        reason: output.reason(),
    })
}

/// Runs a command to its end or to its time limit, with its output collected.
pub(super) fn complete(mut command: Command, limit: Duration) -> Result<Output, LabError> {
    let what = format!("cannot run {}", command.get_program().to_string_lossy());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::io(what.clone()))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let (status, timed_out) = wait_until(&mut child, limit).map_err(LabError::io(what))?;
    Ok(Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
        timed_out,
    })
}

fn collect<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait_until(child: &mut Child, limit: Duration) -> std::io::Result<(ExitStatus, bool)> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            return Ok((child.wait()?, true));
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let output = complete(command, Duration::from_millis(50)).unwrap();
        assert!(output.timed_out);
        assert!(!output.status.success());
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let error = find("gate64-no-such-program").unwrap_err();
        assert!(matches!(error, LabError::ToolMissing { .. }));
    }

    #[test]
    fn failure_names_the_command_and_what_it_said() {
        let error = run("sh", &["-c", "echo broken >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c"), "{text}");
        assert!(text.contains("broken"), "{text}");
    }
}
