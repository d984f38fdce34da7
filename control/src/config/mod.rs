//! The TOML file: read whole, validated whole, before anything is touched.
//!
//! Tables are read one by one into plain values with their place in the file; then what has to
//! fit between tables is checked. Only a file without errors becomes a [`Config`].

mod difference;
mod interface;
mod log;
mod nat64;
mod pool;
pub mod problem;
mod reader;
mod services;
mod serving;
mod share;
mod subscriber;
mod upstreams;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gate64_dataplane::alarm::Thresholds;
use gate64_dataplane::config::{InterfaceConfig, Nat64Config};
use gate64_log::config::LogConfig;
use gate64_wire::rfc6052::Pref64;
use toml::de::DeTable;
use tracing::level_filters::LevelFilter;

pub use difference::difference;
pub use interface::{DataplaneSettings, Workers};
pub use nat64::PoolRemoval;
pub use pool::Pool4Source;
use problem::{Problem, Report, Severity};
pub use reader::Located;
use reader::Table;
pub use share::{PrefixChoice, ShareKind, ShareSettings};

/// Where gate64 keeps what outlives it.
const STATE_DIRECTORY: &str = "/var/lib/gate64/share";

/// A configuration without errors.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// Its text, to show it and to quote from it.
    pub text: String,
    /// `[dataplane]`.
    pub dataplane: DataplaneSettings,
    /// `[[interface]]`; none for a DNS64 server alone.
    pub interfaces: Vec<Located<InterfaceConfig>>,
    /// Translation prefixes.
    pub pref64: Vec<Pref64>,
    /// The translator, but for its pool: see [`Config::pools`].
    pub nat64: Nat64Config,
    /// `[[pool4]]`; those of interfaces get their address at the start.
    pub pools: Vec<Located<Pool4Source>>,
    /// `[dns64]`.
    pub dns64: Option<gate64_dns64::Config>,
    /// `[share]`: the tables above are then made when it starts.
    pub share: Option<ShareSettings>,
    /// Where Prometheus scrapes.
    pub metrics: Located<SocketAddr>,
    /// The socket of the API.
    pub api_socket: Located<PathBuf>,
    /// What a reload does with blocks in use that it has no place for.
    pub pool4_removal: PoolRemoval,
    /// How long a drained address is waited for; `None`: until it is empty.
    pub pool4_drain_deadline: Option<Duration>,
    /// When alarms are raised and cleared.
    pub alarm: Thresholds,
    /// What is logged.
    pub log_level: LevelFilter,
    /// The log of allocations.
    pub log: LogConfig,
}

impl Config {
    /// Whether packets are to be translated.
    pub fn has_nat64(&self) -> bool {
        !self.interfaces.is_empty()
    }

    /// Which roles run, in words.
    pub fn roles(&self) -> &'static str {
        if self.share.is_some() {
            return "an IPv6-only network, shared";
        }
        match (self.has_nat64(), self.dns64.is_some()) {
            (true, true) => "NAT64 and DNS64",
            (true, false) => "NAT64 alone",
            (false, true) => "DNS64 server alone",
            (false, false) => "nothing",
        }
    }
}

/// A configuration that may be used, with its warnings and notes.
pub type Loaded = (Config, Report);

/// Reads and validates a file.
///
/// # Errors
/// The report with every error of the file, or with the one that it cannot be read.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(error) => {
            let mut report = Report::new(path, "");
            report.push(Problem {
                severity: Severity::Error,
                key: String::new(),
                message: format!("the configuration cannot be read: {error}"),
                span: None,
                help: None,
            });
            Err(report)
        }
    }
}

/// Validates a text that was read from `path`.
///
/// # Errors
/// The report with every error of the text.
pub fn parse(path: &Path, text: &str) -> Result<Loaded, Report> {
    let mut report = Report::new(path, text);
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        report.push(Problem {
            severity: Severity::Error,
            key: String::new(),
            message: error.message().to_owned(),
            span: error.span(),
            help: None,
        });
    }
    // What a broken line was meant to say is a guess: keys around it are not judged.
    let config = syntax_errors
        .is_empty()
        .then(|| read_root(&mut report, path, text, root.get_ref()));
    report.sort();
    match config {
        Some(config) if !report.has_errors() => Ok((config, report)),
        _ => Err(report),
    }
}

