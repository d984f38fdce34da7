//! The embedded lab: its own work, merged from another branch.

use std::process::ExitCode;

/// Arguments of `gate64 lab`.
#[derive(Debug, clap::Args)]
pub struct LabArgs {}

/// Runs the lab.
pub fn run(_args: LabArgs) -> ExitCode {
    eprintln!("gate64: the lab is not in this version");
    ExitCode::FAILURE
}
