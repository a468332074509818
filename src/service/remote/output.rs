//! What a prediction put out, whatever its form.
//!
//! Models answer with an address, a list of them, an object of them, bytes in a data URI, text in one piece or in
//! tokens, or any JSON. Here it becomes a list of outputs. The rules, for what could be read in two ways:
//!
//! - A text that is an http or https address and nothing else is an address. Any other text stays text: relative
//!   addresses and other schemes, too.
//! - A list of texts is one text, its pieces joined; a list in which anything is a file is a list of outputs.
//! - An object with `url`, `href` or `urls.get` is a file; one in which anything is a file names outputs; any other is
//!   JSON.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value};
use url::Url;

/// Most outputs of one prediction.
pub const MAX_OUTPUTS: usize = 64;

/// Most bytes of all outputs of one prediction together that come in the answer itself.
pub const MAX_INLINE_BYTES: usize = 16 << 20;

/// Deepest list in a list that is looked into.
const MAX_DEPTH: usize = 4;

/// Longest name of an output, in characters.
const MAX_NAME: usize = 64;

/// Longest address, bytes.
const MAX_URL_BYTES: usize = 8 << 10;

/// How many bytes [`sniff`] needs at most.
const SNIFFED_BYTES: usize = 64;

/// Data URIs are made by many; some leave out the padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One output of a prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The name the model gave it; none in a list or on its own.
    pub name: Option<String>,
    /// The media type that the server says it has, in lower case and without parameters, such as `image/png`. Not
    /// checked against the bytes; see [`sniff`] and [`agrees`].
    pub content_type: Option<String>,
    /// What it is.
    pub content: Content,
}

/// What an output is.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A file at an http or https address. Whoever fetches it checks where that leads.
    Url(Url),
    /// A file in the answer itself.
    Inline(Bytes),
    /// Text, never empty.
    Text(String),
    /// Anything else, never null.
    Json(Value),
}

/// Why outputs cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// Null, an empty text, an empty list, or nothing but those.
    #[error("the model put out nothing; check its input, or use another model")]
    Empty,
    /// More than [`MAX_OUTPUTS`].
    #[error("the model put out more than {MAX_OUTPUTS} outputs; ask it for fewer")]
    TooMany,
    /// More than [`MAX_INLINE_BYTES`].
    #[error("the model put out more than {MAX_INLINE_BYTES} bytes in the answer itself; have it put out addresses")]
    TooLarge,
    /// A data URI that cannot be decoded.
    #[error("the model put out a data URI that cannot be decoded: {0}")]
    DataUri(&'static str),
    /// A file whose address is none.
    #[error("the model put out a file whose address is neither http, https nor a data URI")]
    Url,
}

/// Reads the outputs of a prediction; at least one.
///
/// # Errors
/// [`OutputError`].
pub fn read_outputs(output: &Value) -> Result<Vec<Output>, OutputError> {
    let mut found = Reader { outputs: Vec::new(), inline_bytes: 0 };
    found.read(None, output, 0)?;
    if found.outputs.is_empty() { Err(OutputError::Empty) } else { Ok(found.outputs) }
}

struct Reader {
    outputs: Vec<Output>,
    inline_bytes: usize,
}

impl Reader {
    fn read(&mut self, name: Option<&str>, value: &Value, depth: usize) -> Result<(), OutputError> {
        match value {
            Value::Null => Ok(()),
            Value::String(text) => self.text(name, text),
            Value::Array(items) if has_file(value, depth) => {
                items.iter().try_for_each(|item| self.read(name, item, depth + 1))
            }
            Value::Array(items) => match joined(items) {
                Some(text) if text.is_empty() => Ok(()),
                Some(text) => self.push(name, None, Content::Text(text)),
                None => self.push(name, None, Content::Json(value.clone())),
            },
            Value::Object(object) => match file_of(object) {
                Some(address) => self.file(name, object, address),
                None if has_file(value, depth) => object.iter().try_for_each(|(inner, item)| {
                    let name = shortened(name.map_or_else(|| inner.clone(), |outer| format!("{outer}.{inner}")));
                    self.read(Some(&name), item, depth + 1)
                }),
                None if object.is_empty() => Ok(()),
                None => self.push(name, None, Content::Json(value.clone())),
            },
            other => self.push(name, None, Content::Json(other.clone())),
        }
    }

