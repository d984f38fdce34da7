//! `gate64 bench rfc9693` and `rfc8219` with the device in memory: reports and refusals. No rate is judged.
#![allow(missing_docs)]

use std::process::{Command, Output};

use serde_json::Value;

const SMALL: [&str; 9] = [
    "--quick",
    "--duration",
    "0.01",
    "--repeats",
    "2",
    "--resolution",
    "0.5",
    "--rate-max",
    "100000",
];

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gate64"))
        .arg("bench")
        .args(args)
        .output()
        .unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = bench(&[args, &SMALL, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Key, sessions and number of values of each result.
fn results(report: &Value) -> Vec<(String, u64, usize)> {
    let results = report["results"].as_array().unwrap();
    results
        .iter()
        .map(|one| {
            assert!(one["median"].as_f64().unwrap() > 0.0, "{one}");
            let key = one["key"].as_str().unwrap().to_owned();
            let values = one["values"].as_array().unwrap().len();
            (key, one["sessions"].as_u64().unwrap(), values)
        })
        .collect()
}

#[test]
fn sessions_are_measured_and_the_table_has_its_stated_capacity() {
    let args = ["rfc9693", "--sessions", "100,600", "--table", "1000"];
    let report = json(&[&args[..], &["--capacity"]].concat());
    assert_eq!(report["complete"], true);
    let found = results(&report);
    for sessions in [100, 600] {
        for key in [
            "connection_establishment_rate",
            "throughput",
            "connection_tear_down_rate",
        ] {
            assert!(found.contains(&(key.into(), sessions, 2)), "{found:?}");
        }
    }
    let capacity = report["results"].as_array().unwrap().last().unwrap();
    assert_eq!(capacity["key"], "connection_tracking_table_capacity");
    // The search ends within a 128th.
    let capacity = capacity["median"].as_f64().unwrap();
    assert!((990.0..=1000.0).contains(&capacity), "{capacity}");
}

#[test]
fn packets_are_measured_and_the_page_has_plots() {
    let page = std::env::temp_dir().join(format!("gate64-bench-{}.html", std::process::id()));
    let file = page.to_str().unwrap();
    let args = ["rfc8219", "--sessions", "50", "--frame-octets", "84,1280"];
    let report = json(&[&args[..], &["--html", file]].concat());
    let found = results(&report);
    for key in [
        "throughput",
        "latency_typical",
        "latency_worst_case",
        "packet_delay_variation",
    ] {
        let count = found.iter().filter(|one| one.0 == key && one.2 == 2);
        assert_eq!(count.count(), 2, "{key} in {found:?}");
    }
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    assert_eq!(text.matches("<svg").count(), 3);
    assert!(text.contains("trials of 0.01 s instead of 60 s"));
}

#[test]
fn echoes_popular_flows_and_workers_are_measured() {
    let args = ["rfc9693", "--sessions", "100", "--protocol", "icmp"];
    let more = ["--popularity", "zipf", "--workers", "1"];
    let report = json(&[&args[..], &more[..]].concat());
    let surroundings = report["surroundings"].to_string();
    for part in ["ICMP echo", "by Zipf's law"] {
        assert!(surroundings.contains(part), "{surroundings}");
    }
    let results = report["results"].as_array().unwrap();
    let of_workers = |key: &str| {
        let of_key = |one: &&Value| one["key"] == key && one["workers"] == 1;
        results.iter().find(of_key).unwrap()["median"]
            .as_f64()
            .unwrap()
    };
    assert!(of_workers("throughput") > 0.0);
    assert!(of_workers("relative_scale_up") > 0.0);
    assert_eq!(results.len(), 5);
}

#[track_caller]
fn fails(args: &[&str], code: i32, says: &str) {
    let output = bench(&[args, &SMALL].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(says), "{errors}");
    assert!(output.stdout.is_empty(), "a result beside a failure");
}

#[test]
fn what_cannot_be_measured_is_a_line_and_no_result() {
    fails(
        &["rfc9693", "--sessions", "200", "--table", "100"],
        1,
        "the device makes 100 of 200 sessions",
    );
    fails(
        &[
            "rfc9693",
            "--sessions",
            "100000",
            "--sessions-per-client",
            "1",
        ],
        1,
        "raise --sessions-per-client",
    );
    let many = ["--sessions", "3900000000", "--sessions-per-client", "60000"];
    fails(&[&["rfc9693"], &many[..]].concat(), 1, "MiB of memory");
    let table = ["--sessions", "100", "--table", "4000000000"];
    fails(&[&["rfc8219"], &table[..]].concat(), 1, "MiB of memory");
    fails(
        &["rfc9693", "--workers", "1,255"],
        1,
        "255 workers need as many cores",
    );
    fails(&["rfc8219", "--frame-octets", "83"], 2, "from 84 to 1518");
    fails(&["rfc8219", "--initiator", "lo"], 2, "--initiator-via");
    fails(&["rfc8219", "--clear", "true"], 2, "--initiator");
    let interfaces = ["--initiator", "g64none0", "--initiator-via", "2001:db8::1"];
    let others = ["--responder", "g64none1", "--responder-via", "192.0.2.1"];
    let workers = [&["rfc9693", "--workers", "1"], &interfaces[..], &others[..]];
    fails(&workers.concat(), 1, "--set-workers");
    fails(
        &[&["rfc8219"], &interfaces[..], &others[..]].concat(),
        5,
        "g64none0",
    );
    fails(
        &["rfc8219", "--html", "/nonexistent/page.html"],
        1,
        "/nonexistent/page.html",
    );
}
