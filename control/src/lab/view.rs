//! The live view: what the gateway does, once a second, until Ctrl-C. On a terminal a page that
//! redraws itself, otherwise one line a second.

use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Lab;
use super::error::LabError;
use super::interrupt::Interrupt;
use super::metrics::Metrics;
use super::process::{command_in, own_program};
use super::state;
use super::tool;
use super::topology::Namespace;

/// Time between two looks.
const TICK: Duration = Duration::from_secs(1);
/// Sessions that the page lists.
const SESSION_COUNT: usize = 8;
/// The traffic that the client makes while the view is up.
const TRAFFIC_URL: &str = "http://v4only.lab.test/bytes/1000000";

/// Shows the gateway's work until an interrupt.
pub(super) fn run(lab: &mut Lab, interrupt: &Interrupt) -> Result<(), LabError> {
    let terminal = std::io::stdout().is_terminal();
    let mut traffic = Traffic::default();
    let mut before = Sample::take();
    println!("\nLive view; Ctrl-C ends it and removes the lab.");
    while !interrupt.wait(TICK) {
        if !state::is_ours() {
            return Ok(());
        }
        lab.check()?;
        traffic.keep_going()?;
        let now = Sample::take();
        let text = match (&before.metrics, &now.metrics) {
            (Ok(old), Ok(new)) => {
                let rates = Rates::between(old, new, now.at - before.at);
                if terminal {
                    rates.page(new)
                } else {
                    rates.line()
                }
            }
            (_, Err(reason)) | (Err(reason), _) => format!("no metrics: {reason}\n"),
        };
        show(&text, terminal);
        before = now;
    }
    Ok(())
}

fn show(text: &str, terminal: bool) {
    let clear = if terminal { "\x1b[H\x1b[2J" } else { "" };
    let mut out = std::io::stdout().lock();
    // Nobody reads any more: the view goes on until it is interrupted.
    let _ = write!(out, "{clear}{text}").and_then(|()| out.flush());
}

/// A moment's counters.
struct Sample {
    at: Instant,
    metrics: Result<Metrics, String>,
}

impl Sample {
    fn take() -> Sample {
        Sample {
            at: Instant::now(),
            metrics: Metrics::read(),
        }
    }
}

/// The client fetches something again and again, so that there is something to see.
#[derive(Default)]
struct Traffic(Option<Child>);

