//! The JSON forms of a palette file, as an ordered tree first: objects keep the order in which they were written, for
//! it is the order in which the variations are made.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{MAX_PALETTES, PaletteFileError, Place, excerpt};
use crate::pipeline::job::PaletteSpec;

/// Values a file may hold: room for [`MAX_PALETTES`] palettes of 64 colours with as many pins, and no more.
const MAX_VALUES: usize = MAX_PALETTES * 256;

/// The fields of a palette.
const FIELDS: &str = "name, description, colors, roles, pins, protect";

/// A JSON value, as far as palettes need it.
#[derive(Debug)]
enum Node {
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
    Null,
    /// A number or a truth value.
    Scalar,
}

impl Node {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
            Self::Null => "null",
            Self::Scalar => "a number or truth value",
        }
    }
}

/// Builds a [`Node`] and counts what it builds. serde_json itself stops at 128 levels.
#[derive(Clone, Copy)]
struct Tree<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let left = self.left.get();
        if left == 0 {
            return Err(D::Error::custom(format!("more than {MAX_VALUES} values; this is no palette file")));
        }
        self.left.set(left - 1);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("palettes")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element_seed(self)? {
            list.push(node);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            object.push((key, map.next_value_seed(self)?));
        }
        Ok(Node::Object(object))
    }
}

/// The palettes of a JSON file; nameless ones take their name from `stem`.
pub(super) fn specs(text: &str, stem: &str) -> Result<Vec<PaletteSpec>, PaletteFileError> {
    let left = Cell::new(MAX_VALUES);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let tree = Tree { left: &left }.deserialize(&mut deserializer).and_then(|tree| deserializer.end().map(|()| tree));
    let tree = tree.map_err(|e| {
        // The position is said once, in our own words.
        let message = e.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        PaletteFileError::Json { line: e.line(), column: e.column(), message }
    })?;
    let specs = match tree {
        Node::Object(mut object) => {
            if let Some(at) = position(&object, "palettes") {
                many(object.swap_remove(at).1, "palettes", stem)?
            } else if position(&object, "colors").is_some() {
                vec![one(Node::Object(object), "the palette", Some(stem.to_owned()))?]
            } else {
                many(Node::Object(object), "the file", stem)?
            }
        }
        list => many(list, "the file", stem)?,
    };
    if specs.is_empty() { Err(PaletteFileError::Empty) } else { Ok(specs) }
}

fn position(object: &[(String, Node)], key: &str) -> Option<usize> {
    object.iter().position(|(k, _)| k == key)
}

fn wrong(path: &str, problem: impl Into<String>) -> PaletteFileError {
    Place::Path(path.to_owned()).problem(problem)
}

/// Palettes as a list, or as an object of names and palettes.
fn many(node: Node, path: &str, stem: &str) -> Result<Vec<PaletteSpec>, PaletteFileError> {
    let within = |part: String| if path == "the file" { part } else { format!("{path}{part}") };
    match node {
        // A list of colours is one palette.
        Node::List(list) if matches!(list.first(), Some(Node::Text(_))) => {
            Ok(vec![one(Node::List(list), path, Some(stem.to_owned()))?])
        }
        Node::List(list) => {
            if list.len() > MAX_PALETTES {
                return Err(PaletteFileError::TooManyPalettes { got: list.len() });
            }
            let several = list.len() > 1;
            let name = |i: usize| if several { format!("{stem} {}", i + 1) } else { stem.to_owned() };
            (list.into_iter().enumerate())
                .map(|(i, node)| one(node, &within(format!("[{i}]")), Some(name(i))))
                .collect()
        }
        Node::Object(object) if position(&object, "generate").is_some() => Err(wrong(
            path,
            "\"generate\" asks for palettes made from the picture and belongs into a job; a palette file lists colours",
        )),
        Node::Object(object) => {
            if object.len() > MAX_PALETTES {
                return Err(PaletteFileError::TooManyPalettes { got: object.len() });
            }
            (object.into_iter())
                .map(|(name, node)| {
                    let path = within(format!("[\"{}\"]", excerpt(&name)));
                    let mut spec = one(node, &path, None)?;
                    // The key is the name, unless the palette says another.
                    if spec.name.is_empty() {
                        spec.name = name;
                    }
                    Ok(spec)
                })
                .collect()
        }
        other => Err(wrong(path, format!("it is {}; write a list of palettes", other.kind()))),
    }
}

/// One palette: an object, or just its list of colours. `fallback` names it if it does not itself.
fn one(node: Node, path: &str, fallback: Option<String>) -> Result<PaletteSpec, PaletteFileError> {
    let mut spec = PaletteSpec::default();
    match node {
        Node::List(_) => spec.colors = texts(node, path)?,
        Node::Object(object) => {
            let mut seen = Vec::new();
            for (key, value) in object {
                let at = format!("{path}.{}", excerpt(&key));
                if seen.contains(&key) {
                    return Err(wrong(&at, "the field is given twice; keep one"));
                }
                match key.as_str() {
                    "name" => spec.name = text(value, &at)?,
                    "description" if matches!(value, Node::Null) => {}
                    "description" => spec.description = Some(text(value, &at)?),
                    "colors" => spec.colors = texts(value, &at)?,
                    "roles" => spec.roles = pairs(value, &at)?.into_iter().collect(),
                    "pins" => spec.pins = pairs(value, &at)?.into_iter().collect(),
                    "protect" => spec.protect = texts(value, &at)?,
                    "colours" => return Err(wrong(&at, "unknown field; it is spelt \"colors\"")),
                    _ => return Err(wrong(&at, format!("unknown field; a palette has {FIELDS}"))),
                }
                seen.push(key);
            }
            if !seen.iter().any(|key| key == "colors") {
                return Err(wrong(
                    path,
                    "the palette has no \"colors\"; add a list such as [\"#264653\", \"#E9C46A\"]",
                ));
            }
        }
        other => {
            let kind = other.kind();
            return Err(wrong(
                path,
                format!("it is {kind}; write a palette, {{\"name\": …, \"colors\": [\"#264653\", …]}}"),
            ));
        }
    }
    if spec.name.is_empty() {
        spec.name = fallback.unwrap_or_default();
    }
    Ok(spec)
}

fn text(node: Node, path: &str) -> Result<String, PaletteFileError> {
    match node {
        Node::Text(text) => Ok(text),
        other => Err(wrong(path, format!("it is {}; write it as text in quotes", other.kind()))),
    }
}

fn texts(node: Node, path: &str) -> Result<Vec<String>, PaletteFileError> {
    match node {
        Node::List(list) => list.into_iter().enumerate().map(|(i, node)| text(node, &format!("{path}[{i}]"))).collect(),
        other => Err(wrong(path, format!("it is {}; write a list of colours such as [\"#264653\"]", other.kind()))),
    }
}

fn pairs(node: Node, path: &str) -> Result<Vec<(String, String)>, PaletteFileError> {
    match node {
        Node::Object(object) => (object.into_iter())
            .map(|(key, node)| {
                let value = text(node, &format!("{path}.{}", excerpt(&key)))?;
                Ok((key, value))
            })
            .collect(),
        other => {
            Err(wrong(path, format!("it is {}; write an object such as {{\"background\": \"#E9C46A\"}}", other.kind())))
        }
    }
}
