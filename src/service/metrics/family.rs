//! Numbers that are collected at once, as metrics of Prometheus.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Names and values that tell the samples of a family apart.
pub type Labels = Vec<(&'static str, String)>;

/// A number.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Only rises while the process lives.
    Counter(f64),
    /// Goes up and down.
    Gauge(f64),
    /// Sum, and counts by upper bound (each alone, not those below; the last bound is infinite).
    Histogram {
        /// Sum of what was observed.
        sum: f64,
        /// Bounds and counts.
        buckets: Vec<(f64, u64)>,
    },
}

/// Samples of one name.
#[derive(Debug, Clone)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    samples: Vec<(Labels, Value)>,
}

/// Families, in the order in which they are given out.
#[derive(Debug, Clone, Default)]
pub struct Families(Vec<Family>);

impl Families {
    /// A sample without labels.
    pub fn one(&mut self, name: &'static str, help: &'static str, value: Value) {
        self.many(name, help, [(Labels::new(), value)]);
    }

    /// Samples of one kind; a family without any is left out.
    pub fn many(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, Value)>,
    ) {
        let samples: Vec<(Labels, Value)> = samples.into_iter().collect();
        if !samples.is_empty() {
            self.0.push(Family {
                name,
                help,
                samples,
            });
        }
    }

    /// As a registry takes them.
    pub fn collector(self) -> Box<dyn Collector> {
        Box::new(Arc::new(self))
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let kind = match family.samples.first() {
                Some((_, Value::Counter(_))) => MetricType::Counter,
                Some((_, Value::Histogram { .. })) => MetricType::Histogram,
                Some((_, Value::Gauge(_))) | None => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (labels, value) in &family.samples {
                if labels.is_empty() {
                    sample(&mut metric, value)?;
                } else {
                    sample(&mut metric.encode_family(labels)?, value)?;
                }
            }
        }
        Ok(())
    }
}

fn sample(encoder: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Counter(value) => encoder.encode_counter::<NoLabelSet, f64, f64>(value, None),
        Value::Gauge(value) => encoder.encode_gauge(value),
        Value::Histogram { sum, buckets } => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    /// As the OpenMetrics specification writes counters, gauges and histograms.
    #[test]
    fn text_is_what_open_metrics_says() {
        let mut families = Families::default();
        families.one("a", "One", Value::Counter(3.0));
        let labels = vec![("kind", "x".to_string())];
        families.many("b", "Two", [(labels, Value::Gauge(0.5))]);
        let buckets = vec![(0.1, 2), (1.0, 0), (f64::INFINITY, 1)];
        families.one("c", "Three", Value::Histogram { sum: 7.5, buckets });
        families.many("d", "Nothing", []);
        let mut registry = Registry::default();
        registry.register_collector(families.collector());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let expected = "\
# HELP a One
# TYPE a counter
a_total 3.0
# HELP b Two
# TYPE b gauge
b{kind=\"x\"} 0.5
# HELP c Three
# TYPE c histogram
c_sum 7.5
c_count 3
c_bucket{le=\"0.1\"} 2
c_bucket{le=\"1.0\"} 2
c_bucket{le=\"+Inf\"} 3
# EOF
";
        assert_eq!(text, expected);
    }
}
