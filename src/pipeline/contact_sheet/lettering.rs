//! The contact sheet's lettering: a small single-stroke typeface, drawn with anti-aliasing at any size.
//!
//! A glyph is a handful of strokes on a grid whose capitals are 14 units high, whose small letters are 10 and whose
//! descenders reach to −4; y grows upward from the baseline. A pixel's coverage is its distance to the nearest
//! stroke, so there is no outline to fill and no hinting. ASCII 32 to 126 is complete, Latin letters with marks are
//! composed, anything else is a box.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Height of a capital letter, units.
const CAPITAL: f32 = 14.0;
/// Half the stroke's width, units.
const HALF_STROKE: f32 = 0.92;
/// Space left and right of a glyph's strokes, units.
const BEARING: f32 = 1.75;
/// Glyphs are placed on quarters of a pixel; finer steps cannot be seen and would only fill the cache.
const SUBPIXELS: f32 = 4.0;

/// Character, width of its strokes, strokes. `M x y` starts a stroke, `L x y` draws a line, `Q cx cy x y` an
/// elliptical quarter that bulges towards the corner `cx cy`. A line to where the pen is makes a dot.
const GLYPHS: &[(char, f32, &str)] = &[
    (' ', 2.2, ""),
    ('!', 0.0, "M0 14 L0 4.5 M0 .2 L0 .2"),
    ('"', 3.4, "M0 14 L0 10 M3.4 14 L3.4 10"),
    ('#', 10.0, "M3.6 13.5 L1.8 .5 M8.2 13.5 L6.4 .5 M.6 9.4 L10 9.4 M0 4.6 L9.4 4.6"),
    (
        '$',
        8.5,
        "M8 11.4 Q7.2 14 4.3 14 Q.5 14 .5 10.7 Q.5 8 4.25 7.2 Q8.5 6.3 8.5 3.5 Q8.5 0 4.3 0 Q.8 0 0 2.9 M4.25 16 L4.25 -2",
    ),
    (
        '%',
        13.0,
        "M2.7 14 Q5.4 14 5.4 10.8 Q5.4 7.6 2.7 7.6 Q0 7.6 0 10.8 Q0 14 2.7 14 M10.3 6.4 Q13 6.4 13 3.2 Q13 0 10.3 0 Q7.6 0 7.6 3.2 Q7.6 6.4 10.3 6.4 M10.8 14 L2.2 0",
    ),
    (
        '&',
        10.4,
        "M10.4 0 L2.3 9.4 Q1.2 10.6 1.2 11.6 Q1.2 14 4 14 Q6.8 14 6.8 11.5 Q6.8 9.6 3.4 7.7 Q0 5.8 0 3.5 Q0 0 4.2 0 Q8.8 0 9.4 6.2",
    ),
    ('\'', 0.0, "M0 14 L0 10"),
    ('(', 2.6, "M2.6 16 Q0 12 0 6.5 Q0 1 2.6 -3"),
    (')', 2.6, "M0 16 Q2.6 12 2.6 6.5 Q2.6 1 0 -3"),
    ('*', 5.6, "M2.8 14 L2.8 8.4 M.4 12.6 L5.2 9.8 M5.2 12.6 L.4 9.8"),
    ('+', 7.6, "M3.8 9.6 L3.8 2 M0 5.8 L7.6 5.8"),
    (',', 0.8, "M.8 .4 L.8 0 L0 -2.6"),
    ('-', 4.4, "M0 5.4 L4.4 5.4"),
    ('.', 0.0, "M0 .2 L0 .2"),
    ('/', 5.0, "M5 15 L0 -2"),
    ('0', 8.0, "M4 14 Q8 14 8 7 Q8 0 4 0 Q0 0 0 7 Q0 14 4 14"),
    ('1', 8.0, "M1.6 11.4 L5 14 L5 0"),
    ('2', 8.0, "M.3 10.6 Q.6 14 4 14 Q7.6 14 7.6 10.4 Q7.6 8.2 5.6 6 L0 0 L8 0"),
    ('3', 8.0, "M.5 14 L7.4 14 L3.6 8.4 Q8 8.4 8 4.2 Q8 0 3.9 0 Q.8 0 0 2.7"),
    ('4', 8.0, "M6 0 L6 14 L0 4 L8 4"),
    ('5', 8.0, "M7.2 14 L1.2 14 L.7 7.6 Q1.9 8.9 4 8.9 Q8 8.9 8 4.5 Q8 0 4 0 Q.8 0 0 2.6"),
    ('6', 8.0, "M6.4 14 L1.2 7 Q0 5.2 0 4.3 Q0 0 4 0 Q8 0 8 4.3 Q8 8.6 4 8.6 Q2.4 8.6 1.4 7.4"),
    ('7', 8.0, "M0 14 L8 14 L2.6 0"),
    (
        '8',
        8.0,
        "M4 14 Q7.5 14 7.5 10.7 Q7.5 7.4 4 7.4 Q.5 7.4 .5 10.7 Q.5 14 4 14 M4 7.4 Q8 7.4 8 3.7 Q8 0 4 0 Q0 0 0 3.7 Q0 7.4 4 7.4",
    ),
    ('9', 8.0, "M1.6 0 L6.8 7 Q8 8.8 8 9.7 Q8 14 4 14 Q0 14 0 9.7 Q0 5.4 4 5.4 Q5.6 5.4 6.6 6.6"),
    (':', 0.0, "M0 8.6 L0 8.6 M0 .2 L0 .2"),
    (';', 0.8, "M.8 8.6 L.8 8.6 M.8 .4 L.8 0 L0 -2.6"),
    ('<', 7.0, "M7 10.4 L0 5.8 L7 1.2"),
    ('=', 7.6, "M0 7.8 L7.6 7.8 M0 3.8 L7.6 3.8"),
    ('>', 7.0, "M0 10.4 L7 5.8 L0 1.2"),
    ('?', 6.8, "M0 11.2 Q.5 14 3.4 14 Q6.8 14 6.8 10.8 Q6.8 8.8 4.8 7.5 Q3.2 6.4 3.2 4.4 M3.2 .2 L3.2 .2"),
    (
        '@',
        13.0,
        "M9.4 9.2 L9.4 5.2 Q9.4 2.6 11.2 2.6 Q13 2.6 13 6 Q13 13 6.6 13 Q0 13 0 5.6 Q0 -2.4 6.8 -2.4 Q9.4 -2.4 11 -1.4 M9.4 6 Q9.4 9.4 6.5 9.4 Q3.6 9.4 3.6 6 Q3.6 2.6 6.5 2.6 Q9.4 2.6 9.4 6",
    ),
    ('A', 10.0, "M0 0 L5 14 L10 0 M1.7 4.8 L8.3 4.8"),
    ('B', 8.5, "M0 0 L0 14 L4.4 14 Q8 14 8 10.8 Q8 7.5 4.4 7.5 L0 7.5 M4.4 7.5 Q8.5 7.5 8.5 3.75 Q8.5 0 4.4 0 L0 0"),
    ('C', 9.5, "M9.5 10.8 Q8.3 14 5.2 14 Q0 14 0 7 Q0 0 5.2 0 Q8.3 0 9.5 3.2"),
    ('D', 9.5, "M0 0 L0 14 L4 14 Q9.5 14 9.5 7 Q9.5 0 4 0 L0 0"),
    ('E', 7.4, "M7.4 14 L0 14 L0 0 L7.4 0 M0 7.3 L6.5 7.3"),
    ('F', 7.0, "M7 14 L0 14 L0 0 M0 7 L6.2 7"),
    ('G', 10.0, "M9.4 11 Q8.2 14 5.2 14 Q0 14 0 7 Q0 0 5.2 0 Q10 0 10 5.4 L10 6.6 L5.8 6.6"),
    ('H', 9.0, "M0 0 L0 14 M9 0 L9 14 M0 7.2 L9 7.2"),
    ('I', 0.0, "M0 0 L0 14"),
    ('J', 6.0, "M6 14 L6 4 Q6 0 3 0 Q.8 0 0 2.4"),
    ('K', 8.5, "M0 0 L0 14 M8 14 L0 5.5 M3 8.7 L8.5 0"),
    ('L', 6.8, "M0 14 L0 0 L6.8 0"),
    ('M', 11.0, "M0 0 L0 14 L5.5 4.5 L11 14 L11 0"),
    ('N', 9.0, "M0 0 L0 14 L9 0 L9 14"),
    ('O', 10.4, "M5.2 14 Q10.4 14 10.4 7 Q10.4 0 5.2 0 Q0 0 0 7 Q0 14 5.2 14"),
    ('P', 8.3, "M0 0 L0 14 L4.3 14 Q8.3 14 8.3 10.2 Q8.3 6.4 4.3 6.4 L0 6.4"),
    ('Q', 10.4, "M5.2 14 Q10.4 14 10.4 7 Q10.4 0 5.2 0 Q0 0 0 7 Q0 14 5.2 14 M6.4 3.4 L10.2 -.8"),
    ('R', 8.6, "M0 0 L0 14 L4.3 14 Q8.3 14 8.3 10.4 Q8.3 6.8 4.3 6.8 L0 6.8 M4.6 6.8 L8.6 0"),
    ('S', 8.5, "M8 11.4 Q7.2 14 4.3 14 Q.5 14 .5 10.7 Q.5 8 4.25 7.2 Q8.5 6.3 8.5 3.5 Q8.5 0 4.3 0 Q.8 0 0 2.9"),
    ('T', 9.0, "M0 14 L9 14 M4.5 14 L4.5 0"),
    ('U', 9.0, "M0 14 L0 5 Q0 0 4.5 0 Q9 0 9 5 L9 14"),
    ('V', 10.0, "M0 14 L5 0 L10 14"),
    ('W', 14.0, "M0 14 L3.6 0 L7 12.5 L10.4 0 L14 14"),
    ('X', 9.0, "M0 0 L9 14 M0 14 L9 0"),
    ('Y', 9.4, "M0 14 L4.7 6.6 L9.4 14 M4.7 6.6 L4.7 0"),
    ('Z', 8.6, "M0 14 L8.6 14 L0 0 L8.6 0"),
    ('[', 3.0, "M3 16 L0 16 L0 -3 L3 -3"),
    ('\\', 5.0, "M0 15 L5 -2"),
    (']', 3.0, "M0 16 L3 16 L3 -3 L0 -3"),
    ('^', 6.4, "M0 9 L3.2 14 L6.4 9"),
    ('_', 7.6, "M0 -2.6 L7.6 -2.6"),
    ('`', 2.0, "M0 14.4 L2 12"),
    ('a', 7.0, "M.5 8 Q1.4 10 3.8 10 Q7 10 7 6.8 L7 0 M7 5.8 L3.6 5.8 Q0 5.8 0 2.9 Q0 0 3 0 Q5.6 0 7 2.6"),
    ('b', 7.6, "M0 14 L0 0 M0 5 Q0 10 3.9 10 Q7.6 10 7.6 5 Q7.6 0 3.9 0 Q0 0 0 5"),
    ('c', 6.7, "M6.7 7.7 Q5.9 10 3.8 10 Q0 10 0 5 Q0 0 3.8 0 Q5.9 0 6.7 2.3"),
    ('d', 7.6, "M7.6 14 L7.6 0 M7.6 5 Q7.6 10 3.7 10 Q0 10 0 5 Q0 0 3.7 0 Q7.6 0 7.6 5"),
    ('e', 7.4, "M0 5.2 L7.4 5.2 Q7.4 10 3.8 10 Q0 10 0 5 Q0 0 3.9 0 Q6.3 0 7.1 2.1"),
    ('f', 4.8, "M4.8 13.8 Q1.7 14.4 1.7 11 L1.7 0 M0 9.6 L4.5 9.6"),
    (
        'g',
        7.6,
        "M7.6 10 L7.6 0 Q7.6 -4 3.9 -4 Q1.2 -4 .4 -2.2 M7.6 5 Q7.6 10 3.7 10 Q0 10 0 5.1 Q0 .3 3.7 .3 Q7.6 .3 7.6 5",
    ),
    ('h', 7.0, "M0 14 L0 0 M0 5.5 Q.5 10 3.8 10 Q7 10 7 6.2 L7 0"),
    ('i', 0.0, "M0 10 L0 0 M0 13.6 L0 13.6"),
    ('j', 2.2, "M2.2 10 L2.2 -1.6 Q2.2 -4 0 -3.9 M2.2 13.6 L2.2 13.6"),
    ('k', 6.6, "M0 14 L0 0 M6.2 10 L0 3.8 M2.3 6.1 L6.6 0"),
    ('l', 1.8, "M0 14 L0 2 Q0 0 1.8 0"),
    (
        'm',
        11.6,
        "M0 10 L0 0 M0 5.8 Q.3 10 3.2 10 Q5.8 10 5.8 6.4 L5.8 0 M5.8 5.8 Q6.1 10 9 10 Q11.6 10 11.6 6.4 L11.6 0",
    ),
    ('n', 7.0, "M0 10 L0 0 M0 5.5 Q.5 10 3.8 10 Q7 10 7 6.2 L7 0"),
    ('o', 7.8, "M3.9 10 Q7.8 10 7.8 5 Q7.8 0 3.9 0 Q0 0 0 5 Q0 10 3.9 10"),
    ('p', 7.6, "M0 10 L0 -4 M0 5 Q0 10 3.9 10 Q7.6 10 7.6 5 Q7.6 0 3.9 0 Q0 0 0 5"),
    ('q', 7.6, "M7.6 10 L7.6 -4 M7.6 5 Q7.6 10 3.7 10 Q0 10 0 5 Q0 0 3.7 0 Q7.6 0 7.6 5"),
    ('r', 4.2, "M0 10 L0 0 M0 5.5 Q.3 10 4.2 9.8"),
    ('s', 6.4, "M6 8 Q5.3 10 3.2 10 Q.4 10 .4 7.6 Q.4 5.7 3.2 5.2 Q6.4 4.6 6.4 2.5 Q6.4 0 3.2 0 Q.7 0 0 2.1"),
    ('t', 4.6, "M1.7 13 L1.7 3 Q1.7 0 4.6 .3 M0 9.6 L4.6 9.6"),
    ('u', 7.0, "M0 10 L0 3.8 Q0 0 3.2 0 Q6.5 0 7 4.5 M7 10 L7 0"),
    ('v', 7.4, "M0 10 L3.7 0 L7.4 10"),
    ('w', 11.0, "M0 10 L2.8 0 L5.5 9 L8.2 0 L11 10"),
    ('x', 7.0, "M0 10 L7 0 M0 0 L7 10"),
    ('y', 7.4, "M0 10 L3.8 .4 M7.4 10 L3.4 -1.4 Q2.5 -4 .2 -3.9"),
    ('z', 6.6, "M0 10 L6.6 10 L0 0 L6.6 0"),
    ('{', 3.6, "M3.6 16 Q1.6 16 1.6 13.6 L1.6 9 Q1.6 6.5 0 6.5 Q1.6 6.5 1.6 4 L1.6 -.6 Q1.6 -3 3.6 -3"),
    ('|', 0.0, "M0 16 L0 -3"),
    ('}', 3.6, "M0 16 Q2 16 2 13.6 L2 9 Q2 6.5 3.6 6.5 Q2 6.5 2 4 L2 -.6 Q2 -3 0 -3"),
    ('~', 8.0, "M0 4.8 Q.3 7 2.2 7 Q3.2 7 4 5.9 Q4.8 4.8 5.8 4.8 Q7.7 4.8 8 7"),
    // Beyond ASCII: what palette names really hold.
    (
        'ß',
        7.6,
        "M0 0 L0 10.6 Q0 14 3.6 14 Q6.8 14 6.8 11.2 Q6.8 9.4 5.4 8.3 Q4 7.2 5.6 6.1 Q7.6 4.9 7.6 2.9 Q7.6 0 4.6 0 L3.2 .4",
    ),
    ('ı', 0.0, "M0 10 L0 0"),
    ('ø', 7.8, "M3.9 10 Q7.8 10 7.8 5 Q7.8 0 3.9 0 Q0 0 0 5 Q0 10 3.9 10 M8 11 L-.2 -1"),
    ('Ø', 10.4, "M5.2 14 Q10.4 14 10.4 7 Q10.4 0 5.2 0 Q0 0 0 7 Q0 14 5.2 14 M10 15 L.4 -1"),
    (
        'æ',
        12.4,
        "M.4 8 Q1.2 10 3.2 10 Q6 10 6 7 L6 3 Q6 0 9 0 Q11.3 0 12 2 M6 5.4 L3.2 5.4 Q0 5.4 0 2.7 Q0 0 2.8 0 Q5.4 0 6 3 M6 5.2 L12.4 5.2 Q12.4 10 9.2 10 Q6 10 6 7",
    ),
    ('–', 7.0, "M0 5.4 L7 5.4"),
    ('—', 12.0, "M0 5.4 L12 5.4"),
    ('‘', 0.9, "M.9 14.2 L0 12 L0 11.4"),
    ('’', 0.9, "M.9 14 L.9 13.4 L0 11.2"),
    ('“', 4.1, "M.9 14.2 L0 12 L0 11.4 M4.1 14.2 L3.2 12 L3.2 11.4"),
    ('”', 4.1, "M.9 14 L.9 13.4 L0 11.2 M4.1 14 L4.1 13.4 L3.2 11.2"),
    ('…', 7.2, "M0 .2 L0 .2 M3.6 .2 L3.6 .2 M7.2 .2 L7.2 .2"),
    ('·', 0.0, "M0 5.8 L0 5.8"),
    ('×', 6.0, "M0 8.8 L6 2.8 M6 8.8 L0 2.8"),
    ('→', 10.0, "M0 5.6 L10 5.6 M6.4 9.2 L10 5.6 L6.4 2"),
    ('°', 4.0, "M2 14 Q4 14 4 12 Q4 10 2 10 Q0 10 0 12 Q0 14 2 14"),
];

