//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::api::Query;
use crate::bench::BenchArgs;
use crate::lab::LabArgs;
use crate::lookup::LookupArgs;
use crate::replay::ReplayArgs;
use crate::share::ShareArgs;

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
    /// Run the gateway in the foreground
    Run(ConfigArgs),
    /// Validate a configuration; print the memory plan and what would be attached
    Check(CheckArgs),
    /// Put captures through the real engine, time from the captures
    Replay(ReplayArgs),
    /// The gateway at a glance
    Status(ApiArgs),
    /// Sessions, BIB, pool, port blocks, subscribers, workers, drops, interfaces, neighbours, configuration
    Show(ShowArgs),
    /// Remove sessions
    Clear(ClearArgs),
    /// What gate64 does with an address
    Explain(ExplainArgs),
    /// Who had a pool address and port, and when, or which ports a subscriber has by calculation
    Lookup(LookupArgs),
    /// Live view of rates, workers and drops
    Top(ApiArgs),
    /// An IPv6-only client, a gateway and an IPv4-only Internet in network namespaces of their own
    Lab(LabArgs),
    /// An IPv6-only network behind this host's IPv4 address, until Ctrl-C
    Share(ShareArgs),
    /// Measure this gate64 on this machine
    Bench(BenchArgs),
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

/// `gate64 check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which configuration
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Ask the running gateway what a reload with it would change
    #[arg(long)]
    pub against_running: bool,
    /// The API's socket of the running gateway; that of the configuration if left out
    #[arg(long, value_name = "PATH", requires = "against_running")]
    pub socket: Option<PathBuf>,
}

/// Which gate64 is asked, and how the answer looks.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// The API's socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, global = true)]
    pub socket: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// `gate64 show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// What to show
    #[command(subcommand)]
    pub what: ShowWhat,
    /// Which gate64
    #[command(flatten)]
    pub api: ApiArgs,
}

/// What to show.
#[derive(Debug, Subcommand)]
pub enum ShowWhat {
    /// Sessions
    Sessions(RowArgs),
    /// Binding information base: mappings of transport addresses
    Bib {
        /// Which
        #[command(flatten)]
        filter: BibFilterArgs,
        /// Rows at most; 0 for all
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Pool addresses and their port blocks
    Pool {
        /// Only this pool address
        #[arg(long, value_name = "ADDR")]
        v4: Option<String>,
        /// Rows at most; 0 for all
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Subscribers, their addresses and port blocks
    Subscribers {
        /// Only subscribers in this IPv6 prefix, or the one that it lies in
        #[arg(long, value_name = "PREFIX")]
        v6: Option<String>,
        /// Only subscribers on this pool address
        #[arg(long, value_name = "ADDR")]
        v4: Option<String>,
        /// Those that have most, most first
        #[arg(long, value_parser = ["ports", "sessions", "refusals"], conflicts_with_all = ["v6", "v4"])]
        top: Option<String>,
        /// Rows at most; 0 for all
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Port blocks in use or at rest, and who has them
    Blocks {
        /// Only blocks of subscribers in this IPv6 prefix
        #[arg(long, value_name = "PREFIX")]
        v6: Option<String>,
        /// Only blocks of this pool address
        #[arg(long, value_name = "ADDR")]
        v4: Option<String>,
        /// Only the block that this port of the address lies in
        #[arg(long, requires = "v4")]
        port: Option<u16>,
        /// Rows at most; 0 for all
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Workers
    Workers,
    /// Dropped packets by reason, with what each reason means
    Drops {
        /// Also reasons that never happened
        #[arg(long)]
        all: bool,
    },
    /// Interfaces in use
    Interfaces,
    /// Next hops in use
    Neighbors,
    /// The DNS64 server: upstreams, caches, queries by what they came to
    Dns,
    /// The configuration in use
    Config,
}

/// Which mappings.
#[derive(Debug, Default, Clone, Args)]
pub struct BibFilterArgs {
    /// Only this protocol
    #[arg(long, value_parser = ["udp", "tcp", "icmp"])]
    pub protocol: Option<String>,
    /// Only clients in this IPv6 prefix
    #[arg(long, value_name = "PREFIX")]
    pub v6: Option<String>,
    /// Only this pool address
    #[arg(long, value_name = "ADDR")]
    pub v4: Option<String>,
    /// Only this pool port
    #[arg(long)]
    pub port: Option<u16>,
}

impl BibFilterArgs {
    /// As the API takes it.
    pub fn query(&self) -> Query {
        Query {
            protocol: self.protocol.clone(),
            v6: self.v6.clone(),
            v4: self.v4.clone(),
            port: self.port,
            ..Query::default()
        }
    }
}

/// Which sessions.
#[derive(Debug, Default, Clone, Args)]
pub struct FilterArgs {
    /// Of which mappings
    #[command(flatten)]
    pub bib: BibFilterArgs,
    /// Only this IPv4 peer
    #[arg(long, value_name = "ADDR")]
    pub remote: Option<String>,
}

impl FilterArgs {
    /// As the API takes it.
    pub fn query(&self) -> Query {
        Query {
            remote: self.remote.clone(),
            ..self.bib.query()
        }
    }
}

/// Which sessions, and how many.
#[derive(Debug, Args)]
pub struct RowArgs {
    /// Which
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Rows at most; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

impl RowArgs {
    /// As the API takes it.
    pub fn query(&self) -> Query {
        self.filter.query()
    }
}

/// `gate64 clear`.
#[derive(Debug, Args)]
pub struct ClearArgs {
    /// What to remove
    #[command(subcommand)]
    pub what: ClearWhat,
    /// Which gate64
    #[command(flatten)]
    pub api: ApiArgs,
}

/// What to remove.
#[derive(Debug, Subcommand)]
pub enum ClearWhat {
    /// Sessions that match every given filter
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
        .args(["protocol", "v6", "v4", "port", "remote", "all"]))]
    Sessions {
        /// Which
        #[command(flatten)]
        filter: FilterArgs,
        /// All sessions
        #[arg(long, conflicts_with_all = ["protocol", "v6", "v4", "port", "remote"])]
        all: bool,
    },
    /// All sessions of an IPv6 prefix
    Subscriber {
        /// The prefix, such as 2001:db8:1::/64
        prefix: String,
    },
}

/// `gate64 explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// IPv6 or IPv4 addresses, or names: what DNS64 would answer, and why
    #[arg(required = true, value_name = "ADDR|NAME")]
    pub subjects: Vec<String>,
    /// For names: the client that would ask; this machine if left out
    #[arg(long, value_name = "ADDR")]
    pub client: Option<std::net::IpAddr>,
    /// Which gate64
    #[command(flatten)]
    pub api: ApiArgs,
}
