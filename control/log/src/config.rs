//! `[log]` as it is used: plain values, validated by whoever read the file.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::record::EventKind;

/// What happens to traffic while the log cannot be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It goes on; what is lost is counted.
    #[default]
    Continue,
    /// No port block is handed out (and with the session log on, no session made) until the log
    /// can be written again.
    RefuseNew,
}

/// `[log.journal]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// The directory.
    pub path: PathBuf,
    /// Age at which a segment is deleted.
    pub retention: Duration,
}

/// What a sink speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// IPFIX (RFC 7011) with the NAT elements of RFC 8158.
    Ipfix {
        /// How often templates are sent again over UDP.
        resend: Duration,
    },
    /// Syslog (RFC 5424).
    Syslog {
        /// The facility's number (RFC 5424 section 6.2.1).
        facility: u8,
    },
    /// A JSON object a line.
    Json {
        /// Octets from which the file is put aside.
        rotate_size: u64,
        /// Age at which the file is put aside; `None` for never.
        rotate_every: Option<Duration>,
        /// Files that are kept aside.
        keep: u32,
    },
}

impl SinkKind {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            SinkKind::Ipfix { .. } => "ipfix",
            SinkKind::Syslog { .. } => "syslog",
            SinkKind::Json { .. } => "json",
        }
    }
}

/// Where a sink writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Datagrams.
    Udp(SocketAddr),
    /// A connection.
    Tcp(SocketAddr),
    /// An encrypted connection (RFC 5425).
    Tls {
        /// Where to.
        addr: SocketAddr,
        /// The name that the certificate has to have; the address if it is empty.
        name: String,
        /// The certificates (PEM) that the server's is signed by.
        ca: PathBuf,
    },
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Udp(addr) => write!(f, "udp://{addr}"),
            Target::Tcp(addr) => write!(f, "tcp://{addr}"),
            Target::Tls { addr, .. } => write!(f, "tls://{addr}"),
            Target::File(path) => path.display().fmt(f),
        }
    }
}

/// `[[log.sink]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkConfig {
    /// What it speaks.
    pub kind: SinkKind,
    /// Where to.
    pub target: Target,
    /// What it carries.
    pub events: Vec<EventKind>,
}

impl SinkConfig {
    /// Its name in metrics and messages.
    pub fn name(&self) -> String {
        format!("{} {}", self.kind.name(), self.target)
    }
}

/// `[log]`, but for the level of the program's own messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The journal, if there is one.
    pub journal: Option<JournalConfig>,
    /// The sinks; no two have the same name.
    pub sinks: Vec<SinkConfig>,
    /// What happens while the log cannot be written.
    pub on_failure: OnFailure,
    /// How often held blocks are logged again; `None` for never.
    pub relog_interval: Option<Duration>,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            journal: None,
            sinks: Vec::new(),
            on_failure: OnFailure::Continue,
            relog_interval: Some(Duration::from_secs(3600)),
        }
    }
}