/// What stands for a character the typeface lacks.
const FALLBACK: (f32, &str) = (7.0, "M0 0 L7 0 L7 14 L0 14 L0 0");

/// Marks over (or under) a letter; x is counted from the letter's middle, y from its top or, for the cedilla, from
/// the baseline.
const ACUTE: &str = "M-.8 2 L1.3 4.4";
const GRAVE: &str = "M.8 2 L-1.3 4.4";
const CIRCUMFLEX: &str = "M-2.3 2 L0 4.4 L2.3 2";
const CARON: &str = "M-2.3 4.4 L0 2 L2.3 4.4";
const TILDE: &str = "M-2.8 2.4 Q-2.6 4 -1.3 4 Q-.6 4 0 3.2 Q.6 2.4 1.3 2.4 Q2.6 2.4 2.8 4";
const DIAERESIS: &str = "M-1.9 3.4 L-1.9 3.4 M1.9 3.4 L1.9 3.4";
const RING: &str = "M0 5 Q1.7 5 1.7 3.3 Q1.7 1.6 0 1.6 Q-1.7 1.6 -1.7 3.3 Q-1.7 5 0 5";
const CEDILLA: &str = "M0 0 L0 -1.3 Q1.7 -1.3 1.7 -2.6 Q1.7 -4 -.9 -4";

