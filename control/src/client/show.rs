//! `gate64 show` and `gate64 status`: the API's JSON as it is, or as tables.

use std::io::{self, Write as _};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::connection::Connection;
use super::table::{Column, render};
use super::units::{grouped, percent, scaled, seconds};
use crate::api::Query;
use crate::api::model::{self, Listing};
use crate::cli::{ShowArgs, ShowWhat};
use crate::exit::Failure;

/// Rows asked for at a time.
const PAGE_ROWS: usize = 256;

/// Prints a line; a reader that went away (`| head`) ends the command quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::Failed(format!("cannot write: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints JSON.
pub fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
    print(&text)
}

/// What is shown.
pub fn show(api: &mut Connection, args: &ShowArgs) -> Result<(), Failure> {
    let json = args.api.json;
    match &args.what {
        ShowWhat::Sessions(rows) => listing(
            api,
            "/v1/sessions",
            &rows.query(),
            rows.limit,
            json,
            &SESSIONS,
            session_row,
        ),
        ShowWhat::Bib { filter, limit } => {
            listing(api, "/v1/bib", &filter.query(), *limit, json, &BIB, bib_row)
        }
        ShowWhat::Pool { v4, limit } => listing(
            api,
            "/v1/pool",
            &Query {
                v4: v4.clone(),
                ..Query::default()
            },
            *limit,
            json,
            &POOL,
            pool_row,
        ),
        ShowWhat::Subscribers { v6, v4, top, limit } => listing(
            api,
            "/v1/subscribers",
            &Query {
                v6: v6.clone(),
                v4: v4.clone(),
                top: top.clone(),
                ..Query::default()
            },
            *limit,
            json,
            &SUBSCRIBERS,
            subscriber_row,
        ),
        ShowWhat::Blocks {
            v6,
            v4,
            port,
            limit,
        } => listing(
            api,
            "/v1/blocks",
            &Query {
                v6: v6.clone(),
                v4: v4.clone(),
                port: *port,
                ..Query::default()
            },
            *limit,
            json,
            &BLOCKS,
            block_row,
        ),
        ShowWhat::Workers => whole(api, "/v1/workers", json, &WORKERS, worker_row),
        ShowWhat::Drops { all } => drops(api, *all, json),
        ShowWhat::Interfaces => whole(api, "/v1/interfaces", json, &INTERFACES, interface_row),
        ShowWhat::Neighbors => whole(api, "/v1/neighbors", json, &NEIGHBORS, neighbor_row),
        ShowWhat::Config => config(api, json),
        ShowWhat::Dns => dns(api, json),
    }
}

/// A listing that comes in pages.
fn listing<T: DeserializeOwned + Serialize>(
    api: &mut Connection,
    path: &str,
    query: &Query,
    limit: usize,
    json: bool,
    columns: &[Column],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    let mut query = query.clone();
    // 0 asks for everything.
    let wanted = if limit == 0 { usize::MAX } else { limit };
    let mut rows: Vec<T> = Vec::new();
    let more = loop {
        query.limit = Some(PAGE_ROWS.min(wanted - rows.len()));
        let page: Listing<T> = api.get(path, &query)?;
        rows.extend(page.rows);
        let Some(next) = page.next else {
            break false;
        };
        if rows.len() >= wanted {
            break true;
        }
        query.cursor = Some(next);
    };
    if json {
        return print_json(&rows);
    }
    if rows.is_empty() {
        return print("none");
    }
    print(&render(columns, rows.iter().map(row).collect()))?;
    if more {
        eprintln!("… more than {limit}: --limit 0 shows all");
    }
    Ok(())
}

/// A list that comes at once.
fn whole<T: DeserializeOwned + Serialize>(
    api: &mut Connection,
    path: &str,
    json: bool,
    columns: &[Column],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    let rows: Vec<T> = api.get(path, &Query::default())?;
    if json {
        return print_json(&rows);
    }
    if rows.is_empty() {
        return print("none");
    }
    print(&render(columns, rows.iter().map(row).collect()))
}

const SESSIONS: [Column; 8] = [
    ("PROTO", false),
    ("CLIENT", false),
    ("POOL", false),
    ("PEER", false),
    ("STATE", false),
    ("AGE", true),
    ("EXPIRES", true),
    ("WORKER", true),
];

