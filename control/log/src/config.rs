//! `[log]` as it is used: plain values, validated by whoever read the file.

use std::path::PathBuf;
use std::time::Duration;

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

/// `[log]`, but for the level of the program's own messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The journal, if there is one.
    pub journal: Option<JournalConfig>,
    /// What happens while the log cannot be written.
    pub on_failure: OnFailure,
    /// How often held blocks are logged again; `None` for never.
    pub relog_interval: Option<Duration>,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            journal: None,
            on_failure: OnFailure::Continue,
            relog_interval: Some(Duration::from_secs(3600)),
        }
    }
}
