//! Palettes in and out of files: JSON, hex lists, GIMP `.gpl`, Adobe `.ase` and `.act`.
//!
//! [`parse`] decides by content, never by the file's name; the name only serves palettes that have none of their
//! own. Duplicate palette names are allowed here, file names are made unique where files are made.

mod adobe;
mod json;
mod text;
mod write;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::job::PaletteSpec;
use crate::kernel::color::{ParseColorError, Rgb8};
use crate::kernel::palette::{MAX_COLORS, Palette, PaletteError, Role};

pub use write::{to_gpl, to_hex, to_json};

/// The largest palette file that is read, bytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// The most palettes one file or job may hold.
pub const MAX_PALETTES: usize = 1024;
/// The most characters of a palette's name.
pub const MAX_NAME_CHARS: usize = 200;
/// The most characters of a palette's description.
pub const MAX_DESCRIPTION_CHARS: usize = 4000;
/// The most pins, and the most protected colours, of one palette.
pub const MAX_PINS: usize = 256;

/// Why palettes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PaletteFileError {
    /// More bytes than [`MAX_FILE_BYTES`].
    #[error(
        "the palette file has {bytes} bytes; the limit is {MAX_FILE_BYTES}; split it, or check that it is a palette file"
    )]
    TooLarge {
        /// Size of the file.
        bytes: usize,
    },
    /// Nothing in it that is a colour.
    #[error("the palette file holds no colours; write one per line, such as #264653")]
    Empty,
    /// Binary content of no known format.
    #[error(
        "the palette file is binary and neither Adobe .ase (starts with ASEF) nor .act (768 or 772 bytes, this one has \
         {bytes}); save it as one of those, as .gpl, as JSON or as a list of hex colours"
    )]
    Unknown {
        /// Size of the file.
        bytes: usize,
    },
    /// Text that is not JSON although it starts like it.
    #[error("the palette file is not valid JSON: {message} at line {line}, column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the JSON reader met.
        message: String,
    },
    /// Something at a known place of the file is wrong.
    #[error("{place}: {problem}")]
    At {
        /// Where.
        place: Place,
        /// What, and what to do about it.
        problem: String,
    },
    /// A field of a palette is wrong.
    #[error("{palette}, {field}: {problem}")]
    Field {
        /// The palette, by position and name.
        palette: String,
        /// The field.
        field: String,
        /// What, and what to do about it.
        problem: String,
    },
    /// More palettes than [`MAX_PALETTES`].
    #[error("there are {got} palettes; the limit is {MAX_PALETTES}; split the file")]
    TooManyPalettes {
        /// Palettes found.
        got: usize,
    },
}

/// A place in a palette file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A line of a text file, from 1.
    Line(usize),
    /// A byte of a binary file, from 0.
    Offset(usize),
    /// A path of fields in JSON, such as `palettes[2].colors`.
    Path(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Offset(offset) => write!(f, "offset {offset}"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

impl Place {
    fn problem(self, problem: impl Into<String>) -> PaletteFileError {
        PaletteFileError::At { place: self, problem: problem.into() }
    }
}

/// A palette as a text or binary file holds it, before it has a name for certain.
#[derive(Debug)]
struct Draft {
    place: Place,
    name: Option<String>,
    colors: Vec<Rgb8>,
    roles: Vec<(Role, Rgb8)>,
}

impl Draft {
    fn new(place: Place) -> Self {
        Self { place, name: None, colors: Vec::new(), roles: Vec::new() }
    }
}

/// Reads every palette of a file.
///
/// `file_stem` names palettes that have no name of their own; several of them are numbered from 1. The formats, in the
/// order in which they are tried:
///
/// - **Adobe .ase**: starts with `ASEF`. Groups are palettes, loose swatches together are one. RGB is taken as sRGB,
///   LAB as D50, CMYK without a profile.
/// - **Adobe .act**: exactly 768 or 772 bytes that are not text. The count and the transparent entry of the longer form
///   are obeyed; in the shorter form a run of black at the end is padding.
/// - **JSON**: the first character is `{` or `[`. A list of palettes; an object with `palettes`; one palette; an object
///   of names and colour lists; a list of colour lists; a list of colours.
/// - **GIMP .gpl**: the first line is `GIMP Palette`.
/// - **Text**: hex colours (`#RGB`, `#RRGGBB`, `#RRGGBBAA`, the `#` optional), `R G B` lines, or addresses that end in
///   `264653-2a9d8f-e9c46a`. A line with several hex
///   colours is a palette; lines with one colour each form a palette up to the next blank line. `Name:` before several
///   colours or alone on a line names a palette; before one colour it labels the colour, and sets its role where it is a
///   role's name. Words beside a colour are ignored. `;`, `//`, and `#` before a blank or a word start a comment.
///   Lists with the header of Paint.NET (`AARRGGBB`) or `JASC-PAL` are understood too.
///
/// Repeated colours of a palette are kept once.
///
/// # Errors
/// [`PaletteFileError`] says where and what: no colours at all, a word that is no colour, more than [`MAX_COLORS`]
/// colours, a broken structure, or a limit passed.
pub fn parse(bytes: &[u8], file_stem: &str) -> Result<Vec<Palette>, PaletteFileError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(PaletteFileError::TooLarge { bytes: bytes.len() });
    }
    let stem = match tidy(file_stem) {
        stem if stem.is_empty() => "Palette".to_owned(),
        stem => stem.chars().take(MAX_NAME_CHARS - 8).collect(),
    };
    if bytes.starts_with(b"ASEF") {
        return finish(adobe::swatch_exchange(bytes)?, &stem);
    }
    let text = decode_text(bytes);
    if matches!(bytes.len(), 768 | 772) && text.is_none() {
        return finish(vec![adobe::color_table(bytes)?], &stem);
    }
    let text = text.ok_or(PaletteFileError::Unknown { bytes: bytes.len() })?;
    match text.trim_start().chars().next() {
        None => Err(PaletteFileError::Empty),
        Some('{' | '[') => from_specs(&json::specs(&text, &stem)?),
        Some(_) => finish(text::drafts(&text)?, &stem),
    }
}