fn session_row(s: &model::Session) -> Vec<String> {
    vec![
        s.protocol.clone(),
        s.v6.clone(),
        s.v4.clone(),
        s.v4_remote.clone(),
        if s.state.is_empty() {
            "-".to_owned()
        } else {
            s.state.clone()
        },
        seconds(s.age_seconds.into()),
        seconds(s.expires_in_seconds.into()),
        s.worker.to_string(),
    ]
}

const BIB: [Column; 6] = [
    ("PROTO", false),
    ("CLIENT", false),
    ("POOL", false),
    ("KIND", false),
    ("SESSIONS", true),
    ("WORKER", true),
];

fn bib_row(b: &model::Bib) -> Vec<String> {
    vec![
        b.protocol.clone(),
        b.v6.clone(),
        b.v4.clone(),
        if b.is_static { "static" } else { "dynamic" }.to_owned(),
        grouped(b.session_count.into()),
        b.worker.to_string(),
    ]
}

const POOL: [Column; 12] = [
    ("ADDRESS", false),
    ("POOL", false),
    ("STATE", false),
    ("BLOCKS USED", true),
    ("RESTING", true),
    ("BLOCKS", true),
    ("USE", true),
    ("SUBSCRIBERS", true),
    ("UDP PORTS", true),
    ("TCP PORTS", true),
    ("ICMP IDS", true),
    ("WORKER", true),
];

fn pool_row(p: &model::PoolAddress) -> Vec<String> {
    vec![
        p.v4.to_string(),
        p.pool.clone(),
        p.state.clone(),
        grouped(p.blocks_used.into()),
        grouped(p.blocks_resting.into()),
        grouped(p.blocks_total.into()),
        percent(p.blocks_used.into(), p.blocks_total.into()),
        grouped(p.subscribers.into()),
        grouped(p.ports_used.udp.into()),
        grouped(p.ports_used.tcp.into()),
        grouped(p.ports_used.icmp.into()),
        p.worker.to_string(),
    ]
}

const BLOCKS: [Column; 9] = [
    ("ADDRESS", false),
    ("PORTS", false),
    ("POOL", false),
    ("USE", false),
    ("SUBSCRIBER", false),
    ("UDP PORTS", true),
    ("TCP PORTS", true),
    ("ICMP IDS", true),
    ("HELD FOR", true),
];

fn block_row(b: &model::Block) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    vec![
        b.v4.to_string(),
        format!("{}-{}", b.first, b.last),
        b.pool.clone(),
        b.block_use.clone(),
        or_dash(&b.subscriber),
        grouped(b.ports_used.udp.into()),
        grouped(b.ports_used.tcp.into()),
        grouped(b.ports_used.icmp.into()),
        match b.subscriber.is_empty() {
            true => "-".to_owned(),
            false => seconds(b.held_seconds.into()),
        },
    ]
}

const SUBSCRIBERS: [Column; 10] = [
    ("SUBSCRIBER", false),
    ("CLASS", false),
    ("POOL ADDRESS", false),
    ("PORT BLOCKS", false),
    ("SESSIONS", true),
    ("UDP PORTS", true),
    ("TCP PORTS", true),
    ("ICMP IDS", true),
    ("REFUSED", true),
    ("WORKER", true),
];

fn subscriber_row(s: &model::Subscriber) -> Vec<String> {
    let blocks: Vec<String> = s
        .blocks
        .iter()
        .map(|b| format!("{}-{}", b.first, b.last))
        .collect();
    vec![
        s.prefix.clone(),
        match (s.deterministic, s.class.as_str()) {
            (true, "") => "deterministic".to_owned(),
            (true, class) => format!("{class}, deterministic"),
            (false, "") => "-".to_owned(),
            (false, class) => class.to_owned(),
        },
        s.v4.to_string(),
        blocks.join(" "),
        grouped(s.session_count.into()),
        grouped(s.ports_used.udp.into()),
        grouped(s.ports_used.tcp.into()),
        grouped(s.ports_used.icmp.into()),
        grouped(s.refusals),
        s.worker.to_string(),
    ]
}

const WORKERS: [Column; 13] = [
    ("WORKER", true),
    ("CPU", true),
    ("STATE", false),
    ("BUSY", true),
    ("SESSIONS", true),
    ("FORWARDED", true),
    ("DROPPED", true),
    ("HANDED OFF", true),
    ("BY QUEUE", true),
    ("ICMP ERROR", true),
    ("FRAGMENT", true),
    ("HAIRPIN", true),
    ("HANDED OVER", true),
];

