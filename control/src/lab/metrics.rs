//! The running gateway's counters, read from its `/metrics` page inside its namespace.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};

use super::netns;
use super::process::http_get;
use super::topology::Namespace;

/// Where the lab's gateway serves its metrics.
pub(super) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 9464);

/// One sample of every series.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Metrics {
    series: Vec<Series>,
}

#[derive(Debug, Clone, PartialEq)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Asks the gateway.
    pub(super) fn read() -> Result<Metrics, String> {
        netns::within(Namespace::Gateway, || http_get(ADDRESS, "/metrics"))
            .map_err(|error| error.to_string())?
            .map(|page| Metrics::parse(&page))
    }

    /// Reads the Prometheus text format. What is not understood is left out.
    fn parse(page: &str) -> Metrics {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        Metrics {
            series: lines.filter_map(parse_line).collect(),
        }
    }

    /// The sum of the series of that name whose labels include the given ones.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|series| series.value).sum()
    }

    /// The sums of the series of that name by one label's value.
    pub(super) fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for series in self.matching(name, &[]) {
            if let Some(value) = series.labels.get(label) {
                *sums.entry(value.clone()).or_insert(0.0) += series.value;
            }
        }
        sums
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| {
            series.name == name
                && labels
                    .iter()
                    .all(|(label, value)| series.labels.get(*label).is_some_and(|has| has == value))
        })
    }
}

/// `name{label="value",…} 1.5`, or without labels.
fn parse_line(line: &str) -> Option<Series> {
    let (head, value) = line.trim().rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}')?)),
        None => (head, BTreeMap::new()),
    };
    Some(Series {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

/// Label values of gate64 hold no commas and no quotes.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    text.split(',')
        .filter_map(|pair| {
            let (label, value) = pair.split_once('=')?;
            Some((
                label.trim().to_owned(),
                value.trim().trim_matches('"').to_owned(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP gate64_packets_total packets\n\
        # TYPE gate64_packets_total counter\n\
        gate64_packets_total{direction=\"v6_to_v4\",verdict=\"forwarded\"} 7\n\
        gate64_packets_total{direction=\"v4_to_v6\",verdict=\"forwarded\"} 5\n\
        gate64_subscribers 1\n\
        nonsense\n";

    #[test]
    fn series_are_summed_by_their_labels() {
        let metrics = Metrics::parse(PAGE);
        assert_eq!(metrics.sum("gate64_packets_total", &[]), 12.0);
        let v6 = [("direction", "v6_to_v4")];
        assert_eq!(metrics.sum("gate64_packets_total", &v6), 7.0);
        assert_eq!(metrics.sum("gate64_subscribers", &[]), 1.0);
        assert_eq!(metrics.sum("gate64_absent", &[]), 0.0);
        let by = metrics.by_label("gate64_packets_total", "direction");
        assert_eq!(by["v4_to_v6"], 5.0);
    }
}
