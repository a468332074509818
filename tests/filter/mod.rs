//! The part of Cloud Logging's query language that the filters use, strictly: what is not understood is an error.
//!
//! <https://cloud.google.com/logging/docs/view/logging-query-language>

use std::cmp::Ordering;

use serde_json::Value;

const SEVERITIES: [&str; 9] =
    ["DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"];

/// A filter, ready to be asked.
#[derive(Debug)]
pub enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Is { path: Vec<String>, operator: String, values: Vec<Token> },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A field, a number, `true`, `AND`.
    Word(String),
    Text(String),
    Sign(String),
}

impl Filter {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = tokens(text)?;
        tokens.reverse();
        let filter = all(&mut tokens)?;
        if tokens.is_empty() { Ok(filter) } else { Err(format!("not understood: {:?}", tokens.last())) }
    }

    pub fn matches(&self, entry: &Value) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(entry)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(entry)),
            Self::Not(part) => !part.matches(entry),
            Self::Is { path, operator, values } => {
                let found = path.iter().try_fold(entry, |value, name| value.get(name));
                // A field that is missing matches nothing, not even an inequality.
                found.is_some_and(|found| values.iter().any(|value| compare(path, found, operator, value)))
            }
        }
    }
}

fn compare(path: &[String], found: &Value, operator: &str, wanted: &Token) -> bool {
    let (Token::Word(wanted) | Token::Text(wanted)) = wanted else { return false };
    let order = if path == ["severity"] {
        let rank = |name: &str| SEVERITIES.iter().position(|known| known.eq_ignore_ascii_case(name));
        found.as_str().and_then(rank).zip(rank(wanted)).map(|(found, wanted)| found.cmp(&wanted))
    } else {
        match found {
            Value::Number(number) => {
                number.as_f64().zip(wanted.parse().ok()).and_then(|(a, b): (f64, f64)| a.partial_cmp(&b))
            }
            Value::Bool(found) => wanted.parse::<bool>().ok().map(|wanted| found.cmp(&wanted)),
            Value::String(found) => Some(found.to_lowercase().cmp(&wanted.to_lowercase())),
            _ => None,
        }
    };
    match operator {
        "=" => order == Some(Ordering::Equal),
        "!=" => order.is_some_and(Ordering::is_ne),
        ">" => order == Some(Ordering::Greater),
        ">=" => order.is_some_and(Ordering::is_ge),
        "<" => order == Some(Ordering::Less),
        "<=" => order.is_some_and(Ordering::is_le),
        _ => false,
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("--")) {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let (token, length) = match first {
                '"' => {
                    let end = rest[1..].find('"').ok_or_else(|| format!("a quotation mark is missing: {line}"))?;
                    (Token::Text(rest[1..=end].to_owned()), end + 2)
                }
                '(' | ')' => (Token::Sign(first.to_string()), 1),
                '=' | '!' | '<' | '>' => {
                    let length = 1 + usize::from(rest[1..].starts_with('='));
                    (Token::Sign(rest[..length].to_owned()), length)
                }
                _ => {
                    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                    let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
                    if end == 0 {
                        return Err(format!("not understood: {rest}"));
                    }
                    (Token::Word(rest[..end].to_owned()), end)
                }
            };
            found.push(token);
            rest = rest[length..].trim_start();
        }
    }
    Ok(found)
}

fn word(tokens: &[Token], word: &str) -> bool {
    tokens.last() == Some(&Token::Word(word.into()))
}

fn sign(tokens: &[Token], sign: &str) -> bool {
    tokens.last() == Some(&Token::Sign(sign.into()))
}

/// Comparisons side by side, or with AND between them.
fn all(tokens: &mut Vec<Token>) -> Result<Filter, String> {
    let mut parts = vec![any(tokens)?];
    while !tokens.is_empty() && !sign(tokens, ")") {
        if word(tokens, "AND") {
            tokens.pop();
        }
        parts.push(any(tokens)?);
    }
    Ok(Filter::All(parts))
}

fn any(tokens: &mut Vec<Token>) -> Result<Filter, String> {
    let mut parts = vec![one(tokens)?];
    while word(tokens, "OR") {
        tokens.pop();
        parts.push(one(tokens)?);
    }
    Ok(Filter::Any(parts))
}

fn one(tokens: &mut Vec<Token>) -> Result<Filter, String> {
    match tokens.pop() {
        Some(Token::Word(not)) if not == "NOT" => Ok(Filter::Not(Box::new(one(tokens)?))),
        Some(Token::Sign(open)) if open == "(" => {
            let inside = all(tokens)?;
            close(tokens)?;
            Ok(inside)
        }
        Some(Token::Word(path)) => {
            let Some(Token::Sign(operator)) = tokens.pop() else { return Err(format!("{path} is not compared")) };
            if !["=", "!=", ">", ">=", "<", "<="].contains(&operator.as_str()) {
                return Err(format!("{path}{operator} is not understood"));
            }
            let mut values = Vec::new();
            if sign(tokens, "(") {
                tokens.pop();
                loop {
                    values.push(value(tokens)?);
                    if !word(tokens, "OR") {
                        break;
                    }
                    tokens.pop();
                }
                close(tokens)?;
            } else {
                values.push(value(tokens)?);
            }
            Ok(Filter::Is { path: path.split('.').map(str::to_owned).collect(), operator, values })
        }
        other => Err(format!("a comparison was expected, not {other:?}")),
    }
}

fn value(tokens: &mut Vec<Token>) -> Result<Token, String> {
    match tokens.pop() {
        Some(value @ (Token::Word(_) | Token::Text(_))) => Ok(value),
        other => Err(format!("a value was expected, not {other:?}")),
    }
}

fn close(tokens: &mut Vec<Token>) -> Result<(), String> {
    match tokens.pop() {
        Some(Token::Sign(close)) if close == ")" => Ok(()),
        other => Err(format!("a closing bracket was expected, not {other:?}")),
    }
}

#[test]
fn filters_are_read_as_cloud_logging_reads_them() {
    let entry = serde_json::json!({ "severity": "ERROR", "jsonPayload": { "n": 61.5, "word": "Yes", "flag": true } });
    for (text, wanted) in [
        ("severity>=WARNING", true),
        ("severity>ERROR", false),
        ("jsonPayload.n>60", true),
        ("jsonPayload.n<=60", false),
        ("jsonPayload.word=\"yes\"", true),
        ("jsonPayload.word=(\"no\" OR \"yes\")", true),
        ("jsonPayload.flag=true\njsonPayload.n>100", false),
        ("jsonPayload.flag=false OR severity=ERROR", true),
        ("NOT (jsonPayload.flag=true AND severity=ERROR)", false),
        ("jsonPayload.missing!=1", false),
        ("-- a comment\nseverity=ERROR", true),
    ] {
        assert_eq!(Filter::parse(text).unwrap().matches(&entry), wanted, "{text}");
    }
    for text in ["", "severity", "severity=", "severity=(ERROR", "severity=ERROR)", "severity~ERROR", "a=\"b"] {
        assert!(Filter::parse(text).is_err(), "{text}");
    }
}
