//! Colour spaces and differences: sRGB, linear light, CIELAB and OKLab (all D65), ΔE2000.
//!
//! Sources: IEC 61966-2-1 (sRGB), CIE 15 (CIELAB), B. Ottosson 2020 (OKLab), G. Sharma et al. 2005 (ΔE2000).

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use super::gamut;

/// An 8-bit sRGB colour. Displays as `#RRGGBB`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Rgb8 {
    /// Red, 0..=255.
    pub r: u8,
    /// Green, 0..=255.
    pub g: u8,
    /// Blue, 0..=255.
    pub b: u8,
}

impl Rgb8 {
    /// A colour from its channels.
    pub const fn new(r: u8, g: u8, b: u8) -> Self {
        Self { r, g, b }
    }

    /// The low three bytes of a packed pixel; the alpha byte is ignored.
    pub const fn from_packed(packed: u32) -> Self {
        let [r, g, b, _] = packed.to_le_bytes();
        Self { r, g, b }
    }

    /// An opaque packed pixel.
    pub const fn packed(self) -> u32 {
        u32::from_le_bytes([self.r, self.g, self.b, 255])
    }

    /// CIELAB coordinates.
    pub fn lab(self) -> Lab {
        let lut = &*DECODE;
        Lab::from_linear([lut[self.r as usize], lut[self.g as usize], lut[self.b as usize]])
    }

    /// OKLab coordinates.
    pub fn oklab(self) -> OkLab {
        let lut = &*DECODE;
        OkLab::from_linear([lut[self.r as usize], lut[self.g as usize], lut[self.b as usize]])
    }
}

impl fmt::Display for Rgb8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02X}{:02X}{:02X}", self.r, self.g, self.b)
    }
}

impl fmt::Debug for Rgb8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a colour.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a colour; write #RGB, #RRGGBB or #RRGGBBAA")]
pub struct ParseColorError(pub String);

impl FromStr for Rgb8 {
    type Err = ParseColorError;

    /// Reads `#RGB`, `#RRGGBB` or `#RRGGBBAA`, the `#` being optional. Palette colours are opaque, so the alpha
    /// digits are checked and then ignored.
    fn from_str(text: &str) -> Result<Self, ParseColorError> {
        let bad = || ParseColorError(text.chars().take(32).collect());
        let trimmed = text.trim();
        let digits = trimmed.strip_prefix('#').unwrap_or(trimmed);
        let nibbles: Vec<u8> =
            digits.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>().ok_or_else(bad)?;
        match *nibbles.as_slice() {
            [r, g, b] => Ok(Self::new(r * 17, g * 17, b * 17)),
            [r1, r0, g1, g0, b1, b0] | [r1, r0, g1, g0, b1, b0, _, _] => {
                Ok(Self::new(r1 * 16 + r0, g1 * 16 + g0, b1 * 16 + b0))
            }
            _ => Err(bad()),
        }
    }
}

/// CIELAB, D65 white: `l` 0..=100, `a` and `b` about ±128.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Lab {
    /// Lightness, 0..=100.
    pub l: f32,
    /// Green to red.
    pub a: f32,
    /// Blue to yellow.
    pub b: f32,
}

/// OKLab: `l` 0..=1, `a` and `b` about ±0.4.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OkLab {
    /// Lightness, 0..=1.
    pub l: f32,
    /// Green to red.
    pub a: f32,
    /// Blue to yellow.
    pub b: f32,
}

/// D65 white: the row sums of [`TO_XYZ`], so that sRGB white is exactly L = 100, a = b = 0.
const WHITE: [f32; 3] = [0.950_455_9, 1.0, 1.089_057_8];

/// Linear sRGB to XYZ (CSS Color 4, sample code).
const TO_XYZ: [[f32; 3]; 3] = [
    [0.412_390_8, 0.357_584_33, 0.180_480_8],
    [0.212_639, 0.715_168_7, 0.072_192_32],
    [0.019_330_818, 0.119_194_78, 0.950_532_15],
];

