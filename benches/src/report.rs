//! What was measured, beside what was wanted.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::measure::Spread;

/// What a value should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtMost(bound) => value <= bound,
            Goal::AtLeast(bound) => value >= bound,
        }
    }
}

/// One measured value.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Its key in JSON.
    pub key: String,
    /// What it is, in words.
    pub what: String,
    /// The value; `None` where it could not be measured here.
    pub value: Option<f64>,
    /// Tenth and ninetieth percentile.
    pub spread: Option<(f64, f64)>,
    /// What it should be.
    pub goal: Option<Goal>,
}

/// All values of a run, and the machine they hold for.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// In the order of measuring.
    pub metrics: Vec<Metric>,
}

impl Report {
    /// Adds a value.
    pub fn add(&mut self, key: &str, what: &str, value: Option<f64>, goal: Option<Goal>) {
        self.metrics.push(Metric {
            key: key.into(),
            what: what.into(),
            value,
            spread: None,
            goal,
        });
    }

    /// Adds a median with its spread.
    pub fn add_spread(&mut self, key: &str, what: &str, value: Spread, goal: Option<Goal>) {
        self.metrics.push(Metric {
            key: key.into(),
            what: what.into(),
            value: Some(value.median),
            spread: Some((value.low, value.high)),
            goal,
        });
    }

    /// One object: every value under its key, and beside them `spread`, `goals`, `missed` and
    /// `machine`.
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        let (mut spread, mut goals) = (Map::new(), Map::new());
        let mut missed = Vec::new();
        for metric in &self.metrics {
            all.insert(metric.key.clone(), json!(metric.value.map(rounded)));
            if let Some((low, high)) = metric.spread {
                spread.insert(metric.key.clone(), json!([rounded(low), rounded(high)]));
            }
            if let Some(goal) = metric.goal {
                let goal_json = match goal {
                    Goal::AtMost(bound) => json!({ "at_most": bound }),
                    Goal::AtLeast(bound) => json!({ "at_least": bound }),
                };
                goals.insert(metric.key.clone(), goal_json);
                if metric.value.is_some_and(|value| !goal.is_met(value)) {
                    missed.push(json!(metric.key));
                }
            }
        }
        all.insert("spread".into(), spread.into());
        all.insert("goals".into(), goals.into());
        all.insert("missed".into(), missed.into());
        all.insert("machine".into(), machine());
        Value::Object(all)
    }

    /// A table for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let machine = machine();
        let _ = writeln!(
            out,
            "{}, {} cores, Linux {}",
            machine["cpu"].as_str().unwrap_or("unknown processor"),
            machine["cores"],
            machine["kernel"].as_str().unwrap_or("unknown"),
        );
        let width = self
            .metrics
            .iter()
            .map(|one| one.what.len())
            .max()
            .unwrap_or(0);
        let _ = writeln!(
            out,
            "{:<width$} {:>12} {:>23} {:>14}",
            "", "median", "10 % to 90 %", "goal"
        );
        for metric in &self.metrics {
            let _ = writeln!(
                out,
                "{:<width$} {:>12} {:>23} {:>14}",
                metric.what,
                metric.value.map_or("not here".into(), shown),
                metric.spread.map_or(String::new(), |(low, high)| format!(
                    "{} to {}",
                    shown(low),
                    shown(high)
                )),
                verdict(metric),
            );
        }
        out
    }
}

fn verdict(metric: &Metric) -> String {
    let Some(goal) = metric.goal else {
        return String::new();
    };
    let bound = match goal {
        Goal::AtMost(bound) => format!("<= {}", shown(bound)),
        Goal::AtLeast(bound) => format!(">= {}", shown(bound)),
    };
    match metric.value {
        Some(value) if !goal.is_met(value) => format!("{bound}  MISSED"),
        Some(_) => format!("{bound}      ok"),
        None => bound,
    }
}

fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.2} M", value / 1e6),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

pub(crate) fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let cpu = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, name)| name.trim().to_owned());
    json!({
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "memory_mib": crate::measure::memory_total() / (1 << 20),
        "transparent_hugepages": read("/sys/kernel/mm/transparent_hugepage/enabled").trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_is_named_and_what_was_not_measured_is_null() {
        let mut report = Report::default();
        report.add("slow", "slow", Some(3.0), Some(Goal::AtMost(2.0)));
        report.add("fast", "fast", Some(3.0), Some(Goal::AtLeast(2.0)));
        report.add("none", "none", None, Some(Goal::AtLeast(2.0)));
        let json = report.json();
        assert_eq!(json["missed"], json!(["slow"]));
        assert_eq!(json["none"], Value::Null);
        assert_eq!(json["fast"], json!(3.0));
        assert!(report.text().contains("MISSED"));
    }
}