    fn text(&mut self, name: Option<&str>, text: &str) -> Result<(), OutputError> {
        if let Some(url) = address(text) {
            return self.push(name, None, Content::Url(url));
        }
        if let Some(uri) = DataUri::split(text) {
            return self.inline(name, &uri);
        }
        if text.is_empty() { Ok(()) } else { self.push(name, None, Content::Text(text.to_owned())) }
    }

    fn file(&mut self, name: Option<&str>, object: &Map<String, Value>, at: &str) -> Result<(), OutputError> {
        let said = ["content_type", "contentType", "mime_type"].iter().find_map(|key| object.get(*key)?.as_str());
        if let Some(url) = address(at) {
            return self.push(name, said.and_then(media_type), Content::Url(url));
        }
        self.inline(name, &DataUri::split(at).ok_or(OutputError::Url)?)
    }

    fn inline(&mut self, name: Option<&str>, uri: &DataUri<'_>) -> Result<(), OutputError> {
        let left = MAX_INLINE_BYTES - self.inline_bytes;
        let bytes = uri.decode(left)?;
        self.inline_bytes += bytes.len();
        self.push(name, Some(uri.content_type.clone()), Content::Inline(bytes.into()))
    }

    fn push(&mut self, name: Option<&str>, content_type: Option<String>, content: Content) -> Result<(), OutputError> {
        if self.outputs.len() == MAX_OUTPUTS {
            return Err(OutputError::TooMany);
        }
        self.outputs.push(Output { name: name.map(str::to_owned), content_type, content });
        Ok(())
    }
}

/// Whether anything in it is a file: an address, a data URI or an object with one.
fn has_file(value: &Value, depth: usize) -> bool {
    if depth >= MAX_DEPTH {
        return false;
    }
    match value {
        Value::String(text) => address(text).is_some() || DataUri::split(text).is_some(),
        Value::Array(items) => items.iter().any(|item| has_file(item, depth + 1)),
        Value::Object(object) => file_of(object).is_some() || object.values().any(|item| has_file(item, depth + 1)),
        _ => false,
    }
}

/// The address of an object that is a file.
fn file_of(object: &Map<String, Value>) -> Option<&str> {
    let direct = ["url", "href"].iter().find_map(|key| object.get(*key)?.as_str());
    direct.or_else(|| object.get("urls")?.get("get")?.as_str())
}

/// A list of texts as one; none when anything else is in it.
fn joined(items: &[Value]) -> Option<String> {
    items.iter().filter(|item| !item.is_null()).map(Value::as_str).collect()
}

/// A text that is an http or https address and nothing else.
fn address(text: &str) -> Option<Url> {
    let has_scheme = ["http://", "https://"]
        .iter()
        .any(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let is_one_word = !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if !has_scheme || !is_one_word || text.len() > MAX_URL_BYTES {
        return None;
    }
    Url::parse(text).ok().filter(|url| url.host().is_some())
}

/// A data URI, not yet decoded.
struct DataUri<'a> {
    content_type: String,
    is_base64: bool,
    data: &'a str,
}

impl<'a> DataUri<'a> {
    /// None for anything else, such as a text that happens to begin with `data:`.
    fn split(text: &'a str) -> Option<Self> {
        const LONGEST_HEAD: usize = 256;
        let rest = text.get(.."data:".len()).filter(|start| start.eq_ignore_ascii_case("data:")).map(|_| &text[5..])?;
        let comma = rest.as_bytes().iter().take(LONGEST_HEAD).position(|byte| *byte == b',')?;
        let (head, data) = (&rest[..comma], &rest[comma + 1..]);
        let is_base64 = head.rsplit_once(';').is_some_and(|(_, last)| last.trim().eq_ignore_ascii_case("base64"));
        let content_type = match head.split(';').next().unwrap_or_default() {
            "" if head.is_empty() || head.starts_with(';') => "text/plain".to_owned(),
            said => media_type(said)?,
        };
        Some(Self { content_type, is_base64, data })
    }

    /// The bytes, at most `limit`.
    fn decode(&self, limit: usize) -> Result<Vec<u8>, OutputError> {
        // Before anything is copied: base64 has four characters for three bytes, escapes three for one.
        let least = if self.is_base64 { self.data.len() / 4 * 3 } else { self.data.len() / 3 };
        if least > limit.saturating_add(2) && !self.data.contains('%') {
            return Err(OutputError::TooLarge);
        }
        let bytes = if self.data.contains('%') { unescaped(self.data)? } else { self.data.as_bytes().to_vec() };
        let bytes = if self.is_base64 {
            LENIENT.decode(bytes).map_err(|_| OutputError::DataUri("it is not base64"))?
        } else {
            bytes
        };
        match bytes.len() {
            0 => Err(OutputError::DataUri("it is empty")),
            size if size > limit => Err(OutputError::TooLarge),
            _ => Ok(bytes),
        }
    }
}