/// XYZ to linear sRGB.
const FROM_XYZ: [[f32; 3]; 3] = [
    [3.240_97, -1.537_383_2, -0.498_610_76],
    [-0.969_243_65, 1.875_967_5, 0.041_555_06],
    [0.055_630_08, -0.203_976_96, 1.056_971_5],
];

/// Cubed OKLab cone responses to linear sRGB (B. Ottosson 2020).
const FROM_LMS: [[f32; 3]; 3] = [
    [4.076_741_7, -3.307_711_6, 0.230_969_94],
    [-1.268_438, 2.609_757_4, -0.341_319_38],
    [-0.004_196_086_3, -0.703_418_6, 1.707_614_7],
];

const LAB_EPSILON: f32 = 216.0 / 24389.0;
const LAB_KAPPA: f32 = 24389.0 / 27.0;

/// sRGB code to linear light, 0..=1.
pub static DECODE: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|code| {
        let v = code as f64 / 255.0;
        (if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }) as f32
    })
});

/// Entries of [`ENCODE`]; the index is the square root of linear light times `ENCODE_SIZE − 1`.
pub(crate) const ENCODE_SIZE: usize = 8192;

/// Linear light to sRGB code, indexed by the square root so that dark codes are as finely resolved as light ones.
pub(crate) static ENCODE: LazyLock<[u8; ENCODE_SIZE]> = LazyLock::new(|| {
    std::array::from_fn(|i| {
        let root = i as f64 / (ENCODE_SIZE - 1) as f64;
        let v = root * root;
        let coded = if v <= 0.003_130_8 { v * 12.92 } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        (coded * 255.0).round() as u8
    })
});

/// Index into [`ENCODE`] of a linear value; values outside 0..=1 are clipped.
#[inline(always)]
pub(crate) fn encode_index(linear: f32) -> u32 {
    let root = linear.clamp(0.0, 1.0).sqrt() * (ENCODE_SIZE - 1) as f32;
    // Adding 2^23 leaves the rounded value in the low bits; a cast would saturate, and not vectorise.
    (root + 8_388_608.0).to_bits() & (ENCODE_SIZE - 1) as u32
}

/// Linear light to the nearest sRGB code; values outside 0..=1 are clipped.
pub fn encode_srgb(linear: f32) -> u8 {
    ENCODE[encode_index(linear) as usize & (ENCODE_SIZE - 1)]
}

/// Cube root of a value ≥ 0, within 2 ulp or so: a bit-level first guess and two Halley steps. Vectorises.
#[inline(always)]
pub(crate) fn cbrt_positive(x: f32) -> f32 {
    let guess = f32::from_bits(x.to_bits() / 3 + 0x2a51_19f2);
    let step = |t: f32| {
        let cube = t * t * t;
        // The root of 0 is 0, not 0/0.
        t * (cube + 2.0 * x) / (2.0 * cube + x).max(f32::MIN_POSITIVE)
    };
    step(step(guess))
}

#[inline(always)]
fn cbrt_signed(x: f32) -> f32 {
    cbrt_positive(x.abs()).copysign(x)
}

#[inline(always)]
fn lab_f(t: f32) -> f32 {
    let root = cbrt_positive(t.max(0.0));
    let line = (LAB_KAPPA * t + 16.0) * (1.0 / 116.0);
    if t > LAB_EPSILON { root } else { line }
}

#[inline(always)]
fn lab_f_inverse(f: f32) -> f32 {
    let cube = f * f * f;
    let line = (116.0 * f - 16.0) * (1.0 / LAB_KAPPA);
    if cube > LAB_EPSILON { cube } else { line }
}

#[inline(always)]
fn mul(m: &[[f32; 3]; 3], v: [f32; 3]) -> [f32; 3] {
    [
        m[0][0] * v[0] + m[0][1] * v[1] + m[0][2] * v[2],
        m[1][0] * v[0] + m[1][1] * v[1] + m[1][2] * v[2],
        m[2][0] * v[0] + m[2][1] * v[1] + m[2][2] * v[2],
    ]
}

