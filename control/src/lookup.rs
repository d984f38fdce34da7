//! `gate64 lookup`: who had an address and port, and when. Reads files, so that gate64 need not
//! run. The configuration is asked first, for what it alone decides; then the journal.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use gate64_log::journal::{self, Note, Question};
use gate64_wire::addr::Protocol;
use serde::Serialize;

use crate::check;
use crate::cli::DEFAULT_CONFIG;
use crate::config::{self, Config};
use crate::exit::Failure;

/// `gate64 lookup`.
#[derive(Debug, Args)]
pub struct LookupArgs {
    /// Pool address and port, with a protocol or without: 203.0.113.5:31007/udp
    #[arg(value_name = "IP:PORT[/PROTO]")]
    pub what: Mapped,
    /// When (RFC 3339): 2026-11-02T10:00:00Z; now if left out
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak)]
    pub at: Option<SystemTime>,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// A journal's directory, in place of a configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub journal: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A pool address and port, and a protocol if it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// The address.
    pub v4: Ipv4Addr,
    /// The port, or the identifier of an ICMP query.
    pub port: u16,
    /// The protocol: a static entry has one; a block holds all.
    pub protocol: Option<Protocol>,
}

impl FromStr for Mapped {
    type Err = String;

    fn from_str(text: &str) -> Result<Mapped, String> {
        let (at, protocol) = match text.split_once('/') {
            Some((at, name)) => (at, Some(name)),
            None => (text, None),
        };
        let protocol = protocol.map(|name| {
            let known = Protocol::ALL.into_iter().find(|one| one.name() == name);
            known.ok_or_else(|| format!("{name:?} is none of udp, tcp, icmp"))
        });
        let at: std::net::SocketAddrV4 = at
            .parse()
            .map_err(|_| format!("{at:?} is no IPv4 address with a port"))?;
        Ok(Mapped {
            v4: *at.ip(),
            port: at.port(),
            protocol: protocol.transpose()?,
        })
    }
}

/// The answer, as JSON shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The pool address.
    pub v4: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// When, in RFC 3339.
    pub at: String,
    /// Who had it; more than one only where the wall clock was set back.
    pub holders: Vec<Holder>,
    /// What to know about the answer.
    pub notes: Vec<String>,
}

/// Who had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The subscriber's prefix, or the host of a static entry.
    pub subscriber: String,
    /// First port that the subscriber had.
    pub port_first: u16,
    /// Last port.
    pub port_last: u16,
    /// Since when, if that is known.
    pub from: Option<String>,
    /// Until when, if that is known.
    pub until: Option<String>,
    /// What says so: "static" or "journal".
    pub source: &'static str,
}

