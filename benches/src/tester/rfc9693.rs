//! Sessions, after RFC 9693: rate of establishment, throughput both ways, tear-down, capacity.

use super::flow::{Flows, Kind};
use super::search::{Attempt, Found, search};
use super::summary::{Curve, Measured, Plot, Summary};
use super::{Options, Tester, TesterError, Trial};

/// Capacity: sessions have doubled beyond it when the rate falls below this part (RFC 9693 section 4.9).
const BETA: f64 = 0.2;
/// The same between the last two numbers of sessions.
const GAMMA: f64 = 0.4;
/// Sessions that the search for the capacity leaves open, as a part.
const CAPACITY_PART: u32 = 128;

/// Measures all that is asked for. After [`TesterError::Interrupted`] the summary has what was
/// complete.
pub fn measure(
    tester: &mut Tester,
    flows: &Flows,
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> (Summary, Result<(), TesterError>) {
    let mut summary = Summary::new("RFC 9693: stateful translators", tester, options);
    let done = all(tester, flows, options, &mut summary, progress);
    summary.complete = done.is_ok();
    summary.draw_over_sessions(ESTABLISHMENT.0, ESTABLISHMENT.1, "per second");
    summary.draw_over_sessions(THROUGHPUT.0, THROUGHPUT.1, "per second");
    summary.draw_over_sessions(TEAR_DOWN.0, TEAR_DOWN.1, "per second");
    (summary, done)
}

type Name = (&'static str, &'static str, &'static str);
const ESTABLISHMENT: Name = (
    "connection_establishment_rate",
    "new sessions per second, validated",
    "sessions/s",
);
const THROUGHPUT: Name = (
    "throughput",
    "throughput both ways, each direction",
    "frames/s",
);
const TEAR_DOWN: Name = (
    "connection_tear_down_rate",
    "sessions torn down per second",
    "sessions/s",
);
const CAPACITY: Name = (
    "connection_tracking_table_capacity",
    "capacity of the session table",
    "sessions",
);

fn all(
    tester: &mut Tester,
    flows: &Flows,
    options: &Options,
    summary: &mut Summary,
    progress: &mut dyn FnMut(&str),
) -> Result<(), TesterError> {
    let octets = options
        .frame_octets
        .first()
        .copied()
        .unwrap_or(super::frame::FRAME_OCTETS_MIN);
    tester.set_frame_octets(octets);
    tester.greet()?;
    let can_clear = tester.ports().can_clear();
    if !can_clear {
        summary.notes.push(
            "establishment, tear-down and capacity need --clear, and are not measured".into(),
        );
    }
    for &sessions in &options.sessions {
        tester.set_flows(of_count(flows, sessions)?);
        let measured = |name: Name, values: Vec<f64>, by_tester: bool| Measured {
            key: name.0,
            what: name.1,
            unit: name.2,
            sessions,
            frame_octets: octets,
            values,
            by_tester,
        };
        if can_clear {
            progress(&format!("{sessions} sessions: rate of establishment"));
            let found = repeat(options, || {
                establishment(tester, options, options.rate_max, 0.0)
            })?;
            add(
                summary,
                sessions,
                "Arrived frames while sessions are made",
                &found,
            );
            summary.add(measured(
                ESTABLISHMENT,
                rates(&found),
                found.iter().any(|one| one.by_tester),
            ));
        }
        progress(&format!("{sessions} sessions: throughput both ways"));
        let found = throughput(tester, options)?;
        summary.add(measured(
            THROUGHPUT,
            rates(&found),
            found.iter().any(|one| one.by_tester),
        ));
        if can_clear {
            progress(&format!("{sessions} sessions: tear-down"));
            summary.add(measured(TEAR_DOWN, tear_down(tester, options)?, false));
        }
    }
    if can_clear && options.capacity {
        progress("capacity of the session table");
        let first = options.sessions.first().copied().unwrap_or(1000);
        let capacity = capacity(tester, flows, options, first, progress)?;
        summary.add(Measured {
            key: CAPACITY.0,
            what: CAPACITY.1,
            unit: CAPACITY.2,
            sessions: capacity,
            frame_octets: octets,
            values: vec![capacity.into()],
            by_tester: false,
        });
    }
    Ok(())
}

fn of_count(flows: &Flows, count: u32) -> Result<Flows, TesterError> {
    Flows::new(flows.kind, count, flows.per_client).ok_or_else(|| {
        let clients = match flows.kind {
            Kind::Nat44 => "198.18.0.0/16",
            Kind::Nat64(_) | Kind::Ipv6 => "2001:2::/48",
        };
        TesterError::Options(format!(
            "{count} sessions, {} of each client, are more clients than {clients} has: raise --sessions-per-client",
            flows.per_client
        ))
    })
}

fn repeat<T>(
    options: &Options,
    mut once: impl FnMut() -> Result<T, TesterError>,
) -> Result<Vec<T>, TesterError> {
    (0..options.repeats.max(1)).map(|_| once()).collect()
}

pub(super) fn rates(found: &[Found]) -> Vec<f64> {
    found.iter().map(|one| one.rate).collect()
}

fn attempt(trial: &Trial, options: &Options) -> Attempt {
    Attempt {
        passed: trial.passed(options.loss_tolerance),
        on_time: trial.on_time,
        arrived: 1.0 - trial.loss(),
    }
}

/// The highest rate at which each flow makes its session, searched for with an empty table each
/// time; then each session has to let a frame back through. A search that falls below `give_up`
/// ends.
fn establishment(
    tester: &mut Tester,
    options: &Options,
    rate_max: f64,
    give_up: f64,
) -> Result<Found, TesterError> {
    let found = search(
        rate_max,
        options.resolution,
        |rate| -> Result<_, TesterError> {
            if rate < give_up {
                // Answered without a trial: the caller asks only whether it is less.
                return Ok(Attempt {
                    passed: false,
                    on_time: true,
                    arrived: 0.0,
                });
            }
            tester.clear()?;
            let made = tester.phase1(rate)?;
            if !attempt(&made, options).passed {
                return Ok(attempt(&made, options));
            }
            Ok(attempt(&tester.validate(rate)?, options))
        },
    )?;
    if found.rate == 0.0 && give_up == 0.0 {
        // Too small a table looks the same as too slow a device, but for what is made of it.
        tester.clear()?;
        tester.fill(options.rate_max / 8.0)?;
        return Err(TesterError::NoRate {
            what: "making sessions",
            rate: found.lowest,
        });
    }
    Ok(found)
}

/// Fills the table, then searches with frames over its sessions from both sides.
pub(super) fn throughput(
    tester: &mut Tester,
    options: &Options,
) -> Result<Vec<Found>, TesterError> {
    tester.fill(options.rate_max / 8.0)?;
    repeat(options, || {
        let found = search(options.rate_max, options.resolution, |rate| {
            Ok::<_, TesterError>(attempt(&tester.phase2(rate, options.duration)?, options))
        })?;
        if found.rate == 0.0 {
            return Err(TesterError::NoRate {
                what: "throughput",
                rate: found.lowest,
            });
        }
        Ok(found)
    })
}

/// RFC 9693 section 4.8: sessions by the time of emptying the table, less that of an empty one.
fn tear_down(tester: &mut Tester, options: &Options) -> Result<Vec<f64>, TesterError> {
    let sessions = f64::from(tester.flow_count());
    repeat(options, || {
        tester.clear()?;
        let empty = tester.clear()?;
        tester.fill(options.rate_max / 8.0)?;
        let full = tester.clear()?;
        // A difference that the clock cannot tell is the clock's step.
        Ok(sessions / (full - empty).max(1e-9))
    })
}

/// RFC 9693 section 4.9: doubles the sessions until establishment breaks down, then searches between.
fn capacity(
    tester: &mut Tester,
    flows: &Flows,
    options: &Options,
    first: u32,
    progress: &mut dyn FnMut(&str),
) -> Result<u32, TesterError> {
    let mut rate = |sessions: u32, rate_max: f64, part: f64| -> Result<f64, TesterError> {
        progress(&format!("capacity: {sessions} sessions"));
        tester.set_flows(of_count(flows, sessions)?);
        Ok(establishment(tester, options, rate_max, part * rate_max)?.rate)
    };
    let (mut safe, mut safe_rate) = (first, rate(first, options.rate_max, 0.0)?);
    let mut too_many = loop {
        let next = safe.saturating_mul(2);
        if of_count(flows, next).is_err() {
            return Err(TesterError::Options(format!(
                "the session table takes {safe} sessions, and there are no flows for {next}: raise --sessions-per-client"
            )));
        }
        let next_rate = rate(next, safe_rate, BETA)?;
        if next_rate < BETA * safe_rate {
            break next;
        }
        (safe, safe_rate) = (next, next_rate);
    };
    while too_many - safe > (safe / CAPACITY_PART).max(1) {
        let middle = safe.midpoint(too_many);
        let middle_rate = rate(middle, safe_rate, GAMMA)?;
        if middle_rate < GAMMA * safe_rate {
            too_many = middle;
        } else {
            (safe, safe_rate) = (middle, middle_rate);
        }
    }
    Ok(safe)
}

fn add(summary: &mut Summary, sessions: u32, title: &str, found: &[Found]) {
    let Some(first) = found.first() else {
        return;
    };
    summary.draw(Plot {
        key: "establishment",
        title: title.into(),
        axes: ["new sessions per second", "part that arrived"],
        curves: vec![Curve {
            name: format!("{sessions} sessions"),
            points: first.tried.clone(),
        }],
    });
}
