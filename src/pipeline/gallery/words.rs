//! Figures in words: the metrics' names, units and aims, and sizes and times as a person writes them.

use std::fmt::Write as _;

/// How a metric is shown.
pub(super) struct Metric {
    /// Key in the manifest.
    pub key: &'static str,
    /// What it is called on the page.
    pub name: &'static str,
    /// What it means, one or two sentences.
    pub meaning: &'static str,
    unit: Unit,
    aim: Aim,
}

#[derive(Clone, Copy)]
enum Unit {
    /// A factor: `3.4×`.
    Times,
    /// A colour difference: `ΔE 1.2`.
    DeltaE,
    /// A ratio 0 to 1, shown in percent with this many decimals.
    Percent(usize),
    /// An angle.
    Degrees,
    /// A whole number.
    Count,
    /// −1 to 1.
    Correlation,
}

#[derive(Clone, Copy)]
enum Aim {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// The known metrics in the order of the page: what catches the eye first comes first.
pub(super) const METRICS: [Metric; 9] = [
    Metric {
        key: "fidelity_delta_e",
        name: "Colour fidelity",
        meaning: "How far the recoloured areas lie from the palette colours they were given, as ΔE2000 weighted by \
                  area. Below 1 the eye sees no difference; below 3 it has to look for one.",
        unit: Unit::DeltaE,
        aim: Aim::AtMost(3.0),
    },
    Metric {
        key: "coverage",
        name: "Palette used",
        meaning: "Share of the assigned palette colours that are really present in the picture.",
        unit: Unit::Percent(0),
        aim: Aim::AtLeast(1.0),
    },
    Metric {
        key: "palette_distance",
        name: "Distance to palette",
        meaning: "Mean ΔE2000 from every pixel to its nearest palette colour, as a share of the same distance in the \
                  original. Shades and texture keep it above zero.",
        unit: Unit::Percent(0),
        aim: Aim::None,
    },
    Metric {
        key: "gain_p999",
        name: "Contrast gain, 99.9 %",
        meaning: "By how much a barely visible step between two neighbouring colours grows, for all but one step in a \
                  thousand. High values show as speckles and torn gradients.",
        unit: Unit::Times,
        aim: Aim::AtMost(9.0),
    },
    Metric {
        key: "gain_max",
        name: "Contrast gain, worst",
        meaning: "The same for the single worst step in the picture.",
        unit: Unit::Times,
        aim: Aim::None,
    },
    Metric {
        key: "colors_present",
        name: "Palette colours seen",
        meaning: "Palette colours that cover more than a thousandth of the picture.",
        unit: Unit::Count,
        aim: Aim::None,
    },
    Metric {
        key: "lightness_order",
        name: "Lightness, correlation",
        meaning: "Correlation of lightness before and after: near 1 the order of light and dark is kept.",
        unit: Unit::Correlation,
        aim: Aim::None,
    },
    Metric {
        key: "gamut_clipped",
        name: "Out of gamut",
        meaning: "Share of pixels whose colour had to be cut to what sRGB can show.",
        unit: Unit::Percent(2),
        aim: Aim::AtMost(0.001),
    },
    Metric {
        key: "hue_drift_degrees",
        name: "Hue drift",
        meaning: "By how much hues turned while colours were fitted into sRGB.",
        unit: Unit::Degrees,
        aim: Aim::AtMost(3.0),
    },
];

/// The entry of a manifest key, if it is a known one.
pub(super) fn metric(key: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.key == key)
}

impl Metric {
    /// The value with its unit.
    pub fn value(&self, value: f64) -> String {
        if value.is_finite() { self.unit.write(value) } else { "not defined".into() }
    }

    /// The aim of mode `soft`, such as `≤ 3°`.
    pub fn aim(&self) -> Option<String> {
        match self.aim {
            Aim::AtMost(limit) => Some(format!("≤ {}", self.unit.write_short(limit))),
            Aim::AtLeast(limit) => Some(format!("≥ {}", self.unit.write_short(limit))),
            Aim::None => None,
        }
    }

    /// Whether the value, rounded as it is shown, lies outside the aim.
    pub fn misses(&self, value: f64) -> bool {
        let slack = self.unit.resolution() / 2.0;
        match self.aim {
            Aim::AtMost(limit) => value > limit + slack,
            Aim::AtLeast(limit) => value < limit - slack,
            Aim::None => false,
        }
    }
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Unit::Times => format!("{value:.1}×"),
            Unit::DeltaE => format!("ΔE {value:.2}"),
            Unit::Percent(decimals) => format!("{:.decimals$} %", value * 100.0),
            Unit::Degrees => format!("{value:.1}°"),
            Unit::Count => format!("{value:.0}"),
            Unit::Correlation => format!("{value:.2}"),
        }
    }

    fn write_short(self, value: f64) -> String {
        match self {
            Unit::Times => format!("{value}×"),
            Unit::DeltaE => format!("{value}"),
            Unit::Percent(_) => format!("{} %", (value * 1000.0).round() / 10.0),
            Unit::Degrees => format!("{value}°"),
            Unit::Count | Unit::Correlation => format!("{value}"),
        }
    }

    /// The smallest step the page shows, in the metric's own unit.
    fn resolution(self) -> f64 {
        match self {
            Unit::Times | Unit::Degrees => 0.1,
            Unit::DeltaE | Unit::Correlation => 0.01,
            Unit::Count => 1.0,
            Unit::Percent(decimals) => 0.01 / 10f64.powi(decimals as i32),
        }
    }
}