/// The bytes of a text with `%XX` escapes.
fn unescaped(text: &str) -> Result<Vec<u8>, OutputError> {
    const BROKEN: OutputError = OutputError::DataUri("a % is not followed by two hexadecimal digits");
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(BROKEN);
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8,
            byte => byte,
        });
    }
    Ok(plain)
}

/// A data URI of these bytes. A third longer than they are, so for small files only.
pub fn data_uri(content_type: &str, bytes: &[u8]) -> String {
    let content_type = media_type(content_type).unwrap_or_else(|| "application/octet-stream".to_owned());
    let mut uri = String::with_capacity(content_type.len() + bytes.len() / 3 * 4 + 20);
    uri.push_str("data:");
    uri.push_str(&content_type);
    uri.push_str(";base64,");
    STANDARD.encode_string(bytes, &mut uri);
    uri
}

/// A media type in lower case, without parameters; none when it is none.
pub(super) fn media_type(text: &str) -> Option<String> {
    const LONGEST: usize = 127;
    let essence = text.split(';').next().unwrap_or_default().trim();
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let (kind, name) = essence.split_once('/')?;
    (essence.len() <= LONGEST && is_token(kind) && is_token(name)).then(|| essence.to_ascii_lowercase())
}

fn shortened(name: String) -> String {
    if name.chars().count() <= MAX_NAME { name } else { name.chars().take(MAX_NAME).collect() }
}

/// The media type of a file that begins with these bytes; none when it is not one that is known. 64 bytes are enough.
pub fn sniff(bytes: &[u8]) -> Option<&'static str> {
    let bytes = &bytes[..bytes.len().min(SNIFFED_BYTES)];
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let found = match bytes {
        _ if at(0, b"\x89PNG\r\n\x1a\n") => "image/png",
        _ if at(0, b"\xff\xd8\xff") => "image/jpeg",
        _ if at(0, b"GIF87a") || at(0, b"GIF89a") => "image/gif",
        _ if at(0, b"RIFF") && at(8, b"WEBP") => "image/webp",
        _ if at(0, b"RIFF") && at(8, b"WAVE") => "audio/wav",
        _ if at(0, b"RIFF") && at(8, b"AVI ") => "video/x-msvideo",
        _ if at(0, b"II*\0") || at(0, b"MM\0*") => "image/tiff",
        _ if at(0, b"BM") && at(6, b"\0\0\0\0") => "image/bmp",
        _ if at(4, b"ftyp") => match bytes.get(8..12) {
            Some(b"qt  ") => "video/quicktime",
            Some(b"M4A " | b"M4B ") => "audio/mp4",
            Some(b"avif" | b"avis") => "image/avif",
            Some(b"heic" | b"heix" | b"mif1") => "image/heic",
            _ => "video/mp4",
        },
        _ if at(0, b"\x1a\x45\xdf\xa3") => {
            if bytes.windows(4).any(|window| window == b"webm") {
                "video/webm"
            } else {
                "video/x-matroska"
            }
        }
        _ if at(0, b"OggS") => "audio/ogg",
        _ if at(0, b"fLaC") => "audio/flac",
        _ if at(0, b"ID3") => "audio/mpeg",
        // A frame of layer III: the sync word, then a version and a bit rate that exist.
        [0xff, second, third, ..] if second & 0xe6 == 0xe2 && second & 0x18 != 0x08 && third & 0xf0 != 0xf0 => {
            "audio/mpeg"
        }
        _ if at(0, b"glTF") => "model/gltf-binary",
        _ if at(0, b"%PDF-") => "application/pdf",
        _ if at(0, b"PK\x03\x04") => "application/zip",
        _ if is_json(bytes) => "application/json",
        _ => return None,
    };
    Some(found)
}

