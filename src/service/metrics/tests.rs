//! The text is judged by a reader of its own, strict about what the format's documentation says.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn job() -> JobLine {
    JobLine {
        job_id: "a-job-of-somebody".into(),
        user_id: "somebody".into(),
        outcome: Outcome::Complete,
        variations: 7,
        adopted: 2,
        queue_ms: 3.0,
        first_variation_ms: Some(200.0),
        total_ms: 800.0,
        timings: BTreeMap::from([("decode".into(), 30.0), ("never-heard-of".into(), 1.0), ("total".into(), 790.0)]),
        mode: Some(Mode::Exact),
        ..JobLine::default()
    }
}

/// Everything counted once.
fn busy() -> Metrics {
    let metrics = Metrics::new();
    metrics.request("/pubsub/push", 204);
    metrics.request("/pubsub/push", 503);
    metrics.delivery("acknowledged");
    metrics.job_finished(&job());
    metrics.job_finished(&JobLine { outcome: Outcome::Failed, failed: 7, mode: None, ..job() });
    metrics.job_finished(&JobLine { outcome: Outcome::Duplicate, cached: true, ..job() });
    metrics.stage("fetch", Some(Mode::Soft), 0.02);
    metrics.stage_failed("fetch", 1.0);
    metrics.upload(1_000, 0.05);
    metrics.cache_hit();
    metrics.cache_miss();
    metrics.cache_miss();
    metrics.cache_miss();
    metrics.auth_refused("audience");
    metrics.memory_cleanup();
    metrics.observe(&Now {
        queue_depth: 4,
        budget_bytes: 1 << 30,
        cache_max_size: 9,
        cache_ttl_ms: 60_000,
        ..Now::default()
    });
    metrics
}

type Labels = BTreeMap<String, String>;

