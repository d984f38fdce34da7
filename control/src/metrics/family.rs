//! Builds metric families: name, help, and a value for each set of labels.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// Labels of one value.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A family being filled.
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Family {
    /// Counters; the name ends in `_total`.
    pub fn counter(name: &'static str, help: &'static str) -> Family {
        Family::new(name, help, MetricType::COUNTER)
    }

    /// Values that go up and down.
    pub fn gauge(name: &'static str, help: &'static str) -> Family {
        Family::new(name, help, MetricType::GAUGE)
    }

    /// Histograms.
    pub fn histogram(name: &'static str, help: &'static str) -> Family {
        Family::new(name, help, MetricType::HISTOGRAM)
    }

    fn new(name: &'static str, help: &'static str, kind: MetricType) -> Family {
        Family {
            name,
            help,
            kind,
            metrics: Vec::new(),
        }
    }

    /// Adds a whole number.
    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus' numbers are f64; beyond 2^53 a rate does not notice"
    )]
    pub fn count(&mut self, labels: Labels<'_>, value: u64) {
        self.value(labels, value as f64);
    }

    /// Adds a value.
    pub fn value(&mut self, labels: Labels<'_>, value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    /// Adds a histogram of (upper bound, count in that bucket alone); an infinite bound is
    /// written by the encoder itself.
    pub fn buckets(
        &mut self,
        labels: Labels<'_>,
        buckets: impl IntoIterator<Item = (f64, u64)>,
        sum: f64,
    ) {
        let mut count = 0;
        let mut cumulated = Vec::new();
        for (bound, in_bucket) in buckets {
            count += in_bucket;
            if bound.is_finite() {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                cumulated.push(bucket);
            }
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(cumulated);
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    /// The finished family.
    pub fn done(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(self.metrics);
        family
    }
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
