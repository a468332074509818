//! Settings from the environment: `CONCEPT_*` variables, read once into one typed struct.
//!
//! One table, [`variables`], made together with [`Config`], is the source of the defaults, of the checks, of the
//! `config` command and of docs/configuration.md. A blank variable counts as unset, because compose files and
//! deployment templates write unset variables that way.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pipeline::job::Format;
use crate::pipeline::palette_file::MAX_PALETTES;
use crate::pipeline::run::RunOptions;

/// What every variable's name begins with.
pub const PREFIX: &str = "CONCEPT_";

/// Declares [`Config`], its defaults and the table of variables in one place, so that none can lag behind.
macro_rules! settings {
    ($($(#[doc = $meaning:literal])+ $field:ident: $kind:ty = $default:expr, $accepts:expr;)+) => {
        /// Every setting, typed and checked. The variable of field `max_pixels` is `CONCEPT_MAX_PIXELS`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Config {
            $($(#[doc = $meaning])+ pub $field: $kind,)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        /// The table of variables, in the order in which they are shown.
        pub fn variables() -> Vec<Variable> {
            vec![$(Variable {
                field: stringify!($field),
                name: format!("{PREFIX}{}", stringify!($field).to_uppercase()),
                meaning: concat!($($meaning),+).trim(),
                accepts: $accepts,
            },)+]
        }
    };
}

settings! {
    /// Longest side of the base picture in pixels: a larger source is scaled down once, before anything else. 0 keeps
    /// the full size.
    image_max_dimension: u32 = 0, Accepts::Whole { min: 0, max: 65_535 };
    /// Most pixels a source may have. The header is checked before anything is decoded.
    max_pixels: u64 = 50_000_000, Accepts::Whole { min: 1, max: 65_535 * 65_535 };
    /// Most bytes a source file may have. Checked before it is read.
    max_source_bytes: u64 = 256 << 20, Accepts::Whole { min: 1, max: 16 << 30 };
    /// Most palettes a job may have.
    max_palettes: usize = 64, Accepts::Whole { min: 1, max: MAX_PALETTES as u64 };
    /// Most outputs (format and size) a job may ask of every variation.
    max_outputs: usize = 16, Accepts::Whole { min: 1, max: 256 };
    /// Most iterations of k-means; it stops earlier once nothing moves.
    kmeans_max_iterations: u32 = 50, Accepts::Whole { min: 1, max: 10_000 };
    /// Longest side in pixels of the sample that k-means sees. 0 takes every pixel.
    clustering_sample_size: u32 = 1024, Accepts::Whole { min: 0, max: 65_535 };
    /// Quality of JPEG and lossy WebP outputs that name none.
    compression_quality: u8 = 85, Accepts::Whole { min: 1, max: 100 };
    /// Format of outputs when neither job nor flag names one.
    output_format: Format = Format::Png, Accepts::Words(&["png", "jpeg", "webp"]);
    /// Threads that compute. 0 takes one for every core.
    threads: usize = 0, Accepts::Whole { min: 0, max: 1_024 };
    /// How much is logged. The commands that a person runs log `warn` unless this is set or `-v` is given.
    log_level: LogLevel = LogLevel::Info, Accepts::Words(&["off", "error", "warn", "info", "debug", "trace"]);
    /// Where objects live. Under `local:DIR` the object gs://bucket/name is the file DIR/bucket/name. `gcs` and `memory`
    /// are known, but this version opens gs:// names only under `local:DIR`.
    storage: Storage = Storage::Local(PathBuf::from("./data")), Accepts::Form("`local:DIR`, `gcs` or `memory`");
    /// Bucket that receives the results of jobs that name no destination. Without it, such a job needs `--out`.
    storage_bucket_palette: Bucket = Bucket::default(),
        Accepts::Form("a bucket's name: 3 to 222 of the characters a-z, 0-9, `-`, `_` and `.`");
}

/// One variable: its name, what it means, what it takes. Its default is the field of [`Config::default`].
#[derive(Debug, Clone)]
pub struct Variable {
    /// The field of [`Config`].
    field: &'static str,
    /// The name in the environment, prefix included.
    pub name: String,
    /// What it does, in whole sentences.
    pub meaning: &'static str,
    /// What it takes.
    pub accepts: Accepts,
}

/// What a variable takes; displays as the end of the sentence "give …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// A whole number, both ends included.
    Whole {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// One of these words, in any case.
    Words(&'static [&'static str]),
    /// Text of this form.
    Form(&'static str),
}

impl Accepts {
    /// Whether a value that already has the right type lies in the range. Words and forms are settled by their types.
    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Whole { min, max } => value.as_u64().is_some_and(|number| (min..=max).contains(&number)),
            Self::Words(_) | Self::Form(_) => true,
        }
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Words([first @ .., last]) => write!(f, "{} or {last}", first.join(", ")),
            Self::Words([]) => Ok(()),
            Self::Form(form) => f.write_str(form),
        }
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed. `critical` and `fatal` are accepted spellings.
    #[serde(alias = "critical", alias = "fatal")]
    Error,
    /// What will surprise. `warning` is an accepted spelling.
    #[serde(alias = "warning")]
    Warn,
    /// What happened.
    Info,
    /// Why it happened.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The lower-case word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Where objects live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Storage {
    /// gs://bucket/name is the file bucket/name under this folder.
    Local(PathBuf),
    /// Cloud Storage.
    Gcs,
    /// Nowhere: objects are gone when the process ends.
    Memory,
}

impl TryFrom<String> for Storage {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once(':') {
            Some(("local", folder)) if !folder.trim().is_empty() => Ok(Self::Local(folder.into())),
            None if text == "gcs" => Ok(Self::Gcs),
            None if text == "memory" => Ok(Self::Memory),
            _ => Err("not a storage"),
        }
    }
}

impl From<Storage> for String {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Local(folder) => format!("local:{}", folder.display()),
            Storage::Gcs => "gcs".into(),
            Storage::Memory => "memory".into(),
        }
    }
}