/// Whether it begins like a JSON object or list.
fn is_json(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    let Some((first @ (b'{' | b'['), rest)) = text.split_first() else { return false };
    match (first, rest.trim_ascii_start().first()) {
        // Cut off, or complete.
        (_, None) => true,
        (b'{', Some(next)) => matches!(next, b'"' | b'}'),
        (_, Some(next)) => matches!(next, b'"' | b'[' | b'{' | b']' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n'),
    }
}

/// The usual end of the name of a file of this media type, without the dot; none for types that are not known.
pub fn extension(content_type: &str) -> Option<&'static str> {
    Some(match canonical(&media_type(content_type)?) {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/webp" => "webp",
        "image/gif" => "gif",
        "image/bmp" => "bmp",
        "image/tiff" => "tiff",
        "image/avif" => "avif",
        "image/heic" => "heic",
        "image/svg+xml" => "svg",
        "video/mp4" => "mp4",
        "video/quicktime" => "mov",
        "video/webm" => "webm",
        "video/x-matroska" => "mkv",
        "video/x-msvideo" => "avi",
        "audio/wav" => "wav",
        "audio/mpeg" => "mp3",
        "audio/mp4" => "m4a",
        "audio/ogg" => "ogg",
        "audio/flac" => "flac",
        "application/json" => "json",
        "application/pdf" => "pdf",
        "application/zip" => "zip",
        "model/gltf-binary" => "glb",
        "text/plain" => "txt",
        _ => return None,
    })
}

/// Whether a file that is said to have one media type and begins like another is what it is said to be. A declaration
/// that says nothing, such as `application/octet-stream`, is always right.
pub fn agrees(declared: &str, found: &str) -> bool {
    let (Some(declared), Some(found)) = (media_type(declared), media_type(found)) else { return false };
    let (declared, found) = (canonical(&declared), canonical(&found));
    let says_nothing = matches!(declared, "application/octet-stream" | "binary/octet-stream");
    // One family of containers, whose brands are often written wrong.
    let is_family = |name: &str, family: &[&str]| family.contains(&name);
    let same_family = [&["video/mp4", "video/quicktime", "audio/mp4"][..], &["video/webm", "video/x-matroska"]]
        .iter()
        .any(|family| is_family(declared, family) && is_family(found, family));
    says_nothing || declared == found || same_family
}

