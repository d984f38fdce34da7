//! Whether a valid configuration fits this machine: interfaces, CPUs, addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use gate64_dataplane::config::AutoOnOff;
use gate64_dataplane::io::xsk;
use gate64_dns64::StartError;

use crate::config::problem::{Problem, Report, Severity};
use crate::config::{Config, Located, Pool4Source, Workers};
use crate::run;

/// Adds to `report` what does not fit; true if an interface is what is missing.
pub fn check(config: &Config, report: &mut Report) -> bool {
    check_workers(config, report);
    check_dns64(config, report);
    let missing_interface = check_interfaces(config, report);
    let missing_address = check_pools(config, report);
    let missing_queue = !missing_interface && check_queues(config, report);
    if !missing_interface && !missing_address && config.has_nat64() {
        check_memory(config, report);
    }
    missing_interface || missing_address || missing_queue
}

/// Workers that were named need a receive queue each of every interface.
fn check_queues(config: &Config, report: &mut Report) -> bool {
    let Workers::Cpus(cpus) = &config.dataplane.workers.value else {
        return false;
    };
    let mut is_missing = false;
    for interface in &config.interfaces {
        let queues = xsk::workers_max(std::slice::from_ref(&interface.value));
        let (name, wanted) = (&interface.value.name, cpus.len());
        if let Ok(queues) = queues.as_ref()
            && *queues < wanted
        {
            is_missing = true;
            report.push(error(
                interface,
                format!("{name} has {queues} receive queues, too few for {wanted} workers"),
                format!(
                    "`ethtool -L {name} combined {wanted}` (veth: `rx {wanted} tx {wanted}`), or fewer CPUs in dataplane.workers"
                ),
            ));
        }
    }
    is_missing
}

/// Whether session memory fits, on hugepages where they were promised.
fn check_memory(config: &Config, report: &mut Report) {
    // What is wrong with the pool was reported already.
    let Ok(nat64) = run::nat64_config(config) else {
        return;
    };
    let mut refuse = |key: &str, message: String, help: String| {
        report.push(Problem {
            severity: Severity::Error,
            key: key.to_owned(),
            message,
            span: None,
            help: Some(help),
        });
    };
    let sessions = match run::memory::sessions_that_fit(config, &nat64) {
        Ok(sessions) => sessions,
        Err(failure) => {
            let (message, help) = ("the session table does not fit", failure.to_string());
            return refuse("dataplane.session_count_max", message.to_owned(), help);
        }
    };
    if config.dataplane.hugepages != AutoOnOff::On {
        return;
    }
    let need = run::memory::plan(&Arc::new(nat64), sessions).total();
    if let Some((free, page)) = run::memory::hugepages()
        && free.saturating_mul(page) < need
    {
        refuse(
            "dataplane.hugepages",
            format!(
                "\"on\", and {free} hugepages of {} KiB are free",
                page >> 10
            ),
            format!(
                "sessions take {} of them, frames more: `sysctl vm.nr_hugepages=…`, or hugepages = \"auto\"",
                need.div_ceil(page.max(1))
            ),
        );
    }
}

fn error<T>(at: &Located<T>, message: String, help: String) -> Problem {
    Problem {
        severity: Severity::Error,
        key: at.key.clone(),
        message,
        span: at.span.clone(),
        help: Some(help),
    }
}

/// What only the server can judge: its upstreams, its names, its certificate.
fn check_dns64(config: &Config, report: &mut Report) {
    let Some(dns64) = &config.dns64 else {
        return;
    };
    let mut refuse = |wrong: &StartError| {
        report.push(Problem {
            severity: Severity::Error,
            key: wrong.key().to_owned(),
            message: wrong.to_string(),
            span: None,
            help: None,
        });
    };
    if let Err(wrong) = gate64_dns64::check(dns64) {
        refuse(&wrong);
    } else if let Some(circle) = upstream_here(dns64) {
        refuse(&circle);
    }
    let mut upstreams = dns64.upstream.iter();
    if upstreams.any(|upstream| upstream.protocol.is_encrypted())
        && let Err(error) = gate64_dns64::check_certificates(dns64.upstream_ca.as_deref())
    {
        refuse(&error.into());
    }
    let encrypted = dns64.encrypted.iter();
    if let Some(message) = encrypted.filter_map(gate64_dns64::certificate_time).next() {
        report.push(Problem {
            // Not an error: packets are translated, and questions over UDP answered, without it.
            severity: Severity::Warning,
            key: "dns64.tls.certificate".to_owned(),
            message,
            span: None,
            help: Some(
                "put a renewed one there and reload; if the time is wrong, set the clock"
                    .to_owned(),
            ),
        });
    }
}

