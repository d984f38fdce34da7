//! `[dataplane]` and `[[interface]]`.

use std::time::Duration;

use gate64_dataplane::config::{AutoOnOff, InterfaceConfig, L4Checksum, XdpModeChoice};
use gate64_dataplane::worker::Idle;
use toml::de::DeValue;

use super::problem::{Problem, Report, Severity};
use super::reader::{Located, Table, Wrong, bounds_text, integer};
use super::values::duration;

/// Sessions are numbered with 32 bits, two of them kept for marks.
const SESSION_COUNT_MAX: i64 = 1 << 30;
/// IFNAMSIZ of the kernel, with its closing zero.
const INTERFACE_NAME_MAX: usize = 15;
/// Interfaces are numbered with one octet, and one number means none.
const INTERFACE_COUNT_MAX: usize = 255;

/// Which cores workers run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// One per RX queue.
    Auto,
    /// These CPUs.
    Cpus(Vec<usize>),
}

/// `[dataplane]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataplaneSettings {
    /// Which cores workers run on.
    pub workers: Located<Workers>,
    /// Sessions over all workers.
    pub session_count_max: u32,
    /// Whether the operator chose that number: then it does not shrink to fit memory.
    pub session_count_is_explicit: bool,
    /// Huge pages for frames and sessions.
    pub hugepages: AutoOnOff,
    /// Time without traffic after which a worker sleeps; `None`: never.
    pub idle_after: Option<Duration>,
    /// Pool addresses that memory is reserved for; `None`: somewhat more than there are.
    pub pool4_address_count_max: Option<u32>,
}

/// "auto", "on", "off".
pub const AUTO_ON_OFF: [(&str, AutoOnOff); 3] = [
    ("auto", AutoOnOff::Auto),
    ("on", AutoOnOff::On),
    ("off", AutoOnOff::Off),
];

/// Reads `[dataplane]`.
pub fn read_dataplane(report: &mut Report, mut table: Table<'_, '_>) -> DataplaneSettings {
    let accepted = "\"auto\", or a list of CPU numbers such as [2, 3]";
    let workers = table.value(report, "workers", Workers::Auto, accepted, read_workers);
    let sessions = table.integer(
        report,
        "session_count_max",
        1_000_000,
        64..=SESSION_COUNT_MAX,
    );
    let hugepages = table.word(report, "hugepages", AutoOnOff::Auto, &AUTO_ON_OFF);
    let accepted = "\"off\", or a duration in quotes from 1ms to 1m";
    let idle_after = table.parsed(
        report,
        "idle_after",
        Idle::default().after,
        accepted,
        idle_after,
    );
    let bounds = 1..=1 << 20;
    let accepted = format!("\"auto\", or {}", bounds_text(&bounds));
    let addresses = table.value(
        report,
        "pool4_address_count_max",
        None,
        &accepted,
        |value| match value.as_str() {
            Some("auto") => Ok(None),
            Some(_) => Err(Wrong::Value),
            None => integer(value, &bounds).map(Some),
        },
    );
    table.finish(report);
    DataplaneSettings {
        pool4_address_count_max: addresses.value,
        workers,
        session_count_max: sessions.value,
        session_count_is_explicit: sessions.is_explicit(),
        hugepages: hugepages.value,
        idle_after: idle_after.value,
    }
}

fn idle_after(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" {
        return Ok(None);
    }
    let after = duration(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&after) {
        Ok(Some(after))
    } else {
        Err("too short or too long".to_owned())
    }
}

fn read_workers(value: &DeValue<'_>) -> Result<Workers, Wrong> {
    if let Some(text) = value.as_str() {
        return match text {
            "auto" => Ok(Workers::Auto),
            _ => Err(Wrong::Value),
        };
    }
    let items = value.as_array().ok_or(Wrong::Type)?;
    let mut cpus = Vec::new();
    for item in items.iter() {
        let cpu: u16 = integer(item.get_ref(), &(0..=4095))?;
        let cpu = usize::from(cpu);
        if cpus.contains(&cpu) {
            return Err(Wrong::Because(format!("CPU {cpu} is named twice")));
        }
        cpus.push(cpu);
    }
    match cpus.len() {
        0 => Err(Wrong::Because("it is empty".to_owned())),
        1..=255 => Ok(Workers::Cpus(cpus)),
        _ => Err(Wrong::Because("there are at most 255 workers".to_owned())),
    }
}

