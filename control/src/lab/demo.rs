//! What bare `gate64 lab` shows first: a name looked up, a page fetched, a ping and a traceroute,
//! all by ordinary programs of an IPv6-only host.

use std::time::Duration;

use super::Lab;
use super::error::LabError;
use super::interrupt::Interrupt;
use super::process::command_in;
use super::tool;
use super::topology::{NARROW, Namespace, ROUTER1, SERVER, in_pref64};

/// Time that each program gets.
const LIMIT: Duration = Duration::from_secs(20);

/// One thing to show: why, and the client's command.
struct Scene {
    title: &'static str,
    command: Vec<String>,
}

fn scene(title: &'static str, command: &str) -> Scene {
    Scene {
        title,
        command: command.split_whitespace().map(str::to_owned).collect(),
    }
}

fn scenes() -> Vec<Scene> {
    let server = in_pref64(SERVER);
    vec![
        scene(
            "The client has IPv6 addresses only:",
            "ip -brief address show",
        ),
        scene(
            "v4only.lab.test has no AAAA record; DNS64 makes one of its A record and 64:ff9b::/96:",
            "dig +noall +answer v4only.lab.test A v4only.lab.test AAAA",
        ),
        scene(
            "A page of the IPv4-only server, which sees an address of the pool 192.0.2.0/24:",
            "curl -sS --max-time 10 http://v4only.lab.test/",
        ),
        scene(
            "A name with a real AAAA record is reached natively, without translation:",
            "curl -sS --max-time 10 http://dual.lab.test/",
        ),
        scene(
            "ICMP echo:",
            &format!("ping -6 -n -c 3 -i 0.3 -W 2 {server}"),
        ),
        scene(
            "The path: after the gateway, IPv4 routers inside 64:ff9b::/96:",
            &format!("traceroute -6 -n -q 1 -w 2 -m 8 {server}"),
        ),
        scene(
            "An IPv4 link with MTU 1280 on the way shows as 1300 to the client:",
            &format!(
                "ping -6 -n -c 3 -i 0.3 -W 2 -M do -s 1400 {}",
                in_pref64(NARROW)
            ),
        ),
    ]
}

/// Shows all scenes. A program that fails is shown as such; it does not end the lab.
pub(super) fn run(lab: &mut Lab, interrupt: &Interrupt) -> Result<(), LabError> {
    println!(
        "gate64 lab: g64-client (IPv6 only) -- g64-gateway (gate64) -- two routers -- g64-internet (IPv4 only)"
    );
    println!(
        "64:ff9b::198.51.100.2, the first IPv4 router, is written {}.",
        in_pref64(ROUTER1)
    );
    for Scene { title, command } in scenes() {
        interrupt.check()?;
        lab.check()?;
        println!("\n{title}\n  client# {}", command.join(" "));
        if let Some(program) = command.first() {
            tool::find(program)?;
        }
        let output = tool::complete(command_in(Namespace::Client, &command), LIMIT)?;
        for line in output.stdout.lines().filter(|line| !line.trim().is_empty()) {
            println!("  {line}");
        }
        for line in output.stderr.lines() {
            println!("  {line}");
        }
        if output.timed_out {
            println!("  (ended after {} s)", LIMIT.as_secs());
        }
    }
    Ok(())
}