/// The text of a file, without its byte order mark; `None` where it is binary. Text in an old 8-bit encoding is read
/// with its foreign letters replaced, for only names can hold them.
fn decode_text(bytes: &[u8]) -> Option<String> {
    let wide = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = rest.as_chunks::<2>().0.iter().map(|pair| unit(*pair));
        let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        // A colour table may start with the same two bytes; hardly any of its characters are then ASCII.
        (text.chars().filter(char::is_ascii).count() * 2 > text.chars().count()).then_some(text)
    };
    let text = match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => None,
    };
    let text = match text {
        Some(text) => text,
        None => match String::from_utf8_lossy(bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)) {
            Cow::Borrowed(text) => text.to_owned(),
            // A colour table of 768 bytes nearly always is no UTF-8 or holds a control character; a list rarely.
            Cow::Owned(_) if matches!(bytes.len(), 768 | 772) => return None,
            Cow::Owned(text) => text,
        },
    };
    let foreign = text.matches(char::REPLACEMENT_CHARACTER).count();
    let binary = text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{C}' | '\u{1A}'));
    (!binary && foreign * 4 <= text.len()).then_some(text)
}

/// Names the drafts and checks them.
fn finish(drafts: Vec<Draft>, stem: &str) -> Result<Vec<Palette>, PaletteFileError> {
    let drafts: Vec<Draft> = drafts.into_iter().filter(|d| !d.colors.is_empty()).collect();
    if drafts.is_empty() {
        return Err(PaletteFileError::Empty);
    }
    if drafts.len() > MAX_PALETTES {
        return Err(PaletteFileError::TooManyPalettes { got: drafts.len() });
    }
    let number = drafts.len() > 1;
    drafts
        .into_iter()
        .enumerate()
        .map(|(i, draft)| {
            let Draft { place, name, colors, roles } = draft;
            let name = match name.map(|n| tidy(&n)).filter(|n| !n.is_empty()) {
                Some(name) => name,
                None if number => format!("{stem} {}", i + 1),
                None => stem.to_owned(),
            };
            let wrong = |problem: String| place.clone().problem(problem);
            check_length("the name", &name, MAX_NAME_CHARS).map_err(wrong)?;
            let colors = distinct(&name, colors).map_err(wrong)?;
            let palette = Palette::new(name, colors).and_then(|p| p.with_roles(roles));
            palette.map_err(|e| wrong(e.to_string()))
        })
        .collect()
}

/// Turns the palettes of a job or a JSON file into checked palettes.
///
/// # Errors
/// [`PaletteFileError::Field`] names the palette and the field; [`PaletteFileError::TooManyPalettes`].
pub fn from_specs(specs: &[PaletteSpec]) -> Result<Vec<Palette>, PaletteFileError> {
    if specs.len() > MAX_PALETTES {
        return Err(PaletteFileError::TooManyPalettes { got: specs.len() });
    }
    specs.iter().enumerate().map(|(i, spec)| from_spec(i, spec)).collect()
}

