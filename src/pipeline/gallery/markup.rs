//! What makes text, links, pictures and colours safe to stand in the page.

use std::fmt::{self, Display, Write as _};

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;

use super::Preview;
use crate::kernel::color::Rgb8;

/// Appends formatted text to a `String`, which cannot fail.
macro_rules! put {
    ($out:expr, $($text:tt)*) => {{ let _ = write!($out, $($text)*); }};
}

pub(super) use put;

/// Text as HTML, safe in content and in quoted attributes. Control characters become U+FFFD.
pub(super) struct Text<'a>(pub &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = 0;
        for (at, c) in self.0.char_indices() {
            let safe = match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\'' => "&#39;",
                '\t' | '\n' => continue,
                c if c.is_control() => "\u{FFFD}",
                _ => continue,
            };
            f.write_str(&self.0[written..at])?;
            f.write_str(safe)?;
            written = at + c.len_utf8();
        }
        f.write_str(&self.0[written..])
    }
}

/// A preview as a data URI.
pub(super) struct Data<'a>(pub &'a Preview);

impl Display for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data:{};base64,{}", Text(self.0.content_type), Base64Display::new(&self.0.jpeg_or_png, &STANDARD))
    }
}

/// A relative link to a file beside the page, percent-encoded (RFC 3986 §2.1); `None` for names that would leave
/// the page's folder. The leading `./` keeps a name such as `javascript:x` from being read as a scheme.
pub(super) fn href(object: &str) -> Option<String> {
    if object.is_empty() || object.split(['/', '\\']).any(|part| part.is_empty() || part == "." || part == "..") {
        return None;
    }
    let mut link = String::with_capacity(object.len() + 2);
    link.push_str("./");
    for byte in object.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => link.push(char::from(byte)),
            _ => put!(link, "%{byte:02X}"),
        }
    }
    Some(link)
}

/// A colour with its code, which a click copies, and a line below it.
pub(super) fn swatch(out: &mut String, color: Rgb8, label: Option<&str>) {
    put!(
        out,
        "<li><button type=\"button\" class=\"swatch\" style=\"--c:{color}\" data-hex=\"{color}\" title=\"Copy {color}\">\
         <i></i><b>{color}</b>"
    );
    if let Some(label) = label {
        put!(out, "<small class=\"num\">{}</small>", Text(label));
    }
    out.push_str("</button></li>");
}

/// The box a picture is shown in: its own shape within bounds, so that a panorama does not become a thread.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    width: f64,
    height: f64,
}

impl Frame {
    pub fn of(preview: &Preview) -> Self {
        Self { width: f64::from(preview.width.max(1)), height: f64::from(preview.height.max(1)) }
    }

    pub fn ratio(self) -> f64 {
        self.width / self.height
    }

    pub fn bounded_ratio(self) -> f64 {
        self.ratio().clamp(0.8, 2.4)
    }

    /// Size of a picture of this shape inside `frame`, in percent of the frame's sides.
    pub fn within(self, frame: Self) -> (f64, f64) {
        let relative = self.ratio() / frame.bounded_ratio();
        (100.0 * relative.min(1.0), 100.0 * (1.0 / relative).min(1.0))
    }
}

/// `jpeg` as `JPEG`, `webp` as `WebP`; anything else in capitals.
pub(super) fn format_name(format: &str) -> String {
    if format.eq_ignore_ascii_case("webp") { "WebP".into() } else { format.to_uppercase() }
}

/// A figure forced into 0..=1; what is not a number counts as 0.
pub(super) fn unit(value: f64) -> f64 {
    if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_folder_of_the_page() {
        assert_eq!(href("palette_Warm.jpg").as_deref(), Some("./palette_Warm.jpg"));
        assert_eq!(href("javascript:alert(1)").as_deref(), Some("./javascript%3Aalert%281%29"));
        assert_eq!(href("a b/ü#?.png").as_deref(), Some("./a%20b/%C3%BC%23%3F.png"));
        for outside in ["", "/etc/passwd", "../secret", "a/../../b", "//host/x", "\\\\host\\x", "..\\x"] {
            assert_eq!(href(outside), None, "{outside}");
        }
    }

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(Text("a<b>&\"'c").to_string(), "a&lt;b&gt;&amp;&quot;&#39;c");
        assert_eq!(Text("x\u{0}\u{1b}y\nz").to_string(), "x\u{FFFD}\u{FFFD}y\nz");
    }
}
