//! What a person sees of a share: what was chosen, and one line that changes.

use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::network::Network;
use super::ra::Health;
use crate::config::Config;

/// Prints what was chosen; when the address has changed, only that.
pub fn print_banner(
    network: &Network,
    config: &Config,
    address: Ipv4Addr,
    ports: &RangeInclusive<u16>,
    is_again: bool,
) {
    let ports = format!("{}-{}", ports.start(), ports.end());
    if is_again {
        println!("{} has {address} now, ports {ports}", network.upstream);
        return;
    }
    let prefixes = network
        .prefixes
        .iter()
        .map(|prefix| format!("{}/64", prefix.address));
    let pref64 = network.pref64.iter().map(ToString::to_string);
    let upstreams = config.dns64.iter().flat_map(|dns64| &dns64.upstream);
    println!("An IPv6-only network on {}:", network.downstream);
    println!("  clients    {}", list(prefixes));
    println!(
        "  IPv4       by {} to {address}, ports {ports}; the host keeps all others",
        list(pref64)
    );
    println!(
        "  DNS64      {} to {}",
        network.resolver,
        list(upstreams.map(ToString::to_string))
    );
    println!("  kind       {}", network.kind.name());
    println!(
        "  status     gate64 status --socket {}",
        config.api_socket.value.display()
    );
    println!("Ctrl-C ends it and puts everything back.");
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// What the line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether the translator serves.
    pub health: Health,
    /// Why not.
    pub problem: String,
    /// A router that hosts prefer, and that leads to no IPv4.
    pub in_the_way: Option<Ipv6Addr>,
    /// Hosts seen since the start.
    pub clients: usize,
    /// Sessions at present.
    pub sessions: u64,
}

impl Status {
    fn text(&self) -> String {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let clients = u64::try_from(self.clients).unwrap_or(u64::MAX);
        let health = match self.health {
            Health::Serving => match self.in_the_way {
                None => "serves".to_owned(),
                Some(router) => format!("serves, but hosts prefer the router {router}"),
            },
            Health::Broken => format!("does not serve ({})", self.problem),
            Health::Leaving => "ends".to_owned(),
        };
        format!(
            "{health} · {clients} client{} seen · {} session{}",
            plural(clients),
            self.sessions,
            plural(self.sessions)
        )
    }
}

/// The line: rewritten in place on a terminal, otherwise written when health or clients change.
#[derive(Debug)]
pub struct Line {
    is_terminal: bool,
    shown: Option<Status>,
}

impl Line {
    /// On standard output.
    pub fn new() -> Line {
        Line {
            is_terminal: std::io::stdout().is_terminal(),
            shown: None,
        }
    }

    /// Whether it has been shown.
    pub fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// Shows what has changed.
    pub fn show(&mut self, status: Status) {
        let is_news = self.shown.as_ref().is_none_or(|shown| {
            shown.health != status.health
                || shown.clients != status.clients
                || shown.problem != status.problem
                || shown.in_the_way != status.in_the_way
        });
        let mut out = std::io::stdout().lock();
        // Nobody may be left to read it.
        let _ = match self.is_terminal {
            true if self.shown.as_ref() != Some(&status) => {
                write!(out, "\r\x1b[K{}", status.text()).and_then(|()| out.flush())
            }
            false if is_news => writeln!(out, "{}", status.text()),
            _ => Ok(()),
        };
        self.shown = Some(status);
    }

    /// Leaves the line as it is.
    pub fn end(&self) {
        if self.is_terminal && self.shown.is_some() {
            println!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_why_it_does_not_serve() {
        let mut status = Status {
            health: Health::Serving,
            problem: String::new(),
            in_the_way: None,
            clients: 1,
            sessions: 12,
        };
        assert_eq!(status.text(), "serves · 1 client seen · 12 sessions");
        status.in_the_way = Some("fe80::9".parse().unwrap());
        assert_eq!(
            status.text(),
            "serves, but hosts prefer the router fe80::9 · 1 client seen · 12 sessions"
        );
        status.health = Health::Broken;
        status.problem = "eth0 has no IPv4 address".into();
        assert_eq!(
            status.text(),
            "does not serve (eth0 has no IPv4 address) · 1 client seen · 12 sessions"
        );
    }
}