impl Lab {
    /// From linear sRGB.
    #[inline(always)]
    pub fn from_linear(rgb: [f32; 3]) -> Self {
        let [x, y, z] = mul(&TO_XYZ, rgb);
        let (fx, fy, fz) = (lab_f(x * (1.0 / WHITE[0])), lab_f(y), lab_f(z * (1.0 / WHITE[2])));
        Self { l: 116.0 * fy - 16.0, a: 500.0 * (fx - fy), b: 200.0 * (fy - fz) }
    }

    /// To linear sRGB, unclipped: channels outside 0..=1 are outside the gamut.
    #[inline(always)]
    pub fn to_linear(self) -> [f32; 3] {
        let fy = (self.l + 16.0) * (1.0 / 116.0);
        let fx = fy + self.a * (1.0 / 500.0);
        let fz = fy - self.b * (1.0 / 200.0);
        mul(&FROM_XYZ, [WHITE[0] * lab_f_inverse(fx), lab_f_inverse(fy), WHITE[2] * lab_f_inverse(fz)])
    }

    /// The nearest 8-bit colour, reduced in chroma first where it lies outside the gamut.
    pub fn to_rgb8(self) -> Rgb8 {
        let [r, g, b] = gamut::fit(self.to_linear()).map(encode_srgb);
        Rgb8 { r, g, b }
    }

    /// Chroma √(a² + b²).
    pub fn chroma(self) -> f32 {
        (self.a * self.a + self.b * self.b).sqrt()
    }

    /// Euclidean distance (ΔE 1976).
    #[inline(always)]
    pub fn distance(self, other: Self) -> f32 {
        self.distance_squared(other).sqrt()
    }

    /// Squared Euclidean distance.
    #[inline(always)]
    pub fn distance_squared(self, other: Self) -> f32 {
        let (dl, da, db) = (self.l - other.l, self.a - other.a, self.b - other.b);
        dl * dl + da * da + db * db
    }

    /// `self + t·(other − self)`.
    pub fn lerp(self, other: Self, t: f32) -> Self {
        Self {
            l: self.l + t * (other.l - self.l),
            a: self.a + t * (other.a - self.a),
            b: self.b + t * (other.b - self.b),
        }
    }
}

impl OkLab {
    /// From linear sRGB; channels may lie outside 0..=1.
    #[inline(always)]
    pub fn from_linear([r, g, b]: [f32; 3]) -> Self {
        let l = cbrt_signed(0.412_221_46 * r + 0.536_332_55 * g + 0.051_445_995 * b);
        let m = cbrt_signed(0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b);
        let s = cbrt_signed(0.088_302_46 * r + 0.281_718_85 * g + 0.629_978_7 * b);
        Self {
            l: 0.210_454_26 * l + 0.793_617_8 * m - 0.004_072_047 * s,
            a: 1.977_998_5 * l - 2.428_592_2 * m + 0.450_593_7 * s,
            b: 0.025_904_037 * l + 0.782_771_77 * m - 0.808_675_77 * s,
        }
    }

    /// To linear sRGB, unclipped.
    #[inline(always)]
    pub fn to_linear(self) -> [f32; 3] {
        let l = self.l + 0.396_337_78 * self.a + 0.215_803_76 * self.b;
        let m = self.l - 0.105_561_346 * self.a - 0.063_854_17 * self.b;
        let s = self.l - 0.089_484_18 * self.a - 1.291_485_5 * self.b;
        mul(&FROM_LMS, [l * l * l, m * m * m, s * s * s])
    }

    /// Linear sRGB along the ray from the grey of lightness `base` by `self` times t: per channel the coefficients of
    /// t⁰ to t³, since every cone response is a cube of a line.
    #[inline(always)]
    pub(crate) fn ray_to_linear(self, base: f32) -> [[f32; 4]; 3] {
        let l = self.l + 0.396_337_78 * self.a + 0.215_803_76 * self.b;
        let m = self.l - 0.105_561_346 * self.a - 0.063_854_17 * self.b;
        let s = self.l - 0.089_484_18 * self.a - 1.291_485_5 * self.b;
        let cube = base * base * base;
        let [zeroth, first, second, third] = [
            mul(&FROM_LMS, [cube, cube, cube]),
            mul(&FROM_LMS, [l, m, s].map(|v| 3.0 * base * base * v)),
            mul(&FROM_LMS, [l, m, s].map(|v| 3.0 * base * v * v)),
            mul(&FROM_LMS, [l * l * l, m * m * m, s * s * s]),
        ];
        [
            [zeroth[0], first[0], second[0], third[0]],
            [zeroth[1], first[1], second[1], third[1]],
            [zeroth[2], first[2], second[2], third[2]],
        ]
    }