/// Letter and mark of a composed letter.
fn parts(c: char) -> Option<(char, &'static str)> {
    const COMPOSED: [(&str, &str, &str); 8] = [
        ("áéíóúýćńśźÁÉÍÓÚÝĆŃŚŹ", "aeıouycnszAEIOUYCNSZ", ACUTE),
        ("àèìòùÀÈÌÒÙ", "aeıouAEIOU", GRAVE),
        ("âêîôûÂÊÎÔÛ", "aeıouAEIOU", CIRCUMFLEX),
        ("čěňřšžČĚŇŘŠŽ", "cenrszCENRSZ", CARON),
        ("ãñõÃÑÕ", "anoANO", TILDE),
        ("äëïöüÿÄËÏÖÜŸ", "aeıouyAEIOUY", DIAERESIS),
        ("åůÅŮ", "auAU", RING),
        ("çşÇŞ", "csCS", CEDILLA),
    ];
    COMPOSED.iter().find_map(|(composed, letters, mark)| {
        let at = composed.chars().position(|x| x == c)?;
        Some((letters.chars().nth(at)?, *mark))
    })
}

type Point = (f32, f32);

/// Strokes cut into straight pieces, grid units.
struct Glyph {
    width: f32,
    segments: Vec<(Point, Point)>,
}

