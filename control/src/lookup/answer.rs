//! The answer of a look-up, for people and as JSON.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use gate64_log::journal::{Holding, Note};
use gate64_log::rfc3339 as time;
use serde::Serialize;

use super::subject::What;

/// The answer, as JSON shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The pool address, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    /// The port, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The subscriber, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<String>,
    /// When, in RFC 3339.
    #[serde(flatten)]
    pub when: When,
    /// Who had it, or what the subscriber had. Of a single time and port more than one only where the wall
    /// clock was set back.
    pub holders: Vec<Holder>,
    /// Whether the journal speaks of all of that time: if not, nobody here does not mean nobody.
    pub covered: bool,
    /// What to know about the answer.
    pub notes: Vec<String>,
    /// What was asked for, for people.
    #[serde(skip)]
    pub what: What,
}

/// When, in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum When {
    /// A moment.
    At {
        /// That.
        at: String,
    },
    /// A span of time.
    Span {
        /// Its beginning; none for that of the journal.
        from: Option<String>,
        /// Its end.
        to: String,
    },
}

/// Who had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The subscriber's prefix, or the host of a static entry.
    pub subscriber: String,
    /// The pool address.
    pub v4: Ipv4Addr,
    /// First port that the subscriber had.
    pub port_first: u16,
    /// Last port.
    pub port_last: u16,
    /// Since when, if that is known.
    pub from: Option<String>,
    /// Until when, if that is known.
    pub until: Option<String>,
    /// What says so: "static", "deterministic" or "journal".
    pub source: &'static str,
}

impl Holder {
    /// What the journal says.
    pub fn from_journal(one: &Holding) -> Holder {
        Holder {
            subscriber: one.block.subscriber.to_string(),
            v4: one.block.v4,
            port_first: one.block.port_first,
            port_last: one.block.port_last(),
            from: one.from_ms.map(time),
            until: one.until_ms.map(time),
            source: "journal",
        }
    }
}

