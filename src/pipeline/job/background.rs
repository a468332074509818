//! The job's wishes for the background.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::palette_file;
use crate::kernel::color::{ParseColorError, Rgb8};
use crate::kernel::palette::Role;

/// What to do with the background.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackgroundRequest {
    /// `keep` or `remove`.
    pub action: BackgroundAction,
    /// How the subject is found; `auto` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// A registered model's name; the default model when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What takes the background's place: `transparent`, a colour, a palette role, `blur`, or a picture's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
    /// Drop specks and pinholes from the matte; soft edges stay soft.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub clean: bool,
    /// Let the edges of a model's matte follow the picture's; without, they are exactly as its package enlarges them.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub refine: bool,
    /// Ground that the subject encloses, such as the inside of an O, goes too. Method `classic` only.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub enclosed: bool,
    /// Make the matte and nothing else.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub matte: bool,
}

impl Default for BackgroundRequest {
    fn default() -> Self {
        Self {
            action: BackgroundAction::Keep,
            method: None,
            model: None,
            fill: None,
            clean: false,
            refine: true,
            enclosed: true,
            matte: false,
        }
    }
}

impl BackgroundRequest {
    /// Whether the background is looked at.
    pub fn is_asked(&self) -> bool {
        self.action == BackgroundAction::Remove || self.matte
    }

    /// The address of the picture that takes the background's place, where one does.
    pub fn fill_picture(&self) -> Option<&str> {
        match &self.fill {
            Some(Fill::Picture(address)) => Some(address),
            _ => None,
        }
    }
}

/// How the subject is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The picture's own alpha where it has one, else classic where the ground is plain, else a model where there is one; the
    /// picture stays as it is where none of them is sure.
    #[default]
    Auto,
    /// By the colour of a plain ground; without a model.
    Classic,
    /// By a trained model.
    Model,
}

/// What takes the background's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Fill {
    /// Nothing: the result has alpha.
    Transparent,
    /// One colour.
    Color(Rgb8),
    /// The palette's colour with this role.
    Role(Role),
    /// The picture itself, out of focus.
    Blur,
    /// Another picture, by its address, cut to cover.
    Picture(String),
}

impl TryFrom<String> for Fill {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let word = text.trim();
        if word.eq_ignore_ascii_case("transparent") {
            Ok(Self::Transparent)
        } else if word.eq_ignore_ascii_case("blur") {
            Ok(Self::Blur)
        } else if let Some(role) = palette_file::role(word) {
            Ok(Self::Role(role))
        } else if word.starts_with('#') {
            word.parse().map(Self::Color).map_err(|error: ParseColorError| error.to_string())
        } else if word.contains(['/', '.', '\\']) {
            Ok(Self::Picture(word.to_owned()))
        } else {
            Err(format!(
                "{word:?} is no fill; write transparent, a colour such as #E9C46A, a role (primary, secondary, accent, background \
                 or highlight), blur, or a picture's address"
            ))
        }
    }
}

impl From<Fill> for String {
    fn from(fill: Fill) -> Self {
        match fill {
            Fill::Transparent => "transparent".into(),
            Fill::Color(color) => color.to_string(),
            Fill::Role(role) => role.name().into(),
            Fill::Blur => "blur".into(),
            Fill::Picture(address) => address,
        }
    }
}

/// Keep the background or remove it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackgroundAction {
    /// As it is.
    #[default]
    Keep,
    /// Cut out.
    Remove,
}
