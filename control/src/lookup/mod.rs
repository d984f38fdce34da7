//! `gate64 lookup`: who had an address and port, what a subscriber had, and when. Reads files, so that
//! gate64 need not run. The configuration is asked first, for what it decides by itself as it is now; then
//! the journal, for what was.

mod answer;
mod calculated;
mod subject;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use gate64_dataplane::config::StaticBib;
use gate64_log::journal::{self, Note, Question};

use crate::check;
use crate::cli::DEFAULT_CONFIG;
use crate::config::{self, Config};
use crate::exit::Failure;
pub use answer::Holder;
use answer::{Answer, When, note_text, rfc3339};
pub use calculated::holder as calculated_holder;
pub use subject::What;

/// Where nobody is found and no configuration was asked.
const JOURNAL_ONLY: &str = "only the journal was asked: static entries and deterministic ports are in the configuration \
                            (--config FILE, without --journal)";

/// Of a prefix that is more than one subscriber's.
const SEVERAL: &str = "subscribers in it have deterministic ports, which are told of one subscriber at a time: ask for its \
                       prefix, or an address in it";

/// `gate64 lookup`.
#[derive(Debug, Args)]
pub struct LookupArgs {
    /// Pool address and port, with a protocol or without: 203.0.113.5:31007/udp; or a subscriber's prefix,
    /// or an address in it: 2001:db8:42::/64
    #[arg(value_name = "IP:PORT[/PROTO]|SUBSCRIBER")]
    pub what: What,
    /// When (RFC 3339): 2026-11-02T10:00:00Z, 2026-11-02T11:00:00+01:00; now if left out
    #[arg(long, value_name = "TIME", value_parser = subject::time, conflicts_with_all = ["from", "to"])]
    pub at: Option<SystemTime>,
    /// Everybody who had it from then on; the beginning of the journal if only --to is given
    #[arg(long, value_name = "TIME", value_parser = subject::time)]
    pub from: Option<SystemTime>,
    /// Until then; now if only --from is given
    #[arg(long, value_name = "TIME", value_parser = subject::time)]
    pub to: Option<SystemTime>,
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

/// Runs the command.
pub fn run(args: &LookupArgs) -> ExitCode {
    match find(args).and_then(|answer| show(&answer, args.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn find(args: &LookupArgs) -> Result<Answer, Failure> {
    let asked = asked(args, SystemTime::now())?;
    let mut answer = Answer::new(args.what, asked.when());
    let directory = match &args.journal {
        Some(directory) => {
            from_journal(directory, &asked, &mut answer).map_err(Failure::Failed)?;
            if answer.holders.is_empty() {
                answer.notes.push(JOURNAL_ONLY.to_owned());
            }
            return Ok(answer);
        }
        None => {
            let (config, _) = config::load(&args.config).map_err(|report| {
                eprint!("{report}");
                Failure::Configuration(check::summary(&report))
            })?;
            if from_configuration(&config, &args.config, &mut answer) {
                return Ok(answer);
            }
            journal_of(&config, &args.what)?
        }
    };
    match from_journal(&directory, &asked, &mut answer) {
        // What the configuration says holds without it.
        Err(reason) if !answer.notes.is_empty() => {
            answer.covered = false;
            answer.notes.push(reason);
        }
        read => read.map_err(Failure::Failed)?,
    }
    Ok(answer)
}

/// The time that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    what: What,
    /// `None` for the beginning of the journal.
    from: Option<SystemTime>,
    to: SystemTime,
    is_moment: bool,
}

impl Asked {
    fn when(&self) -> When {
        match self.is_moment {
            true => When::At {
                at: rfc3339(self.to),
            },
            false => When::Span {
                from: self.from.map(rfc3339),
                to: rfc3339(self.to),
            },
        }
    }

    fn question(&self) -> Question {
        Question {
            subject: self.what.subject(),
            from_ms: self.from.map_or(i64::MIN, unix_ms),
            to_ms: unix_ms(self.to),
        }
    }
}

fn asked(args: &LookupArgs, now: SystemTime) -> Result<Asked, Failure> {
    let is_moment = args.from.is_none() && args.to.is_none();
    let to = args.at.or(args.to).unwrap_or(now);
    let from = if is_moment { Some(to) } else { args.from };
    for at in from.into_iter().chain(args.at.or(args.to)) {
        if at > now {
            return Err(Failure::Failed(format!(
                "{} is not yet: give a time in the past",
                rfc3339(at)
            )));
        }
    }
    match from {
        Some(from) if from > to => Err(Failure::Failed(format!(
            "--from {} is after --to {}: swap them",
            rfc3339(from),
            rfc3339(to)
        ))),
        from => Ok(Asked {
            what: args.what,
            from,
            to,
            is_moment,
        }),
    }
}

fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What the configuration alone decides, as it is written now: static entries, each one protocol's, and calculated
/// ports. Whether that is all that can be found: whatever it says, another one may have said otherwise of the
/// time that is asked for, and the journal knows of that.
fn from_configuration(config: &Config, file: &Path, answer: &mut Answer) -> bool {
    answer.holders = static_entries(config, &answer.what);
    let calculated = calculated::holder(config, &answer.what);
    let overflows = calculated.as_ref().map(|(_, overflow)| *overflow);
    answer.holders.extend(calculated.map(|(holder, _)| holder));
    let is_found = !answer.holders.is_empty();
    if is_found {
        answer.notes.push(as_written(file));
    }
    if calculated::is_of_several(config, &answer.what) {
        answer.covered = false;
        answer.notes.push(SEVERAL.to_owned());
    }
    if answer.notes.is_empty() || config.log.journal.is_some() {
        return false;
    }
    answer.covered = false;
    if is_found {
        let note = without_journal(&answer.what, overflows);
        answer.notes.push(note.to_owned());
    }
    true
}

/// With every holder that a configuration names.
fn as_written(file: &Path) -> String {
    format!(
        "static entries and deterministic ports are those of {} as it is written now: gate64 cannot know whether \
         another configuration was in use at that time; if so, ask that one (--config FILE)",
        file.display()
    )
}

/// What no record says; `overflows` of what is calculated: whether the subscriber may have other ports by this
/// configuration.
fn without_journal(what: &What, overflows: Option<bool>) -> &'static str {
    match (what, overflows) {
        (What::Mapped(..), Some(_)) => {
            "without [log.journal] there is no record of who had the port by another configuration"
        }
        (What::Mapped(..), None) => {
            "without [log.journal] there is no record of who had the port before the entry was written, or with \
             another protocol"
        }
        (What::Subscriber(_), Some(false)) => {
            "it has no other ports by this configuration: without [log.journal] there is no record of any that it \
             had by another one"
        }
        (What::Subscriber(_), _) => {
            "it may have had other ports too: without [log.journal] there is no record of these"
        }
    }
}

fn static_entries(config: &Config, what: &What) -> Vec<Holder> {
    let is_meant = |entry: &&StaticBib| match what {
        What::Mapped(v4, port, protocol) => {
            (entry.v4.ip, entry.v4.port) == (*v4, *port)
                && protocol.is_none_or(|wanted| wanted == entry.protocol)
        }
        What::Subscriber(prefix) => {
            let differ = u128::from(entry.v6.ip) ^ u128::from(prefix.ip);
            differ.leading_zeros() >= u32::from(prefix.length)
        }
    };
    let holder = |entry: &StaticBib| Holder {
        subscriber: format!("{}/128", entry.v6.ip),
        v4: entry.v4.ip,
        port_first: entry.v4.port,
        port_last: entry.v4.port,
        from: None,
        until: None,
        source: "static",
    };
    let entries = config.nat64.static_bib.iter();
    entries.filter(is_meant).map(holder).collect()
}

/// Where to ask further of what no static entry and no calculation tells.
fn journal_of(config: &Config, what: &What) -> Result<PathBuf, Failure> {
    let journal = config.log.journal.as_ref();
    journal.map(|journal| journal.path.clone()).ok_or_else(|| {
        Failure::Configuration(format!(
            "the configuration by itself says nothing of {what}, and there is no [log.journal]: write one to be \
             able to look up what happens from now on"
        ))
    })
}

/// Adds what the journal says.
///
/// # Errors
/// A sentence that says why it cannot be read.
fn from_journal(directory: &Path, asked: &Asked, answer: &mut Answer) -> Result<(), String> {
    let found = journal::lookup(directory, &asked.question())
        .map_err(|error| unreadable(directory, &error))?;
    answer.covered &= is_covered(&found.notes);
    answer.notes.extend(found.notes.iter().map(note_text));
    let holders = found.holdings.iter().map(Holder::from_journal);
    answer.holders.extend(holders);
    Ok(())
}

/// Whether nobody means nobody: until gate64 started again, it had handed out nothing. Anything else that there is to
/// note may hide a holder; so may the time after the journal's end, of which a copy says nothing.
fn is_covered(notes: &[Note]) -> bool {
    let is_harmless =
        |note: &Note| matches!(note, Note::Stopped { until_ms, .. } if until_ms.is_some());
    notes.iter().all(is_harmless)
}

/// One sentence: what is wrong, where, and what to do.
fn unreadable(directory: &Path, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            ": is that the directory of [log.journal] path, and has gate64 run with it?"
        }
        io::ErrorKind::PermissionDenied => ": run it as root or as gate64's user",
        io::ErrorKind::NotADirectory => ": give the directory, not a file in it",
        _ => "",
    };
    // The error names the file, if it is not the directory itself.
    format!(
        "the journal in {} cannot be read: {error}{advice}",
        directory.display()
    )
}