static TYPEFACE: LazyLock<HashMap<char, Glyph>> = LazyLock::new(|| {
    let entry = |&(c, width, strokes): &(char, f32, &str)| (c, Glyph { width, segments: trace(strokes, (0.0, 0.0)) });
    GLYPHS.iter().map(entry).collect()
});
static BOX: LazyLock<Glyph> = LazyLock::new(|| Glyph { width: FALLBACK.0, segments: trace(FALLBACK.1, (0.0, 0.0)) });

/// Turns a stroke description into straight pieces, shifted by `offset`.
fn trace(strokes: &str, offset: Point) -> Vec<(Point, Point)> {
    /// Pieces an elliptical quarter is cut into: the error stays under a tenth of a pixel at 40-pixel capitals.
    const PIECES: usize = 8;
    /// Where a cubic's handles lie on the way to the corner to draw an elliptical quarter; a little more than the
    /// 0.5523 of a true ellipse makes the squarer rounds of a grotesque.
    const HANDLE: f32 = 0.6;
    let mut segments = Vec::new();
    let mut pen: Point = offset;
    let mut numbers: Vec<f32> = Vec::with_capacity(4);
    let mut command = 'M';
    for token in strokes.split_whitespace() {
        let digits = match token.chars().next() {
            Some(c @ ('M' | 'L' | 'Q')) => {
                command = c;
                numbers.clear();
                &token[1..]
            }
            _ => token,
        };
        numbers.extend(digits.parse::<f32>().ok());
        match (command, numbers.as_slice()) {
            ('M', &[x, y]) => pen = (x + offset.0, y + offset.1),
            ('L', &[x, y]) => {
                let to = (x + offset.0, y + offset.1);
                segments.push((pen, to));
                pen = to;
            }
            ('Q', &[cx, cy, x, y]) => {
                let (corner, to) = ((cx + offset.0, cy + offset.1), (x + offset.0, y + offset.1));
                let towards = |p: Point| (p.0 + (corner.0 - p.0) * HANDLE, p.1 + (corner.1 - p.1) * HANDLE);
                let (from, h1, h2) = (pen, towards(pen), towards(to));
                for i in 1..=PIECES {
                    let t = i as f32 / PIECES as f32;
                    let s = 1.0 - t;
                    let (w0, w1, w2, w3) = (s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t);
                    let next = (
                        w0 * from.0 + w1 * h1.0 + w2 * h2.0 + w3 * to.0,
                        w0 * from.1 + w1 * h1.1 + w2 * h2.1 + w3 * to.1,
                    );
                    segments.push((pen, next));
                    pen = next;
                }
            }
            _ => {}
        }
    }
    segments
}