/// A figure of unknown meaning: at most four significant decimals, no trailing zeros.
pub(super) fn plain(value: f64) -> String {
    if !value.is_finite() {
        return "not defined".into();
    }
    if value != 0.0 && (value.abs() >= 1e9 || value.abs() < 1e-4) {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `some_key-name` as `Some key name`.
pub(super) fn humanise(key: &str) -> String {
    let mut words = String::with_capacity(key.len());
    for (i, c) in key.chars().enumerate() {
        match c {
            '_' | '-' => words.push(' '),
            c if i == 0 => words.extend(c.to_uppercase()),
            c => words.push(c),
        }
    }
    words
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A size in decimal units: `412 kB`, `1.8 MB`.
pub(super) fn bytes(value: u64) -> String {
    let amount = value as f64;
    match value {
        0..1_000 => format!("{value} B"),
        1_000..10_000 => format!("{:.1} kB", amount / 1e3),
        10_000..999_500 => format!("{:.0} kB", amount / 1e3),
        999_500..99_950_000 => format!("{:.1} MB", amount / 1e6),
        99_950_000..999_500_000 => format!("{:.0} MB", amount / 1e6),
        _ => format!("{:.2} GB", amount / 1e9),
    }
}

/// A duration given in milliseconds: `0.42 ms`, `17 ms`, `1.24 s`, `2 min 5 s`.
pub(super) fn duration(ms: f64) -> String {
    if !ms.is_finite() || ms < 0.0 {
        return "not measured".into();
    }
    match ms {
        ms if ms < 9.995 => format!("{ms:.2} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms if ms < 59_995.0 => format!("{:.2} s", ms / 1e3),
        ms => {
            let seconds = (ms / 1e3).round();
            let mut text = format!("{:.0} min", (seconds / 60.0).floor());
            let rest = seconds % 60.0;
            if rest > 0.0 {
                let _ = write!(text, " {rest:.0} s");
            }
            text
        }
    }
}

/// A share 0 to 1 in percent; small ones keep a decimal, and the smallest are not rounded to nothing.
pub(super) fn percent(share: f64) -> String {
    let percent = if share.is_finite() { share * 100.0 } else { 0.0 };
    match percent {
        p if p >= 9.95 => format!("{p:.0} %"),
        p if p >= 0.05 || p <= 0.0 => format!("{p:.1} %"),
        _ => "< 0.1 %".into(),
    }
}

/// `1 file`, `3 files`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", grouped(n as u64), if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_carry_their_units() {
        let say = |key: &str, value| metric(key).map(|m| m.value(value)).unwrap_or_default();
        assert_eq!(say("gain_p999", 3.44), "3.4×");
        assert_eq!(say("fidelity_delta_e", 0.917), "ΔE 0.92");
        assert_eq!(say("coverage", 1.0), "100 %");
        assert_eq!(say("lightness_order", 0.987), "0.99");
        assert_eq!(say("colors_present", 5.0), "5");
        assert_eq!(say("gamut_clipped", 0.0004), "0.04 %");
        assert_eq!(say("hue_drift_degrees", 1.25), "1.2°");
        assert_eq!(say("coverage", f64::NAN), "not defined");
    }

    #[test]
    fn a_value_that_reads_as_its_aim_does_not_miss_it() {
        let coverage = metric("coverage").unwrap();
        assert!(!coverage.misses(0.9999) && coverage.misses(0.8));
        let hue = metric("hue_drift_degrees").unwrap();
        assert!(!hue.misses(3.04) && hue.misses(3.06));
        assert_eq!(coverage.aim().as_deref(), Some("≥ 100 %"));
        assert_eq!(metric("gamut_clipped").unwrap().aim().as_deref(), Some("≤ 0.1 %"));
        assert!(metric("palette_distance").unwrap().aim().is_none());
    }

    #[test]
    fn sizes_times_and_shares_read_like_prose() {
        assert_eq!((bytes(0), bytes(9_999), bytes(412_345)), ("0 B".into(), "10.0 kB".into(), "412 kB".into()));
        assert_eq!((bytes(999_999), bytes(5_000_000_000)), ("1.0 MB".into(), "5.00 GB".into()));
        assert_eq!(
            (duration(0.4), duration(17.2), duration(1240.0)),
            ("0.40 ms".into(), "17 ms".into(), "1.24 s".into())
        );
        assert_eq!((duration(125_000.0), duration(f64::NAN)), ("2 min 5 s".into(), "not measured".into()));
        assert_eq!(
            (percent(0.213), percent(0.004), percent(0.000_01)),
            ("21 %".into(), "0.4 %".into(), "< 0.1 %".into())
        );
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!((plain(0.5), plain(12.0), plain(1e-7)), ("0.5".into(), "12".into(), "1.000e-7".into()));
        assert_eq!(humanise("noise_gain"), "Noise gain");
    }
}