fn show(answer: &Answer, json: bool) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string_pretty(answer)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        println!("{text}");
        return Ok(());
    }
    print!("{}", answer.text());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use gate64_log::config::JournalConfig;
    use gate64_log::journal::Journal;
    use gate64_log::{Block, BlockAction, Bus, Condition, EventKind, Prefix6, Queue};

    use super::*;

    fn args(at: Option<u64>, from: Option<u64>, to: Option<u64>) -> LookupArgs {
        let time = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        LookupArgs {
            what: "2001:db8::/64".parse().unwrap(),
            at: at.map(time),
            from: from.map(time),
            to: to.map(time),
            config: PathBuf::new(),
            journal: None,
            json: false,
        }
    }

    #[test]
    fn times_that_are_asked_for() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let ask = |args: &LookupArgs| asked(args, now).map(|asked| asked.question());
        let span = |args: &LookupArgs| ask(args).map(|one| (one.from_ms, one.to_ms)).unwrap();
        assert_eq!(span(&args(None, None, None)), (1_000_000, 1_000_000));
        assert_eq!(span(&args(Some(7), None, None)), (7000, 7000));
        assert_eq!(span(&args(None, Some(7), None)), (7000, 1_000_000));
        assert_eq!(span(&args(None, None, Some(7))), (i64::MIN, 7000));
        assert_eq!(span(&args(None, Some(7), Some(9))), (7000, 9000));
        for (wrong, says) in [
            (args(Some(1001), None, None), "is not yet"),
            (args(None, Some(1001), None), "is not yet"),
            (args(None, None, Some(1001)), "is not yet"),
            (args(None, Some(9), Some(7)), "swap them"),
        ] {
            let error = ask(&wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
    #[test]
    fn nobody_is_said_only_where_nothing_may_hide_a_holder() {
        let at_ms = 5;
        assert!(is_covered(&[]));
        let stopped = |until_ms| Note::Stopped { at_ms, until_ms };
        assert!(is_covered(&[stopped(Some(9))]));
        let (before_ms, after_ms) = (None, Some(5));
        for hides in [
            stopped(None),
            Note::Damaged {
                segment: 1,
                octets: 3,
            },
            Note::Lost { at_ms, count: 1 },
            Note::ClockStep { at_ms },
            Note::Crashed { at_ms },
            Note::NotCovered {
                before_ms,
                after_ms,
            },
            Note::OtherVersion {
                segment: 1,
                version: 9,
            },
        ] {
            assert!(!is_covered(&[stopped(Some(9)), hides]), "{hides:?}");
        }
    }

    /// A configuration with a static entry for TCP, and where its journal is, if it has one.
    struct Site(PathBuf);

    impl Site {
        fn new(name: &str, journal: &str) -> Site {
            let folder = std::env::temp_dir().join(format!("gate64-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            let journal = journal.replace("HERE", folder.to_str().unwrap());
            let text = format!(
                "[[interface]]\nname = \"eth0\"\n[nat64]\npref64 = [\"64:ff9b::/96\"]\n\
                 [[pool4]]\nprefix = \"203.0.113.0/28\"\n[[static]]\nprotocol = \"tcp\"\n\
                 v6 = \"[2001:db8::80]:80\"\nv4 = \"203.0.113.5:1100\"\n{journal}"
            );
            std::fs::write(folder.join("gate64.toml"), text).unwrap();
            Site(folder)
        }

        /// Somebody has the first block of this address, and the journal says so.
        fn write_journal(&self, v4: &str) {
            let bus = Arc::new(Bus::new(0));
            let (queue, reader) = Queue::new(10, &[EventKind::Block]);
            let condition = Arc::new(Condition::default());
            bus.attach("journal", queue, Arc::clone(&condition), true);
            let config = JournalConfig {
                path: self.0.join("journal"),
                retention: Duration::from_secs(86_400),
            };
            let journal = Journal::start(config, None, reader, condition, &bus).unwrap();
            let subscriber = Prefix6 {
                ip: "2001:db8:42::".parse().unwrap(),
                length: 64,
            };
            let block = Block {
                subscriber,
                v4: v4.parse().unwrap(),
                port_first: 1024,
                port_count: 512,
            };
            bus.tell(gate64_log::What::Block(BlockAction::Allocated, block));
            bus.close();
            journal.join();
            // What is asked from now on is of after its end, in milliseconds too.
            std::thread::sleep(Duration::from_millis(2));
        }

        /// Until now, since nobody had anything before the journal.
        fn ask(&self, what: &str) -> Result<Answer, Failure> {
            find(&LookupArgs {
                what: what.parse().unwrap(),
                config: self.0.join("gate64.toml"),
                to: Some(SystemTime::now()),
                ..args(None, None, None)
            })
        }
    }

    impl Drop for Site {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn sources(answer: &Answer) -> Vec<&'static str> {
        answer.holders.iter().map(|one| one.source).collect()
    }

    /// Sixteen subscribers with ports by calculation, on sixteen addresses.
    const CALCULATED_PORTS: &str = "[[pool4]]\nprefix = \"198.51.100.0/28\"\npool = \"fixed\"\n\
         [[subscriber.deterministic]]\nprefixes = [\"2001:db8:d000::/60\"]\npool = \"fixed\"\n";

    const JOURNAL: &str = "[log.journal]\npath = \"HERE/journal\"\n";

    #[test]
    fn a_static_entry_hides_nothing_of_the_journal() {
        let site = Site::new("static-journal", JOURNAL);
        site.write_journal("203.0.113.5");
        let any = site.ask("203.0.113.5:1100").unwrap();
        assert_eq!(sources(&any), ["static", "journal"], "{any:?}");
        assert_eq!(any.holders[1].subscriber, "2001:db8:42::/64");
        assert_eq!(
            sources(&site.ask("203.0.113.5:1100/udp").unwrap()),
            ["journal"]
        );
        assert_eq!(sources(&site.ask("2001:db8::80").unwrap()), ["static"]);
        // Who asks the journal alone is told what it does not have.
        let journal = Some(site.0.join("journal"));
        let what = "2001:db8::80".parse().unwrap();
        let to = Some(SystemTime::now());
        let alone = find(&LookupArgs {
            what,
            journal,
            to,
            ..args(None, None, None)
        })
        .unwrap();
        assert_eq!(alone.holders, []);
        assert_eq!(alone.notes.last().unwrap(), JOURNAL_ONLY);
    }

    #[test]
    fn a_static_entry_is_told_without_a_journal_and_with_one_that_cannot_be_read() {
        let unread = Site::new("static-unread", JOURNAL);
        let without = Site::new("static-alone", "");
        for (site, says) in [
            (&unread, "cannot be read"),
            (&without, "without [log.journal]"),
        ] {
            for what in ["203.0.113.5:1100/tcp", "2001:db8::80"] {
                let answer = site.ask(what).unwrap();
                assert_eq!(sources(&answer), ["static"]);
                assert!(!answer.covered && answer.notes.len() == 2, "{answer:?}");
                assert!(answer.notes[0].contains("as it is written now"));
                assert!(answer.notes[1].contains(says), "{answer:?}");
            }
            assert!(site.ask("203.0.113.5:1100/udp").is_err());
        }
    }

    /// A port was somebody's block before it was calculated, or is so by a configuration of later.
    #[test]
    fn a_calculated_port_hides_nothing_of_the_journal() {
        let site = Site::new("calculated", &format!("{CALCULATED_PORTS}{JOURNAL}"));
        site.write_journal("198.51.100.5");
        let port = site.ask("198.51.100.5:1100/udp").unwrap();
        assert_eq!(sources(&port), ["deterministic", "journal"], "{port:?}");
        let calculated = port.holders[0].subscriber.clone();
        assert!(calculated.starts_with("2001:db8:d000:"), "{calculated}");
        assert_eq!(port.holders[1].subscriber, "2001:db8:42::/64");
        assert!(port.notes[0].contains("as it is written now"), "{port:?}");
        // So are its ports of the past, which it may have had as blocks.
        let subscriber = site.ask(&calculated).unwrap();
        assert_eq!(sources(&subscriber), ["deterministic"]);
        assert_eq!(subscriber.notes[0], port.notes[0]);
        // The journal has ended: it does not know of what came then.
        assert!(!subscriber.covered, "{subscriber:?}");
        assert!(subscriber.notes[1].contains("as far as this journal knows"));
    }

    #[test]
    fn a_calculated_port_is_told_without_a_journal_and_with_one_that_cannot_be_read() {
        let unread = format!("{CALCULATED_PORTS}{JOURNAL}");
        for (name, journal, says) in [
            ("calculated-unread", &*unread, "cannot be read"),
            (
                "calculated-alone",
                CALCULATED_PORTS,
                "without [log.journal]",
            ),
        ] {
            let site = Site::new(name, journal);
            for what in ["198.51.100.5:1100/tcp", "2001:db8:d000:5::1"] {
                let answer = site.ask(what).unwrap();
                assert_eq!(sources(&answer), ["deterministic"]);
                assert!(!answer.covered && answer.notes.len() == 2, "{answer:?}");
                let written = format!("{}/gate64.toml as it is written now", site.0.display());
                assert!(answer.notes[0].contains(&written), "{answer:?}");
                assert!(answer.notes[1].contains(says), "{answer:?}");
            }
        }
    }

    #[test]
    fn of_a_prefix_of_several_subscribers_calculated_ports_are_not_denied() {
        let with = format!("{CALCULATED_PORTS}{JOURNAL}");
        for (name, text) in [("journal", &*with), ("alone", CALCULATED_PORTS)] {
            let site = Site::new(&format!("several-{name}"), text);
            site.write_journal("198.51.100.5");
            // Some of the set, all of it, and more than that.
            for what in [
                "2001:db8:d000:8::/62",
                "2001:db8:d000::/60",
                "2001:db8:d000::/48",
            ] {
                let answer = site.ask(what).unwrap();
                assert!(answer.holders.is_empty() && !answer.covered, "{answer:?}");
                assert_eq!(answer.notes[0], SEVERAL);
                assert!(answer.text().contains("not known"));
            }
            let elsewhere = site.ask("2001:db8:d000:10::/60");
            let notes = elsewhere.map_or_else(|_| Vec::new(), |answer| answer.notes);
            assert!(!notes.contains(&SEVERAL.to_owned()), "{notes:?}");
        }
    }

    #[test]
    fn without_a_journal_no_more_is_claimed_than_the_configuration_says() {
        let overflow = format!("{CALCULATED_PORTS}overflow = true\n");
        for (name, ports, says) in [
            (
                "alone",
                CALCULATED_PORTS,
                "no other ports by this configuration",
            ),
            ("overflow", &*overflow, "may have had other ports"),
        ] {
            let site = Site::new(&format!("claims-{name}"), ports);
            let answer = site.ask("2001:db8:d000:5::1").unwrap();
            assert!(answer.notes[1].contains(says), "{answer:?}");
            // No subscriber has these.
            for nobodys in ["198.51.100.5:1000/udp", "2001:db8:e000::1"] {
                let failure = site.ask(nobodys).unwrap_err().to_string();
                let subject = nobodys.parse::<What>().unwrap().to_string();
                assert!(failure.contains(&subject), "{failure}");
                assert!(failure.contains("there is no [log.journal]"), "{failure}");
            }
        }
    }
}