/// Runs the command.
pub fn run(args: &LookupArgs) -> ExitCode {
    match find(args).and_then(|answer| show(&answer, args.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn find(args: &LookupArgs) -> Result<Answer, Failure> {
    let now = SystemTime::now();
    let at = args.at.unwrap_or(now);
    if at > now {
        return Err(Failure::Failed(format!(
            "{} is not yet: give a time in the past",
            rfc3339(at)
        )));
    }
    let mut answer = Answer {
        v4: args.what.v4,
        port: args.what.port,
        at: rfc3339(at),
        holders: Vec::new(),
        notes: Vec::new(),
    };
    let directory = match &args.journal {
        Some(directory) => directory.clone(),
        None => {
            let (config, _) = config::load(&args.config).map_err(|report| {
                eprint!("{report}");
                Failure::Configuration(check::summary(&report))
            })?;
            answer.holders = from_configuration(&config, &args.what);
            if !answer.holders.is_empty() {
                return Ok(answer);
            }
            journal_of(&config)?
        }
    };
    from_journal(&directory, &args.what, at, &mut answer)?;
    Ok(answer)
}

/// What the configuration alone decides: static entries.
fn from_configuration(config: &Config, what: &Mapped) -> Vec<Holder> {
    let entries = config.nat64.static_bib.iter().filter(|entry| {
        (entry.v4.ip, entry.v4.port) == (what.v4, what.port)
            && what.protocol.is_none_or(|wanted| wanted == entry.protocol)
    });
    let holder = |v6: Ipv6Addr| Holder {
        subscriber: format!("{v6}/128"),
        port_first: what.port,
        port_last: what.port,
        from: None,
        until: None,
        source: "static",
    };
    entries.map(|entry| holder(entry.v6.ip)).collect()
}

fn journal_of(config: &Config) -> Result<PathBuf, Failure> {
    let journal = config.log.journal.as_ref();
    journal.map(|journal| journal.path.clone()).ok_or_else(|| {
        Failure::Configuration(
            "there is no [log.journal]: write one to be able to look up what happens from now on"
                .to_owned(),
        )
    })
}

fn from_journal(
    directory: &Path,
    what: &Mapped,
    at: SystemTime,
    answer: &mut Answer,
) -> Result<(), Failure> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let question = Question {
        v4: what.v4,
        port: what.port,
        at_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
    };
    let found = journal::lookup(directory, &question).map_err(|error| {
        Failure::Failed(format!(
            "the journal in {} cannot be read: {error}",
            directory.display()
        ))
    })?;
    answer.notes.extend(found.notes.iter().map(note_text));
    answer
        .holders
        .extend(found.holdings.iter().map(|one| Holder {
            subscriber: one.block.subscriber.to_string(),
            port_first: one.block.port_first,
            port_last: one.block.port_last(),
            from: one.from_ms.map(time),
            until: one.until_ms.map(time),
            source: "journal",
        }));
    Ok(())
}

fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

fn time(ms: i64) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

fn note_text(note: &Note) -> String {
    let maybe = |ms: &Option<i64>| ms.map_or_else(|| "none".to_owned(), time);
    match note {
        Note::NotCovered {
            before_ms,
            after_ms,
        } => format!(
            "no record covers that time; the last before it: {}, the first after it: {}",
            maybe(before_ms),
            maybe(after_ms)
        ),
        Note::Crashed { at_ms } => format!(
            "gate64 was killed after {}, and wrote nothing of what came then",
            time(*at_ms)
        ),
        Note::Stopped { at_ms } => {
            format!("gate64 was stopped at {}: nobody had it", time(*at_ms))
        }
        Note::Lost { at_ms, count } => format!(
            "{count} events did not reach the journal, found at {}: what happened before that may be missing",
            time(*at_ms)
        ),
        Note::ClockStep { at_ms } => format!(
            "the wall clock was set, to {}: times around it happened twice or never",
            time(*at_ms)
        ),
        Note::Damaged { octets } => {
            format!("{octets} octets of the journal are damaged: what stood there is missing")
        }
    }
}

fn show(answer: &Answer, json: bool) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string_pretty(answer)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        println!("{text}");
        return Ok(());
    }
    print!("{}", text(answer));
    Ok(())
}

fn text(answer: &Answer) -> String {
    let mut out = format!("{}:{} at {}\n", answer.v4, answer.port, answer.at);
    if answer.holders.is_empty() {
        out.push_str("  nobody\n");
    }
    for one in &answer.holders {
        let from = one.from.as_ref().map(|from| format!(", from {from}"));
        let until = one.until.as_ref().map(|until| format!(", until {until}"));
        out.push_str(&format!(
            "  {}  ports {}-{}{}{}  ({})\n",
            one.subscriber,
            one.port_first,
            one.port_last,
            from.unwrap_or_default(),
            until.unwrap_or_default(),
            one.source,
        ));
    }
    for note in &answer.notes {
        out.push_str(&format!("  note: {note}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_up() {
        let what: Mapped = "203.0.113.5:31007/udp".parse().unwrap();
        assert_eq!(what.port, 31007);
        assert_eq!(what.protocol, Some(Protocol::Udp));
        assert_eq!("203.0.113.5:1".parse::<Mapped>().unwrap().protocol, None);
        for wrong in [
            "203.0.113.5",
            "[2001:db8::1]:5",
            "203.0.113.5:1/sctp",
            "203.0.113.5:70000",
        ] {
            assert!(wrong.parse::<Mapped>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_reads_well() {
        let holder = Holder {
            subscriber: "2001:db8:42::/64".to_owned(),
            port_first: 30720,
            port_last: 31231,
            from: Some("2026-11-02T09:12:11.250Z".to_owned()),
            until: None,
            source: "journal",
        };
        let mut answer = Answer {
            v4: Ipv4Addr::new(203, 0, 113, 5),
            port: 31007,
            at: "2026-11-02T10:00:00.000Z".to_owned(),
            holders: vec![holder],
            notes: vec![note_text(&Note::Damaged { octets: 3 })],
        };
        assert_eq!(
            text(&answer),
            "203.0.113.5:31007 at 2026-11-02T10:00:00.000Z\n  2001:db8:42::/64  ports 30720-31231, \
             from 2026-11-02T09:12:11.250Z  (journal)\n  note: 3 octets of the journal are damaged: \
             what stood there is missing\n"
        );
        answer.holders.clear();
        assert!(text(&answer).contains("\n  nobody\n"));
    }
}