/// A bucket's name, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bucket(Option<String>);

impl Bucket {
    /// The name, when there is one.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether `name` can be a bucket's: also safe as the name of one folder.
    pub fn is_valid_name(name: &str) -> bool {
        (3..=222).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !name.contains("..")
    }
}

impl TryFrom<String> for Bucket {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            Ok(Self(None))
        } else if Self::is_valid_name(&text) {
            Ok(Self(Some(text)))
        } else {
            Err("not a bucket's name")
        }
    }
}

impl From<Bucket> for String {
    fn from(bucket: Bucket) -> Self {
        bucket.0.unwrap_or_default()
    }
}

impl Config {
    /// The part of the settings that a run needs.
    pub fn run_options(&self) -> RunOptions {
        RunOptions {
            max_dimension: self.image_max_dimension,
            max_pixels: self.max_pixels,
            kmeans_max_iterations: self.kmeans_max_iterations,
            clustering_sample_size: self.clustering_sample_size,
            quality: self.compression_quality,
            format: self.output_format,
            max_palettes: self.max_palettes,
            max_outputs: self.max_outputs,
            gallery: true,
        }
    }

    /// The value of a variable, as JSON holds it.
    fn value(&self, variable: &Variable) -> Value {
        // A struct of numbers and words always has a JSON form; Null would show as an empty value.
        serde_json::to_value(self).ok().and_then(|all| all.get(variable.field).cloned()).unwrap_or(Value::Null)
    }
}

/// What was read from the environment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Environment {
    /// The settings, defaults filled in.
    pub config: Config,
    /// Names of the variables that were set, blank ones excepted.
    set: BTreeSet<String>,
    /// Variables with our prefix that are no settings of ours.
    pub unknown: Vec<Unknown>,
}