impl Traffic {
    fn keep_going(&mut self) -> Result<(), LabError> {
        if let Some(running) = &mut self.0
            && matches!(running.try_wait(), Ok(None))
        {
            return Ok(());
        }
        let command = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "--max-time",
            "10",
            TRAFFIC_URL,
        ];
        let child = command_in(Namespace::Client, command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(LabError::io("cannot start curl"))?;
        self.0 = Some(child);
        Ok(())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What happened between two samples, by direction, per second.
struct Rates {
    directions: Vec<(String, f64, f64)>,
    sessions: f64,
    created: f64,
    drops: f64,
    dns_queries: f64,
}

impl Rates {
    fn between(old: &Metrics, new: &Metrics, time: Duration) -> Rates {
        let seconds = time.as_secs_f64().max(0.001);
        let rate = |name: &str, labels: &[(&str, &str)]| {
            (new.sum(name, labels) - old.sum(name, labels)).max(0.0) / seconds
        };
        let directions = new
            .by_label("gate64_packets_total", "direction")
            .into_keys()
            .map(|direction| {
                let labels = [("direction", direction.as_str())];
                let packets = rate("gate64_packets_total", &labels);
                let bits = 8.0 * rate("gate64_bytes_total", &labels);
                (direction, packets, bits)
            })
            .collect();
        Rates {
            directions,
            sessions: new.sum("gate64_sessions", &[]),
            created: rate("gate64_sessions_created_total", &[]),
            drops: rate("gate64_drops_total", &[]),
            dns_queries: rate("gate64_dns_queries_total", &[]),
        }
    }

    fn line(&self) -> String {
        let mut line = String::new();
        for (direction, packets, bits) in &self.directions {
            line += &format!(
                "{direction} {packets:.0} packets/s {:.1} Mbit/s · ",
                bits / 1e6
            );
        }
        line + &format!(
            "sessions {:.0} (+{:.0}/s) · drops {:.0}/s · DNS {:.0}/s\n",
            self.sessions, self.created, self.drops, self.dns_queries
        )
    }

    fn page(&self, now: &Metrics) -> String {
        let mut page = String::from(
            "gate64 lab                                  Ctrl-C ends it and removes the lab\n\n",
        );
        page += &format!("{:<12}{:>14}{:>14}\n", "", "packets/s", "Mbit/s");
        for (direction, packets, bits) in &self.directions {
            page += &format!("{direction:<12}{packets:>14.0}{:>14.1}\n", bits / 1e6);
        }
        let by_protocol: Vec<String> = now
            .by_label("gate64_sessions", "protocol")
            .iter()
            .map(|(protocol, count)| format!("{protocol} {count:.0}"))
            .collect();
        page += &format!(
            "\nSessions     {:.0}   ({})   {:.0} new/s\n",
            self.sessions,
            by_protocol.join(", "),
            self.created
        );
        page += &format!(
            "DNS64        {:.0} queries/s, {:.0} synthesised so far\n",
            self.dns_queries,
            now.sum("gate64_dns_synthesized_total", &[])
        );
        page += &format!("Drops        {:.0}/s", self.drops);
        for (reason, count) in now.by_label("gate64_drops_total", "reason") {
            if count > 0.0 {
                page += &format!("   {reason} {count:.0}");
            }
        }
        page += &format!("\n\nLast sessions\n{}", last_sessions());
        page += &format!(
            "\nThe client fetches {TRAFFIC_URL} again and again. In another terminal:\n  \
             gate64 lab exec client -- curl http://www.lab.test/\n  gate64 lab exec client\n"
        );
        page
    }
}

/// What `gate64 show sessions` says, last used first, as far as it can be read.
fn last_sessions() -> String {
    let mut command = std::process::Command::new(own_program());
    command.args(["show", "sessions", "--json", "--limit", "1000"]);
    command.args(["--socket", state::SOCKET]);
    // A Ctrl-C is for the lab; it would end this program in the middle of the last page.
    command.process_group(0);
    let output = match tool::complete(command, TICK) {
        Ok(output) if output.status.success() => output,
        Ok(output) => return format!("  (not listed: {})\n", output.reason()),
        Err(error) => return format!("  (not listed: {error})\n"),
    };
    let Ok(answer) = serde_json::from_str::<Value>(&output.stdout) else {
        return "  (not listed: no JSON)\n".to_owned();
    };
    let listed = answer.as_array().or_else(|| answer["sessions"].as_array());
    let mut sessions: Vec<&Value> = listed.into_iter().flatten().collect();
    sessions.sort_by_key(|session| session["age_seconds"].as_u64().unwrap_or(u64::MAX));
    sessions.truncate(SESSION_COUNT);
    sessions.into_iter().map(describe).collect()
}

/// One session in a line: the client's addresses, and what the IPv4 side sees instead.
fn describe(session: &Value) -> String {
    let field = |name: &str| session[name].as_str().unwrap_or("-").to_owned();
    format!(
        "  {:<5}{} > {}  as  {} > {}  {}\n",
        field("protocol"),
        field("v6"),
        field("v6_remote"),
        field("v4"),
        field("v4_remote"),
        session["state"].as_str().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_one_line() {
        let session = serde_json::json!({"protocol": "tcp", "v4": "192.0.2.1:1024", "more": []});
        let line = describe(&session);
        assert!(
            line.contains("tcp  - > -  as  192.0.2.1:1024 > -"),
            "{line}"
        );
        assert_eq!(line.matches('\n').count(), 1);
    }
}
