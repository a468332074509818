//! Palettes as text: GIMP `.gpl`, lists of hex colours, lists of decimal colours.
//!
//! The hard part of a hex list is the `#`: it starts a colour and, in many files, a comment. A `#` is a colour when 3, 6
//! or 8 hex digits follow, a comment when a blank or a plain word follows, and an error in between, for a mistyped colour
//! must not vanish as a comment.

use super::{Draft, PaletteFileError, Place, excerpt, role, tidy};
use crate::kernel::color::Rgb8;

/// The palettes of a text file, in its order.
pub(super) fn drafts(text: &str) -> Result<Vec<Draft>, PaletteFileError> {
    let mut lines = lines(text).enumerate().map(|(i, line)| (Place::Line(i + 1), line)).peekable();
    while lines.next_if(|(_, line)| line.is_empty()).is_some() {}
    let first = lines.peek().map(|(_, line)| line.to_ascii_lowercase()).unwrap_or_default();
    if first.starts_with("gimp palette") {
        lines.next();
        return gimp(lines).map(|draft| vec![draft]);
    }
    if first == "jasc-pal" {
        // Magic, version and count stand before the colours.
        return list(lines.skip(3), Digits::AlphaLast);
    }
    let alpha_first = first.starts_with(';') && first.trim_start_matches([';', ' ']).starts_with("paint.net");
    list(lines, if alpha_first { Digits::AlphaFirst } else { Digits::AlphaLast })
}

/// Lines ended by LF, CR LF or CR, without blanks at their ends. A Ctrl-Z ends files of old editors.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim_end_matches('\u{1A}');
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r')).map(str::trim)
}

/// Where eight hex digits hold the alpha.
#[derive(Clone, Copy)]
enum Digits {
    /// `RRGGBBAA`.
    AlphaLast,
    /// `AARRGGBB`, as Paint.NET writes.
    AlphaFirst,
}

/// A GIMP palette after its first line. The order of the header lines does not matter, and each may be absent.
fn gimp<'a>(lines: impl Iterator<Item = (Place, &'a str)>) -> Result<Draft, PaletteFileError> {
    let mut draft = Draft::new(Place::Line(1));
    for (place, line) in lines {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((key, value)) = line.split_once(':')
            && !key.starts_with(|c: char| c.is_ascii_digit())
        {
            // Columns, Channels and what other programs add do not change the colours.
            if key.trim().eq_ignore_ascii_case("name") {
                draft.name = Some(value.to_owned());
            }
            continue;
        }
        match decimal(line) {
            Some(Ok(color)) => draft.colors.push(color),
            Some(Err(problem)) => return Err(place.problem(problem)),
            None => {
                let problem = format!(
                    "\"{}\" is not a colour of a GIMP palette; write R G B from 0 to 255, then a name",
                    excerpt(line)
                );
                return Err(place.problem(problem));
            }
        }
    }
    Ok(draft)
}

/// `R G B` and whatever stands behind it; `None` where the line does not start with three short decimal numbers.
fn decimal(line: &str) -> Option<Result<Rgb8, String>> {
    let mut parts = line.split([' ', '\t', ',']).filter(|part| !part.is_empty());
    let mut number = || {
        let part = parts.next()?;
        (part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<u16>().ok()).flatten()
    };
    let numbers = [number()?, number()?, number()?];
    Some(match numbers.map(u8::try_from) {
        [Ok(r), Ok(g), Ok(b)] => Ok(Rgb8::new(r, g, b)),
        _ => {
            let [r, g, b] = numbers;
            Err(format!(
                "{r} {g} {b} is not a colour: R G B go from 0 to 255; put # before hex colours of three digits"
            ))
        }
    })
}

/// One thing between blanks, commas and quotes.
enum Token {
    Color(Rgb8),
    Word,
    /// The rest of the line is a comment.
    Comment,
}

/// What a line of a list says.
struct Content {
    colors: Vec<Rgb8>,
    /// The text before a colon, if there is one.
    name: Option<String>,
}

