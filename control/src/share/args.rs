//! The flags of `gate64 share`, read as the `[share]` they stand for: one way of judging both.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::check;
use crate::cli::ConfigArgs;
use crate::config::{self, Config};
use crate::exit::Failure;
use crate::run;

/// Where errors in flags are said to be.
const PLACE: &str = "the command line";

/// `gate64 share`.
#[derive(Debug, clap::Args)]
pub struct ShareArgs {
    /// The interface towards the Internet; its IPv4 address is shared with this host
    #[arg(long, value_name = "IF", required_unless_present = "config")]
    upstream: Option<String>,
    /// The interface towards the clients
    #[arg(long, value_name = "IF", required_unless_present = "config")]
    downstream: Option<String>,
    /// A test network: every name leads through NAT64, native IPv6 answers "no route"
    #[arg(long)]
    test: bool,
    /// A /64 for the clients, routed to this host; "delegated": one is asked for by DHCPv6; a unique
    /// local one is made otherwise
    #[arg(long, value_name = "PREFIX|delegated")]
    prefix: Option<String>,
    /// The translation prefix [default: 64:ff9b::/96]
    #[arg(long, value_name = "PREFIX")]
    pref64: Option<String>,
    /// Ports of the upstream's address for the clients; otherwise those that the host does not use
    #[arg(long, value_name = "FIRST-LAST")]
    ports: Option<String>,
    /// A resolver such as udp://192.0.2.53; may be repeated; otherwise those of /etc/resolv.conf
    #[arg(long, value_name = "URL")]
    dns: Vec<String>,
    /// A domain for the clients' search list; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    search: Vec<String>,
    /// Do not answer DHCPv6 information-requests
    #[arg(long)]
    no_dhcpv6: bool,
    /// Tell DHCPv4 clients that can (RFC 8925) to do without IPv4 for this time, such as 30m
    #[arg(long, value_name = "TIME")]
    dhcpv4_option_108: Option<String>,
    /// The longest time between router advertisements [default: 3m]
    #[arg(long, value_name = "TIME")]
    ra_interval_max: Option<String>,
    /// Of this router against others on the link: high, medium or low [default: medium]
    #[arg(long, value_name = "PREFERENCE")]
    preference: Option<String>,
    /// The socket of the API [default: /run/gate64/share-DOWNSTREAM.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// Where metrics are served [default: port 9464 of the loopback address, or a free port]
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// Where the prefix and what has to be undone are kept [default: /var/lib/gate64/share]
    #[arg(long, value_name = "DIR")]
    state: Option<String>,
    /// A configuration with a share table, in place of all other flags
    #[arg(long, value_name = "FILE", exclusive = true)]
    config: Option<PathBuf>,
}

impl ShareArgs {
    /// The configuration that the flags stand for, or that they name.
    pub fn config(&self) -> Result<Config, Failure> {
        if let Some(path) = &self.config {
            let config = run::prepare(&ConfigArgs {
                config: path.clone(),
            })?;
            return match config.share {
                Some(_) => Ok(config),
                None => Err(Failure::Configuration(format!(
                    "{} has no [share]",
                    path.display()
                ))),
            };
        }
        let text = self.text();
        config::parse(Path::new(PLACE), &text)
            .map(|(config, _)| config)
            .map_err(|report| {
                eprint!("{report}");
                Failure::Configuration(check::summary(&report))
            })
    }

    fn text(&self) -> String {
        let mut out = "[share]\n".to_owned();
        write_key(&mut out, "upstream", self.upstream.as_ref());
        write_key(&mut out, "downstream", self.downstream.as_ref());
        write_key(&mut out, "prefix", self.prefix.as_ref());
        write_key(&mut out, "ports", self.ports.as_ref());
        write_key(
            &mut out,
            "dhcpv4_option_108",
            self.dhcpv4_option_108.as_ref(),
        );
        write_key(&mut out, "ra_interval_max", self.ra_interval_max.as_ref());
        write_key(&mut out, "preference", self.preference.as_ref());
        write_key(&mut out, "state", self.state.as_ref());
        write_list(&mut out, "search", &self.search);
        if self.test {
            out.push_str("kind = \"test\"\n");
        }
        if self.no_dhcpv6 {
            out.push_str("dhcpv6 = false\n");
        }
        out.push_str("[nat64]\n");
        write_list(&mut out, "pref64", self.pref64.as_slice());
        if !self.dns.is_empty() {
            out.push_str("[dns64]\nlisten = [\"[::1]:53\"]\n");
            write_list(&mut out, "upstream", &self.dns);
        }
        out.push_str("[api]\n");
        write_key(&mut out, "socket", self.socket.as_ref());
        out.push_str("[metrics]\n");
        write_key(&mut out, "listen", self.metrics.as_ref());
        out
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn write_key(out: &mut String, key: &str, value: Option<&String>) {
    if let Some(value) = value {
        let _ = writeln!(out, "{key} = {}", quoted(value));
    }
}

fn write_list(out: &mut String, key: &str, values: &[String]) {
    if !values.is_empty() {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        let _ = writeln!(out, "{key} = [{}]", values.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::ShareKind;

    fn config(flags: &str) -> Result<Config, Failure> {
        let words = ["gate64", "share"].into_iter().chain(flags.split(' '));
        match Cli::try_parse_from(words).unwrap().command {
            Command::Share(args) => args.config(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn flags_are_the_table_they_stand_for() {
        let flags = "--upstream up --downstream down --test --prefix fd01:2:3:4::/64 \
                     --pref64 2001:db8:64::/96 --ports 20000-30000 --dns udp://192.0.2.53 \
                     --search a.test --search b.test --dhcpv4-option-108 30m --no-dhcpv6";
        let config = config(&flags.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap();
        let share = config.share.unwrap();
        assert_eq!(share.kind, ShareKind::Test);
        assert_eq!(share.ports, Some(20_000..=30_000));
        assert_eq!(share.search, ["a.test", "b.test"]);
        assert_eq!(share.dhcpv4_option_108.unwrap().as_secs(), 1800);
        assert!(!share.dhcpv6);
        assert_eq!(config.pref64.len(), 1);
        let resolvers = config.dns64.unwrap().upstream;
        assert_eq!(resolvers[0].addr.to_string(), "192.0.2.53:53");
    }

    #[test]
    fn bad_flags_are_configuration_errors() {
        for flags in [
            "--upstream up --downstream up",
            "--upstream up --downstream down --prefix fd00::/48",
            "--upstream up --downstream down --prefix 2001:db8::1/64",
            "--upstream up --downstream down --test --prefix delegated",
            "--upstream up --downstream down --pref64 64:ff9b::/95",
            "--upstream up --downstream down --ports 1000-1100",
            "--upstream up --downstream down --dhcpv4-option-108 1s",
            "--upstream up --downstream down --ra-interval-max 1h",
            "--upstream up --downstream down --state relative",
        ] {
            let failure = config(flags).unwrap_err();
            assert_eq!(failure.code(), 3, "{flags}");
        }
    }
}
