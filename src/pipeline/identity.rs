//! What makes two jobs the same: a key over everything that decides the results and where they go.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::encode::EncodeOptions;
use super::job::{BackgroundRequest, Fill, Format, Job};
use super::manifest;
use super::plan::{self, PlannedOutput};
use super::run::{RECIPE_VERSION, RunOptions};

/// SHA-256, lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The name of a job and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The job's own name, else one derived from its key.
    pub job_id: String,
    /// Hash of destination, user, name, source and recipe, lower-case hex of 64 characters. Two deliveries with the same
    /// key do the same work; results under the same name with another key are a conflict.
    pub key: String,
}

impl Identity {
    /// Identifies `job` on the source that `source` tells apart from every other content of the same address: its
    /// generation, or a hash of its bytes.
    pub fn new(job: &Job, source: &str, options: &RunOptions) -> Self {
        let key = key(job, source, options);
        // A derived name is part of the key already: it says nothing new.
        let job_id = job.job_id.clone().unwrap_or_else(|| format!("job-{}", &key[..16]));
        Self { job_id, key }
    }

    /// Whether the name is made from the content, so that other content will never have it.
    pub fn is_derived(job: &Job) -> bool {
        job.job_id.is_none()
    }
}

/// Hash of everything that decides the picture that variations are made of: `picture` and `fill` are SHA-256 of the base and
/// of the picture that takes its background's place. Whose job it is, what it is called and where its results go is no part of it.
pub fn base_key(job: &Job, picture: &str, fill: Option<&str>, options: &RunOptions) -> String {
    let mut recipe = json!({
        "version": RECIPE_VERSION,
        "picture": picture,
        "fill": fill,
        "max_dimension": options.max_dimension,
        "clustering_sample_size": options.clustering_sample_size,
    });
    if job.background.is_asked() {
        // What lies behind is a part of it where that is a picture; other fills are put behind variations.
        let request = BackgroundRequest {
            fill: job.background.fill.clone().filter(|fill| matches!(fill, Fill::Blur | Fill::Picture(_))).map(
                |fill| match fill {
                    Fill::Picture(_) => Fill::Picture(String::new()),
                    other => other,
                },
            ),
            matte: false,
            ..job.background.clone()
        };
        recipe["background"] = json!([request, model_of(job, options)]);
    }
    sha256_hex(recipe.to_string().as_bytes())
}

/// Hash of everything that decides the bytes of a file of a variation of the base `base`: what it shows, `subject`, and how it
/// is written.
pub fn file_key(base: &str, subject: &Value, output: &PlannedOutput) -> String {
    let EncodeOptions { format, quality, lossless, progressive, chroma, effort, fill } = output.encode;
    // Two libraries make JPEG files, and which one does is settled when the program is built.
    let codec = if cfg!(feature = "turbojpeg") { "turbojpeg" } else { "portable" };
    let encode = match format {
        Format::Png => json!(["png", effort]),
        Format::Jpeg => json!(["jpeg", codec, quality, progressive, chroma, fill.packed()]),
        Format::Webp if lossless => json!(["webp", "lossless", effort]),
        Format::Webp => json!(["webp", quality, effort]),
    };
    let whole = json!({"base": base, "subject": subject, "size": output.size, "encode": encode});
    sha256_hex(whole.to_string().as_bytes())
}

/// Hash of everything that decides the copy for upload of the file of this key: it takes from the file how a JPEG is written.
pub fn upload_key(key: &str, output: &PlannedOutput) -> String {
    let EncodeOptions { quality, progressive, .. } = output.encode;
    let codec = if cfg!(feature = "turbojpeg") { "turbojpeg" } else { "portable" };
    sha256_hex(json!({"of": key, "upload": ["jpeg", codec, quality, progressive]}).to_string().as_bytes())
}

/// The key of a base as it really is: what its matte was made with is known only once it is made.
pub fn made_key(base: &str, background: Option<&manifest::Background>) -> String {
    let Some(background) = background.filter(|background| background.model_sha256.is_some()) else {
        return base.to_owned();
    };
    let made = json!({"base": base, "model": background.model_sha256, "provider": background.provider});
    sha256_hex(made.to_string().as_bytes())
}

/// Another model gives other mattes. Which one it is, is known before it is loaded; whether it can be, is not.
fn model_of(job: &Job, options: &RunOptions) -> Option<Value> {
    if !job.may_need_model() {
        return None;
    }
    let spec = options.segmenter.spec(job.background.model.as_deref()).ok()?;
    let file = spec.sha256.as_deref().unwrap_or(&spec.location);
    Some(json!([spec.name, file, format!("{:?}", spec.contract)]))
}