/// A variable with our prefix that nothing reads; displays as a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Its name.
    pub name: String,
    /// The setting that was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a setting of this version and is ignored", self.name)?;
        match &self.suggestion {
            Some(name) => write!(f, "; did you mean {name}?"),
            None => Ok(()),
        }
    }
}

/// A variable that cannot be used; displays as what was wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The variable.
    pub name: String,
    /// Its value, shortened.
    pub value: String,
    /// What it takes.
    pub accepts: Accepts,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:?}; give {}, or unset it", self.name, self.value, self.accepts)
    }
}

/// Everything that is wrong with the environment, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "one environment variable cannot be used:")?,
            many => write!(f, "{many} environment variables cannot be used:")?,
        }
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl Environment {
    /// Reads the settings out of environment variables, such as those of [`std::env::vars_os`].
    ///
    /// # Errors
    /// [`Faults`] lists every variable that cannot be used, not only the first.
    pub fn read(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Faults> {
        let table = variables();
        let mut unknown = Vec::new();
        let mut known = Vec::new();
        for (name, value) in vars {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) {
                continue;
            }
            match table.iter().position(|variable| variable.name == name) {
                Some(at) => known.push((at, name, value)),
                None => unknown.push(Unknown { suggestion: nearest(&name, &table), name }),
            }
        }
        // The environment has no order of its own.
        known.sort_by_key(|(at, ..)| *at);
        unknown.sort_by(|a, b| a.name.cmp(&b.name));

        let (mut good, mut faults) = (Vec::new(), Vec::new());
        for (at, name, value) in known {
            let text = value.to_str().map(str::trim);
            if text == Some("") {
                continue;
            }
            let variable = &table[at];
            match text.map(|text| (name.clone(), variable.accepts.canonical(text))) {
                // envy stops at its first error, so every variable is first read alone.
                Some(pair) if parse([pair.clone()]).is_some_and(|c| variable.accepts.admits(&c.value(variable))) => {
                    good.push(pair);
                }
                _ => faults.push(Fault { name, value: shortened(&value.to_string_lossy()), accepts: variable.accepts }),
            }
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let set = good.iter().map(|(name, _)| name.clone()).collect();
        // Each was read alone above, so together they can be read too; the default stands in for the impossible.
        Ok(Self { config: parse(good).unwrap_or_default(), set, unknown })
    }

    /// Whether a variable is set.
    pub fn is_set(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    /// Every setting with its value, for people: two lines each.
    pub fn to_text(&self) -> String {
        let default = Config::default();
        let mut text = String::new();
        for variable in variables() {
            let (value, usual) = (plain(&self.config.value(&variable)), plain(&default.value(&variable)));
            let source = match (self.is_set(&variable.name), usual.as_str()) {
                (false, "") => "unset".to_owned(),
                (false, _) => "default".to_owned(),
                (true, "") => "from the environment; unset by default".to_owned(),
                (true, usual) => format!("from the environment; default {usual}"),
            };
            text += &format!("{}={value}  ({source})\n    {}\n", variable.name, variable.meaning);
            text += &format!("    Takes {}.\n", variable.accepts);
        }
        text
    }

    /// Every setting with its value, for machines: an array of objects with `name`, `value`, `default`, `source`
    /// (`env` or `default`), `accepts` and `meaning`.
    pub fn to_json(&self) -> Value {
        let default = Config::default();
        variables()
            .iter()
            .map(|variable| {
                serde_json::json!({
                    "name": variable.name,
                    "value": self.config.value(variable),
                    "default": default.value(variable),
                    "source": if self.is_set(&variable.name) { "env" } else { "default" },
                    "accepts": variable.accepts.to_string(),
                    "meaning": variable.meaning,
                })
            })
            .collect()
    }
}

impl Accepts {
    /// Words are known by their lower-case form.
    fn canonical(self, text: &str) -> String {
        match self {
            Self::Words(_) => text.to_lowercase(),
            Self::Whole { .. } | Self::Form(_) => text.to_owned(),
        }
    }
}

/// The text of docs/configuration.md.
pub fn markdown() -> String {
    let default = Config::default();
    let mut text = String::from(HEADER);
    for variable in variables() {
        let usual = plain(&default.value(&variable));
        let usual = if usual.is_empty() { "none".to_owned() } else { format!("`{usual}`") };
        text += &format!("| `{}` | {usual} | {} | {} |\n", variable.name, variable.accepts, variable.meaning);
    }
    text
}

/// What docs/configuration.md says before the table.
const HEADER: &str = "\
# Configuration

This page is printed by `concept-worker config --markdown`; a test keeps it true.

Settings are environment variables, read once at start. A flag or a field of the job goes before a variable, and a
variable before its default. A blank variable counts as unset. When variables cannot be used, all of them are reported
together and nothing starts (exit code 2). A variable that begins with `CONCEPT_` and is not listed here is ignored, with
a warning that names the nearest setting.

`concept-worker config` prints every variable with its value and where the value comes from; `--json` prints the same for
machines.

| variable | default | takes | meaning |
|---|---|---|---|
";

fn parse(vars: impl IntoIterator<Item = (String, String)>) -> Option<Config> {
    envy::prefixed(PREFIX).from_iter(vars).ok()
}

/// A JSON value as a person would write it in a shell.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN { text.into() } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

/// The variable whose name is at most a third of its own part of `name` away, if any.
fn nearest(name: &str, table: &[Variable]) -> Option<String> {
    let wanted = name.to_uppercase();
    // Names have no length limit in an environment, and a distance costs the product of both lengths.
    if wanted.len() > 100 {
        return None;
    }
    let allowed = (wanted.len() - PREFIX.len()) / 3;
    let candidates = table.iter().map(|variable| (edit_distance(&wanted, &variable.name), &variable.name));
    candidates.min().filter(|(distance, _)| *distance <= allowed).map(|(_, name)| name.clone())
}

/// Levenshtein distance in characters, by the two-row method of Wagner and Fischer (1974).
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Environment, Faults> {
        Environment::read(vars.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn an_empty_environment_gives_the_defaults_and_blank_counts_as_unset() {
        assert_eq!(read(&[]).unwrap().config, Config::default());
        let blank = read(&[("CONCEPT_THREADS", " "), ("CONCEPT_STORAGE", "")]).unwrap();
        assert_eq!(blank, Environment::default());
        assert!(!blank.is_set("CONCEPT_THREADS"));
    }

    #[test]
    fn every_default_is_admitted_by_its_own_row_and_survives_reading() {
        let default = Config::default();
        for variable in variables() {
            let value = default.value(&variable);
            assert!(variable.accepts.admits(&value), "{}", variable.name);
            let read = read(&[(&variable.name, &plain(&value))]).unwrap();
            assert_eq!(read.config, default, "{}", variable.name);
        }
    }

    #[test]
    fn values_are_read_into_their_fields() {
        let environment = read(&[
            ("CONCEPT_IMAGE_MAX_DIMENSION", "1500"),
            ("CONCEPT_OUTPUT_FORMAT", "JPG"),
            ("CONCEPT_LOG_LEVEL", "WARNING"),
            ("CONCEPT_STORAGE", "local:/srv/a:b"),
            ("CONCEPT_STORAGE_BUCKET_PALETTE", "brand-palettes"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        let config = &environment.config;
        assert_eq!(config.image_max_dimension, 1500);
        assert_eq!(config.output_format, Format::Jpeg);
        assert_eq!(config.log_level, LogLevel::Warn);
        assert_eq!(config.storage, Storage::Local("/srv/a:b".into()));
        assert_eq!(config.storage_bucket_palette.name(), Some("brand-palettes"));
        assert!(environment.is_set("CONCEPT_LOG_LEVEL") && !environment.is_set("CONCEPT_THREADS"));
        assert_eq!(config.run_options().max_dimension, 1500);
        assert_eq!(config.run_options().format, Format::Jpeg);
    }

    #[test]
    fn every_fault_is_reported_with_its_name_its_value_and_what_is_accepted() {
        let faults = read(&[
            ("CONCEPT_COMPRESSION_QUALITY", "101"),
            ("CONCEPT_STORAGE", "s3"),
            ("CONCEPT_MAX_PIXELS", "-1"),
            ("CONCEPT_LOG_LEVEL", "loud"),
            ("CONCEPT_THREADS", "4"),
            ("CONCEPT_KMEANS_MAX_ITERATIONS", "50.0"),
        ])
        .unwrap_err();
        insta::assert_snapshot!(faults, @r#"
        5 environment variables cannot be used:
          CONCEPT_MAX_PIXELS is "-1"; give a whole number from 1 to 4294836225, or unset it
          CONCEPT_KMEANS_MAX_ITERATIONS is "50.0"; give a whole number from 1 to 10000, or unset it
          CONCEPT_COMPRESSION_QUALITY is "101"; give a whole number from 1 to 100, or unset it
          CONCEPT_LOG_LEVEL is "loud"; give off, error, warn, info, debug or trace, or unset it
          CONCEPT_STORAGE is "s3"; give `local:DIR`, `gcs` or `memory`, or unset it
        "#);
    }

    #[test]
    fn numbers_beyond_every_integer_are_faults_and_long_values_are_shortened() {
        let long = "9".repeat(10_000);
        for variable in variables().iter().filter(|v| matches!(v.accepts, Accepts::Whole { .. })) {
            let Faults(faults) = read(&[(&variable.name, &long)]).unwrap_err();
            assert_eq!(faults[0].name, variable.name);
            assert!(faults[0].value.len() < 70);
        }
    }

    #[cfg(unix)]
    #[test]
    fn values_that_are_not_text_are_faults() {
        use std::os::unix::ffi::OsStringExt;
        let pair = ("CONCEPT_THREADS".into(), OsString::from_vec(vec![0xff]));
        assert_eq!(Environment::read([pair]).unwrap_err().0[0].name, "CONCEPT_THREADS");
    }

    #[test]
    fn bucket_names_cannot_leave_their_folder() {
        for bad in ["..", "a", "a/b", ".hidden", "a..b", "UPPER", "a b c", "/abs"] {
            assert!(!Bucket::is_valid_name(bad), "{bad}");
        }
        assert!(Bucket::is_valid_name("brand-palettes.example.com"));
    }

    #[test]
    fn unknown_variables_are_no_error_and_the_nearest_name_is_suggested() {
        let unknown = read(&[
            ("CONCEPT_COMPRESION_QUALITY", "85"),
            ("CONCEPT_threads", "2"),
            ("CONCEPT_UPLOAD_TIMEOUT_SECONDS", "30"),
            ("CONCEPT_", ""),
        ])
        .unwrap()
        .unknown;
        let texts: Vec<String> = unknown.iter().map(Unknown::to_string).collect();
        assert_eq!(
            texts,
            [
                "CONCEPT_ is not a setting of this version and is ignored",
                "CONCEPT_COMPRESION_QUALITY is not a setting of this version and is ignored; did you mean \
                 CONCEPT_COMPRESSION_QUALITY?",
                "CONCEPT_UPLOAD_TIMEOUT_SECONDS is not a setting of this version and is ignored",
                "CONCEPT_threads is not a setting of this version and is ignored; did you mean CONCEPT_THREADS?",
            ]
        );
    }

    #[test]
    fn the_distance_counts_insertions_deletions_and_replacements() {
        for (from, to, distance) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0)] {
            assert_eq!(edit_distance(from, to), distance);
            assert_eq!(edit_distance(to, from), distance);
        }
    }
}
