//! Distributions of times per feature, for the JSON form.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// The longest time that is told apart, microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// Decimal digits that a figure keeps.
const DIGITS: u8 = 3;

/// Times by feature. Every feature takes some 100 kB from its first use on; there are as many as the program names.
#[derive(Debug, Default)]
pub struct Features {
    by_name: Mutex<BTreeMap<&'static str, Feature>>,
}

#[derive(Debug)]
struct Feature {
    microseconds: Histogram<u32>,
    errors: u64,
}

impl Features {
    /// Adds one use of a feature; it counts whether it failed or not.
    pub fn record(&self, name: &'static str, seconds: f64, failed: bool) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if !by_name.contains_key(name) {
            // The bounds are right: they are constants.
            let Ok(microseconds) = Histogram::new_with_bounds(1, LONGEST_US, DIGITS) else { return };
            by_name.insert(name, Feature { microseconds, errors: 0 });
        }
        if let Some(feature) = by_name.get_mut(name) {
            // Out of a float: too large becomes the largest, too small or no number 0.
            let microseconds = ((seconds * 1e6).round() as u64).clamp(1, LONGEST_US);
            feature.microseconds.saturating_record(microseconds);
            feature.errors += u64::from(failed);
        }
    }

    /// Every feature's figures, in milliseconds.
    pub fn to_json(&self) -> Value {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |microseconds: f64| microseconds.round() / 1000.0;
        let figures = |feature: &Feature| {
            let times = &feature.microseconds;
            let at = |quantile| ms(times.value_at_quantile(quantile) as f64);
            json!({
                "count": times.len(),
                "avg": ms(times.mean()),
                "min": ms(times.min() as f64),
                "max": ms(times.max() as f64),
                "p50": at(0.5),
                "p95": at(0.95),
                "p99": at(0.99),
                "errors": feature.errors,
            })
        };
        let all: Map<String, Value> =
            by_name.iter().map(|(name, feature)| ((*name).to_owned(), figures(feature))).collect();
        Value::Object(all)
    }
}
