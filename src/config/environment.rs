//! Reading the environment: every variable checked, all faults reported together, unknown names told apart.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;

use serde_json::Value;

use super::{Accepts, Config, PREFIX, Variable, plain, variables};

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

fn parse(vars: impl IntoIterator<Item = (String, String)>) -> Option<Config> {
    envy::prefixed(PREFIX).from_iter(vars).ok()
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
    use super::super::{Bucket, LogLevel, StorageSetting};
    use super::*;
    use crate::pipeline::job::Format;

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
        assert_eq!(config.storage, StorageSetting::Local("/srv/a:b".into()));
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
            ("CONCEPT_XYLOPHONE", "1"),
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
                "CONCEPT_XYLOPHONE is not a setting of this version and is ignored",
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