/// An upstream at an address of this machine that a wildcard of ours listens on.
fn upstream_here(dns64: &gate64_dns64::Config) -> Option<StartError> {
    let own: Vec<IpAddr> = own_addresses();
    dns64.upstream.iter().find_map(|upstream| {
        let listen = gate64_dns64::wildcard_listener(dns64, upstream)?;
        let is_own = own.contains(&upstream.addr.ip().to_canonical());
        is_own.then(|| StartError::UpstreamIsSelf {
            upstream: upstream.clone(),
            listen,
        })
    })
}

/// This machine's, in this network namespace.
pub fn own_addresses() -> Vec<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ips = addresses.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    ips.collect()
}

/// Warns of addresses of DNS64 that cannot be had now: a gate64 that runs already may hold them.
pub fn check_dns64_addresses(config: &Config, report: &mut Report) {
    let Some(dns64) = &config.dns64 else {
        return;
    };
    for taken in gate64_dns64::Sockets::probe(dns64) {
        report.push(Problem {
            severity: Severity::Warning,
            key: taken.key().to_owned(),
            message: taken.to_string(),
            span: None,
            help: Some("no matter if it is a gate64 that runs with this file already".to_owned()),
        });
    }
}

fn check_workers(config: &Config, report: &mut Report) {
    let Workers::Cpus(cpus) = &config.dataplane.workers.value else {
        return;
    };
    let online: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect();
    for cpu in cpus.iter().filter(|cpu| !online.contains(cpu)) {
        report.push(error(
            &config.dataplane.workers,
            format!("this machine has no CPU {cpu} for gate64"),
            format!("accepted here: {online:?}"),
        ));
    }
}

/// Names of the kernel's interfaces in this network namespace.
pub fn interface_names() -> Vec<String> {
    let list = nix::net::if_::if_nameindex();
    let names = list.iter().flat_map(|list| list.iter());
    names
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .collect()
}

fn check_interfaces(config: &Config, report: &mut Report) -> bool {
    let present = interface_names();
    let mut is_missing = false;
    for interface in &config.interfaces {
        if present.contains(&interface.value.name) {
            continue;
        }
        is_missing = true;
        report.push(error(
            interface,
            format!("there is no interface {:?}", interface.value.name),
            format!("interfaces here: {}", present.join(", ")),
        ));
    }
    let shared = config.share.iter();
    for interface in shared.flat_map(|share| [&share.upstream, &share.downstream]) {
        if !present.contains(&interface.value) {
            is_missing = true;
            report.push(error(
                interface,
                format!("there is no interface {:?}", interface.value),
                format!("interfaces here: {}", present.join(", ")),
            ));
        }
    }
    is_missing
}

fn check_pools(config: &Config, report: &mut Report) -> bool {
    let mut is_missing = false;
    for pool in &config.pools {
        let Pool4Source::Interface { name, ports, .. } = &pool.value else {
            continue;
        };
        if interface_ipv4(name).is_none() {
            is_missing = true;
            report.push(error(
                pool,
                format!("interface {name:?} has no IPv4 address"),
                format!("give it one, such as `ip addr add 192.0.2.1/24 dev {name}`"),
            ));
        }
        warn_of_host_ports(report, pool, ports);
    }
    if !is_missing {
        check_addresses(config, report);
    }
    is_missing
}

