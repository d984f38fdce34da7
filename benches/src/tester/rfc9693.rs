//! Sessions, after RFC 9693: rate of establishment, throughput both ways, tear-down, capacity, scaling.

use super::flow::{Flows, Kind};
use super::ports::Workers;
use super::search::{Attempt, Found, search};
use super::summary::{Curve, Measured, Plot, Quantity, Summary, THROUGHPUT};
use super::{Options, Tester, TesterError, Trial};

/// Capacity: sessions have doubled beyond it when the rate falls below this part (RFC 9693 section 4.9).
const BETA: f64 = 0.2;
/// The same between the last two numbers of sessions.
const GAMMA: f64 = 0.4;
/// Sessions that the search for the capacity leaves open, as a part.
const CAPACITY_PART: u32 = 128;
/// Times that frames are tried again after the device's number of workers was changed.
const GREETINGS: u32 = 10;

const ESTABLISHMENT: Quantity = Quantity::new(
    "connection_establishment_rate",
    "new sessions per second, validated",
    "sessions/s",
);
const TEAR_DOWN: Quantity = Quantity::new(
    "connection_tear_down_rate",
    "sessions torn down per second",
    "sessions/s",
);
const CAPACITY: Quantity = Quantity::new(
    "connection_tracking_table_capacity",
    "capacity of the session table",
    "sessions",
);
const SCALE_UP: Quantity = Quantity::new(
    "relative_scale_up",
    "throughput to that of one worker, for each",
    "of 1",
);