/// Coverage of a glyph's pixels, 0 to 255; `left` and `top` are counted from the pen on the baseline.
struct Mask {
    left: i32,
    top: i32,
    width: usize,
    coverage: Vec<u8>,
}

/// The typeface at one size.
pub(super) struct Lettering {
    scale: f32,
    masks: HashMap<(char, u8), Mask>,
}

impl Lettering {
    /// A size, given by the height of a capital in pixels.
    pub fn new(capital_px: f32) -> Self {
        Self { scale: capital_px.max(1.0) / CAPITAL, masks: HashMap::new() }
    }

    /// Height of a capital, pixels.
    pub fn capital_px(&self) -> f32 {
        self.scale * CAPITAL
    }

    /// Blank before the first stroke of a line, pixels; moved left by this, a line starts flush.
    pub fn bearing_px(&self) -> f32 {
        (BEARING - HALF_STROKE) * self.scale
    }

    /// Width of a line of text, pixels.
    pub fn width(&self, text: &str) -> f32 {
        text.chars().map(|c| self.advance(c)).sum()
    }

    fn advance(&self, c: char) -> f32 {
        let letter = parts(c).map_or(c, |(letter, _)| letter);
        (TYPEFACE.get(&letter).unwrap_or(&BOX).width + 2.0 * BEARING) * self.scale
    }

