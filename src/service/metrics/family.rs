//! Numbers that are collected at once, as metrics of Prometheus.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
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
                let mut sample = metric.encode_family(labels)?;
                match value {
                    Value::Counter(value) => {
                        sample.encode_counter::<NoLabelSet, f64, f64>(value, None)?;
                    }
                    Value::Gauge(value) => sample.encode_gauge(value)?,
                    Value::Histogram { sum, buckets } => {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        sample.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}
