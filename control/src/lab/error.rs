//! What can go wrong in the lab, in words for the person who started it, and the exit codes of
//! the contract.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why the lab did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum LabError {
    #[error("the lab makes network namespaces, which needs root: run it with sudo")]
    NotRoot,
    #[error(
        "the program `{program}` is missing: install it with `apt-get install {package}` (or `make deps`)"
    )]
    ToolMissing {
        program: String,
        package: &'static str,
    },
    #[error("`{command}` failed: {reason}")]
    ToolFailed { command: String, reason: String },
    #[error(
        "this kernel or container lets no network namespace be made: `{command}` said: {reason}"
    )]
    NamespaceRefused { command: String, reason: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error(
        "another `gate64 lab` is running{}: stop it there with Ctrl-C, or remove it with `gate64 lab down`",
        supervisor.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    AlreadyRunning { supervisor: Option<u32> },
    #[error(
        "the lab is not up: start it with `gate64 lab up` (or `gate64 lab` in another terminal)"
    )]
    NotUp,
    #[error("the {name} ended by itself ({status}); the end of its log {}:\n{tail}", log.display())]
    ProcessEnded {
        name: &'static str,
        status: ExitStatus,
        log: PathBuf,
        tail: String,
    },
    #[error("the {name} was not ready after {seconds} s: {reason}; its log is {}", log.display())]
    NotReady {
        name: &'static str,
        seconds: u64,
        reason: String,
        log: PathBuf,
    },
    #[error("interrupted")]
    Interrupted,
}

impl LabError {
    /// Names what was being done when the operating system refused.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }

    /// The exit code of the contract; a gateway that ended hands its own on.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            LabError::NotRoot | LabError::NamespaceRefused { .. } => 4,
            LabError::ProcessEnded { status, .. } => status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .filter(|code| *code != 0)
                .unwrap_or(1),
            LabError::Interrupted => 130,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_privilege_is_exit_code_4() {
        assert_eq!(LabError::NotRoot.exit_code(), 4);
        assert_eq!(LabError::NotUp.exit_code(), 1);
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let error = LabError::ToolMissing {
            program: "dig".into(),
            package: "bind9-dnsutils",
        };
        assert!(error.to_string().contains("apt-get install bind9-dnsutils"));
    }
}