    /// `text`, cut with an ellipsis where it is wider than `limit` pixels; control characters become spaces.
    pub fn fitted(&self, text: &str, limit: f32) -> String {
        let clean = |c: char| if c.is_control() || c.is_whitespace() { ' ' } else { c };
        // A glyph is at least one bearing wide, so a hostile name is never measured beyond what could fit.
        let most = (limit / (BEARING * self.scale)).max(0.0) as usize + 1;
        let line: String = text.trim().chars().take(most).map(clean).collect();
        if line.len() == text.trim().len() && self.width(&line) <= limit {
            return line;
        }
        let room = limit - self.advance('…');
        let mut width = 0.0;
        let mut cut: String = line
            .chars()
            .take_while(|&c| {
                width += self.advance(c);
                width <= room
            })
            .collect();
        cut.truncate(cut.trim_end().len());
        cut.push('…');
        cut
    }

    /// Draws one line with its baseline at `baseline`, calling `plot(x, y, coverage)` for every pixel touched.
    pub fn draw(&mut self, text: &str, x: f32, baseline: i32, mut plot: impl FnMut(i32, i32, u8)) {
        let scale = self.scale;
        let mut pen = x;
        for c in text.chars() {
            let start = pen + BEARING * scale;
            let quarter = (start.fract() * SUBPIXELS).floor().clamp(0.0, SUBPIXELS - 1.0) as u8;
            let mask = self.masks.entry((c, quarter)).or_insert_with(|| mask(c, quarter, scale));
            for (i, &coverage) in mask.coverage.iter().enumerate().filter(|(_, c)| **c > 0) {
                let (dx, dy) = ((i % mask.width) as i32, (i / mask.width) as i32);
                plot(start.floor() as i32 + mask.left + dx, baseline + mask.top + dy, coverage);
            }
            pen += self.advance(c);
        }
    }
}

