//! `gate64 lab test`: the whole system by the machine's own programs, one line for each check.

mod forwarding;
mod names;
mod transport;
mod untouched;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Lab;
use super::error::LabError;
use super::interrupt::Interrupt;
use super::metrics::Metrics;
use super::process::command_in;
use super::tool::{self, Output};
use super::topology::Namespace;

/// What a check found: a remark for a person, or why it failed.
pub(super) type Finding = Result<String, String>;

/// One check.
struct Check {
    name: &'static str,
    run: fn() -> Finding,
}

const fn check(name: &'static str, run: fn() -> Finding) -> Check {
    Check { name, run }
}

const CHECKS: [Check; 29] = [
    check(
        "DNS64 synthesises an AAAA for a name with an A record only",
        names::synthesised,
    ),
    check("DNS64 follows a CNAME to such a name", names::alias),
    check("DNS64 leaves a real AAAA alone", names::real),
    check("DNS64 replaces an IPv4-mapped AAAA", names::mapped),
    check("DNS64 passes NXDOMAIN and NODATA on", names::negative),
    check("DNS64 answers over TCP", names::over_tcp),
    check("ping through the prefix, 56 octets", || {
        forwarding::ping(56)
    }),
    check("ping through the prefix, 1400 octets", || {
        forwarding::ping(1400)
    }),
    check(
        "traceroute shows the IPv4 routers inside the prefix",
        forwarding::traceroute,
    ),
    check("a page by name", transport::page),
    check(
        "100 MB by name, with the right SHA-256",
        transport::large_download,
    ),
    check("UDP there and back", transport::udp_echo),
    check(
        "UDP of 4000 octets there and back, in fragments",
        transport::udp_fragments,
    ),
    check("TCP there and back", transport::tcp_echo),
    check(
        "UDP from an IPv4 host into an existing mapping",
        transport::udp_into_mapping,
    ),
    check(
        "TCP from an IPv4 host into an existing mapping",
        transport::tcp_into_mapping,
    ),
    check(
        "TCP from IPv4 through a static BIB entry",
        transport::tcp_static,
    ),
    check(
        "UDP from IPv4 through a static BIB entry",
        transport::udp_static,
    ),
    check("iperf3 TCP from the client", || transport::iperf_tcp(false)),
    check("iperf3 TCP to the client", || transport::iperf_tcp(true)),
    check("iperf3 UDP from the client", || transport::iperf_udp(false)),
    check("iperf3 UDP to the client", || transport::iperf_udp(true)),
    check("200 parallel TCP connections", transport::parallel),
    check(
        "a path MTU of 1280 on IPv4 becomes known to the client",
        forwarding::path_mtu,
    ),
    check(
        "TCP flows both ways over that path, with DF set",
        transport::narrow_transfer,
    ),
    check("native IPv6 passes untranslated", untouched::native),
    check(
        "the gateway itself answers ping and SSH",
        untouched::gateway,
    ),
    check(
        "the gateway's commands show the sessions",
        untouched::commands,
    ),
    check("the gateway answers on its health pages", untouched::health),
];

/// Runs every check; gives the number that failed.
pub(super) fn run(lab: &mut Lab, interrupt: &Interrupt) -> Result<usize, LabError> {
    let before = Metrics::read();
    let mut failed = 0;
    for check in &CHECKS {
        interrupt.check()?;
        lab.check()?;
        failed += usize::from(!report(check.name, check.run));
    }
    let counters = "every counter of the traffic above has moved";
    failed += usize::from(!report(counters, || untouched::counters(before)));
    println!("{} passed, {failed} failed", CHECKS.len() + 1 - failed);
    Ok(failed)
}

/// Prints a check's line; true if it passed.
fn report(name: &str, run: impl FnOnce() -> Finding) -> bool {
    let start = Instant::now();
    let finding = run();
    let seconds = start.elapsed().as_secs_f64();
    match &finding {
        Ok(remark) => println!("ok    {name} ({remark}; {seconds:.1} s)"),
        Err(reason) => println!("FAIL  {name}: {reason} ({seconds:.1} s)"),
    }
    finding.is_ok()
}

/// Runs a program in a namespace. A missing program or one that hangs is a failure; its exit
/// status is the caller's to judge.
fn output(namespace: Namespace, command: &str, seconds: u64) -> Result<Output, String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let program = words.first().copied().unwrap_or_default();
    let path: PathBuf = tool::find(program).map_err(|error| error.to_string())?;
    let line =
        std::iter::once(path.as_os_str().to_owned()).chain(words.iter().skip(1).map(Into::into));
    tool::complete(command_in(namespace, line), Duration::from_secs(seconds))
        .map_err(|error| error.to_string())
}

/// The same for the client, where the program has to succeed; gives its output.
fn client(command: &str, seconds: u64) -> Finding {
    success(Namespace::Client, command, seconds)
}

fn success(namespace: Namespace, command: &str, seconds: u64) -> Finding {
    let output = output(namespace, command, seconds)?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!(
            "`{command}` in {}: {}",
            namespace.name(),
            output.reason()
        ))
    }
}

/// Fails unless the text holds `wanted`.
fn expect(text: &str, wanted: &str) -> Result<(), String> {
    if text.contains(wanted) {
        Ok(())
    } else {
        Err(format!("expected {wanted:?}, found {:?}", text.trim()))
    }
}