/// Turns one palette of a job into a checked palette; `index`, from 0, only serves the error text. A caller that lists
/// a bad palette as failed and goes on with the others uses this instead of [`from_specs`].
///
/// # Errors
/// [`PaletteFileError::Field`] names the palette and the field.
pub fn from_spec(index: usize, spec: &PaletteSpec) -> Result<Palette, PaletteFileError> {
    let name = tidy(&spec.name);
    let label = match name.as_str() {
        "" => format!("palette {}", index + 1),
        name => format!("palette {} (\"{}\")", index + 1, excerpt(name)),
    };
    let wrong = |field: String, problem: String| PaletteFileError::Field { palette: label.clone(), field, problem };
    let color =
        |field: String, text: &str| text.parse::<Rgb8>().map_err(|e: ParseColorError| wrong(field, e.to_string()));

    check_length("the name", &name, MAX_NAME_CHARS).map_err(|e| wrong("name".into(), e))?;
    let description = spec.description.as_deref().map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned);
    if let Some(text) = &description {
        check_length("the description", text, MAX_DESCRIPTION_CHARS).map_err(|e| wrong("description".into(), e))?;
    }
    for (field, got) in [("pins", spec.pins.len()), ("protect", spec.protect.len())] {
        if got > MAX_PINS {
            return Err(wrong(
                field.into(),
                format!("it has {got} entries; the limit is {MAX_PINS}; keep the ones that matter"),
            ));
        }
    }

    let colors = (spec.colors.iter().enumerate())
        .map(|(i, text)| color(format!("colors[{i}]"), text))
        .collect::<Result<Vec<_>, _>>()?;
    let colors = distinct(&name, colors).map_err(|e| wrong("colors".into(), e))?;
    let mut roles = BTreeMap::new();
    for (key, text) in &spec.roles {
        let role = role(key).ok_or_else(|| {
            let valid = Role::ALL.map(Role::name).join(", ");
            wrong("roles".into(), format!("\"{}\" is not a role; the roles are {valid}", excerpt(key)))
        })?;
        if roles.insert(role, color(format!("roles.{}", role.name()), text)?).is_some() {
            return Err(wrong("roles".into(), format!("{} is given twice; keep one", role.name())));
        }
    }
    let pins = (spec.pins.iter())
        .map(|(from, to)| Ok((color("pins".into(), from)?, color(format!("pins.{}", excerpt(from)), to)?)))
        .collect::<Result<Vec<_>, PaletteFileError>>()?;
    let protect = (spec.protect.iter().enumerate())
        .map(|(i, text)| color(format!("protect[{i}]"), text))
        .collect::<Result<Vec<_>, _>>()?;

    let field = |field: &'static str| move |e: PaletteError| (field, e.to_string());
    Palette::new(name, colors)
        .map_err(|e| (if matches!(e, PaletteError::Unnamed) { "name" } else { "colors" }, e.to_string()))
        .and_then(|p| p.with_roles(roles).map_err(field("roles")))
        .and_then(|p| p.with_pins(pins).map_err(field("pins")))
        .map(|p| p.protecting(protect).described(description))
        .map_err(|(field, problem)| {
            let cure = if problem.contains("not one of its colours") {
                "; add it to colors, or name one that is there"
            } else {
                ""
            };
            wrong(field.into(), format!("{problem}{cure}"))
        })
}

/// The role of each colour of a palette, in the palette's order: the explicit roles where it has any; otherwise exactly
/// five colours are primary, secondary, accent, background, highlight; otherwise none.
pub fn labels(palette: &Palette) -> Vec<Option<Role>> {
    let explicit = palette.roles();
    let positional = explicit.is_empty() && palette.colors().len() == Role::ALL.len();
    (palette.colors().iter().enumerate())
        .map(|(i, color)| {
            if positional {
                Some(Role::ALL[i])
            } else {
                explicit.iter().find(|(_, c)| c == color).map(|(role, _)| *role)
            }
        })
        .collect()
}

/// The palette's colour with this role; see [`labels`].
pub fn color_of(palette: &Palette, role: Role) -> Option<Rgb8> {
    labels(palette).iter().position(|label| *label == Some(role)).map(|at| palette.colors()[at])
}

/// The role of that name, in any case.
pub fn role(name: &str) -> Option<Role> {
    Role::ALL.into_iter().find(|role| role.name().eq_ignore_ascii_case(name.trim()))
}

/// The distinct colours in their first order, or why there are too many. Done here with a set: the palette's own check
/// compares every pair, which a file of a million colours would make slow.
fn distinct(name: &str, colors: Vec<Rgb8>) -> Result<Vec<Rgb8>, String> {
    let mut seen = HashSet::new();
    let colors: Vec<Rgb8> = colors.into_iter().filter(|color| seen.insert(*color)).collect();
    if colors.len() > MAX_COLORS {
        let (name, got) = (excerpt(name), colors.len());
        return Err(format!(
            "palette \"{name}\" has {got} distinct colours; the limit is {MAX_COLORS}; keep the ones that should be seen"
        ));
    }
    Ok(colors)
}

fn check_length(what: &str, text: &str, limit: usize) -> Result<(), String> {
    match text.chars().count() {
        got if got > limit => Err(format!("{what} has {got} characters; the limit is {limit}; shorten it")),
        _ => Ok(()),
    }
}

/// A name on one line: control characters become blanks, and blanks at both ends go.
fn tidy(name: &str) -> String {
    let one_line: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    one_line.trim().to_owned()
}

/// The beginning of a text, for an error message.
fn excerpt(text: &str) -> String {
    let start: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(40).collect();
    if text.chars().nth(40).is_some() { format!("{start}…") } else { start }
}