/// A family of the text form.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: bool,
    samples: Vec<(String, Labels, f64)>,
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The families of a text, or what is wrong with it.
fn read(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").ok_or("the end is missing")?;
    for line in body.lines() {
        let problem = |what: &str| Err(format!("{what}: {line}"));
        if let Some(comment) = line.strip_prefix("# ") {
            let mut parts = comment.splitn(3, ' ');
            let (word, name, rest) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if !is_name(name) || rest.is_empty() {
                return problem("a description without name or content");
            }
            if name != current {
                if families.contains_key(name) {
                    return problem("a family in two places");
                }
                current = name.to_owned();
            }
            let family = families.entry(current.clone()).or_default();
            if !family.samples.is_empty() {
                return problem("a description after its samples");
            }
            match word {
                Some("HELP") if !family.help => family.help = true,
                Some("TYPE") if family.kind.is_empty() => family.kind = rest.to_owned(),
                _ => return problem("a comment that is neither HELP nor TYPE, or one twice"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').ok_or_else(|| format!("no value: {line}"))?;
        let value: f64 = value.parse().map_err(|_| format!("no number: {line}"))?;
        let (name, labels) = match series.split_once('{') {
            None => (series, Labels::new()),
            Some((name, labels)) => {
                let labels = labels.strip_suffix('}').ok_or_else(|| format!("labels do not end: {line}"))?;
                let mut found = Labels::new();
                for label in labels.split(',') {
                    let (key, quoted) = label.split_once('=').ok_or_else(|| format!("no label: {line}"))?;
                    let value = quoted.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                    let Some(value) = value.filter(|value| is_name(key) && !value.contains(['"', '\\'])) else {
                        return problem("a label that is not well-formed");
                    };
                    if found.insert(key.to_owned(), value.to_owned()).is_some() {
                        return problem("a label twice");
                    }
                }
                (name, found)
            }
        };
        let family = families.get_mut(&current).ok_or_else(|| format!("a sample without a family: {line}"))?;
        let suffix = name.strip_prefix(&current).ok_or_else(|| format!("a sample of another family: {line}"))?;
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => return problem("a kind that is not known"),
        };
        if !allowed.contains(&suffix) || !family.help || !is_name(name) {
            return problem("a sample that its family does not allow");
        }
        let suffix = suffix.to_owned();
        if family.samples.iter().any(|(other, known, _)| *other == suffix && *known == labels) {
            return problem("a sample twice");
        }
        family.samples.push((suffix, labels, value));
    }
    for (name, family) in &families {
        if family.kind == "histogram" {
            check_histogram(name, family)?;
        }
    }
    Ok(families)
}

fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let series: BTreeSet<Labels> = family
        .samples
        .iter()
        .map(|(_, labels, _)| {
            let mut labels = labels.clone();
            labels.remove("le");
            labels
        })
        .collect();
    for labels in series {
        let of = |suffix: &str| {
            let here = |sample: &&(String, Labels, f64)| {
                sample.0 == suffix && labels.iter().all(|(key, value)| sample.1.get(key) == Some(value))
            };
            family.samples.iter().filter(here).collect::<Vec<_>>()
        };
        let (buckets, sums, counts) = (of("_bucket"), of("_sum"), of("_count"));
        let bound = |labels: &Labels| match labels.get("le").map(String::as_str) {
            Some("+Inf") => Some(f64::INFINITY),
            Some(number) => number.parse().ok(),
            None => None,
        };
        let bounds: Vec<f64> = buckets.iter().filter_map(|(_, labels, _)| bound(labels)).collect();
        let rising = |values: &[f64]| values.windows(2).all(|pair| pair[0] < pair[1]);
        let cumulative = buckets.windows(2).all(|pair| pair[0].2 <= pair[1].2);
        let ends = buckets.last().map(|bucket| bucket.2) == counts.first().map(|count| count.2);
        let whole = bounds.len() == SECONDS.len() + 1 && bounds.last() == Some(&f64::INFINITY);
        if !(rising(&bounds) && cumulative && ends && whole && sums.len() == 1 && counts.len() == 1) {
            return Err(format!("{name} {labels:?} is no histogram"));
        }
    }
    Ok(())
}

fn value(families: &BTreeMap<String, Family>, name: &str, suffix: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let found = families[name].samples.iter().find(|sample| sample.0 == suffix && sample.1 == labels);
    found.unwrap_or_else(|| panic!("{name}{suffix} {labels:?} is missing")).2
}

#[test]
fn the_text_is_well_formed_and_says_what_was_counted() {
    let text = busy().render_text();
    let families = read(&text).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
    let of = |name: &str, labels: &[(&str, &str)]| value(&families, name, "_total", labels);
    assert_eq!(of("concept_requests", &[("route", "/pubsub/push"), ("status", "5xx")]), 1.0);
    assert_eq!(of("concept_jobs", &[("mode", "exact"), ("outcome", "complete")]), 1.0);
    assert_eq!(of("concept_jobs", &[("mode", "none"), ("outcome", "failed")]), 1.0);
    assert_eq!(of("concept_variations", &[("result", "made")]), 5.0);
    assert_eq!(of("concept_variations", &[("result", "adopted")]), 4.0);
    assert_eq!(of("concept_variations", &[("result", "failed")]), 7.0);
    assert_eq!(of("concept_upload_bytes", &[]), 1_000.0);
    assert_eq!(of("concept_auth_refusals", &[("reason", "audience")]), 1.0);
    assert_eq!(value(&families, "concept_queue_depth", "", &[]), 4.0);
    assert_eq!(value(&families, "concept_admission_budget_bytes", "", &[]), f64::from(1 << 30));
    let decode = [("mode", "exact"), ("stage", "decode")];
    assert_eq!(value(&families, "concept_stage_seconds", "_count", &decode), 2.0);
    assert!((value(&families, "concept_stage_seconds", "_sum", &decode) - 0.06).abs() < 1e-9);
    assert_eq!(value(&families, "concept_job_seconds", "_count", &[("mode", "exact")]), 2.0);
}

#[test]
fn the_reader_of_these_tests_finds_faults() {
    let good = "# HELP a_seconds x.\n# TYPE a_seconds gauge\na_seconds 1\n# EOF\n";
    assert!(read(good).is_ok());
    for bad in [
        "",
        "a 1\n# EOF\n",
        "# TYPE a gauge\na 1\n# EOF\n",
        "# HELP a x.\n# TYPE a gauge\na one\n# EOF\n",
        "# HELP a x.\n# TYPE a gauge\na{b=c} 1\n# EOF\n",
        "# HELP a x.\n# TYPE a gauge\na 1\na 2\n# EOF\n",
        "# HELP a x.\n# TYPE a counter\na 1\n# EOF\n",
        "# HELP a x.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n# EOF\n",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn nothing_that_a_caller_sends_becomes_a_label() {
    let text = busy().render_text();
    for part in ["a-job-of-somebody", "somebody", "never-heard-of"] {
        assert!(!text.contains(part), "{part}");
    }
    assert!(text.contains(r#"stage="other""#));
}

#[test]
fn the_json_has_exactly_the_agreed_form() {
    let json = busy().render_json();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json), ["cache", "cacheHitRate", "errorRate", "features", "requests", "uptime"]);
    assert_eq!(json["requests"], json!({ "total": 4, "success": 2, "error": 2, "cached": 1 }));
    assert_eq!(json["cache"], json!({ "size": 0, "maxSize": 9, "ttlMs": 60_000 }));
    assert_eq!((json["cacheHitRate"].as_f64(), json["errorRate"].as_f64()), (Some(0.25), Some(0.5)));
    let features = &json["features"];
    for name in ["render.exact", "render.none", "fetch", "decode", "upload", "other"] {
        let wanted = ["avg", "count", "errors", "max", "min", "p50", "p95", "p99"];
        assert_eq!(keys(&features[name]), wanted, "{name}");
    }
    assert_eq!(features["fetch"]["count"], 2);
    assert_eq!(features["fetch"]["errors"], 1);
    assert!((features["fetch"]["min"].as_f64().unwrap() - 20.0).abs() < 0.05, "{}", features["fetch"]);
    assert!((features["fetch"]["p99"].as_f64().unwrap() - 1_000.0).abs() < 1.0, "{}", features["fetch"]);
    assert_eq!(features.get("total"), None);
}

#[test]
fn nothing_counted_gives_no_rate_that_is_no_number() {
    let json = Metrics::new().render_json();
    assert_eq!((json["cacheHitRate"].as_f64(), json["errorRate"].as_f64()), (Some(0.0), Some(0.0)));
    assert_eq!(json["features"], json!({}));
    read(&Metrics::new().render_text()).unwrap();
}

#[test]
fn times_of_any_size_are_taken() {
    let metrics = Metrics::new();
    for seconds in [0.0, -1.0, 1e-9, 1e9, f64::INFINITY, f64::NAN] {
        metrics.stage("model", None, seconds);
    }
    let model = &metrics.render_json()["features"]["model"];
    assert_eq!(model["count"], 6);
    assert!((model["max"].as_f64().unwrap() - 3_600_000.0).abs() < 3_600.0, "{model}");
}

#[test]
fn a_retry_counter_never_falls() {
    let metrics = Metrics::new();
    let retries = || value(&read(&metrics.render_text()).unwrap(), "concept_storage_retries", "_total", &[]);
    metrics.observe(&Now { storage_retries: 5, ..Now::default() });
    metrics.observe(&Now { storage_retries: 3, ..Now::default() });
    assert_eq!(retries(), 5.0);
}

#[test]
fn clones_count_in_one_place() {
    let metrics = Metrics::new();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let metrics = metrics.clone();
            std::thread::spawn(move || (0..1_000).for_each(|_| metrics.job_finished(&job())))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(metrics.render_json()["requests"]["success"], 4_000);
    assert_eq!(metrics.render_json()["features"]["render.exact"]["count"], 4_000);
}

#[test]
fn every_metric_is_documented() {
    let page = include_str!("../../../docs/worker.md");
    let text = busy().render_text();
    let names: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next()).collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        // What a cache holds shares a line.
        let short = name.replacen("concept_result_cache_", "…_", 1);
        let is_there = ["`", "{", "_total`", "_total{"]
            .iter()
            .any(|end| page.contains(&format!("{name}{end}")) || page.contains(&format!("{short}{end}")));
        assert!(is_there, "docs/worker.md does not say what {name} is");
    }
}