fn key(job: &Job, source: &str, options: &RunOptions) -> String {
    // Defaults are written out: a job that spells them does the same work as one that leaves them out, and a change of the
    // settings is another recipe. Limits and what only speeds things up are left out: they change no byte.
    let mut recipe = json!({
        "version": RECIPE_VERSION,
        "palettes": job.palettes,
        "recolor": job.recolor,
        "background": job.background,
        "effects": job.effects,
        "steps": job.steps,
        "outputs": plan::outputs(job, options),
        "quality": options.quality,
        "max_dimension": options.max_dimension,
        "kmeans_max_iterations": options.kmeans_max_iterations,
        "clustering_sample_size": options.clustering_sample_size,
        "upload_over": options.upload_over,
    });
    if let Some(model) = model_of(job, options) {
        recipe["model"] = model;
    }
    // Only where there are some: what had a key before there were previews keeps it.
    if let Some(previews) = &job.previews {
        recipe["previews"] = json!(previews);
    }
    let whole = json!({
        "destination": job.destination,
        "user_id": job.user_id.as_deref().unwrap_or("_"),
        "job_id": job.job_id,
        "source": [job.source, source],
        "recipe": recipe,
    });
    sha256_hex(whole.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(json: &str) -> Job {
        Job::from_json(json.as_bytes()).unwrap()
    }

    const JOB: &str =
        r##"{"source": "gs://bases/a.png", "palettes": [{"name": "Warm", "colors": ["#264653", "#E9C46A"]}]}"##;

    #[test]
    fn everything_that_decides_the_results_changes_the_key_and_spelling_a_default_does_not() {
        let options = RunOptions::default();
        let plain = Identity::new(&job(JOB), "1", &options);
        assert_eq!(plain.job_id, format!("job-{}", &plain.key[..16]));
        let with = |more: &str| JOB.replacen('{', &format!("{{{more}, "), 1);
        for changed in [
            JOB.replace("a.png", "b.png"),
            JOB.replace("Warm", "Cold"),
            JOB.replace("#E9C46A", "#E9C46B"),
            with(r#""job_id": "j""#),
            with(r#""user_id": "u""#),
            with(r#""destination": "gs://other""#),
            with(r#""recolor": {"strength": 0.5}"#),
            with(r#""outputs": [{"format": "webp"}]"#),
            with(r#""effects": ["dither"]"#),
            with(r#""background": {"action": "remove"}"#),
        ] {
            assert_ne!(Identity::new(&job(&changed), "1", &options).key, plain.key, "{changed}");
        }
        assert_ne!(Identity::new(&job(JOB), "2", &options).key, plain.key);
        for changed in [
            RunOptions { max_dimension: 1500, ..options.clone() },
            RunOptions { quality: 80, ..options.clone() },
            RunOptions { upload_over: Some(1), ..options.clone() },
        ] {
            assert_ne!(Identity::new(&job(JOB), "1", &changed).key, plain.key);
        }
        let spelt = with(r#""outputs": [{"format": "png"}], "recolor": {"mode": "soft"}"#);
        assert_eq!(Identity::new(&job(&spelt), "1", &options).key, plain.key);
        let wider = RunOptions { max_pixels: 1, max_palettes: 1, gallery: false, ..options.clone() };
        assert_eq!(Identity::new(&job(JOB), "1", &wider).key, plain.key);
    }

    #[test]
    fn a_name_of_the_jobs_own_is_kept() {
        let named = job(&JOB.replacen('{', r#"{"job_id": "j_1", "#, 1));
        assert_eq!(Identity::new(&named, "1", &RunOptions::default()).job_id, "j_1");
        assert!(!Identity::is_derived(&named) && Identity::is_derived(&job(JOB)));
    }

    #[test]
    fn another_model_is_other_work_where_a_model_may_be_asked() {
        use crate::pipeline::segment::Segmenter;
        use crate::pipeline::segment::registry::{ModelEntry, Registry};
        use crate::pipeline::segment::runtime::RuntimeOptions;
        let with = |path: &str, size: u32| {
            let entry =
                ModelEntry { name: "u2net".into(), path: path.into(), size: Some(size), ..ModelEntry::default() };
            let segmenter = Segmenter::new(Registry::new(vec![entry], None).unwrap(), RuntimeOptions::default());
            RunOptions { segmenter, ..RunOptions::default() }
        };
        let cut = |method: &str| {
            job(&JOB.replacen('{', &format!(r#"{{"background": {{"action": "remove", "method": "{method}"}}, "#), 1))
        };
        let key = |method: &str, options: &RunOptions| Identity::new(&cut(method), "1", options).key;
        for method in ["auto", "model"] {
            let plain = key(method, &with("a.onnx", 320));
            assert_eq!(key(method, &with("a.onnx", 320)), plain);
            for other in [with("b.onnx", 320), with("a.onnx", 640), RunOptions::default()] {
                assert_ne!(key(method, &other), plain);
            }
        }
        assert_eq!(key("classic", &with("a.onnx", 320)), key("classic", &RunOptions::default()));
        let plain = |options: &RunOptions| Identity::new(&job(JOB), "1", options).key;
        assert_eq!(plain(&with("a.onnx", 320)), plain(&RunOptions::default()));
    }
}