/// The usual one of the names that a media type has.
fn canonical(media_type: &str) -> &str {
    match media_type {
        "image/jpg" | "image/pjpeg" => "image/jpeg",
        "image/x-png" => "image/png",
        "image/x-ms-bmp" | "image/x-bmp" => "image/bmp",
        "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "audio/wav",
        "audio/mp3" | "audio/x-mp3" => "audio/mpeg",
        "audio/x-m4a" | "audio/m4a" => "audio/mp4",
        "audio/x-flac" => "audio/flac",
        "video/x-m4v" => "video/mp4",
        "video/avi" => "video/x-msvideo",
        "text/json" => "application/json",
        "application/x-zip-compressed" => "application/zip",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PNG: &str = "data:image/png;base64,iVBORw0KGgo=";

    fn url(text: &str) -> Content {
        Content::Url(Url::parse(text).unwrap())
    }

    fn text(text: &str) -> Content {
        Content::Text(text.to_owned())
    }

    fn contents(value: &Value) -> Vec<Content> {
        read_outputs(value).unwrap().into_iter().map(|output| output.content).collect()
    }

    #[test]
    fn every_form_of_output_is_read() {
        let png = || Content::Inline(Bytes::from_static(b"\x89PNG\r\n\x1a\n"));
        let (a, b) = ("https://r.delivery/a.png?sig=1", "https://r.delivery/b.png");
        for (value, expected) in [
            (json!(a), vec![url(a)]),
            (json!("HTTP://r.delivery/a.png"), vec![url("http://r.delivery/a.png")]),
            (json!([a, b]), vec![url(a), url(b)]),
            (json!([[a, null], [b]]), vec![url(a), url(b)]),
            (json!(PNG), vec![png()]),
            (json!([PNG, a, "a caption"]), vec![png(), url(a), text("a caption")]),
            (json!({"url": a}), vec![url(a)]),
            (json!([{"href": a}, {"urls": {"get": b}}]), vec![url(a), url(b)]),
            (json!({"url": PNG}), vec![png()]),
            (json!("a cat"), vec![text("a cat")]),
            (json!(["a", " cat", "", null, "."]), vec![text("a cat.")]),
            // Tokens that are no addresses by themselves.
            (json!(["see ", "https://", "x.org", "/a"]), vec![text("see https://x.org/a")]),
            (json!(3), vec![Content::Json(json!(3))]),
            (json!(false), vec![Content::Json(json!(false))]),
            (json!([1, 2, 3]), vec![Content::Json(json!([1, 2, 3]))]),
            (json!(["a", 1]), vec![Content::Json(json!(["a", 1]))]),
            (json!({"label": "cat", "score": 0.5}), vec![Content::Json(json!({"label": "cat", "score": 0.5}))]),
            // What is no http address is text, and is never fetched.
            (json!("/outputs/a.png"), vec![text("/outputs/a.png")]),
            (json!("//r.delivery/a.png"), vec![text("//r.delivery/a.png")]),
            (json!("file:///etc/passwd"), vec![text("file:///etc/passwd")]),
            (json!("gs://bucket/a.png"), vec![text("gs://bucket/a.png")]),
            (json!("https://r.delivery/a.png and more"), vec![text("https://r.delivery/a.png and more")]),
            (json!("https://"), vec![text("https://")]),
            (json!("data: it is here, look"), vec![text("data: it is here, look")]),
        ] {
            assert_eq!(contents(&value), expected, "{value}");
        }
    }

    #[test]
    fn an_object_of_outputs_keeps_their_names() {
        let value = json!({
            "image": "https://r.delivery/a.png",
            "masks": ["https://r.delivery/b.png", {"url": "https://r.delivery/c.png", "mime_type": "Image/PNG; q=1"}],
            "caption": "a cat",
            "nothing": null,
            "score": 0.5,
            "more": {"deep": PNG},
        });
        let outputs = read_outputs(&value).unwrap();
        let named: Vec<(&str, Option<&str>)> =
            outputs.iter().map(|output| (output.name.as_deref().unwrap(), output.content_type.as_deref())).collect();
        // In the order of their names: the order in the answer is not kept.
        let expected = [
            ("caption", None),
            ("image", None),
            ("masks", None),
            ("masks", Some("image/png")),
            ("more.deep", Some("image/png")),
            ("score", None),
        ];
        assert_eq!(named, expected);
        assert_eq!(outputs[5].content, Content::Json(json!(0.5)));
        assert_eq!(read_outputs(&json!("https://r.delivery/a")).unwrap()[0].name, None);
        let long = read_outputs(&json!({"n".repeat(1000): "https://r.delivery/a"})).unwrap();
        assert_eq!(long[0].name.as_ref().map(String::len), Some(MAX_NAME));
    }

    #[test]
    fn nothing_is_an_error_that_says_so() {
        for value in
            [json!(null), json!(""), json!([]), json!({}), json!([null, null]), json!(["", ""]), json!([null, ""])]
        {
            assert_eq!(read_outputs(&value), Err(OutputError::Empty), "{value}");
        }
        assert!(OutputError::Empty.to_string().contains("put out nothing"));
    }

    #[test]
    fn outputs_are_limited_in_number_in_bytes_and_in_depth() {
        let many = |count: usize| json!(vec!["https://r.delivery/a.png"; count]);
        assert_eq!(read_outputs(&many(MAX_OUTPUTS)).unwrap().len(), MAX_OUTPUTS);
        assert_eq!(read_outputs(&many(MAX_OUTPUTS + 1)), Err(OutputError::TooMany));
        // Tokens are one output, however many.
        assert_eq!(contents(&json!(vec!["x"; 10_000])), [text(&"x".repeat(10_000))]);

        let half = data_uri("image/png", &vec![7; MAX_INLINE_BYTES / 2]);
        assert_eq!(read_outputs(&json!([half, half])).unwrap().len(), 2);
        assert_eq!(read_outputs(&json!([half, half, PNG])), Err(OutputError::TooLarge));
        let over = data_uri("image/png", &vec![7; MAX_INLINE_BYTES + 1]);
        assert_eq!(read_outputs(&json!(over)), Err(OutputError::TooLarge));

        let mut deep = json!("https://r.delivery/a.png");
        for _ in 0..100 {
            deep = json!([deep]);
        }
        assert!(matches!(contents(&deep)[..], [Content::Json(_)]));
    }

    #[test]
    fn data_uris_are_read_as_they_are_written_in_the_wild() {
        let inline = |value: &str| {
            let output = read_outputs(&json!(value)).unwrap().remove(0);
            let Content::Inline(bytes) = output.content else { panic!("{value} is not inline") };
            (output.content_type.unwrap(), String::from_utf8(bytes.to_vec()).unwrap())
        };
        for (value, content_type, expected) in [
            ("data:text/plain;base64,aGk=", "text/plain", "hi"),
            ("data:text/plain;base64,aGk", "text/plain", "hi"),
            ("data:text/plain;base64,aGk%3D", "text/plain", "hi"),
            ("DATA:Image/SVG+XML;charset=utf-8,%3Csvg/%3e", "image/svg+xml", "<svg/>"),
            ("data:,a,b", "text/plain", "a,b"),
            ("data:;base64,aGk=", "text/plain", "hi"),
        ] {
            assert_eq!(inline(value), (content_type.to_owned(), expected.to_owned()), "{value}");
        }
        for broken in
            ["data:image/png;base64,a", "data:image/png;base64,!!!!", "data:image/png;base64,", "data:a/b,%zz"]
        {
            let refused = read_outputs(&json!([broken])).unwrap_err();
            assert!(matches!(refused, OutputError::DataUri(_)), "{broken}: {refused}");
        }
        for broken in ["/a.png", "", "ftp://x/a.png", "data:nothing"] {
            assert_eq!(read_outputs(&json!({ "url": broken })), Err(OutputError::Url), "{broken}");
        }
        let bytes: Vec<u8> = (0..=255).collect();
        let uri = data_uri("Image/PNG", &bytes);
        assert!(uri.starts_with("data:image/png;base64,"), "{uri}");
        assert_eq!(contents(&json!(uri)), [Content::Inline(bytes.into())]);
        assert!(data_uri("a\"b, c", b"x").starts_with("data:application/octet-stream;base64,"));
    }

    #[test]
    fn media_types_are_known_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"\x89PNG\r\n\x1a\n\0\0"[..], Some("image/png")),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Some("image/jpeg")),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"RIFF\x10\0\0\0WAVEfmt ", Some("audio/wav")),
            (b"GIF89a", Some("image/gif")),
            (b"\0\0\0\x18ftypisom\0\0\x02\0", Some("video/mp4")),
            (b"\0\0\0\x14ftypqt  \0\0", Some("video/quicktime")),
            (b"\0\0\0\x1cftypavif", Some("image/avif")),
            (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm", Some("video/webm")),
            (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x88matroska", Some("video/x-matroska")),
            (b"ID3\x04", Some("audio/mpeg")),
            (b"\xff\xfb\x90\x64\0", Some("audio/mpeg")),
            (b"\xff\xf3\x40\xc4\0", Some("audio/mpeg")),
            (b"\xff\xff\xff\xff\0", None),
            (b" {\"a\": 1}", Some("application/json")),
            (b"[1, 2]", Some("application/json")),
            (b"[x, y]", None),
            (b"{% template %}", None),
            (b"<!doctype html>", None),
            (b"<html>", None),
            (b"", None),
            (b"\x89PN", None),
            (b"\0\0\0\x18ftyp", Some("video/mp4")),
            (&[0; 64], None),
        ] {
            assert_eq!(sniff(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_declared_type_agrees_with_the_bytes_or_does_not() {
        for (declared, found, expected) in [
            ("image/png", "image/png", true),
            ("Image/JPG; q=1", "image/jpeg", true),
            ("video/mp4", "video/quicktime", true),
            ("video/webm", "video/x-matroska", true),
            ("application/octet-stream", "video/mp4", true),
            ("audio/x-wav", "audio/wav", true),
            ("image/png", "image/jpeg", false),
            ("video/mp4", "video/webm", false),
            ("text/html", "image/png", false),
            ("", "image/png", false),
        ] {
            assert_eq!(agrees(declared, found), expected, "{declared} {found}");
        }
        for (content_type, expected) in [
            ("image/jpeg", Some("jpg")),
            ("IMAGE/JPG; x=y", Some("jpg")),
            ("video/mp4", Some("mp4")),
            ("application/x-unknown", None),
            ("png", None),
        ] {
            assert_eq!(extension(content_type), expected, "{content_type}");
        }
        // Whatever is recognised has an end for its name.
        for bytes in [&b"OggS"[..], b"fLaC", b"%PDF-", b"PK\x03\x04", b"glTF", b"II*\0", b"BM\0\0\0\0\0\0\0\0"] {
            assert!(extension(sniff(bytes).unwrap()).is_some());
        }
    }
}