fn read_root(report: &mut Report, path: &Path, text: &str, root: &DeTable<'_>) -> Config {
    let mut root = Table::root(root);
    let dataplane = root.table(report, "dataplane");
    let dataplane = interface::read_dataplane(report, dataplane);
    let interfaces = root.tables(report, "interface");
    let has_interface = !interfaces.is_empty();
    let interfaces = interface::read_interfaces(report, interfaces);
    let share = root.table(report, "share");
    let has_share = share.is_present();
    let share = share::read(report, share);
    let dns64 = root.table(report, "dns64");
    let has_dns64 = dns64.is_present();
    let dns64 = services::read_dns64(report, dns64);
    let nat64 = root.table(report, "nat64");
    let (nat64, removal) = nat64::read(report, nat64, (has_interface || has_dns64) && !has_share);
    let pool_tables = root.tables(report, "pool4");
    let has_pool = !pool_tables.is_empty();
    let pools = pool::read_pools(report, pool_tables);
    let statics = root.tables(report, "static");
    let statics = pool::read_statics(report, statics, &pools.all);
    let subscriber = root.table(report, "subscriber");
    let mut subscriber = subscriber::read_subscriber(report, subscriber);
    pool::fit_blocks(report, &mut subscriber, &pools.all);
    let subscribers = subscriber::fit(report, &subscriber, &pools, &nat64.pref64);
    let metrics = root.table(report, "metrics");
    let metrics = services::read_metrics(report, metrics);
    let alarm = root.table(report, "alarm");
    let alarm = services::read_alarm(report, alarm);
    let api = root.table(report, "api");
    let api_socket = services::read_api(report, api);
    let log = root.table(report, "log");
    let (log_level, log) = log::read_log(report, log);
    root.finish(report);
    if has_share {
        refuse_beside_share(report, has_interface, has_pool);
    } else {
        check_roles(report, has_interface, has_dns64, has_pool);
    }
    Config {
        path: path.to_owned(),
        text: text.to_owned(),
        interfaces,
        pref64: nat64.pref64.clone(),
        pools: pools.all,
        share,
        dns64: dns64.map(|dns64| gate64_dns64::Config {
            pref64: nat64.pref64.clone(),
            wkp_strict: nat64.wkp_strict,
            ..dns64
        }),
        metrics,
        api_socket,
        log_level: log_level.value,
        log,
        alarm,
        pool4_removal: removal.policy,
        pool4_drain_deadline: removal.drain_deadline,
        nat64: Nat64Config {
            static_bib: statics.iter().map(|entry| entry.value).collect(),
            pool_names: pools.names,
            pool4_address_count_max: dataplane.pool4_address_count_max,
            subscriber: subscriber.limits,
            subscriber_pool: subscribers.pool,
            essential_ports: subscriber.essential_ports,
            bypass: subscriber.bypass,
            deny: subscriber.deny,
            classes: subscribers.classes,
            deterministic: subscribers.deterministic,
            ..nat64
        },
        dataplane,
    }
}

/// What `[share]` makes itself.
fn refuse_beside_share(report: &mut Report, has_interface: bool, has_pool: bool) {
    for (key, is_there) in [("interface", has_interface), ("pool4", has_pool)] {
        if is_there {
            report.push(Problem {
                severity: Severity::Error,
                key: key.to_owned(),
                message: format!("[[{key}]] stands beside [share], which makes it itself"),
                span: None,
                help: Some("leave one of the two out".to_owned()),
            });
        }
    }
}

/// A role runs when its tables are there; at least one has to.
fn check_roles(report: &mut Report, has_interface: bool, has_dns64: bool, has_pool: bool) {
    let mut push = |severity, key: &str, message: &str, help: &str| {
        report.push(Problem {
            severity,
            key: key.to_owned(),
            message: message.to_owned(),
            span: None,
            help: Some(help.to_owned()),
        });
    };
    if !has_interface && !has_dns64 {
        push(
            Severity::Error,
            "",
            "nothing to run: there is neither [[interface]] nor [dns64]",
            "write [[interface]] with name = \"…\" for NAT64, or [dns64] for a DNS64 server",
        );
    }
    if has_interface && !has_pool {
        push(
            Severity::Error,
            "pool4",
            "is missing",
            "write [[pool4]] with prefix = \"192.0.2.0/24\", or interface = \"…\" to share its address",
        );
    }
    if !has_interface && has_pool {
        push(
            Severity::Warning,
            "pool4",
            "is not used: there is no [[interface]]",
            "without an interface gate64 is a DNS64 server alone",
        );
    }
}

#[cfg(test)]
mod tests;