/// Lists of colours; the grammar stands at [`super::parse`].
fn list<'a>(lines: impl Iterator<Item = (Place, &'a str)>, digits: Digits) -> Result<Vec<Draft>, PaletteFileError> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut open = false;
    // Whether the open palette was named on a line of its own: it takes every line up to a blank one.
    let mut headed = false;
    // Whether every palette so far is nameless and of one colour: then it is one list with blank lines in it.
    let mut scattered = true;
    for (place, line) in lines {
        if line.is_empty() {
            // A heading may have a blank line between itself and its colours.
            open = open && headed && drafts.last().is_some_and(|d| d.colors.is_empty());
            continue;
        }
        let Content { colors, name } = match content(line, digits) {
            Ok(content) => content,
            Err(problem) => return Err(place.problem(problem)),
        };
        let several = colors.len() > 1;
        match name {
            None if colors.is_empty() => continue,
            // A heading, or a named palette on one line.
            Some(name) if several || colors.is_empty() => {
                (open, headed, scattered) = (colors.is_empty(), colors.is_empty(), false);
                drafts.push(Draft { name: Some(name), colors, ..Draft::new(place) });
            }
            // A nameless palette on one line.
            None if several && !(open && headed) => {
                (open, headed, scattered) = (false, false, false);
                drafts.push(Draft { colors, ..Draft::new(place) });
            }
            label => {
                if !open {
                    (open, headed) = (true, false);
                    drafts.push(Draft::new(place));
                }
                let Some(draft) = drafts.last_mut() else { continue };
                if let (Some(role), Some(color)) = (label.as_deref().and_then(role), colors.first()) {
                    draft.roles.push((role, *color));
                }
                draft.colors.extend(colors);
                scattered &= draft.colors.len() == 1 && label.is_none();
            }
        }
    }
    if let Some(empty) = drafts.iter_mut().find(|draft| draft.colors.is_empty()) {
        let name = empty.name.take().unwrap_or_default();
        let problem = format!("no colours follow \"{}:\"; add them, or start a comment with ;", excerpt(&name));
        return Err(empty.place.clone().problem(problem));
    }
    if scattered && drafts.len() > 1 {
        let mut all = Draft::new(Place::Line(1));
        all.colors = drafts.into_iter().flat_map(|draft| draft.colors).collect();
        return Ok(vec![all]);
    }
    Ok(drafts)
}

fn content(line: &str, digits: Digits) -> Result<Content, String> {
    let nothing = Content { colors: Vec::new(), name: None };
    if line.starts_with(';') || line.starts_with("//") {
        return Ok(nothing);
    }
    if let Some(color) = decimal(line) {
        let rest = line.split([' ', '\t', ',']).filter(|part| !part.is_empty()).skip(3);
        let numbers = rest.take_while(|part| part.parse::<f64>().is_ok()).count();
        if numbers > 1 {
            return Err("more than one colour in decimal numbers; write one R G B per line".into());
        }
        return Ok(Content { colors: vec![color?], name: None });
    }
    // The address of a palette on the web often is the palette: …/264653-2a9d8f-e9c46a. Others say where it is from.
    if line.starts_with("https://") || line.starts_with("http://") {
        let last = line.rsplit('/').next().unwrap_or_default();
        let colors = last.split('-').map(|part| if part.len() == 6 { part.parse().ok() } else { None });
        let colors: Option<Vec<Rgb8>> = colors.collect();
        return Ok(Content { colors: colors.unwrap_or_default(), name: None });
    }
    // `Name: colours`. A colon behind a colour is punctuation.
    let (name, rest) = match line.split_once(':') {
        Some((name, rest)) if !matches!(first_token(name, digits), Some(Token::Color(_) | Token::Comment)) => {
            let name = tidy(name.trim().trim_matches(['"', '\'']));
            if name.is_empty() {
                return Err("there is no name before the colon; write \"Name: #264653 #E9C46A\"".into());
            }
            (Some(name), rest)
        }
        _ => (None, line),
    };
    let colors = colors(rest, digits)?;
    match (&name, colors) {
        (None, None) => {
            let problem = "is not a colour; write #RGB, #RRGGBB or #RRGGBBAA, or start a comment with ;";
            Err(format!("\"{}\" {problem}", excerpt(line)))
        }
        (Some(name), None) => Err(format!(
            "\"{}\" after \"{}:\" is not a colour; write #RGB, #RRGGBB or #RRGGBBAA",
            excerpt(rest.trim()),
            excerpt(name)
        )),
        (_, Some(colors)) => Ok(Content { colors, name }),
    }
}

