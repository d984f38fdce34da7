//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::lab::LabArgs;

/// Where the API listens if nothing else is configured.
pub const DEFAULT_SOCKET: &str = "/run/gate64/gate64.sock";
/// Where the configuration is if nothing else is said.
pub const DEFAULT_CONFIG: &str = "/etc/gate64/gate64.toml";

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 bad configuration, \
4 missing privilege or kernel feature, 5 interface failure.";

/// A NAT64/DNS64 gateway: an IPv6-only network reaches the IPv4 Internet.
#[derive(Debug, Parser)]
#[command(name = "gate64", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate a configuration; print the memory plan and what would be attached
    Check(ConfigArgs),
    /// An IPv6-only client, a gateway and an IPv4-only Internet in three network namespaces
    Lab(LabArgs),
    /// Print shell completions
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page (troff)
    Man,
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}
