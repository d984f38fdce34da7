//! Packets through a translator with its sessions made, after RFC 8219 sections 7 and 8.

use super::flow::Flows;
use super::rfc9693::{rates, throughput};
use super::summary::{Curve, Measured, Plot, Quantity, Summary, THROUGHPUT};
use super::{Options, Tester, TesterError, Trial};

const TYPICAL: Quantity = Quantity::new("latency_typical", "latency, median", "µs");
const WORST: Quantity = Quantity::new("latency_worst_case", "latency, 99.9th percentile", "µs");
const PDV: Quantity = Quantity::new("packet_delay_variation", "packet delay variation", "µs");

/// Frames that latency needs (RFC 8219 section 7.2).
const TAGGED_MIN: u64 = 500;

/// Measures every frame length. After [`TesterError::Interrupted`] the summary has what was
/// complete.
pub fn measure(
    tester: &mut Tester,
    flows: &Flows,
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> (Summary, Result<(), TesterError>) {
    let mut summary = Summary::new("RFC 8219: translation", tester, options);
    let done = all(tester, flows, options, &mut summary, progress);
    summary.complete = done.is_ok();
    let plot = (
        "throughput_over_octets",
        "Throughput over the length of frames",
        ["octets of a frame on the IPv6 side", "frames per second"],
    );
    summary.draw_over(THROUGHPUT, plot, |one| Some(one.frame_octets as f64));
    (summary, done)
}

fn all(
    tester: &mut Tester,
    flows: &Flows,
    options: &Options,
    summary: &mut Summary,
    progress: &mut dyn FnMut(&str),
) -> Result<(), TesterError> {
    tester.set_flows(*flows);
    for &octets in &options.frame_octets {
        tester.set_frame_octets(octets);
        tester.greet()?;
        let measured = |quantity: Quantity, values: Vec<f64>, by_tester: bool| Measured {
            quantity,
            workers: None,
            sessions: flows.count,
            frame_octets: octets,
            values,
            by_tester,
        };
        progress(&format!("frames of {octets} octets: throughput"));
        let found = throughput(tester, options)?;
        let by_tester = found.iter().any(|one| one.by_tester);
        let throughput = measured(THROUGHPUT, rates(&found), by_tester);
        let mut rate = rates(&found);
        rate.sort_unstable_by(f64::total_cmp);
        let rate = rate[rate.len() / 2];
        summary.add(throughput);
        progress(&format!(
            "frames of {octets} octets: latency and delay variation"
        ));
        let (latency, variation) = delays(tester, options, rate, octets, summary)?;
        for (quantity, values) in [
            (TYPICAL, latency[0].clone()),
            (WORST, latency[1].clone()),
            (PDV, variation),
        ] {
            summary.add(measured(quantity, values, by_tester));
        }
        progress(&format!("frames of {octets} octets: frame loss rate"));
        loss(tester, options, octets, summary)?;
    }
    Ok(())
}

/// Median and 99.9th percentile, and the variation, of each repetition.
type Delays = ([Vec<f64>; 2], Vec<f64>);

/// RFC 8219 sections 7.2 and 7.3.1, at the throughput rate. All frames are tagged.
fn delays(
    tester: &mut Tester,
    options: &Options,
    rate: f64,
    octets: usize,
    summary: &mut Summary,
) -> Result<Delays, TesterError> {
    let micros = |nanos: u64| nanos as f64 / 1000.0;
    let seconds = options.duration.max(TAGGED_MIN as f64 / rate);
    let (mut latency, mut variation) = ([Vec::new(), Vec::new()], Vec::new());
    for repetition in 0..options.repeats.max(1) {
        let Trial { delay, .. } = tester.phase2(rate, seconds)?;
        latency[0].push(micros(delay.value_at_quantile(0.5)));
        latency[1].push(micros(delay.value_at_quantile(0.999)));
        variation.push(micros(
            delay.value_at_quantile(0.999).saturating_sub(delay.min()),
        ));
        if repetition == 0 {
            let parts = (0..=200).map(|step| f64::from(step) / 200.0);
            let points = parts
                .map(|part| (micros(delay.value_at_quantile(part.min(0.9999))), part))
                .collect();
            summary.draw(Plot {
                key: "delay",
                title:
                    "Delay at the throughput rate: the part of frames that took at most this long"
                        .into(),
                axes: ["microseconds", "part of frames"],
                curves: vec![Curve {
                    name: format!("{octets} octets"),
                    points,
                }],
            });
        }
    }
    Ok((latency, variation))
}

/// RFC 2544 section 26.3: from the highest rate down by tenths, until two in a row lose nothing.
fn loss(
    tester: &mut Tester,
    options: &Options,
    octets: usize,
    summary: &mut Summary,
) -> Result<(), TesterError> {
    let (mut points, mut clean) = (Vec::new(), 0);
    for tenth in (1..=10).rev() {
        let rate = options.rate_max * f64::from(tenth) / 10.0;
        let trial = tester.phase2(rate, options.duration)?;
        points.push((rate, trial.loss() * 100.0));
        clean = if trial.passed(options.loss_tolerance) {
            clean + 1
        } else {
            0
        };
        if clean == 2 {
            break;
        }
    }
    points.reverse();
    summary.draw(Plot {
        key: "frame_loss_rate",
        title: "Frame loss rate".into(),
        axes: ["frames per second offered, each direction", "% lost"],
        curves: vec![Curve {
            name: format!("{octets} octets"),
            points,
        }],
    });
    Ok(())
}