const SEPARATORS: [char; 9] = [' ', '\t', ',', '|', '-', '"', '\'', '\u{A0}', '\u{C}'];

fn first_token(text: &str, digits: Digits) -> Option<Token> {
    // As prose: "Fee" and "Decade" before a colon are names.
    text.split(SEPARATORS).find(|t| !t.is_empty()).and_then(|t| token(t, true, digits).ok())
}

/// The colours of a line without its name; `None` when there are words but no colours.
fn colors(text: &str, digits: Digits) -> Result<Option<Vec<Rgb8>>, String> {
    // A semicolon separates when another colour with # follows it at once or after a blank; else it starts a comment.
    let mut body = text;
    let mut from = 0;
    while let Some(at) = text[from..].find(';').map(|at| at + from) {
        if !text[at + 1..].trim_start().starts_with('#') {
            body = &text[..at];
            break;
        }
        from = at + 1;
    }
    let body = body.split("//").next().unwrap_or_default();
    let (mut colors, mut hashed, mut words) = (Vec::new(), false, false);
    for part in body.split(SEPARATORS).flat_map(|part| part.split(';')).filter(|part| !part.is_empty()) {
        // After a colour with # or a word, a bare word such as "add" or "facade" is a word.
        match token(part, hashed || words, digits)? {
            Token::Color(color) => {
                hashed |= part.starts_with('#');
                colors.push(color);
            }
            Token::Word => words = true,
            Token::Comment => break,
        }
    }
    Ok(if colors.is_empty() && words { None } else { Some(colors) })
}

/// What a token is. `prose`: words are likely here, so bare hex digits are a colour only if they cannot be a word.
fn token(token: &str, prose: bool, digits: Digits) -> Result<Token, String> {
    let broken = || {
        Err(format!(
            "\"{}\" is not a colour; write #RGB, #RRGGBB or #RRGGBBAA (put a blank after # for a comment)",
            excerpt(token)
        ))
    };
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let read = |text: &str| {
        let text = match (digits, text.len()) {
            (Digits::AlphaFirst, 8) => &text[2..],
            _ => text,
        };
        text.parse().map(Token::Color).or_else(|_| broken())
    };
    if let Some(rest) = token.strip_prefix('#') {
        let rest = rest.trim_end_matches([':', '.', ')']);
        let plain_word = !rest.bytes().any(|b| b.is_ascii_digit()) && !hex(rest);
        return match rest.len() {
            _ if rest.is_empty() || rest.starts_with('#') || plain_word => Ok(Token::Comment),
            3 | 6 | 8 if hex(rest) => read(rest),
            _ => broken(),
        };
    }
    let bare = token.strip_prefix("0x").or_else(|| token.strip_prefix("0X")).unwrap_or(token);
    let bare = bare.trim_end_matches([':', '.', ')']);
    let numeric = bare.bytes().any(|b| b.is_ascii_digit());
    match bare.len() {
        6 | 8 if hex(bare) && (numeric || !prose) => read(bare),
        3 if hex(bare) && !prose => read(bare),
        // Near a colour, but mistyped. Among words a plain number, such as a year, is one of them.
        4..=9 if hex(bare) && numeric && !prose => broken(),
        5 | 7 if hex(bare) && numeric && !bare.bytes().all(|b| b.is_ascii_digit()) => broken(),
        _ => Ok(Token::Word),
    }
}