/// Measures all that is asked for. After [`TesterError::Interrupted`] the summary has what was
/// complete.
pub fn measure(
    tester: &mut Tester,
    flows: &Flows,
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> (Summary, Result<(), TesterError>) {
    let mut summary = Summary::new("RFC 9693: stateful translators", tester, options);
    let octets = options.frame_octets.first().copied();
    let mut run = Run {
        tester,
        flows,
        options,
        octets: octets.unwrap_or(super::frame::FRAME_OCTETS_MIN),
        summary: &mut summary,
        progress,
    };
    let done = run.all();
    summary.complete = done.is_ok();
    let plot = (
        "over_sessions",
        "Medians over the number of sessions",
        ["sessions", "per second"],
    );
    let sessions = |one: &Measured| one.workers.is_none().then_some(f64::from(one.sessions));
    for quantity in [ESTABLISHMENT, THROUGHPUT, TEAR_DOWN] {
        summary.draw_over(quantity, plot, sessions);
    }
    let plot = (
        "over_workers",
        "Throughput over the number of workers",
        ["workers", "frames per second"],
    );
    summary.draw_over(THROUGHPUT, plot, |one| one.workers.map(f64::from));
    (summary, done)
}

/// A measurement under way.
struct Run<'a> {
    tester: &'a mut Tester,
    flows: &'a Flows,
    options: &'a Options,
    octets: usize,
    summary: &'a mut Summary,
    progress: &'a mut dyn FnMut(&str),
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), TesterError> {
        self.check_workers()?;
        self.tester.set_frame_octets(self.octets);
        self.tester.greet()?;
        let can_clear = self.tester.ports().can_clear();
        if !can_clear {
            self.summary.notes.push(
                "establishment, tear-down and capacity need --clear, and are not measured".into(),
            );
        }
        for &sessions in &self.options.sessions {
            self.tester.set_flows(of_count(self.flows, sessions)?);
            if can_clear {
                self.establishment(sessions)?;
            }
            (self.progress)(&format!("{sessions} sessions: throughput both ways"));
            let found = throughput(self.tester, self.options)?;
            self.add_found(THROUGHPUT, None, sessions, &found);
            if can_clear {
                (self.progress)(&format!("{sessions} sessions: tear-down"));
                let rates = tear_down(self.tester, self.options)?;
                self.add(TEAR_DOWN, None, sessions, rates);
            }
        }
        if can_clear && self.options.capacity {
            self.capacity()?;
        }
        self.scaling()
    }

    /// More workers than there are cores for are refused before anything is measured.
    fn check_workers(&mut self) -> Result<(), TesterError> {
        let wanted = self.options.workers.iter().copied().max().unwrap_or(0);
        match self.tester.ports().workers_max() {
            Some(available) if usize::from(wanted) > available => {
                Err(TesterError::Machine(crate::BenchError::Cores {
                    wanted: wanted.into(),
                    available,
                }))
            }
            _ => Ok(()),
        }
    }

    fn establishment(&mut self, sessions: u32) -> Result<(), TesterError> {
        (self.progress)(&format!("{sessions} sessions: rate of establishment"));
        let (tester, options) = (&mut *self.tester, self.options);
        let found = repeat(options, || {
            establishment(tester, options, options.rate_max, 0.0)
        })?;
        if let Some(first) = found.first() {
            self.summary.draw(Plot {
                key: "establishment",
                title: "Arrived frames while sessions are made".into(),
                axes: ["new sessions per second", "part that arrived"],
                curves: vec![Curve {
                    name: format!("{sessions} sessions"),
                    points: first.tried.clone(),
                }],
            });
        }
        self.add_found(ESTABLISHMENT, None, sessions, &found);
        Ok(())
    }

    fn capacity(&mut self) -> Result<(), TesterError> {
        (self.progress)("capacity of the session table");
        let first = self.options.sessions.first().copied().unwrap_or(1000);
        let (tester, options) = (&mut *self.tester, self.options);
        let capacity = capacity(tester, self.flows, options, first, self.progress)?;
        self.add(CAPACITY, None, capacity, vec![capacity.into()]);
        Ok(())
    }

    /// RFC 9693 section 4.10: throughput of each number of workers, and the relative scale-up,
    /// P(n) / (n P(1)).
    fn scaling(&mut self) -> Result<(), TesterError> {
        let sessions = self.options.sessions.first().copied().unwrap_or(1000);
        let mut of_one = None;
        for &count in &self.options.workers {
            (self.progress)(&format!("{count} workers: throughput both ways"));
            let many = f64::from(count);
            match self.tester.ports().workers(count, self.options.repeats)? {
                Workers::Forwarded { rates, to_one } => {
                    self.add(
                        THROUGHPUT,
                        Some(count),
                        crate::workers::SESSIONS_OF_TEAM,
                        rates,
                    );
                    let scale_up = to_one.into_iter().map(|ratio| ratio / many).collect();
                    self.add(
                        SCALE_UP,
                        Some(count),
                        crate::workers::SESSIONS_OF_TEAM,
                        scale_up,
                    );
                }
                Workers::Set => {
                    self.tester.set_flows(of_count(self.flows, sessions)?);
                    greet_again(self.tester)?;
                    let found = throughput(self.tester, self.options)?;
                    self.add_found(THROUGHPUT, Some(count), sessions, &found);
                    let rates = rates(&found);
                    if count == 1 {
                        of_one = Some(median(&rates));
                    }
                    if let Some(of_one) = of_one {
                        let scale_up = rates.iter().map(|rate| rate / of_one / many).collect();
                        self.add(SCALE_UP, Some(count), sessions, scale_up);
                    }
                }
            }
        }
        Ok(())
    }

    fn add_found(&mut self, quantity: Quantity, workers: Option<u8>, sessions: u32, of: &[Found]) {
        self.summary.add(Measured {
            quantity,
            workers,
            sessions,
            frame_octets: self.octets,
            values: rates(of),
            by_tester: of.iter().any(|one| one.by_tester),
        });
    }

    fn add(&mut self, quantity: Quantity, workers: Option<u8>, sessions: u32, values: Vec<f64>) {
        self.summary.add(Measured {
            quantity,
            workers,
            sessions,
            frame_octets: self.octets,
            values,
            by_tester: false,
        });
    }
}

/// A device that was just started may need a moment.
fn greet_again(tester: &mut Tester) -> Result<(), TesterError> {
    let mut last = tester.greet();
    for _ in 1..GREETINGS {
        match last {
            Err(TesterError::Silent { .. }) => last = tester.greet(),
            done => return done,
        }
    }
    last
}

fn median(values: &[f64]) -> f64 {
    crate::measure::Spread::of(&mut values.to_vec()).median
}

fn of_count(flows: &Flows, count: u32) -> Result<Flows, TesterError> {
    Flows::new(flows.kind, flows.carries, count, flows.per_client).ok_or_else(|| {
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