/// Reads every `[[interface]]`.
pub fn read_interfaces(
    report: &mut Report,
    tables: Vec<Table<'_, '_>>,
) -> Vec<Located<InterfaceConfig>> {
    let mut interfaces: Vec<Located<InterfaceConfig>> = Vec::new();
    for table in tables {
        let Some(interface) = read_interface(report, table) else {
            continue;
        };
        let name = &interface.value.name;
        let twice = interfaces.iter().any(|other| other.value.name == *name);
        if twice {
            report.push(Problem {
                severity: Severity::Error,
                key: interface.key.clone(),
                message: format!("{name:?} is named twice"),
                span: interface.span.clone(),
                help: Some("one [[interface]] carries both sides: name it once".to_owned()),
            });
        }
        interfaces.push(interface);
    }
    if let Some(one_too_many) = interfaces.get(INTERFACE_COUNT_MAX) {
        report.push(Problem {
            severity: Severity::Error,
            key: "interface".to_owned(),
            message: format!("{} interfaces", interfaces.len()),
            span: one_too_many.span.clone(),
            help: Some(format!("accepted: at most {INTERFACE_COUNT_MAX}")),
        });
    }
    interfaces
}

fn read_interface(
    report: &mut Report,
    mut table: Table<'_, '_>,
) -> Option<Located<InterfaceConfig>> {
    let accepted = "the name of a network interface, 1 to 15 characters";
    let name = table.optional(report, "name", accepted, read_name);
    if name.is_none() && !table.holds("name") {
        table.missing(
            report,
            "name",
            "write name = \"ens1f0\", as `ip link` shows it",
        );
    }
    let modes = [
        ("auto", XdpModeChoice::Auto),
        ("native", XdpModeChoice::Native),
        ("generic", XdpModeChoice::Generic),
    ];
    let checksums = [
        ("incremental", L4Checksum::Incremental),
        ("recompute", L4Checksum::Recompute),
    ];
    let xdp_mode = table.word(report, "xdp_mode", XdpModeChoice::Auto, &modes);
    let zero_copy = table.word(report, "zero_copy", AutoOnOff::Auto, &AUTO_ON_OFF);
    let busy_poll = table.word(report, "busy_poll", AutoOnOff::Auto, &AUTO_ON_OFF);
    let accepted = format!("\"none\", or {}", bounds_text(&(1..=4094)));
    let vlan = table.value(report, "vlan", None, &accepted, read_vlan);
    let l4_checksum = table.word(report, "l4_checksum", L4Checksum::Incremental, &checksums);
    if xdp_mode.value == XdpModeChoice::Generic && zero_copy.value == AutoOnOff::On {
        report.push(Problem {
            severity: Severity::Error,
            key: zero_copy.key.clone(),
            message: "zero_copy = \"on\" with xdp_mode = \"generic\"".to_owned(),
            span: zero_copy.span.clone(),
            help: Some(
                "generic XDP always copies: leave zero_copy to \"auto\", or use \"native\""
                    .to_owned(),
            ),
        });
    }
    table.finish(report);
    let name = name?;
    Some(name.with(InterfaceConfig {
        name: name.value.clone(),
        xdp_mode: xdp_mode.value,
        zero_copy: zero_copy.value,
        busy_poll: busy_poll.value,
        vlan: vlan.value,
        l4_checksum: l4_checksum.value,
    }))
}

/// The name of an interface as the kernel allows it.
pub fn read_name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = value.as_str().ok_or(Wrong::Type)?;
    let allowed = |c: char| !c.is_whitespace() && c != '/' && c != ':';
    let is_name = !name.is_empty()
        && name.len() <= INTERFACE_NAME_MAX
        && name.chars().all(allowed)
        && name != "."
        && name != "..";
    if is_name {
        Ok(name.to_owned())
    } else {
        Err(Wrong::Value)
    }
}

fn read_vlan(value: &DeValue<'_>) -> Result<Option<u16>, Wrong> {
    match value.as_str() {
        Some("none") => Ok(None),
        Some(_) => Err(Wrong::Value),
        None => integer(value, &(1..=4094)).map(Some),
    }
}
