//! Why a command ends without success, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

/// A failure with one of the exit codes of the contract. Clap itself exits with 2 (usage).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// 1: it did not work.
    Failed(String),
    /// 3: the configuration is wrong.
    Configuration(String),
    /// 4: a privilege or a feature of the kernel is missing.
    Privilege(String),
    /// 5: an interface is missing, down, or refuses.
    Interface(String),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Configuration(_) => 3,
            Failure::Privilege(_) => 4,
            Failure::Interface(_) => 5,
        }
    }

    /// Prints the text to standard error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("gate64: {self}");
        ExitCode::from(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(text)
            | Failure::Configuration(text)
            | Failure::Privilege(text)
            | Failure::Interface(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}
