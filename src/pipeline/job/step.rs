//! Steps by remote models.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::JobError;
use crate::pipeline::output::safe_name;

/// The most steps that a job may have.
pub const MAX_STEPS: usize = 8;

/// Stands for the picture in a step's input.
pub const PICTURE: &str = "$image";

/// The most bytes of a step's input as JSON.
const MAX_INPUT_BYTES: usize = 64 << 10;

/// When a step is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Before recolouring, on the picture; what it puts out takes the picture's place.
    #[default]
    Before,
    /// After recolouring, on the first file of every variation; what it puts out is stored beside it.
    After,
}

/// How heavy a step is: each class has its own places and its own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepClass {
    /// Seconds: upscale, restore.
    Light,
    /// A minute: relight, style, talking-photo.
    Heavy,
    /// Minutes, in many parts: story-comic.
    Comic,
}

impl StepClass {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Light, Self::Heavy, Self::Comic];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Heavy => "heavy",
            Self::Comic => "comic",
        }
    }

    /// The class of the steps that have a name of their own; heavy for all others.
    pub fn of(step: &str) -> Self {
        match step {
            "upscale" | "restore" => Self::Light,
            "story-comic" => Self::Comic,
            _ => Self::Heavy,
        }
    }
}

/// A step by a remote model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepRequest {
    /// Before or after recolouring.
    #[serde(default)]
    pub when: When,
    /// Its name: upscale, restore, relight, style, talking-photo, story-comic, or another. Names of files are made from it.
    pub name: String,
    /// The model, `owner/name` or `owner/name:version`; the one of the settings for this name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How heavy it is; known for the names above, heavy for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<StepClass>,
    /// What the model is given. A value `$image` stands for the picture; without one, the picture is the field `image`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub input: Map<String, Value>,
}

impl StepRequest {
    /// Its class.
    pub fn class(&self) -> StepClass {
        self.class.unwrap_or_else(|| StepClass::of(&self.name))
    }

    /// The input with `picture`, an address or a data URI, in its place.
    pub fn input_with(&self, picture: &str) -> Value {
        let mut input = self.input.clone();
        let mut placed = false;
        for value in input.values_mut() {
            placed |= put(value, picture);
        }
        if !placed {
            input.insert("image".into(), picture.into());
        }
        Value::Object(input)
    }
}

/// Puts the picture in place of what stands for it; whether anything did.
fn put(value: &mut Value, picture: &str) -> bool {
    match value {
        Value::String(text) if text == PICTURE => {
            *text = picture.to_owned();
            true
        }
        // Not `any`: every place is filled.
        Value::Array(list) => list.iter_mut().fold(false, |placed, value| put(value, picture) | placed),
        Value::Object(fields) => fields.values_mut().fold(false, |placed, value| put(value, picture) | placed),
        _ => false,
    }
}

/// Checks a job's steps.
///
/// # Errors
/// [`JobError::Field`] with the path of the field.
pub fn validate(steps: &[StepRequest], has_variations: bool) -> Result<(), JobError> {
    let wrong = |field: String, problem: String| Err(JobError::Field { field, problem });
    if steps.len() > MAX_STEPS {
        return wrong("steps".into(), format!("there are {}; the limit is {MAX_STEPS}; split the job", steps.len()));
    }
    for (i, step) in steps.iter().enumerate() {
        if step.name.is_empty() || safe_name(&step.name) != step.name || step.name.len() > 40 {
            return wrong(
                format!("steps[{i}].name"),
                "files are named by it; use up to 40 letters, digits, `-` and `_`".into(),
            );
        }
        if steps[..i].iter().any(|other| other.when == step.when && other.name == step.name) {
            return wrong(format!("steps[{i}].name"), "another step has this name; give each its own".into());
        }
        if let Some(model) = &step.model
            && !is_model(model)
        {
            return wrong(
                format!("steps[{i}].model"),
                "write owner/name, owner/name:version, or a version's 64 digits".into(),
            );
        }
        let bytes = serde_json::to_vec(&step.input).map_or(0, |json| json.len());
        if bytes > MAX_INPUT_BYTES {
            return wrong(
                format!("steps[{i}].input"),
                format!("it has {bytes} bytes; the limit is {MAX_INPUT_BYTES}; give files as addresses"),
            );
        }
        if step.when == When::After && !has_variations {
            return wrong(
                format!("steps[{i}].when"),
                "there are no variations that it could come after; write \"before\", or list palettes".into(),
            );
        }
    }
    Ok(())
}

/// Whether this can be a model; whoever asks for it knows its form better.
fn is_model(text: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let (model, version) = text.split_once(':').map_or((text, None), |(model, version)| (model, Some(version)));
    let named = model.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
    let hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    text.len() <= 200 && (hash || named && version.is_none_or(plain))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(value: Value) -> StepRequest {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_picture_takes_every_place_that_stands_for_it_or_the_field_image() {
        let plain = step(json!({"name": "upscale", "input": {"scale": 4}}));
        assert_eq!(plain.input_with("data:x"), json!({"scale": 4, "image": "data:x"}));
        let named = step(json!({"name": "style", "input": {"face": "$image", "all": ["$image", "https://b/c.png"]}}));
        assert_eq!(named.input_with("u"), json!({"face": "u", "all": ["u", "https://b/c.png"]}));
    }

    #[test]
    fn names_and_models_are_checked_and_classes_follow_names() {
        for (name, class) in
            [("upscale", StepClass::Light), ("story-comic", StepClass::Comic), ("mine", StepClass::Heavy)]
        {
            assert_eq!(step(json!({"name": name})).class(), class);
        }
        assert_eq!(step(json!({"name": "mine", "class": "light"})).class(), StepClass::Light);
        for (bad, field) in [
            (json!({"name": "../x"}), "steps[0].name"),
            (json!({"name": ""}), "steps[0].name"),
            (json!({"name": "a", "model": "not a model"}), "steps[0].model"),
            (json!({"name": "a", "when": "after"}), "steps[0].when"),
        ] {
            let Err(JobError::Field { field: found, .. }) = validate(&[step(bad)], false) else { panic!("{field}") };
            assert_eq!(found, field);
        }
        let good = [step(json!({"name": "a", "model": "o/n:v1"})), step(json!({"name": "a", "when": "after"}))];
        assert_eq!(validate(&good, true), Ok(()));
    }
}