impl Answer {
    /// An empty one.
    pub fn new(what: What, when: When) -> Answer {
        let (v4, port, subscriber) = match &what {
            What::Mapped(v4, port, _) => (Some(*v4), Some(*port), None),
            What::Subscriber(_) => (None, None, Some(what.to_string())),
        };
        Answer {
            v4,
            port,
            subscriber,
            when,
            holders: Vec::new(),
            covered: true,
            notes: Vec::new(),
            what,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = match &self.when {
            When::At { at } => format!("{} at {at}\n", self.what),
            When::Span {
                from: Some(from),
                to,
            } => format!("{} from {from} to {to}\n", self.what),
            When::Span { from: None, to } => format!("{} until {to}\n", self.what),
        };
        if self.holders.is_empty() {
            out.push_str(match (self.covered, &self.what) {
                (false, _) => "  not known\n",
                (true, What::Mapped(..)) => "  nobody\n",
                (true, What::Subscriber(_)) => "  nothing\n",
            });
        }
        for one in &self.holders {
            out.push_str(&self.line(one));
        }
        for note in &self.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        out
    }

    fn line(&self, one: &Holder) -> String {
        let from = one.from.as_ref().map(|from| format!(", from {from}"));
        let until = one.until.as_ref().map(|until| format!(", until {until}"));
        let when = format!("{}{}", from.unwrap_or_default(), until.unwrap_or_default());
        let ports = format!("ports {}-{}", one.port_first, one.port_last);
        match self.what {
            What::Mapped(..) => format!("  {}  {ports}{when}  ({})\n", one.subscriber, one.source),
            What::Subscriber(_) => format!(
                "  {}  {ports}  {}{when}  ({})\n",
                one.v4, one.subscriber, one.source
            ),
        }
    }
}

/// RFC 3339, in UTC, of a time between 1970 and 9999.
pub fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// A note as a sentence.
pub fn note_text(note: &Note) -> String {
    match note {
        Note::NotCovered {
            before_ms,
            after_ms,
        } => gap_text(before_ms.map(time), after_ms.map(time)),
        Note::Crashed { at_ms } => format!(
            "gate64 was killed after {}, and wrote nothing of what came then",
            time(*at_ms)
        ),
        Note::Stopped { at_ms, until_ms } => stopped_text(&time(*at_ms), until_ms.map(time)),
        Note::Lost { at_ms, count } => format!(
            "{count} events did not reach the journal, found at {}: what happened before that may be missing",
            time(*at_ms)
        ),
        Note::ClockStep { at_ms } => format!(
            "the wall clock was set, to {}: times around it happened twice or never",
            time(*at_ms)
        ),
        Note::Damaged { segment, octets } => format!(
            "{octets} octets of segment {segment:08} are damaged: what stood there is missing"
        ),
        Note::OtherVersion { segment, version } => format!(
            "segment {segment:08} has format version {version}, which this gate64 cannot read: ask the gate64 that wrote it"
        ),
    }
}

fn stopped_text(at: &str, until: Option<String>) -> String {
    match until {
        Some(until) => {
            format!("gate64 was stopped at {at}, until {until}: nobody had it between these")
        }
        None => format!(
            "gate64 was stopped at {at}: nobody has had it since, as far as this journal knows; one that goes on \
             elsewhere, of which this is a copy, may say otherwise"
        ),
    }
}

fn gap_text(before: Option<String>, after: Option<String>) -> String {
    match (before, after) {
        (None, None) => "the journal is empty: nothing was written into it yet".to_owned(),
        (None, Some(after)) => format!(
            "the journal begins at {after}: of the time before, nothing was written or log.journal.retention is over"
        ),
        (Some(before), None) => format!(
            "the journal ends at {before}: nothing was written after that, and gate64 does not write it now, or cannot \
             (its messages and /readyz say why)"
        ),
        (Some(before), Some(after)) => format!(
            "no record covers the time from {before} to {after}: what is said of it is from before and after"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Holder {
        Holder {
            subscriber: "2001:db8:42::/64".to_owned(),
            v4: Ipv4Addr::new(203, 0, 113, 5),
            port_first: 30720,
            port_last: 31231,
            from: Some("2026-11-02T09:12:11.250Z".to_owned()),
            until: None,
            source: "journal",
        }
    }

    fn at() -> When {
        When::At {
            at: "2026-11-02T10:00:00.000Z".to_owned(),
        }
    }

    #[test]
    fn an_answer_reads_well() {
        let mut answer = Answer::new("203.0.113.5:31007".parse().unwrap(), at());
        answer.holders.push(holder());
        let damaged = Note::Damaged {
            segment: 12,
            octets: 3,
        };
        answer.notes.push(note_text(&damaged));
        assert_eq!(
            answer.text(),
            "203.0.113.5:31007 at 2026-11-02T10:00:00.000Z\n  2001:db8:42::/64  ports 30720-31231, \
             from 2026-11-02T09:12:11.250Z  (journal)\n  note: 3 octets of segment 00000012 are damaged: \
             what stood there is missing\n"
        );
        answer.holders.clear();
        assert!(answer.text().contains("\n  nobody\n"));
        answer.covered = false;
        assert!(answer.text().contains("\n  not known\n"));
    }

    #[test]
    fn what_a_subscriber_had_reads_well() {
        let when = When::Span {
            from: Some("2026-11-01T00:00:00.000Z".to_owned()),
            to: "2026-11-02T00:00:00.000Z".to_owned(),
        };
        let mut answer = Answer::new("2001:db8:42::7".parse().unwrap(), when);
        assert!(answer.text().ends_with("\n  nothing\n"));
        answer.holders.push(holder());
        assert_eq!(
            answer.text(),
            "2001:db8:42::7 from 2026-11-01T00:00:00.000Z to 2026-11-02T00:00:00.000Z\n  203.0.113.5  \
             ports 30720-31231  2001:db8:42::/64, from 2026-11-02T09:12:11.250Z  (journal)\n"
        );
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["subscriber"], "2001:db8:42::7");
        assert_eq!(json["from"], "2026-11-01T00:00:00.000Z");
        assert_eq!(json["holders"][0]["v4"], "203.0.113.5");
        assert_eq!(json["covered"], true);
        assert!(json.get("port").is_none() && json.get("at").is_none());
    }

    #[test]
    fn json_of_a_moment_has_that_moment() {
        let answer = Answer::new("203.0.113.5:31007/udp".parse().unwrap(), at());
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["v4"], "203.0.113.5");
        assert_eq!(json["port"], 31007);
        assert_eq!(json["at"], "2026-11-02T10:00:00.000Z");
    }

    #[test]
    fn a_journal_that_ends_says_no_more_than_it_knows() {
        let stopped = |until_ms| note_text(&Note::Stopped { at_ms: 0, until_ms });
        assert!(stopped(Some(1)).contains("until 1970-01-01T00:00:00.001Z: nobody had it"));
        assert!(stopped(None).contains("as far as this journal knows"));
    }

    #[test]
    fn each_gap_says_what_there_is() {
        let gap = |before_ms, after_ms| {
            note_text(&Note::NotCovered {
                before_ms,
                after_ms,
            })
        };
        assert!(gap(None, None).contains("is empty"));
        assert!(gap(None, Some(0)).contains("begins at 1970-01-01T00:00:00.000Z"));
        assert!(gap(Some(0), None).contains("ends at 1970-01-01T00:00:00.000Z"));
        assert!(gap(Some(0), Some(1)).contains("to 1970-01-01T00:00:00.001Z"));
    }
}
