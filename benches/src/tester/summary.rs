//! What a run gave: values with their spread, curves, and what they hold for.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Options;
use super::traffic::Tester;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    /// Its key in JSON.
    pub key: &'static str,
    /// What it is, in words.
    pub what: &'static str,
    /// Its unit.
    pub unit: &'static str,
}

impl Quantity {
    pub(super) const fn new(key: &'static str, what: &'static str, unit: &'static str) -> Quantity {
        Quantity { key, what, unit }
    }
}

/// Frames per second that pass both ways: of both RFCs.
pub(super) const THROUGHPUT: Quantity = Quantity::new(
    "throughput",
    "throughput both ways, each direction",
    "frames/s",
);

/// A measured value, repeated.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// What it is.
    pub quantity: Quantity,
    /// The device's workers, where they were changed.
    pub workers: Option<u8>,
    /// Number of sessions.
    pub sessions: u32,
    /// Octets of a frame on the IPv6 side.
    pub frame_octets: usize,
    /// One for each repetition, ascending.
    pub values: Vec<f64>,
    /// Whether the tester, or its highest rate, was the limit.
    pub by_tester: bool,
}

impl Measured {
    fn at(&self, part: f64) -> f64 {
        let last = self.values.len().saturating_sub(1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an index
        let place = (last as f64 * part).round() as usize;
        self.values.get(place).copied().unwrap_or(f64::NAN)
    }

    /// The middle value.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// What it is, in words.
    pub fn what(&self) -> String {
        match self.workers {
            None => self.quantity.what.to_owned(),
            Some(1) => format!("{}, 1 worker", self.quantity.what),
            Some(count) => format!("{}, {count} workers", self.quantity.what),
        }
    }

    fn json(&self) -> Value {
        json!({
            "key": self.quantity.key,
            "unit": self.quantity.unit,
            "workers": self.workers,
            "sessions": self.sessions,
            "frame_octets": self.frame_octets,
            "median": self.median(),
            "minimum": self.at(0.0),
            "maximum": self.at(1.0),
            "percentile_1": self.at(0.01),
            "percentile_99": self.at(0.99),
            "values": self.values,
            "limited_by_tester": self.by_tester,
        })
    }
}

/// A curve of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// What it holds for.
    pub name: String,
    /// Its points, by x.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Its key in JSON.
    pub key: &'static str,
    /// What it shows.
    pub title: String,
    /// The axes.
    pub axes: [&'static str; 2],
    /// Its curves.
    pub curves: Vec<Curve>,
}

/// All of a run.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Which RFC.
    pub standard: &'static str,
    /// False after Ctrl-C: what is here is whole, and something is missing.
    pub complete: bool,
    /// Values in the order of measuring.
    pub measured: Vec<Measured>,
    /// Plots.
    pub plots: Vec<Plot>,
    /// What was not measured or not as the RFC says, in words.
    pub notes: Vec<String>,
    /// Machine, device, interfaces and options.
    pub surroundings: Vec<(String, String)>,
}

impl Summary {
    pub(super) fn new(standard: &'static str, tester: &mut Tester, options: &Options) -> Summary {
        let machine = crate::report::machine();
        let line = |key: &str, value: String| (key.to_owned(), value);
        let mut surroundings = vec![
            line(
                "processor",
                machine["cpu"].as_str().unwrap_or("unknown").to_owned(),
            ),
            line("cores", machine["cores"].to_string()),
            line(
                "kernel",
                machine["kernel"].as_str().unwrap_or("unknown").to_owned(),
            ),
            line("memory", format!("{} MiB", machine["memory_mib"])),
            line("gate64", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        surroundings.extend(tester.ports().describe());
        surroundings.extend(tester.describe());
        surroundings.extend(options.describe());
        Summary {
            standard,
            complete: false,
            measured: Vec::new(),
            plots: Vec::new(),
            notes: options.departures(),
            surroundings,
        }
    }

    pub(super) fn add(&mut self, mut measured: Measured) {
        measured.values.sort_unstable_by(f64::total_cmp);
        self.measured.push(measured);
    }

    /// Adds a curve to the plot of this key.
    pub(super) fn draw(&mut self, plot: Plot) {
        match self.plots.iter_mut().find(|known| known.key == plot.key) {
            Some(known) => known.curves.extend(plot.curves),
            None => self.plots.push(plot),
        }
    }

    /// A plot of the medians of one quantity over what `x` gives of each, if there are several.
    pub(super) fn draw_over(
        &mut self,
        quantity: Quantity,
        (key, title, axes): (&'static str, &str, [&'static str; 2]),
        x: impl Fn(&Measured) -> Option<f64>,
    ) {
        let of_this = self.measured.iter().filter(|one| one.quantity == quantity);
        let mut points: Vec<_> = of_this
            .filter_map(|one| Some((x(one)?, one.median())))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if points.len() > 1 {
            let name = quantity.what.to_owned();
            self.draw(Plot {
                key,
                title: title.to_owned(),
                axes,
                curves: vec![Curve { name, points }],
            });
        }
    }

    /// One object.
    pub fn json(&self) -> Value {
        let surroundings: serde_json::Map<String, Value> = self
            .surroundings
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        let plots: Vec<Value> = self
            .plots
            .iter()
            .map(|plot| {
                let curves: Vec<Value> = plot
                    .curves
                    .iter()
                    .map(|curve| json!({ "name": curve.name, "points": curve.points }))
                    .collect();
                json!({ "key": plot.key, "title": plot.title, "axes": plot.axes, "curves": curves })
            })
            .collect();
        json!({
            "standard": self.standard,
            "complete": self.complete,
            "results": self.measured.iter().map(Measured::json).collect::<Vec<_>>(),
            "plots": plots,
            "notes": self.notes,
            "surroundings": surroundings,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if !self.complete {
            let _ = writeln!(
                out,
                "INTERRUPTED: what follows was measured whole, the rest is missing."
            );
        }
        let _ = writeln!(out, "{}", self.standard);
        for (key, value) in &self.surroundings {
            let _ = writeln!(out, "  {key}: {value}");
        }
        let widths = self.measured.iter().map(|one| one.what().len());
        let width = widths.max().unwrap_or(0);
        let _ = writeln!(
            out,
            "{:<width$} {:>10} {:>6} {:>12} {:>12} {:>12}  ",
            "", "sessions", "octets", "median", "minimum", "maximum"
        );
        for one in &self.measured {
            let _ = writeln!(
                out,
                "{:<width$} {:>10} {:>6} {:>12} {:>12} {:>12}  {}{}",
                one.what(),
                one.sessions,
                one.frame_octets,
                shown(one.median()),
                shown(one.at(0.0)),
                shown(one.at(1.0)),
                one.quantity.unit,
                if one.by_tester {
                    ", limited by the tester or --rate-max"
                } else {
                    ""
                },
            );
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }
}

/// A number as a person reads it.
pub(super) fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.3} M", value / 1e6),
        size if size >= 1e4 => format!("{:.1} k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.5}"),
    }
}
