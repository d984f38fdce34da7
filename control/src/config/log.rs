//! `[log]`, `[[log.sink]]` and `[log.journal]`.

use std::path::PathBuf;
use std::time::Duration;

use gate64_log::EventKind;
use gate64_log::config::{JournalConfig, LogConfig, OnFailure, SinkConfig, SinkKind, Target};
use toml::de::DeValue;
use tracing::level_filters::LevelFilter;

use super::nat64::refuse_empty;
use super::problem::{Problem, Report, Severity};
use super::reader::{Located, Table, Wrong, parsed, word};
use super::values::{self, SinkTarget};

/// Reads `[log]`, `[[log.sink]]` and `[log.journal]`: how much gate64 says of itself, and the log of
/// allocations.
pub fn read_log(
    report: &mut Report,
    mut table: Table<'_, '_>,
) -> (Located<LevelFilter>, LogConfig) {
    let levels = [
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    let level = table.word(report, "level", LevelFilter::INFO, &levels);
    let on_failure = [
        ("continue", OnFailure::Continue),
        ("refuse-new", OnFailure::RefuseNew),
    ];
    let d = LogConfig::default();
    let on_failure = table.word(report, "on_failure", d.on_failure, &on_failure);
    let accepted = "a duration of at least a minute in quotes, such as \"1h\", or \"off\"";
    let relog_interval = table.value(
        report,
        "relog_interval",
        d.relog_interval,
        accepted,
        interval,
    );
    let sinks = table.tables(report, "sink").into_iter();
    let sinks: Vec<_> = sinks.filter_map(|sink| read_sink(report, sink)).collect();
    refuse_twice(report, &sinks);
    let journal = table.table(report, "journal");
    let journal = read_journal(report, journal);
    table.finish(report);
    let log = LogConfig {
        journal,
        sinks: sinks.into_iter().map(|sink| sink.value).collect(),
        on_failure: on_failure.value,
        relog_interval: relog_interval.value,
    };
    (level, log)
}

/// Reads `[log.journal]`; `None` if the table is not there.
fn read_journal(report: &mut Report, mut table: Table<'_, '_>) -> Option<JournalConfig> {
    if !table.is_present() {
        return None;
    }
    let default = PathBuf::from("/var/lib/gate64/journal");
    let accepted = "an absolute path";
    let path = table.parsed(report, "path", default, accepted, values::absolute_path);
    let accepted = "a duration of at least a day in quotes, such as \"400d\"";
    let day = Duration::from_secs(86_400);
    let retention = table.value(report, "retention", 400 * day, accepted, |v| {
        let text = v.as_str().ok_or(Wrong::Type)?;
        match values::duration(text).map_err(Wrong::Because)? {
            short if short < day => Err(Wrong::Value),
            retention => Ok(retention),
        }
    });
    table.finish(report);
    Some(JournalConfig {
        path: path.value,
        retention: retention.value,
    })
}

/// Reads one `[[log.sink]]`; `None` if it is of no use.
fn read_sink(report: &mut Report, mut table: Table<'_, '_>) -> Option<Located<SinkConfig>> {
    for (name, help) in [
        ("type", "write type = \"ipfix\", \"syslog\" or \"json\""),
        ("target", "write target = \"udp://192.0.2.9:4739\""),
    ] {
        if !table.holds(name) {
            table.missing(report, name, help);
        }
    }
    let types = [
        ("ipfix", Type::Ipfix),
        ("syslog", Type::Syslog),
        ("json", Type::Json),
    ];
    let accepted = "\"ipfix\", \"syslog\", \"json\"";
    let kind = table.optional(report, "type", accepted, |v| word(v, &types));
    let accepted = "udp://, tcp:// or tls:// with an address and port, or a file for json";
    let target = table.optional(report, "target", accepted, |v| {
        parsed(v, values::sink_target)
    });
    let kinds = [
        ("block", EventKind::Block),
        ("session", EventKind::Session),
        ("alarm", EventKind::Alarm),
    ];
    let accepted = "\"block\", \"session\", \"alarm\"";
    let events = table.list(report, "events", accepted, |v| word(v, &kinds));
    if let Some(events) = &events {
        refuse_empty(report, &table, events, accepted);
    }
    let events = events.map_or(vec![EventKind::Block], |list| {
        list.value.into_iter().map(|event| event.value).collect()
    });
    let options = read_options(report, &mut table);
    table.finish(report);
    let (kind, target) = (kind?, target?);
    let span = target.span.clone();
    let target = fitting(report, kind.value, target, options.ca)?;
    Some(Located {
        value: SinkConfig {
            kind: match kind.value {
                Type::Ipfix => SinkKind::Ipfix {
                    resend: options.resend,
                },
                Type::Syslog => SinkKind::Syslog {
                    facility: options.facility,
                },
                Type::Json => options.json,
            },
            target,
            events,
        },
        key: "log.sink.target".to_owned(),
        span,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Ipfix,
    Syslog,
    Json,
}

/// Keys of which each type uses its own.
struct Options {
    resend: Duration,
    facility: u8,
    json: SinkKind,
    ca: Option<PathBuf>,
}

fn read_options(report: &mut Report, table: &mut Table<'_, '_>) -> Options {
    let accepted = "a duration of at least a second in quotes, such as \"1m\"";
    let minute = Duration::from_secs(60);
    let resend = table.value(report, "resend", minute, accepted, |v| {
        let text = v.as_str().ok_or(Wrong::Type)?;
        match values::duration(text).map_err(Wrong::Because)? {
            short if short < Duration::from_secs(1) => Err(Wrong::Value),
            resend => Ok(resend),
        }
    });
    let facilities: Vec<(&str, u8)> = FACILITIES.into_iter().collect();
    let facility = table.word(report, "facility", 16, &facilities);
    let rotate_size = table.integer(report, "rotate_size", 100_000_000, 4096..=i64::MAX);
    let accepted = "a duration of at least a minute in quotes, such as \"1d\", or \"off\"";
    let day = Some(Duration::from_secs(86_400));
    let rotate_every = table.value(report, "rotate_every", day, accepted, interval);
    let keep = table.integer(report, "keep", 14, 0..=10_000);
    let accepted = "an absolute path of a file with certificates (PEM)";
    let ca = table.optional(report, "ca", accepted, |v| parsed(v, values::absolute_path));
    Options {
        resend: resend.value,
        facility: facility.value,
        json: SinkKind::Json {
            rotate_size: rotate_size.value,
            rotate_every: rotate_every.value,
            keep: keep.value,
        },
        ca: ca.map(|ca| ca.value),
    }
}

/// RFC 5424 section 6.2.1.
const FACILITIES: [(&str, u8); 10] = [
    ("daemon", 3),
    ("syslog", 5),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// A duration of at least a minute, or "off".
fn interval(value: &DeValue<'_>) -> Result<Option<Duration>, Wrong> {
    match value.as_str().ok_or(Wrong::Type)? {
        "off" => Ok(None),
        text => match values::duration(text).map_err(Wrong::Because)? {
            short if short < Duration::from_secs(60) => Err(Wrong::Value),
            interval => Ok(Some(interval)),
        },
    }
}

/// The target as that type of sink can use it.
fn fitting(
    report: &mut Report,
    kind: Type,
    target: Located<SinkTarget>,
    ca: Option<PathBuf>,
) -> Option<Target> {
    let mut refuse = |message: &str, help: &str| {
        report.push(Problem {
            severity: Severity::Error,
            key: target.key.clone(),
            message: message.to_owned(),
            span: target.span.clone(),
            help: Some(help.to_owned()),
        });
        None
    };
    match (kind, target.value.clone()) {
        (Type::Json, SinkTarget::File(path)) => Some(Target::File(path)),
        (Type::Json, _) => refuse(
            "json goes to a file",
            "write an absolute path, or send syslog over the network",
        ),
        (_, SinkTarget::File(_)) => refuse(
            "only json goes to a file",
            "write udp:// or tcp:// with an address and port",
        ),
        (_, SinkTarget::Udp(addr)) => Some(Target::Udp(addr)),
        (_, SinkTarget::Tcp(addr)) => Some(Target::Tcp(addr)),
        (Type::Ipfix, SinkTarget::Tls { .. }) => refuse(
            "ipfix goes over UDP or TCP",
            "write udp:// or tcp://; for an encrypted way send syslog",
        ),
        (Type::Syslog, SinkTarget::Tls { addr, name }) => match ca {
            Some(ca) => Some(Target::Tls { addr, name, ca }),
            None => refuse(
                "tls:// needs the certificates to trust",
                "write ca = \"/etc/gate64/log-ca.pem\"",
            ),
        },
    }
}

/// Each name stands in metrics once.
fn refuse_twice(report: &mut Report, sinks: &[Located<SinkConfig>]) {
    for (n, later) in sinks.iter().enumerate() {
        let name = later.value.name();
        if sinks[..n].iter().any(|one| one.value.name() == name) {
            report.push(Problem {
                severity: Severity::Error,
                key: later.key.clone(),
                message: format!("{name} is given twice"),
                span: later.span.clone(),
                help: Some("write one sink with all its events".to_owned()),
            });
        }
    }
}
