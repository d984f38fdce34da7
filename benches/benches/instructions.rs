//! The gate on instructions per established packet: compares callgrind's counts with
//! `benches/instructions.json` and fails where one is more than 2 % higher.
//!
//! `make bench-instructions` runs it; `GATE64_INSTRUCTIONS=update` writes the file anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gate64_benches::instructions::{CASES, count, probe};

/// How much higher a count may be, in percent.
const TOLERANCE: f64 = 2.0;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("probe") {
        let name = arguments.next().unwrap_or_default();
        return run_probe(&name);
    }
    match compare() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_probe(name: &str) -> ExitCode {
    let Some(case) = CASES.iter().find(|case| case.name == name) else {
        eprintln!("instructions: no case {name}");
        return ExitCode::from(2);
    };
    match probe(case) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn baseline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

fn compare() -> Result<bool, Box<dyn std::error::Error>> {
    let program = std::env::current_exe()?;
    let directory = program.parent().unwrap_or(Path::new(".")).to_owned();
    let mut counts = BTreeMap::new();
    for case in &CASES {
        let profile = directory.join(format!("callgrind.{}", case.name));
        let counted = count(case, &program, &["probe"], &profile)?;
        let Some(counted) = counted else {
            return Err("valgrind is not installed".into());
        };
        counts.insert(case.name.to_owned(), (counted * 10.0).round() / 10.0);
    }
    if std::env::var_os("GATE64_INSTRUCTIONS").is_some_and(|value| value == "update") {
        std::fs::write(baseline(), serde_json::to_string_pretty(&counts)? + "\n")?;
    }
    let known: BTreeMap<String, f64> = serde_json::from_str(&std::fs::read_to_string(baseline())?)?;
    let mut passed = true;
    println!(
        "{:<16} {:>10} {:>10} {:>8}",
        "per packet", "baseline", "now", "change"
    );
    for (name, now) in &counts {
        let Some(was) = known.get(name) else {
            println!("{name:<16} {:>10} {now:>10.1}", "none");
            passed = false;
            continue;
        };
        let change = (now / was - 1.0) * 100.0;
        let verdict = if change > TOLERANCE { "  TOO MANY" } else { "" };
        println!("{name:<16} {was:>10.1} {now:>10.1} {change:>+7.1}%{verdict}");
        passed &= change <= TOLERANCE;
    }
    Ok(passed)
}
