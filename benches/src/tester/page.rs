//! The report as one HTML page with its plots in it: nothing to load, no script.

use std::fmt::Write;

use plotters::prelude::*;

use super::summary::{Plot, Summary, shown};

const SIZE: (u32, u32) = (860, 360);
/// From this ratio of the largest to the least on, an axis is logarithmic.
const MAGNITUDES_FROM: f64 = 20.0;
/// Magnitudes that such an axis names.
const MAGNITUDES_MAX: usize = 7;
const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}.missing{color:#b00;font-weight:bold}";

/// The page.
pub fn html(summary: &Summary) -> String {
    let mut out = String::new();
    let title = escaped(summary.standard);
    let _ = write!(
        out,
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>gate64 bench: {title}</title>\
         <style>{STYLE}</style></head><body><h1>{title}</h1>"
    );
    if !summary.complete {
        out.push_str("<p class=\"missing\">INTERRUPTED: what is here was measured whole, the rest is missing.</p>");
    }
    results(&mut out, summary);
    for plot in &summary.plots {
        let _ = write!(out, "<h2>{}</h2>{}", escaped(&plot.title), svg(plot));
    }
    out.push_str("<h2>What this holds for</h2><table>");
    for (key, value) in &summary.surroundings {
        let _ = write!(
            out,
            "<tr><th>{}</th><td>{}</td></tr>",
            escaped(key),
            escaped(value)
        );
    }
    out.push_str("</table>");
    if !summary.notes.is_empty() {
        out.push_str("<h2>Notes</h2><ul>");
        for note in &summary.notes {
            let _ = write!(out, "<li>{}</li>", escaped(note));
        }
        out.push_str("</ul>");
    }
    out.push_str("</body></html>\n");
    out
}

fn results(out: &mut String, summary: &Summary) {
    out.push_str(
        "<table><tr><th></th><th>sessions</th><th>octets</th><th>median</th><th>minimum</th><th>maximum</th><th>unit</th></tr>",
    );
    for one in &summary.measured {
        let ends = (one.values.first().copied(), one.values.last().copied());
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{}{}</td></tr>",
            escaped(&one.what()),
            one.sessions,
            one.frame_octets,
            shown(one.median()),
            shown(ends.0.unwrap_or(f64::NAN)),
            shown(ends.1.unwrap_or(f64::NAN)),
            escaped(one.quantity.unit),
            if one.by_tester {
                " (limited by the tester or --rate-max)"
            } else {
                ""
            },
        );
    }
    out.push_str("</table>");
}

fn svg(plot: &Plot) -> String {
    let mut drawing = String::new();
    match draw(plot, &mut drawing) {
        Ok(()) => drawing,
        Err(error) => format!("<p class=\"missing\">no plot: {}</p>", escaped(&error)),
    }
}

fn draw(plot: &Plot, into: &mut String) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let area = SVGBackend::with_string(into, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| text(&error))?;
    let points = || plot.curves.iter().flat_map(|curve| &curve.points);
    let (x_min, x_max) = points().fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), point| {
        (low.min(point.0), high.max(point.0))
    });
    // Sessions by the thousand and by the million stand side by side only by their magnitude.
    let by_magnitude = x_min > 0.0 && x_max / x_min >= MAGNITUDES_FROM;
    let place = |x: f64| if by_magnitude { x.log10() } else { x };
    let number = |place: f64| {
        if by_magnitude {
            10f64.powf(place)
        } else {
            place
        }
    };
    let x_range = if by_magnitude {
        x_min.log10().floor()..x_max.log10() * 1.03
    } else {
        0.0..x_max * 1.03
    };
    let y_max = points()
        .map(|point| point.1)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x_range, 0.0..y_max * 1.08)
        .map_err(|error| text(&error))?;
    chart
        .configure_mesh()
        .x_desc(plot.axes[0])
        .y_desc(plot.axes[1])
        .x_labels(if by_magnitude { MAGNITUDES_MAX } else { 10 })
        .x_label_formatter(&|value| shown_short(number(*value)))
        .y_label_formatter(&|value| shown_short(*value))
        .light_line_style(WHITE)
        .draw()
        .map_err(|error| text(&error))?;
    for (index, curve) in plot.curves.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = curve.points.iter().map(|&(x, y)| (place(x), y));
        let line = LineSeries::new(points, color.stroke_width(2)).point_size(2);
        chart
            .draw_series(line)
            .map_err(|error| text(&error))?
            .label(curve.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .position(SeriesLabelPosition::LowerRight)
        .draw()
        .map_err(|error| text(&error))?;
    area.present().map_err(|error| text(&error))
}

fn shown_short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{} M", three(value / 1e6)),
        size if size >= 1e4 => format!("{} k", three(value / 1e3)),
        _ => three(value).to_string(),
    }
}

/// With three decimals at most.
fn three(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::summary::{Curve, Measured, Quantity};
    use super::*;

    #[test]
    fn the_page_has_values_and_plots_and_loads_nothing() {
        let summary = Summary {
            standard: "RFC 9693",
            complete: false,
            measured: vec![Measured {
                quantity: Quantity::new("throughput", "a < b", "frames/s"),
                workers: Some(2),
                sessions: 1000,
                frame_octets: 84,
                values: vec![1.0, 2_500_000.0, 3_000_000.0],
                by_tester: true,
            }],
            plots: vec![Plot {
                key: "p",
                title: "Loss".into(),
                axes: ["x", "y"],
                curves: vec![Curve {
                    name: "84 octets".into(),
                    points: vec![(1.0, 0.0), (2.0, 3.0)],
                }],
            }],
            notes: vec!["short".into()],
            surroundings: vec![("kernel".into(), "6.18".into())],
        };
        let page = html(&summary);
        for part in [
            "2.500 M",
            "a &lt; b, 2 workers",
            "<svg",
            "polyline",
            "84 octets",
            "INTERRUPTED",
            "6.18",
            "limited by the tester",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        for load in ["<script", "href=", "src="] {
            assert!(!page.contains(load), "{load} is there");
        }
    }
}
