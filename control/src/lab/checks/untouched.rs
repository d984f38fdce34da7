//! What the gateway must leave to the kernel, and what it must say about its work.

use super::super::metrics::{ADDRESS, Metrics};
use super::super::netns;
use super::super::process::{http_get, own_program};
use super::super::serve::SSH_PORT;
use super::super::state;
use super::super::tool;
use super::super::topology::{CLIENT, GATEWAY, NATIVE, Namespace};
use super::{Finding, client, expect};

/// The server sees the client's own address.
pub(super) fn native() -> Finding {
    let pings = client(&format!("ping -6 -n -c 3 -i 0.2 -W 2 {NATIVE}"), 15)?;
    expect(&pings, " 0% packet loss")?;
    let page = client("curl -sS --max-time 10 http://dual.lab.test/", 15)?;
    expect(&page, &format!("answers [{CLIENT}]"))?;
    Ok(page.trim().to_owned())
}

/// There may be no SSH server on this machine: the lab's own banner stands on the port.
pub(super) fn gateway() -> Finding {
    let pings = client(&format!("ping -6 -n -c 3 -i 0.2 -W 2 {GATEWAY}"), 15)?;
    expect(&pings, " 0% packet loss")?;
    let banner = client(
        &format!("ncat -6 --recv-only -w 5 {GATEWAY} {SSH_PORT}"),
        15,
    )?;
    expect(&banner, "SSH-2.0-")?;
    Ok(banner.trim().to_owned())
}

pub(super) fn commands() -> Finding {
    for (command, wanted) in [("status", "{"), ("show sessions", "64:ff9b:")] {
        let mut program = std::process::Command::new(own_program());
        program.args(command.split(' '));
        program.args(["--json", "--socket", state::SOCKET]);
        let output = tool::complete(program, std::time::Duration::from_secs(10))
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("`gate64 {command} --json`: {}", output.reason()));
        }
        serde_json::from_str::<serde_json::Value>(&output.stdout)
            .map_err(|error| format!("`gate64 {command} --json`: {error}"))?;
        expect(&output.stdout, wanted)
            .map_err(|why| format!("`gate64 {command} --json`: {why}"))?;
    }
    Ok("status and sessions".into())
}

pub(super) fn health() -> Finding {
    for page in ["/healthz", "/readyz"] {
        netns::within(Namespace::Gateway, || http_get(ADDRESS, page))
            .map_err(|error| error.to_string())??;
    }
    Ok("/healthz and /readyz".into())
}

/// The counters that the checks before this one must have moved.
const MOVED: [(&str, &[(&str, &str)]); 8] = [
    ("gate64_packets_total", &[("direction", "v6_to_v4")]),
    ("gate64_packets_total", &[("direction", "v4_to_v6")]),
    ("gate64_bytes_total", &[("direction", "v6_to_v4")]),
    ("gate64_sessions_created_total", &[("protocol", "udp")]),
    ("gate64_sessions_created_total", &[("protocol", "tcp")]),
    ("gate64_sessions_created_total", &[("protocol", "icmp")]),
    ("gate64_dns_queries_total", &[]),
    ("gate64_dns_synthesized_total", &[]),
];

pub(super) fn counters(before: Result<Metrics, String>) -> Finding {
    let (before, after) = (before?, Metrics::read()?);
    let still: Vec<String> = MOVED
        .iter()
        .filter(|(name, labels)| after.sum(name, labels) <= before.sum(name, labels))
        .map(|(name, labels)| format!("{name}{labels:?}"))
        .collect();
    if !still.is_empty() {
        return Err(format!("not moved: {}", still.join(", ")));
    }
    let packets = after.sum("gate64_packets_total", &[]) - before.sum("gate64_packets_total", &[]);
    Ok(format!("{packets:.0} packets"))
}
