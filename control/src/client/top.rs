//! `gate64 top`: rates of the last second, workers and drops, until Ctrl-C.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::show::print;
use super::table::{Column, render};
use super::units::{grouped, percent, scaled_float, seconds};
use crate::api::Query;
use crate::api::model::{Drop, Status, Worker};
use crate::exit::Failure;

const INTERVAL: Duration = Duration::from_secs(1);
/// Moves the cursor home and clears what is below: no flicker, unlike clearing the screen.
const HOME: &str = "\x1b[H\x1b[J";
const DROPS_MAX: usize = 12;

struct Look {
    at: Instant,
    status: Status,
    workers: Vec<Worker>,
    drops: Vec<Drop>,
}

fn look(api: &mut Connection) -> Result<Look, Failure> {
    let all = Query::default();
    Ok(Look {
        at: Instant::now(),
        status: api.get("/v1/status", &all)?,
        workers: api.get("/v1/workers", &all)?,
        drops: api.get("/v1/drops", &all)?,
    })
}

/// Runs until it is interrupted or gate64 stops.
pub fn run(api: &mut Connection) -> Result<(), Failure> {
    let mut before = look(api)?;
    loop {
        std::thread::sleep(INTERVAL);
        let now = look(api)?;
        print(&format!("{HOME}{}", screen(&before, &now)))?;
        before = now;
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn rate(before: u64, now: u64, passed: Duration, unit: &str) -> String {
    let difference = now.saturating_sub(before) as f64;
    scaled_float(difference / passed.as_secs_f64().max(0.001), unit)
}

fn screen(before: &Look, now: &Look) -> String {
    let passed = now.at.duration_since(before.at);
    let (old, new) = (&before.status, &now.status);
    let state = match new.not_ready.as_slice() {
        [] => "ready".to_owned(),
        problems => format!("not ready: {}", problems.join("; ")),
    };
    let sessions = new.sessions.udp + new.sessions.tcp + new.sessions.icmp;
    let mut parts = vec![
        format!(
            "gate64 {}  up {}  {state}",
            new.version,
            seconds(new.uptime_seconds)
        ),
        format!(
            "sessions {} of {} ({})   udp {}  tcp {}  icmp {}   {} new   subscribers {}   blocks {}",
            grouped(sessions),
            grouped(new.session_capacity),
            percent(sessions, new.session_capacity),
            grouped(new.sessions.udp),
            grouped(new.sessions.tcp),
            grouped(new.sessions.icmp),
            rate(old.sessions_created, new.sessions_created, passed, "/s"),
            grouped(new.subscribers),
            percent(new.port_blocks_used, new.port_blocks_total)
        ),
        String::new(),
        render(&DIRECTIONS, direction_rows(old, new, passed)),
        String::new(),
        render(&WORKERS, worker_rows(before, now, passed)),
    ];
    let drops = drop_rows(before, now, passed);
    if !drops.is_empty() {
        parts.push(String::new());
        parts.push(render(&DROPS, drops));
    }
    parts.join("\n")
}

const DIRECTIONS: [Column; 4] = [
    ("DIRECTION", false),
    ("PACKETS", true),
    ("BITS", true),
    ("DROPPED", true),
];

fn direction_rows(old: &Status, new: &Status, passed: Duration) -> Vec<Vec<String>> {
    let row = |name: &str, of: fn(&crate::api::model::Directions) -> u64| {
        let packets = (of(&old.packets_forwarded), of(&new.packets_forwarded));
        let bytes = (of(&old.bytes_forwarded), of(&new.bytes_forwarded));
        let dropped = (of(&old.packets_dropped), of(&new.packets_dropped));
        vec![
            name.to_owned(),
            rate(packets.0, packets.1, passed, "/s"),
            rate(bytes.0 * 8, bytes.1 * 8, passed, "bit/s"),
            rate(dropped.0, dropped.1, passed, "/s"),
        ]
    };
    vec![
        row("v6 to v4", |d| d.v6_to_v4),
        row("v4 to v6", |d| d.v4_to_v6),
    ]
}

const WORKERS: [Column; 6] = [
    ("WORKER", true),
    ("CPU", true),
    ("BUSY", true),
    ("SESSIONS", true),
    ("FORWARDED", true),
    ("DROPPED", true),
];

fn worker_rows(before: &Look, now: &Look, passed: Duration) -> Vec<Vec<String>> {
    let pairs = before.workers.iter().zip(&now.workers);
    pairs
        .map(|(old, new)| {
            vec![
                new.worker.to_string(),
                new.cpu.map_or("-".to_owned(), |cpu| cpu.to_string()),
                format!("{:.1} %", new.busy_ratio * 100.0),
                grouped(new.sessions),
                rate(old.packets_forwarded, new.packets_forwarded, passed, "/s"),
                rate(old.packets_dropped, new.packets_dropped, passed, "/s"),
            ]
        })
        .collect()
}

const DROPS: [Column; 4] = [
    ("DROPPED FOR", false),
    ("V6 TO V4", true),
    ("V4 TO V6", true),
    ("NOW", true),
];

fn drop_rows(before: &Look, now: &Look, passed: Duration) -> Vec<Vec<String>> {
    let total = |d: &Drop| d.v6_to_v4 + d.v4_to_v6;
    let mut pairs: Vec<(&Drop, &Drop)> = before
        .drops
        .iter()
        .zip(&now.drops)
        .filter(|(_, new)| total(new) > 0)
        .collect();
    pairs.sort_by_key(|(_, new)| std::cmp::Reverse(total(new)));
    pairs
        .into_iter()
        .take(DROPS_MAX)
        .map(|(old, new)| {
            vec![
                new.reason.clone(),
                grouped(new.v6_to_v4),
                grouped(new.v4_to_v6),
                rate(total(old), total(new), passed, "/s"),
            ]
        })
        .collect()
}
