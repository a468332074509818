//! Reading other people's JSON: what is not needed is skipped without being kept, and messages stay short.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Reading, bounded};

/// Most characters of what the JSON reader says; it quotes what it met.
const MAX_SAID: usize = 200;

/// Reads a JSON object; `what` begins the sentence that says why it is none.
pub(super) fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Reading<T> {
    let bytes = without_bom(bytes);
    // Derived readers of structures also take arrays.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(format!("{what} is no JSON object; send one"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let said: String = error.to_string().chars().take(MAX_SAID).collect();
        format!("{what} cannot be read as JSON: {said}; check that it was sent whole")
    })
}

/// Some editors and tools begin a file with a byte order mark.
fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// A short text or number, read as text. Anything else counts as absent: a strange envelope must not cost the job in it.
#[derive(Debug, Default)]
pub(super) struct Text(Option<String>);

impl Text {
    pub(super) fn of(text: Option<String>) -> Self {
        Self(text)
    }

    pub(super) fn as_deref(&self) -> Option<&str> {
        self.0.as_deref()
    }

    pub(super) fn take(self) -> Option<String> {
        self.0
    }

    /// This, or the other where this is absent: fields come in two spellings, sometimes both at once.
    pub(super) fn or(self, other: Self) -> Option<String> {
        self.0.or(other.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tolerant;

        impl<'de> Visitor<'de> for Tolerant {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                // Not copied when it is too long.
                Ok(Text((text.len() <= super::MAX_TEXT_BYTES).then(|| text.to_owned()).and_then(bounded)))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(Some(number.to_string())))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Text, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }

        deserializer.deserialize_any(Tolerant)
    }
}