fn mask(c: char, quarter: u8, scale: f32) -> Mask {
    let composed = parts(c).and_then(|(letter, mark)| Some((letter, TYPEFACE.get(&letter)?, mark)));
    let (glyph, mark) = match composed {
        None => (TYPEFACE.get(&c).unwrap_or(&BOX), Vec::new()),
        Some((letter, glyph, mark)) => {
            let top = match letter {
                _ if mark == CEDILLA => 0.0,
                l if l.is_uppercase() => CAPITAL,
                _ => 10.0,
            };
            (glyph, trace(mark, (glyph.width / 2.0, top)))
        }
    };
    let shift = f32::from(quarter) / SUBPIXELS;
    let on_screen = |p: Point| (p.0 * scale + shift, -p.1 * scale);
    let strokes: Vec<(Point, Point)> =
        glyph.segments.iter().chain(&mark).map(|&(a, b)| (on_screen(a), on_screen(b))).collect();
    // Below about nine pixels a true stroke would turn grey; it is kept just wide enough to stay dark.
    let half = (HALF_STROKE * scale).max(0.56);
    let reach = half + 1.0;
    let points = || strokes.iter().flat_map(|s| [s.0, s.1]);
    let bound = |start: f32, pick: fn(f32, f32) -> f32, of: fn(Point) -> f32| points().map(of).fold(start, pick);
    let left = (bound(0.0, f32::min, |p| p.0) - reach).floor();
    let right = (bound(0.0, f32::max, |p| p.0) + reach).ceil();
    let top = (bound(0.0, f32::min, |p| p.1) - reach).floor();
    let bottom = (bound(0.0, f32::max, |p| p.1) + reach).ceil();
    let (width, height) = ((right - left) as usize, (bottom - top) as usize);
    let mut coverage = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let at = (left + x as f32 + 0.5, top + y as f32 + 0.5);
            let nearest = strokes.iter().map(|&s| squared_distance(at, s)).fold(f32::INFINITY, f32::min);
            coverage.push(((half + 0.5 - nearest.sqrt()).clamp(0.0, 1.0) * 255.0) as u8);
        }
    }
    Mask { left: left as i32, top: top as i32, width, coverage }
}