/// What interfaces' pools lack or have twice, and what the host loses to a pool.
fn check_addresses(config: &Config, report: &mut Report) {
    let mut refuse = |key: &str, message: String, help: &str| {
        report.push(Problem {
            severity: Severity::Error,
            key: key.to_owned(),
            message,
            span: None,
            help: Some(help.to_owned()),
        });
    };
    let nat64 = match run::nat64_config(config) {
        Ok(nat64) => nat64,
        Err(failure) => {
            let help = "accepted: pools that share no address";
            return refuse("pool4", failure.to_string(), help);
        }
    };
    for entry in &nat64.static_bib {
        let ip = entry.v4.ip;
        if !nat64.pool4.iter().any(|pool| pool.contains(ip)) {
            let message = format!("{ip} is in no [[pool4]]");
            let help = "accepted: an address of a prefix, or the one that a pool's interface has";
            refuse("static.v4", message, help);
        }
    }
    let own = own_addresses();
    for pool in &config.pools {
        if let Pool4Source::Prefix(prefix) = &pool.value {
            warn_of_own(
                report,
                pool,
                own.iter().copied().filter_map(|ip| match ip {
                    IpAddr::V4(ip) => prefix.contains(ip).then_some(ip),
                    IpAddr::V6(_) => None,
                }),
            );
        }
    }
}

/// The steering takes all packets to a pool's prefix from the host.
fn warn_of_own<T>(report: &mut Report, pool: &Located<T>, own: impl Iterator<Item = Ipv4Addr>) {
    for ip in own {
        report.push(Problem {
            severity: Severity::Warning,
            key: pool.key.clone(),
            message: format!(
                "{ip} is an address of this host, which gets no packets to it any more: gate64 takes them"
            ),
            span: pool.span.clone(),
            help: Some(format!(
                "write exclude = [\"{ip}\"] if the host itself is reached by it"
            )),
        });
    }
}

/// The first IPv4 address of an interface.
pub fn interface_ipv4(name: &str) -> Option<Ipv4Addr> {
    interface_ipv4s(name)?.first().copied()
}

/// The IPv4 addresses of an interface; `None` if the kernel does not tell.
pub fn interface_ipv4s(name: &str) -> Option<Vec<Ipv4Addr>> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    let own = addresses.filter(|address| address.interface_name == name);
    Some(
        own.filter_map(|address| Some(address.address?.as_sockaddr_in()?.ip()))
            .collect(),
    )
}

/// Answers to the host's own connections come to its ephemeral ports: they must not be the pool's.
fn warn_of_host_ports<T>(report: &mut Report, pool: &Located<T>, ports: &RangeInclusive<u16>) {
    let Some(host) = host_ports() else {
        return;
    };
    if ports.end() < host.start() || ports.start() > host.end() {
        return;
    }
    report.push(Problem {
        severity: Severity::Warning,
        key: pool.key.clone(),
        message: format!(
            "ports {}-{} overlap {}-{}, which the host uses for its own connections",
            ports.start(),
            ports.end(),
            host.start(),
            host.end()
        ),
        span: pool.span.clone(),
        help: Some("give the pool other ports, or set net.ipv4.ip_local_port_range".to_owned()),
    });
}

/// The ports that the kernel gives to the host's own connections.
pub fn host_ports() -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What is said of a `[dns64]` with such a line.
    fn said(line: &str) -> String {
        let text = format!(
            "[dns64]\nlisten = [\"127.0.0.1:5300\"]\n{line}\n[nat64]\npref64 = [\"64:ff9b::/96\"]\n"
        );
        let (config, _) = crate::config::parse(Path::new("x.toml"), &text).unwrap();
        let mut report = Report::new(Path::new("x.toml"), &text);
        check_dns64(&config, &mut report);
        report.to_string()
    }

    #[test]
    fn what_dns64_cannot_use_is_said_of_its_key_once() {
        let ca = said(
            "upstream = [\"tls://192.0.2.53#dns.example\"]\nupstream_ca = \"/nonexistent.pem\"",
        );
        assert!(
            ca.starts_with("error: dns64.upstream_ca: /nonexistent.pem"),
            "{ca}"
        );
        let circle = said("upstream = [\"udp://127.0.0.1:5300\"]");
        assert!(
            circle.starts_with("error: dns64.upstream: udp://127.0.0.1"),
            "{circle}"
        );
    }
}
