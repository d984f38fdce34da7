//! `gate64 check`: validates a configuration and says what `run` would do with it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use gate64_dataplane::config::{AutoOnOff, XdpModeChoice};

use crate::api::model::Preview;
use crate::cli::CheckArgs;
use crate::client::Connection;
use crate::config::problem::{Report, Severity};
use crate::config::{self, Config, Pool4Source, Workers};
use crate::exit::Failure;
use crate::{machine, run};

/// Runs the command: 0 if the configuration can be used on this machine, otherwise 1.
pub fn run(args: &CheckArgs) -> ExitCode {
    let path = &args.config.config;
    let (config, mut report) = match config::load(path) {
        Ok(loaded) => loaded,
        Err(report) => return refuse(&report),
    };
    machine::check(&config, &mut report);
    machine::check_dns64_addresses(&config, &mut report);
    report.sort();
    if report.has_errors() {
        return refuse(&report);
    }
    eprint!("{report}");
    if args.against_running {
        let socket = args.socket.as_ref().unwrap_or(&config.api_socket.value);
        return match against_running(socket, &config.text) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(failure) => failure.report(),
        };
    }
    print!("{}", plan(&config));
    println!("{}: {}", path.display(), verdict(&report));
    ExitCode::SUCCESS
}

/// Prints what a reload would change; whether it would be taken over.
fn against_running(socket: &Path, text: &str) -> Result<bool, Failure> {
    let preview: Preview = Connection::open(socket)?.post_text("/v1/preview", text)?;
    for line in preview.changes.iter().chain(&preview.lines) {
        println!("{line}");
    }
    println!(
        "{}",
        match (preview.is_accepted, preview.changes.is_empty()) {
            (true, true) => "nothing differs from the configuration in use",
            (true, false) => "a reload would take this over while traffic goes on",
            (false, _) => "a reload would keep the configuration in use",
        }
    );
    Ok(preview.is_accepted)
}

fn refuse(report: &Report) -> ExitCode {
    eprint!("{report}");
    eprintln!("gate64: {}", summary(report));
    ExitCode::FAILURE
}

/// One line that says how many errors there are.
pub fn summary(report: &Report) -> String {
    let errors = report.count(Severity::Error);
    let plural = if errors == 1 { "" } else { "s" };
    format!("{errors} error{plural} in the configuration, nothing was touched")
}

fn verdict(report: &Report) -> String {
    match report.count(Severity::Warning) {
        0 => "ok".to_owned(),
        1 => "ok, with 1 warning".to_owned(),
        n => format!("ok, with {n} warnings"),
    }
}

/// What would be attached and listened on, in words.
fn plan(config: &Config) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "role        {}", config.roles());
    if config.has_nat64() {
        write_nat64(&mut out, config);
    }
    if let Some(share) = &config.share {
        let (upstream, downstream) = (&share.upstream.value, &share.downstream.value);
        let _ = writeln!(
            out,
            "share       {downstream} behind the IPv4 address of {upstream}"
        );
    }
    if let Some(dns64) = &config.dns64 {
        let listen: Vec<String> = dns64.listen.iter().map(ToString::to_string).collect();
        let upstream: Vec<String> = match dns64.recursive {
            Some(_) => vec!["the root servers and all below".to_owned()],
            None => dns64.upstream.iter().map(ToString::to_string).collect(),
        };
        let _ = writeln!(
            out,
            "dns64       {} to {}",
            listen.join(", "),
            upstream.join(", ")
        );
    }
    let _ = writeln!(out, "metrics     http://{}/metrics", config.metrics.value);
    let _ = writeln!(out, "api         {}", config.api_socket.value.display());
    out
}

fn write_nat64(out: &mut String, config: &Config) {
    let prefixes: Vec<String> = config.pref64.iter().map(ToString::to_string).collect();
    let _ = writeln!(out, "pref64      {}", prefixes.join(", "));
    for interface in &config.interfaces {
        let interface = &interface.value;
        let mode = match interface.xdp_mode {
            XdpModeChoice::Auto => "XDP native, or generic",
            XdpModeChoice::Native => "XDP native",
            XdpModeChoice::Generic => "XDP generic",
        };
        let copy = match interface.zero_copy {
            AutoOnOff::Auto => "zero-copy where the driver can",
            AutoOnOff::On => "zero-copy",
            AutoOnOff::Off => "copy",
        };
        let vlan = interface
            .vlan
            .map_or(String::new(), |id| format!(", VLAN {id}"));
        let _ = writeln!(out, "interface   {}: {mode}, {copy}{vlan}", interface.name);
    }
    for pool in &config.pools {
        let _ = writeln!(out, "pool4       {}", pool_text(&pool.value));
    }
    let workers = match &config.dataplane.workers.value {
        Workers::Auto => "one per RX queue".to_owned(),
        Workers::Cpus(cpus) => format!("{} on CPUs {cpus:?}", cpus.len()),
    };
    let _ = writeln!(out, "workers     {workers}");
    let _ = writeln!(
        out,
        "sessions    {} at most",
        config.dataplane.session_count_max
    );
    write_memory(out, config);
}

/// The memory plan, as if one worker had all sessions.
fn write_memory(out: &mut String, config: &Config) {
    // Without an address for the pool there is nothing to plan; that was reported already.
    let Ok(nat64) = run::nat64_config(config) else {
        return;
    };
    let sessions = u64::from(config.dataplane.session_count_max);
    let plan = run::memory::plan(&Arc::new(nat64), sessions);
    let mib = |octets: u64| octets.div_ceil(1 << 20);
    let _ = writeln!(
        out,
        "memory      {} MiB reserved, resident when used:",
        mib(plan.total())
    );
    for (name, octets) in &plan.terms {
        let _ = writeln!(out, "            {:>6} MiB  {name}", mib(*octets));
    }
}

fn pool_text(pool: &Pool4Source) -> String {
    let ports = pool.ports();
    let ports = format!("ports {}-{}", ports.start(), ports.end());
    match pool {
        Pool4Source::Prefix(p) => {
            let count = (1_u64 << (32 - p.length)) - p.exclude.len() as u64;
            format!("{}/{}: {count} addresses, {ports}", p.address, p.length)
        }
        Pool4Source::Interface { name, .. } => {
            format!("the address of {name}, shared with the host: {ports}")
        }
    }
}
