//! What the gateway must leave to the kernel, and what it must say about its work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::super::error::LabError;
use super::super::metrics::{ADDRESS, Metrics};
use super::super::netns;
use super::super::process::{Process, accepts, http_get, own_program};
use super::super::state;
use super::super::tool;
use super::super::topology::{CLIENT, GATEWAY, NATIVE, Namespace};
use super::forwarding::answers;
use super::{Finding, client, expect, output};

const SSH_PORT: u16 = 22;

/// The server sees the client's own address.
pub(super) fn native() -> Finding {
    answers(&NATIVE.to_string())?;
    let page = client("curl -sS --max-time 10 http://dual.lab.test/", 15)?;
    expect(&page, &format!("answers [{CLIENT}]"))?;
    Ok(page.trim().to_owned())
}

/// An SSH server has the gateway's port 22 while this lasts.
pub(super) fn gateway() -> Finding {
    answers(&GATEWAY.to_string())?;
    let (mut server, known_hosts) = ssh_server().map_err(|error| error.to_string())?;
    let login = output(Namespace::Client, &ssh(&known_hosts), 30);
    server.stop();
    // Nobody may log in: to be told so the client must have checked the host's key and encrypted.
    expect(&login?.stderr, "Permission denied (publickey)")?;
    Ok("its host key was checked, a login refused".into())
}

/// Makes a key for this server alone; gives the file by which clients know it.
fn ssh_server() -> Result<(Process, PathBuf), LabError> {
    let [key, known_hosts, pid] = ["ssh.key", "ssh.known_hosts", "ssh.pid"].map(state::scratch);
    // It is not overwritten; there is none in a lab's first test.
    let _ = std::fs::remove_file(&key);
    let made = tool::run(
        "dropbearkey",
        &[
            "-t".as_ref(),
            "ed25519".as_ref(),
            "-f".as_ref(),
            key.as_os_str(),
        ],
    )?;
    let public = made.lines().find(|line| line.starts_with("ssh-ed25519 "));
    state::write(
        &known_hosts,
        &format!("{GATEWAY} {}\n", public.unwrap_or_default()),
    )?;
    let listen = format!("[{GATEWAY}]:{SSH_PORT}");
    let args = [
        OsString::from("-F"),
        "-E".into(),
        "-s".into(),
        "-r".into(),
        key.into_os_string(),
        "-P".into(),
        pid.into_os_string(),
        "-p".into(),
        listen.into(),
    ];
    let program = tool::find("dropbear")?.into_os_string();
    let mut server = Process::start_program("SSH server", Namespace::Gateway, program, &args)?;
    server.wait_ready(|| accepts((GATEWAY, SSH_PORT).into()))?;
    Ok((server, known_hosts))
}

/// A login that asks nobody and looks at no file of the user's.
fn ssh(known_hosts: &Path) -> String {
    format!(
        "ssh -6 -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes -o IdentityFile=/dev/null \
         -o IdentityAgent=none -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile={} \
         -o ConnectTimeout=10 root@{GATEWAY} true",
        known_hosts.display()
    )
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