fn squared_distance(p: Point, (a, b): (Point, Point)) -> f32 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = dx * dx + dy * dy;
    let t = if length > 0.0 { (((p.0 - a.0) * dx + (p.1 - a.1) * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
    let (ex, ey) = (p.0 - a.0 - t * dx, p.1 - a.1 - t * dy);
    ex * ex + ey * ey
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_ascii_character_has_a_glyph_within_its_width() {
        for c in ' '..='~' {
            let glyph = &TYPEFACE[&c];
            assert_eq!(glyph.segments.is_empty(), c == ' ', "{c:?}");
            for p in glyph.segments.iter().flat_map(|s| [s.0, s.1]) {
                assert!(p.0 > -0.5 && p.0 < glyph.width + 0.5, "{c:?} leaves its width at {p:?}");
                assert!(p.1 > -4.5 && p.1 < 16.5, "{c:?} leaves its line at {p:?}");
            }
        }
    }

    #[test]
    fn no_two_characters_are_drawn_alike() {
        let drawn: HashMap<String, char> = (' '..='~').map(|c| (format!("{:?}", TYPEFACE[&c].segments), c)).collect();
        assert_eq!(drawn.len(), ('~' as usize) - (' ' as usize) + 1);
    }

    #[test]
    fn letters_with_marks_are_composed_and_strangers_get_a_box() {
        let mut lettering = Lettering::new(14.0);
        let mut ink = |text: &str| {
            let mut sum = 0u64;
            lettering.draw(text, 0.0, 20, |_, _, c| sum += u64::from(c));
            sum
        };
        assert!(ink("ü") > ink("u") && ink("Å") > ink("A") && ink("ç") > ink("c"));
        assert_eq!(ink("漢"), ink("😀"));
        assert!(ink("漢") > 0 && ink(" ") == 0);
    }

    #[test]
    fn long_lines_end_in_an_ellipsis_and_fit() {
        let lettering = Lettering::new(11.0);
        assert_eq!(lettering.fitted("Warm", 200.0), "Warm");
        let cut = lettering.fitted(&"Autumn leaves ".repeat(100_000), 120.0);
        assert!(cut.starts_with("Autumn") && cut.ends_with('…') && lettering.width(&cut) <= 120.0, "{cut}");
        assert_eq!(lettering.fitted("Warm", 1.0), "…");
    }
}