    /// From lightness, chroma and hue in degrees.
    pub fn from_lch(l: f32, chroma: f32, hue_degrees: f32) -> Self {
        let (sin, cos) = hue_degrees.to_radians().sin_cos();
        Self { l, a: chroma * cos, b: chroma * sin }
    }

    /// Chroma √(a² + b²).
    pub fn chroma(self) -> f32 {
        (self.a * self.a + self.b * self.b).sqrt()
    }

    /// Hue in degrees, 0..360.
    pub fn hue_degrees(self) -> f32 {
        self.b.atan2(self.a).to_degrees().rem_euclid(360.0)
    }

    /// The nearest 8-bit colour, reduced in chroma first where it lies outside the gamut.
    pub fn to_rgb8(self) -> Rgb8 {
        let [r, g, b] = gamut::fit(self.to_linear()).map(encode_srgb);
        Rgb8 { r, g, b }
    }
}

/// CIEDE2000 with unit weights (Sharma, Wu, Dalal 2005). 1 is about a just noticeable difference.
///
/// Hues are kept as directions, and their means, differences and multiples come from products: angles, which the formula
/// is written in, cost several times as much.
pub fn delta_e_2000(x: Lab, y: Lab) -> f32 {
    use std::f64::consts::PI;
    /// Cosine and sine of 30°, 6° and 63°.
    const TURN_30: (f64, f64) = (0.866_025_403_784_438_6, 0.5);
    const TURN_6: (f64, f64) = (0.994_521_895_368_273_3, 0.104_528_463_267_653_47);
    const TURN_63: (f64, f64) = (0.453_990_499_739_546_8, 0.891_006_524_188_367_9);
    let (l1, a1, b1) = (f64::from(x.l), f64::from(x.a), f64::from(x.b));
    let (l2, a2, b2) = (f64::from(y.l), f64::from(y.a), f64::from(y.b));
    let pow7 = |v: f64| v.powi(7);
    let mean_c = ((a1 * a1 + b1 * b1).sqrt() + (a2 * a2 + b2 * b2).sqrt()) / 2.0;
    let g = 0.5 * (1.0 - (pow7(mean_c) / (pow7(mean_c) + 25f64.powi(7))).sqrt());
    let (a1, a2) = (a1 * (1.0 + g), a2 * (1.0 + g));
    let (c1, c2) = ((a1 * a1 + b1 * b1).sqrt(), (a2 * a2 + b2 * b2).sqrt());
    let product = c1 * c2;
    // The hue difference, as a distance, and the direction half-way along the shorter arc.
    let (dh_big, (cos, sin)) = if product == 0.0 {
        let direction = if c1 > 0.0 { (a1 / c1, b1 / c1) } else { (a2 / c2, b2 / c2) };
        (0.0, if c1 + c2 > 0.0 { direction } else { (1.0, 0.0) })
    } else {
        let (dot, cross) = (a1 * a2 + b1 * b2, a1 * b2 - a2 * b1);
        let ((u1, v1), (u2, v2)) = ((a1 / c1, b1 / c1), (a2 / c2, b2 / c2));
        // The one of two forms that does not subtract what is nearly equal.
        if dot >= 0.0 {
            let (u, v) = (u1 + u2, v1 + v2);
            let length = (u * u + v * v).sqrt();
            (cross * (2.0 / (product + dot)).sqrt(), (u / length, v / length))
        } else {
            // Of opposite hues the one with the smaller angle comes first.
            let forward = if cross == 0.0 { b1 > 0.0 || (b1 == 0.0 && a1 > 0.0) } else { cross > 0.0 };
            let sign = if forward { 1.0 } else { -1.0 };
            let (u, v) = (v2 - v1, u1 - u2);
            let length = sign * (u * u + v * v).sqrt();
            (sign * (2.0 * (product - dot)).sqrt(), (u / length, v / length))
        }
    };
    let (dl, dc) = (l2 - l1, c2 - c1);
    let (mean_l, mean_c) = ((l1 + l2) / 2.0, (c1 + c2) / 2.0);
    let (cos2, sin2) = (2.0 * cos * cos - 1.0, 2.0 * sin * cos);
    let (cos3, sin3) = (cos * (4.0 * cos * cos - 3.0), sin * (3.0 - 4.0 * sin * sin));
    let (cos4, sin4) = (2.0 * cos2 * cos2 - 1.0, 2.0 * sin2 * cos2);
    let t = 1.0 - 0.17 * (cos * TURN_30.0 + sin * TURN_30.1) + 0.24 * cos2 + 0.32 * (cos3 * TURN_6.0 - sin3 * TURN_6.1)
        - 0.20 * (cos4 * TURN_63.0 + sin4 * TURN_63.1);
    let rc = 2.0 * (pow7(mean_c) / (pow7(mean_c) + 25f64.powi(7))).sqrt();
    let offset = (mean_l - 50.0).powi(2);
    let sl = 1.0 + 0.015 * offset / (20.0 + offset).sqrt();
    let sc = 1.0 + 0.045 * mean_c;
    let sh = 1.0 + 0.015 * mean_c * t;
    // The rotation of the blues; between 0° and 120° it is below the precision of the result.
    let rt = if sin >= 0.0 && cos >= -0.5 {
        0.0
    } else {
        let mean_h = sin.atan2(cos).rem_euclid(2.0 * PI);
        let turn = (PI / 6.0) * (-((mean_h.to_degrees() - 275.0) / 25.0).powi(2)).exp();
        -(2.0 * turn).sin() * rc
    };
    let (tl, tc, th) = (dl / sl, dc / sc, dh_big / sh);
    (tl * tl + tc * tc + th * th + rt * tc * th).max(0.0).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ray_from_grey_is_the_same_as_the_colors_on_it() {
        let base = 0.6;
        let ray = OkLab { l: 0.2, a: 0.15, b: -0.1 };
        let coefficients = ray.ray_to_linear(base);
        for step in 0..=10 {
            let t = step as f32 / 10.0;
            let there = OkLab { l: base + t * ray.l, a: t * ray.a, b: t * ray.b }.to_linear();
            for (c, expected) in coefficients.iter().zip(there) {
                let got = c[0] + t * (c[1] + t * (c[2] + t * c[3]));
                assert!((got - expected).abs() < 1e-5, "{t}: {got} {expected}");
            }
        }
    }

    #[test]
    fn every_code_survives_decoding_and_encoding() {
        for code in 0..=255u8 {
            assert_eq!(encode_srgb(DECODE[code as usize]), code);
        }
    }

    #[test]
    fn black_has_coordinates_like_every_other_color() {
        let black = Rgb8::new(0, 0, 0);
        let (lab, ok) = (black.lab(), black.oklab());
        assert!([lab.l, lab.a, lab.b, ok.l, ok.a, ok.b].iter().all(|v| v.abs() < 1e-6), "{lab:?} {ok:?}");
        assert_eq!(ok.to_rgb8(), black);
    }

    #[test]
    fn lab_of_known_colors_matches_published_values() {
        // CSS Color 4 / Lindbloom, D65.
        for (rgb, l, a, b) in [
            (Rgb8::new(255, 255, 255), 100.0, 0.0, 0.0),
            (Rgb8::new(0, 0, 0), 0.0, 0.0, 0.0),
            (Rgb8::new(255, 0, 0), 53.24, 80.09, 67.20),
            (Rgb8::new(0, 255, 0), 87.73, -86.18, 83.18),
            (Rgb8::new(0, 0, 255), 32.30, 79.19, -107.86),
            (Rgb8::new(128, 128, 128), 53.585, 0.0, 0.0),
        ] {
            let lab = rgb.lab();
            assert!(lab.distance(Lab { l, a, b }) < 0.05, "{rgb}: {lab:?}");
        }
    }

    #[test]
    fn lab_and_oklab_round_trip_every_seventeenth_code() {
        for r in (0..=255).step_by(17) {
            for g in (0..=255).step_by(17) {
                for b in (0..=255).step_by(17) {
                    let rgb = Rgb8::new(r as u8, g as u8, b as u8);
                    assert_eq!(rgb.lab().to_rgb8(), rgb);
                    assert_eq!(rgb.oklab().to_rgb8(), rgb);
                }
            }
        }
    }

    /// The formula as it is published.
    fn delta_e_2000_in_angles(x: Lab, y: Lab) -> f32 {
        use std::f64::consts::PI;
        let (l1, a1, b1) = (f64::from(x.l), f64::from(x.a), f64::from(x.b));
        let (l2, a2, b2) = (f64::from(y.l), f64::from(y.a), f64::from(y.b));
        let pow7 = |v: f64| v.powi(7);
        let mean_c = ((a1 * a1 + b1 * b1).sqrt() + (a2 * a2 + b2 * b2).sqrt()) / 2.0;
        let g = 0.5 * (1.0 - (pow7(mean_c) / (pow7(mean_c) + 25f64.powi(7))).sqrt());
        let (a1, a2) = (a1 * (1.0 + g), a2 * (1.0 + g));
        let (c1, c2) = ((a1 * a1 + b1 * b1).sqrt(), (a2 * a2 + b2 * b2).sqrt());
        let hue = |a: f64, b: f64| if a == 0.0 && b == 0.0 { 0.0 } else { b.atan2(a).rem_euclid(2.0 * PI) };
        let (h1, h2) = (hue(a1, b1), hue(a2, b2));
        let achromatic = c1 * c2 == 0.0;
        let dh = if achromatic {
            0.0
        } else {
            let d = h2 - h1;
            if d > PI {
                d - 2.0 * PI
            } else if d < -PI {
                d + 2.0 * PI
            } else {
                d
            }
        };
        let (dl, dc) = (l2 - l1, c2 - c1);
        let dh_big = 2.0 * (c1 * c2).sqrt() * (dh / 2.0).sin();
        let (mean_l, mean_c) = ((l1 + l2) / 2.0, (c1 + c2) / 2.0);
        let mean_h = if achromatic {
            h1 + h2
        } else if (h1 - h2).abs() <= PI {
            (h1 + h2) / 2.0
        } else if h1 + h2 < 2.0 * PI {
            (h1 + h2 + 2.0 * PI) / 2.0
        } else {
            (h1 + h2 - 2.0 * PI) / 2.0
        };
        let t = 1.0 - 0.17 * (mean_h - PI / 6.0).cos()
            + 0.24 * (2.0 * mean_h).cos()
            + 0.32 * (3.0 * mean_h + PI / 30.0).cos()
            - 0.20 * (4.0 * mean_h - 63.0 * PI / 180.0).cos();
        let turn = (PI / 6.0) * (-((mean_h.to_degrees() - 275.0) / 25.0).powi(2)).exp();
        let rc = 2.0 * (pow7(mean_c) / (pow7(mean_c) + 25f64.powi(7))).sqrt();
        let offset = (mean_l - 50.0).powi(2);
        let sl = 1.0 + 0.015 * offset / (20.0 + offset).sqrt();
        let sc = 1.0 + 0.045 * mean_c;
        let sh = 1.0 + 0.015 * mean_c * t;
        let rt = -(2.0 * turn).sin() * rc;
        let (tl, tc, th) = (dl / sl, dc / sc, dh_big / sh);
        (tl * tl + tc * tc + th * th + rt * tc * th).max(0.0).sqrt() as f32
    }

    #[test]
    fn delta_e_2000_is_the_published_formula() {
        let step = |i: u32, n: u32| (i.wrapping_mul(2_654_435_761) >> n & 127) as f32;
        let lab = |i: u32| Lab { l: step(i, 3) * 0.78, a: step(i, 11) - 64.0, b: step(i, 20) - 64.0 };
        let grey = |l: f32| Lab { l, a: 0.0, b: 0.0 };
        for i in 0..40_000 {
            let (x, y) = (lab(i), lab(i + 40_000));
            // Near, nearly opposite in hue, and without any.
            let near = Lab { l: x.l + 0.3, a: x.a + 0.01, b: x.b - 0.02 };
            for other in [y, x, near, Lab { a: -x.a, b: 0.5 - x.b, ..y }, grey(y.l)] {
                // Which way round from a hue to its opposite is left to rounding, in angles as in products.
                if x.a * other.b == x.b * other.a && x.a * other.a + x.b * other.b < 0.0 {
                    continue;
                }
                let (got, expected) = (delta_e_2000(x, other), delta_e_2000_in_angles(x, other));
                assert!((got - expected).abs() <= 1e-5 * expected.max(0.1), "{x:?} {other:?}: {got} {expected}");
            }
        }
        assert_eq!(delta_e_2000(grey(30.0), grey(30.0)), 0.0);
    }

    #[test]
    fn delta_e_2000_matches_the_published_test_pairs() {
        // Sharma, Wu, Dalal 2005, table 1 (a selection that reaches every branch).
        let pairs: [([f32; 3], [f32; 3], f32); 14] = [
            ([50.0, 2.6772, -79.7751], [50.0, 0.0, -82.7485], 2.0425),
            ([50.0, 3.1571, -77.2803], [50.0, 0.0, -82.7485], 2.8615),
            ([50.0, -1.3802, -84.2814], [50.0, 0.0, -82.7485], 1.0000),
            ([50.0, 0.0, 0.0], [50.0, -1.0, 2.0], 2.3669),
            ([50.0, 2.49, -0.001], [50.0, -2.49, 0.0009], 7.1792),
            ([50.0, 2.49, -0.001], [50.0, -2.49, 0.0011], 7.2195),
            ([50.0, -0.001, 2.49], [50.0, 0.0011, -2.49], 4.7461),
            ([50.0, 2.5, 0.0], [50.0, 0.0, -2.5], 4.3065),
            ([50.0, 2.5, 0.0], [73.0, 25.0, -18.0], 27.1492),
            ([50.0, 2.5, 0.0], [61.0, -5.0, 29.0], 22.8977),
            ([60.2574, -34.0099, 36.2677], [60.4626, -34.1751, 39.4387], 1.2644),
            ([22.7233, 20.0904, -46.6940], [23.0331, 14.9730, -42.5619], 2.0373),
            ([90.8027, -2.0831, 1.4410], [91.1528, -1.6435, 0.0447], 1.4441),
            ([2.0776, 0.0795, -1.1350], [0.9033, -0.0636, -0.5514], 0.9082),
        ];
        for ([l1, a1, b1], [l2, a2, b2], expected) in pairs {
            let (x, y) = (Lab { l: l1, a: a1, b: b1 }, Lab { l: l2, a: a2, b: b2 });
            assert!((delta_e_2000(x, y) - expected).abs() < 1e-3, "{x:?} {y:?}");
            assert!((delta_e_2000(y, x) - expected).abs() < 1e-3, "{y:?} {x:?}");
        }
    }

    #[test]
    fn colors_are_read_in_three_spellings_and_nothing_else() {
        assert_eq!("#1af".parse(), Ok(Rgb8::new(0x11, 0xaa, 0xff)));
        assert_eq!("264653".parse(), Ok(Rgb8::new(0x26, 0x46, 0x53)));
        assert_eq!("#26465380".parse(), Ok(Rgb8::new(0x26, 0x46, 0x53)));
        for bad in ["", "#", "#12", "#12345", "#gggggg", "red", "#1234567"] {
            assert!(bad.parse::<Rgb8>().is_err(), "{bad}");
        }
    }
}