fn worker_row(w: &model::Worker) -> Vec<String> {
    vec![
        w.worker.to_string(),
        w.cpu.map_or("-".to_owned(), |cpu| cpu.to_string()),
        if w.is_alive { "turning" } else { "stuck" }.to_owned(),
        format!("{:.1} %", w.busy_ratio * 100.0),
        grouped(w.sessions),
        grouped(w.packets_forwarded),
        grouped(w.packets_dropped),
        format!("{} ({})", grouped(w.handed_off), share(w)),
        grouped(w.handed_off_reasons.queue),
        grouped(w.handed_off_reasons.icmp_error),
        grouped(w.handed_off_reasons.fragment),
        grouped(w.handed_off_reasons.hairpin),
        grouped(w.handed_over),
    ]
}

/// The part of what came to a worker's own queues that it handed to others.
fn share(w: &model::Worker) -> String {
    let own = w.packets_forwarded + w.packets_dropped + w.handed_off;
    let own = own.saturating_sub(w.handed_over);
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let percent = w.handed_off as f64 * 100.0 / own.max(1) as f64;
    format!("{:.1} %", percent.min(100.0))
}

const DROPS: [Column; 4] = [
    ("REASON", false),
    ("V6 TO V4", true),
    ("V4 TO V6", true),
    ("WHAT IT MEANS", false),
];

fn drops(api: &mut Connection, all: bool, json: bool) -> Result<(), Failure> {
    let drops: Vec<model::Drop> = api.get("/v1/drops", &Query::default())?;
    if json {
        return print_json(&drops);
    }
    let happened = |d: &&model::Drop| all || d.v6_to_v4 + d.v4_to_v6 > 0;
    let rows: Vec<Vec<String>> = drops.iter().filter(happened).map(drop_row).collect();
    if rows.is_empty() {
        return print("no packet was dropped");
    }
    print(&render(&DROPS, rows))
}

fn drop_row(d: &model::Drop) -> Vec<String> {
    vec![
        d.reason.clone(),
        grouped(d.v6_to_v4),
        grouped(d.v4_to_v6),
        d.sentence.clone(),
    ]
}

const INTERFACES: [Column; 9] = [
    ("INTERFACE", false),
    ("STATE", false),
    ("XDP", false),
    ("FRAMES", false),
    ("QUEUES", true),
    ("MTU", true),
    ("DRIVER", false),
    ("ADDRESSES", false),
    ("NOTES", false),
];

fn interface_row(i: &model::Interface) -> Vec<String> {
    let name = match i.vlan {
        Some(id) => format!("{} (VLAN {id})", i.name),
        None => i.name.clone(),
    };
    vec![
        name,
        if i.is_up { "up" } else { "down" }.to_owned(),
        i.xdp_mode.clone(),
        match (i.zero_copy, i.busy_poll) {
            (true, true) => "zero-copy, busy polling",
            (true, false) => "zero-copy",
            (false, true) => "copied, busy polling",
            (false, false) => "copied",
        }
        .to_owned(),
        i.queues.to_string(),
        i.mtu.to_string(),
        i.driver.clone(),
        i.addresses.join(" "),
        i.notes.join("; "),
    ]
}

const NEIGHBORS: [Column; 3] = [("NEIGHBOUR", false), ("INTERFACE", false), ("MAC", false)];

const DNS_OUTCOMES: [Column; 4] = [
    ("TRANSPORT", false),
    ("TYPE", false),
    ("OUTCOME", false),
    ("QUERIES", true),
];

fn neighbor_row(n: &model::Neighbor) -> Vec<String> {
    let mac = if n.mac.is_empty() {
        "unresolved"
    } else {
        &n.mac
    };
    vec![n.ip.clone(), n.interface.clone(), mac.to_owned()]
}

fn config(api: &mut Connection, json: bool) -> Result<(), Failure> {
    let config: model::ConfigText = api.get("/v1/config", &Query::default())?;
    if json {
        return print_json(&config);
    }
    print(&format!("# {}\n{}", config.path, config.text.trim_end()))
}

/// `gate64 status`.
pub fn status(api: &mut Connection, json: bool) -> Result<(), Failure> {
    let status: model::Status = api.get("/v1/status", &Query::default())?;
    if json {
        return print_json(&status);
    }
    print(&status_text(&status))
}

