//! Collectors of other origin get what happened, record for record: nfcapd and nfacctd the IPFIX
//! sessions, tshark every IPFIX record strictly, rsyslogd the syslog over UDP, TCP and TLS. They
//! run on loopback; a missing one makes its test fail.
#![allow(missing_docs)]

mod collector;

use std::time::Duration;

use collector::{Collector, Scene, own_addr, wait_for};
use gate64_log::config::{SinkKind, Target};
use gate64_log::{BlockAction, EventKind, SessionAction, What};
use serde_json::Value;

const ALL: [EventKind; 3] = [EventKind::Block, EventKind::Session, EventKind::Alarm];

fn ipfix() -> SinkKind {
    SinkKind::Ipfix {
        resend: Duration::from_secs(1),
    }
}

/// nfcapd 1.7 stores sessions whole, and drops the port ranges of block events.
#[tokio::test(flavor = "multi_thread")]
async fn nfcapd_gets_every_session() {
    let addr = own_addr();
    let place = tempfile::tempdir().unwrap();
    let flows = place.path().join("flows");
    std::fs::create_dir(&flows).unwrap();
    let directory = flows.to_str().unwrap();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let arguments = ["-b", &ip, "-p", &port, "-w", directory, "-t", "3600"];
    let nfcapd = Collector::start("nfcapd", &arguments, place.path()).await;
    collector::wait_for_udp(addr).await;
    let scene = Scene::new(120);
    let target = Target::Udp(addr.into());
    scene.send(ipfix(), target, &[EventKind::Session]).await;
    collector::wait_until_read(addr).await;
    nfcapd.stop().await;

    let text = collector::output("nfdump", &["-o", "json", "-R", directory]).await;
    let flows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut found: Vec<String> = flows.iter().map(nfdump_line).collect();
    let mut expected = scene.lines(|what| match what {
        What::Session(action, one) => {
            let name = match action {
                SessionAction::Created => "NAT64 session create",
                SessionAction::Deleted => "NAT64 session delete",
            };
            Some(format!(
                "{name} {} {} {} {} {} {}",
                one.v6.ip,
                one.v6.port,
                one.v4.ip,
                one.v4.port,
                one.v4_remote.ip,
                one.v4_remote.port
            ))
        }
        _ => None,
    });
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

fn nfdump_line(flow: &Value) -> String {
    let text = |name: &str| match &flow[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!(
        "{} {} {} {} {} {} {}",
        text("nat_event"),
        text("src6_addr"),
        text("src_port"),
        text("src4_xlt_ip"),
        text("src_xlt_port"),
        text("dst4_xlt_ip"),
        text("dst_xlt_port"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nfacctd_gets_every_session() {
    let addr = own_addr();
    let (ip, port) = (addr.ip(), addr.port());
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let out = path("flows");
    let configuration = format!(
        "daemonize: false\nnfacctd_ip: {ip}\nnfacctd_port: {port}\nplugins: print\n\
         aggregate: src_host, dst_host, src_port, dst_port, post_nat_src_host, post_nat_dst_host, \
         post_nat_src_port, post_nat_dst_port, nat_event, proto\n\
         print_output: json\nprint_output_file: {out}\nprint_refresh_time: 1\n\
         print_output_file_append: true\n"
    );
    std::fs::write(path("nfacctd.conf"), configuration).unwrap();
    let nfacctd = Collector::start("nfacctd", &["-f", &path("nfacctd.conf")], place.path()).await;
    collector::wait_for_udp(addr).await;
    let scene = Scene::new(60);
    let target = Target::Udp(addr.into());
    scene.send(ipfix(), target, &[EventKind::Session]).await;
    let expected = {
        let mut lines = scene.lines(|what| match what {
            What::Session(action, one) => Some(format!(
                "{} {} {} {} {} {} {}",
                match action {
                    SessionAction::Created => 6,
                    SessionAction::Deleted => 7,
                },
                one.v6.ip,
                one.v6.port,
                one.v4.ip,
                one.v4.port,
                one.v4_remote.ip,
                one.v4_remote.port,
            )),
            _ => None,
        });
        lines.sort();
        lines
    };
    let read = || {
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        let mut found: Vec<String> = text.lines().filter_map(nfacctd_line).collect();
        found.sort();
        found
    };
    wait_for("nfacctd's flows", || read().len() >= expected.len()).await;
    nfacctd.interrupt().await;
    assert_eq!(read(), expected);
}

fn nfacctd_line(line: &str) -> Option<String> {
    let flow: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| match &flow[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(format!(
        "{} {} {} {} {} {} {}",
        text("nat_event"),
        text("ip_src"),
        text("port_src"),
        text("post_nat_ip_src"),
        text("post_nat_port_src"),
        text("post_nat_ip_dst"),
        text("post_nat_port_dst"),
    ))
}

/// Every record of every kind, over UDP and over TCP, as the octets on the wire say to tshark.
#[tokio::test(flavor = "multi_thread")]
async fn tshark_decodes_every_record() {
    for over_tcp in [false, true] {
        let scene = Scene::new(40);
        let octets = collector::receive(&scene, ipfix(), over_tcp, &ALL).await;
        let rows = collector::tshark(&octets, over_tcp).await;
        let found: Vec<String> = rows.iter().filter_map(tshark_line).collect();
        let expected = scene.lines(|what| match what {
            What::Session(action, one) => Some(format!(
                "{} {} {}:{} {}:{}",
                match action {
                    SessionAction::Created => 6,
                    SessionAction::Deleted => 7,
                },
                one.v6.ip,
                one.v4.ip,
                one.v4.port,
                one.v4_remote.ip,
                one.v4_remote.port,
            )),
            What::Block(action, block) => Some(format!(
                "{} {} {}:{}-{} {}",
                match action {
                    BlockAction::Released => 17,
                    _ => 16,
                },
                block.subscriber,
                block.v4,
                block.port_first,
                block.port_last(),
                block.port_count,
            )),
            What::Alarm(alarm) => Some(format!("18 {}", if alarm.raised { 1 } else { 2 })),
            _ => None,
        });
        assert_eq!(found, expected, "over TCP: {over_tcp}");
    }
}

/// A record as tshark names its fields.
fn tshark_line(row: &collector::Row) -> Option<String> {
    let field = |name: &str| row.get(name).cloned().unwrap_or_default();
    let event = field("cflow.nat_event");
    Some(match event.as_str() {
        "6" | "7" => format!(
            "{event} {} {}:{} {}:{}",
            field("cflow.srcaddrv6"),
            field("cflow.post_natsource_ipv4_address"),
            field("cflow.post_naptsource_transport_port"),
            field("cflow.post_natdestination_ipv4_address"),
            field("cflow.post_naptdestination_transport_port"),
        ),
        "16" | "17" => format!(
            "{event} {}/{} {}:{}-{} {}",
            field("cflow.srcaddrv6"),
            field("cflow.srcmaskv6"),
            field("cflow.post_natsource_ipv4_address"),
            field("cflow.port_range_start"),
            field("cflow.port_range_end"),
            field("cflow.port_range_num_ports"),
        ),
        "18" => format!("18 {}", field("cflow.nat_threshold_event")),
        _ => return None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslogd_gets_every_record_over_udp_tcp_and_tls() {
    for over in ["udp", "tcp", "tls"] {
        let place = tempfile::tempdir().unwrap();
        let (rsyslogd, target) = collector::rsyslogd(over, own_addr(), place.path()).await;
        let scene = Scene::new(50);
        scene
            .send(SinkKind::Syslog { facility: 16 }, target, &ALL)
            .await;
        let out = place.path().join("out");
        let read = || {
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            text.lines()
                .filter_map(without_sequence)
                .collect::<Vec<String>>()
        };
        let expected = scene.lines(syslog_line);
        wait_for("rsyslogd's lines", || read().len() >= expected.len()).await;
        rsyslogd.stop().await;
        let mut found = read();
        let mut expected = expected;
        if over == "udp" {
            // Several threads of rsyslogd take datagrams.
            found.sort();
            expected.sort();
        }
        assert_eq!(found, expected, "over {over}");
    }
}

/// The line without the record's number, if it is of a record that is compared.
fn without_sequence(line: &str) -> Option<String> {
    let (before, after) = line.split_once(" sequence=\"")?;
    let (_, after) = after.split_once('"')?;
    (!before.starts_with("LOG ")).then(|| format!("{before}{after}"))
}

/// What rsyslogd is told to write: MSGID, APP-NAME, facility, and the structured data.
fn syslog_line(what: &What) -> Option<String> {
    let (id, data) = match what {
        What::Block(action, block) => (
            "BLOCK",
            format!(
                "event=\"{}\" subscriber=\"{}\" v4=\"{}\" port_first=\"{}\" port_last=\"{}\"",
                match action {
                    BlockAction::Allocated => "block_allocated",
                    BlockAction::Live => "block_held",
                    BlockAction::Released => "block_released",
                },
                block.subscriber,
                block.v4,
                block.port_first,
                block.port_last(),
            ),
        ),
        What::Session(action, one) => (
            "SESSION",
            format!(
                "event=\"{}\" protocol=\"{}\" v6=\"{}\" v6_port=\"{}\" v6_remote=\"{}\" \
                 v6_remote_port=\"{}\" v4=\"{}\" v4_port=\"{}\" v4_remote=\"{}\" v4_remote_port=\"{}\"",
                match action {
                    SessionAction::Created => "session_created",
                    SessionAction::Deleted => "session_deleted",
                },
                one.protocol,
                one.v6.ip,
                one.v6.port,
                one.v6_remote.ip,
                one.v6_remote.port,
                one.v4.ip,
                one.v4.port,
                one.v4_remote.ip,
                one.v4_remote.port,
            ),
        ),
        What::Alarm(alarm) => (
            "ALARM",
            format!(
                "event=\"{}\" alarm=\"{}\" subject=\"{}\" used_percent=\"{}\" threshold_percent=\"{}\"",
                if alarm.raised {
                    "alarm_raised"
                } else {
                    "alarm_cleared"
                },
                alarm.kind.name(),
                alarm.subject,
                alarm.used_percent,
                alarm.threshold_percent,
            ),
        ),
        _ => return None,
    };
    Some(format!("{id} gate64 local0 [nat64@32473 {data}]"))
}