/// The gateway at a glance, a line for each thing.
pub fn status_text(s: &model::Status) -> String {
    let mut lines = vec![
        format!(
            "gate64 {}, process {}, up {}",
            s.version,
            s.pid,
            seconds(s.uptime_seconds)
        ),
        format!("role         {}", s.roles),
        format!("config       {}", s.config),
    ];
    match s.not_ready.as_slice() {
        [] => lines.push("ready        yes".to_owned()),
        problems => lines.push(format!("ready        no: {}", problems.join("; "))),
    }
    lines.extend(s.alarms.iter().map(|text| format!("alarm        {text}")));
    if s.workers > 0 {
        lines.extend(nat64_lines(s));
    }
    if let Some(dns64) = &s.dns64 {
        lines.extend(dns64_lines(dns64));
    }
    lines.join("\n")
}

fn nat64_lines(s: &model::Status) -> Vec<String> {
    let sessions = s.sessions.udp + s.sessions.tcp + s.sessions.icmp;
    vec![
        format!("pref64       {}", s.pref64.join(", ")),
        format!("workers      {}", s.workers),
        format!("routes       {} IPv4, {} IPv6", s.routes.0, s.routes.1),
        format!(
            "sessions     {} of {} ({}): {} udp, {} tcp, {} icmp; {} created",
            grouped(sessions),
            grouped(s.session_capacity),
            percent(sessions, s.session_capacity),
            grouped(s.sessions.udp),
            grouped(s.sessions.tcp),
            grouped(s.sessions.icmp),
            grouped(s.sessions_created)
        ),
        format!(
            "subscribers  {} with {} of {} port blocks ({})",
            grouped(s.subscribers),
            grouped(s.port_blocks_used),
            grouped(s.port_blocks_total),
            percent(s.port_blocks_used, s.port_blocks_total)
        ),
        direction_line("v6 to v4", s, |d| d.v6_to_v4),
        direction_line("v4 to v6", s, |d| d.v4_to_v6),
    ]
}

fn direction_line(name: &str, s: &model::Status, of: impl Fn(&model::Directions) -> u64) -> String {
    format!(
        "{name}     {} packets, {} forwarded; {} dropped",
        grouped(of(&s.packets_forwarded)),
        scaled(of(&s.bytes_forwarded), "B"),
        grouped(of(&s.packets_dropped))
    )
}

fn dns(api: &mut Connection, json: bool) -> Result<(), Failure> {
    let dns64: model::Dns64 = api.get("/v1/dns", &Query::default())?;
    if json {
        return print_json(&dns64);
    }
    let ratio = |part: u64, rest: u64| percent(part, part + rest);
    let mut lines = dns64_lines(&dns64);
    lines.push(format!(
        "cache        {} answers; {} of {} look-ups found theirs in it",
        grouped(dns64.cache_entries),
        ratio(dns64.cache_hits, dns64.cache_misses),
        grouped(dns64.cache_hits + dns64.cache_misses),
    ));
    lines.push(format!(
        "ready-made   {} answers in {}; {} of the queries got one",
        grouped(dns64.wire_cache_entries),
        scaled(dns64.wire_cache_octets, "B"),
        ratio(
            dns64.wire_cache_hits,
            dns64.queries.saturating_sub(dns64.wire_cache_hits)
        ),
    ));
    lines.push(format!(
        "under way    {} clients wait, {} questions are at the upstreams",
        grouped(dns64.clients_waiting),
        grouped(dns64.upstream_in_flight),
    ));
    print(&lines.join("\n"))?;
    if dns64.outcomes.is_empty() {
        return Ok(());
    }
    let rows = dns64.outcomes.iter().map(|row| {
        vec![
            row.transport.clone(),
            row.qtype.clone(),
            row.outcome.clone(),
            grouped(row.queries),
        ]
    });
    print(&render(&DNS_OUTCOMES, rows.collect()))
}

fn dns64_lines(dns64: &model::Dns64) -> Vec<String> {
    let states = dns64.upstreams.iter().map(|up| match up.is_up {
        true => up.target.clone(),
        false => format!("{} (does not answer)", up.target),
    });
    let upstreams: Vec<String> = match dns64.upstreams.is_empty() {
        true => vec!["the root servers and all below".to_owned()],
        false => states.collect(),
    };
    vec![
        format!(
            "dns64        {} to {}",
            dns64.listen.join(", "),
            upstreams.join(", ")
        ),
        format!(
            "dns queries  {}; {} answers synthesised",
            grouped(dns64.queries),
            grouped(dns64.synthesized)
        ),
    ]
}
