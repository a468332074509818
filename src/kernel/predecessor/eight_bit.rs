//! The 8-bit colour conversions of OpenCV 4 (`cvtColor`, `addWeighted`), code for code.
//!
//! OpenCV converts 8-bit pictures in fixed point, so its Lab and HSV differ from the exact formulas by a code or two,
//! and the predecessor's pictures carry those roundings. The constants and shifts are those of its `color_lab.cpp`
//! and `color_hsv.hpp` (Apache-2.0); the tables are computed here from the formulas.

use std::sync::LazyLock;

use crate::kernel::color::Rgb8;

/// Fraction bits of the linear-light table: 255 is 2040.
const GAMMA_SHIFT: u32 = 3;
/// Fraction bits of the matrices.
const MATRIX_SHIFT: u32 = 12;
/// Fraction bits of the cube-root table.
const ROOT_SHIFT: u32 = 15;
/// Entries of the cube-root table: linear light up to 1.5.
const ROOT_ENTRIES: usize = (256 * 3 / 2) << GAMMA_SHIFT;
/// One, in the way back from Lab.
const BASE: i32 = 1 << 14;
/// Entries of the table from linear light to code.
const ENCODE_ENTRIES: usize = 1 << 12;
/// Fraction bits of the HSV divisions.
const HSV_SHIFT: u32 = 12;

const WHITE: [f64; 3] = [0.950456, 1.0, 1.088754];
const TO_XYZ: [[f64; 3]; 3] =
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]];
const FROM_XYZ: [[f64; 3]; 3] =
    [[3.240479, -1.53715, -0.498535], [-0.969256, 1.875991, 0.041556], [0.055648, -0.204043, 1.057311]];

/// The conversions' lookup tables, made once per process.
pub(super) struct EightBit {
    decode: [i32; 256],
    root: Vec<i32>,
    to_xyz: [[i32; 3]; 3],
    from_xyz: [[i32; 3]; 3],
    /// L code to Y and to f(Y), both in units of 1/[`BASE`].
    lightness: [(i32, i32); 256],
    encode: Vec<u8>,
    saturation: [i32; 256],
    hue: [i32; 256],
}

static SHARED: LazyLock<EightBit> = LazyLock::new(EightBit::new);

fn rounded(v: f64) -> i32 {
    v.round_ties_even() as i32
}

/// `v / 2^shift`, halves up.
#[inline(always)]
fn descale(v: i32, shift: u32) -> i32 {
    (v + (1 << (shift - 1))) >> shift
}

#[inline(always)]
fn saturate(v: i32) -> u8 {
    v.clamp(0, 255) as u8
}

impl EightBit {
    /// The tables.
    pub(super) fn shared() -> &'static Self {
        &SHARED
    }

    fn new() -> Self {
        let one = f64::from(1 << MATRIX_SHIFT);
        let linear = |v: f64| if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) };
        let coded = |v: f64| if v <= 0.0031308 { v * 12.92 } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        let root = |v: f64| if v < 216.0 / 24389.0 { v * 841.0 / 108.0 + 16.0 / 116.0 } else { v.cbrt() };
        Self {
            decode: std::array::from_fn(|i| rounded(f64::from(255 << GAMMA_SHIFT) * linear(i as f64 / 255.0))),
            root: (0..ROOT_ENTRIES)
                .map(|i| {
                    rounded(
                        f64::from(1 << ROOT_SHIFT) * root(f64::from(i as f32 * (1.0 / (255 << GAMMA_SHIFT) as f32))),
                    )
                })
                .collect(),
            to_xyz: std::array::from_fn(|i| TO_XYZ[i].map(|c| rounded(one * c / WHITE[i]))),
            from_xyz: FROM_XYZ.map(|row| std::array::from_fn(|k| rounded(one * row[k] * WHITE[k]))),
            lightness: std::array::from_fn(|i| {
                let (code, base) = (i as f64, f64::from(BASE));
                if i <= 20 {
                    let y = code * base * 180.0 / (17.0 * 29.0 * 29.0 * 29.0);
                    (rounded(y), rounded(base * (16.0 / 116.0 + code * 5.0 / (3.0 * 17.0 * 29.0))))
                } else {
                    let f = base * (code * 100.0 / (255.0 * 116.0) + 16.0 / 116.0);
                    (rounded(f * f * f / (base * base)), rounded(f))
                }
            }),
            encode: (0..ENCODE_ENTRIES)
                .map(|i| rounded(255.0 * coded(i as f64 / ENCODE_ENTRIES as f64)) as u8)
                .collect(),
            saturation: std::array::from_fn(
                |i| {
                    if i == 0 { 0 } else { rounded(f64::from(255 << HSV_SHIFT) / i as f64) }
                },
            ),
            hue: std::array::from_fn(
                |i| {
                    if i == 0 { 0 } else { rounded(f64::from(180 << HSV_SHIFT) / (6.0 * i as f64)) }
                },
            ),
        }
    }

    /// 8-bit Lab: L·255/100, a + 128, b + 128.
    #[inline]
    pub(super) fn lab(&self, color: Rgb8) -> [u8; 3] {
        const L_SCALE: i32 = (116 * 255 + 50) / 100;
        const L_SHIFT: i32 = -((16 * 255 * (1 << ROOT_SHIFT) + 50) / 100);
        const MIDDLE: i32 = 128 << ROOT_SHIFT;
        let [r, g, b] = [color.r, color.g, color.b].map(|code| self.decode[usize::from(code)]);
        let [x, y, z] = self.to_xyz.map(|[cr, cg, cb]| {
            let index = descale(r * cr + g * cg + b * cb, MATRIX_SHIFT) as usize;
            self.root[index.min(ROOT_ENTRIES - 1)]
        });
        [
            saturate(descale(L_SCALE * y + L_SHIFT, ROOT_SHIFT)),
            saturate(descale(500 * (x - y) + MIDDLE, ROOT_SHIFT)),
            saturate(descale(200 * (y - z) + MIDDLE, ROOT_SHIFT)),
        ]
    }

    /// The way back from [`EightBit::lab`]; colours outside the gamut are clipped per channel.
    #[inline]
    pub(super) fn rgb_of_lab(&self, [l, a, b]: [u8; 3]) -> Rgb8 {
        let (y, fy) = self.lightness[usize::from(l)];
        // Divisions by 500 and 200 as the fixed-point products OpenCV uses, its offsets included.
        let fx = fy + ((5 * i32::from(a) * 53687 + (1 << 7)) >> 13) - 128 * BASE / 500;
        let fz = fy - (((i32::from(b) * 41943 + (1 << 4)) >> 9) - 128 * BASE / 200 + 1);
        let cubed = |f: i32| {
            if f <= 3390 { f * 108 / 841 - BASE * 16 / 116 * 108 / 841 } else { f * f / BASE * f / BASE }
        };
        let (x, z) = (cubed(fx), cubed(fz));
        let [r, g, b] = self.from_xyz.map(|[cx, cy, cz]| {
            let linear = descale(cx * x + cy * y + cz * z, MATRIX_SHIFT + 2);
            self.encode[linear.clamp(0, ENCODE_ENTRIES as i32 - 1) as usize]
        });
        Rgb8 { r, g, b }
    }

    /// 8-bit HSV: H 0..180 in steps of two degrees, S and V 0..=255.
    #[inline]
    pub(super) fn hsv(&self, color: Rgb8) -> [u8; 3] {
        let [r, g, b] = [color.r, color.g, color.b].map(i32::from);
        let (v, low) = (r.max(g).max(b), r.min(g).min(b));
        let spread = v - low;
        let sixth = if v == r {
            g - b
        } else if v == g {
            b - r + 2 * spread
        } else {
            r - g + 4 * spread
        };
        let h = descale(sixth * self.hue[spread as usize], HSV_SHIFT);
        let s = descale(spread * self.saturation[v as usize], HSV_SHIFT);
        [saturate(if h < 0 { h + 180 } else { h }), saturate(s), v as u8]
    }
}

/// The way back from [`EightBit::hsv`], in single precision and truncating, as OpenCV 4's vector code does it.
#[inline]
pub(super) fn rgb_of_hsv([h, s, v]: [u8; 3]) -> Rgb8 {
    let (v, s) = (f32::from(v) * (1.0 / 255.0), f32::from(s) * (1.0 / 255.0));
    let sixth = f32::from(h) * (6.0 / 180.0);
    let sector = sixth as u8;
    let part = sixth - f32::from(sector);
    let code = |value: f32| (value * 255.0) as u8;
    let top = code(v);
    let low = code(v * (1.0 - s));
    let falling = code(v * (1.0 - s * part));
    let rising = code(v * (1.0 - (s - s * part)));
    match sector % 6 {
        0 => Rgb8::new(top, rising, low),
        1 => Rgb8::new(falling, top, low),
        2 => Rgb8::new(low, top, rising),
        3 => Rgb8::new(low, falling, top),
        4 => Rgb8::new(rising, low, top),
        _ => Rgb8::new(top, low, falling),
    }
}

/// `0.75·new + 0.25·old`, halves to even (`addWeighted`).
#[inline(always)]
pub(super) fn blend_three_quarters(new: Rgb8, old: Rgb8) -> Rgb8 {
    let channel = |new: u8, old: u8| {
        let quarters = 3 * u16::from(new) + u16::from(old);
        let (whole, rest) = (quarters >> 2, quarters & 3);
        (whole + u16::from(rest > 2 || (rest == 2 && whole & 1 == 1))) as u8
    };
    Rgb8::new(channel(new.r, old.r), channel(new.g, old.g), channel(new.b, old.b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rgb([b, g, r]: [u8; 3]) -> Rgb8 {
        Rgb8 { r, g, b }
    }

    /// Blue-green-red, its Lab, that Lab's colour, its HSV, that HSV's colour: from OpenCV 4.6's `cvtColor`.
    const KNOWN: [[[u8; 3]; 5]; 11] = [
        [[0, 0, 0], [0, 128, 128], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[255, 255, 255], [255, 128, 128], [255, 255, 255], [0, 0, 255], [255, 255, 255]],
        [[0, 0, 255], [136, 208, 195], [1, 2, 255], [0, 255, 255], [0, 0, 255]],
        [[0, 255, 0], [224, 42, 211], [3, 255, 7], [60, 255, 255], [0, 255, 0]],
        [[255, 0, 0], [82, 207, 20], [255, 1, 0], [120, 255, 255], [255, 0, 0]],
        [[128, 128, 128], [137, 128, 128], [128, 128, 128], [0, 0, 128], [128, 128, 128]],
        [[83, 70, 38], [71, 120, 117], [82, 70, 37], [99, 138, 83], [83, 70, 38]],
        [[81, 111, 231], [155, 172, 166], [82, 111, 231], [6, 166, 231], [81, 111, 231]],
        [[200, 130, 17], [133, 125, 84], [200, 130, 23], [101, 233, 200], [200, 133, 17]],
        [[3, 2, 1], [1, 128, 127], [4, 2, 0], [105, 170, 3], [3, 2, 1]],
        [[254, 1, 77], [91, 208, 26], [255, 2, 77], [129, 254, 254], [254, 1, 77]],
    ];

    #[test]
    fn conversions_give_opencvs_recorded_codes() {
        let space = EightBit::shared();
        for [bgr, lab, from_lab, hsv, from_hsv] in KNOWN {
            assert_eq!(space.lab(rgb(bgr)), lab, "Lab of {bgr:?}");
            assert_eq!(space.rgb_of_lab(lab), rgb(from_lab), "colour of Lab {lab:?}");
            assert_eq!(space.hsv(rgb(bgr)), hsv, "HSV of {bgr:?}");
            // One single pixel takes OpenCV's scalar way, which rounds; whole rows are truncated.
            let (ours, theirs) = (rgb_of_hsv(hsv), rgb(from_hsv));
            for (a, b) in [(ours.r, theirs.r), (ours.g, theirs.g), (ours.b, theirs.b)] {
                assert!(a.abs_diff(b) <= 1, "colour of HSV {hsv:?}: {ours} is not {theirs}");
            }
        }
    }

    #[test]
    fn every_lab_code_comes_back_as_a_color_without_overflow() {
        let space = EightBit::shared();
        for l in 0..=255 {
            for a in (0..=255).step_by(3) {
                for b in (0..=255).step_by(3) {
                    let _ = space.rgb_of_lab([l, a, b]);
                }
            }
        }
    }

    #[test]
    fn blends_round_halves_to_even() {
        let grey = |v| Rgb8::new(v, v, v);
        for (new, old, blended) in [(0, 2, 0), (0, 6, 2), (255, 255, 255), (255, 0, 191), (0, 255, 64), (10, 20, 12)] {
            assert_eq!(blend_three_quarters(grey(new), grey(old)), grey(blended), "{new} over {old}");
        }
    }

    /// Every colour, as OpenCV converts it. A few codes in a million may differ by one where single precision rounds
    /// the other way: in the cube-root table, and in HSV's products.
    #[cfg(feature = "opencv")]
    mod against_opencv {
        use super::*;
        use opencv::core::{Mat, Vec3b};
        use opencv::imgproc::{COLOR_BGR2HSV, COLOR_BGR2Lab, COLOR_HSV2BGR, COLOR_Lab2BGR, cvt_color_def};
        use opencv::prelude::*;

        /// How many codes differ, and by how much at most, over all triples whose first code is at most `firsts`.
        fn compare(code: i32, firsts: u8, ours: impl Fn([u8; 3]) -> [u8; 3]) -> (u64, i32) {
            let (mut differing, mut worst) = (0, 0);
            for first in 0..=firsts {
                let slice: Vec<Vec3b> =
                    (0..=u16::MAX).map(|rest| Vec3b::from([first, (rest >> 8) as u8, rest as u8])).collect();
                let mut converted = Mat::default();
                let source = Mat::new_rows_cols_with_data(256, 256, &slice).unwrap();
                cvt_color_def(&source, &mut converted, code).unwrap();
                for (source, theirs) in slice.iter().zip(converted.data_typed::<Vec3b>().unwrap()) {
                    for (a, b) in ours(source.0).into_iter().zip(theirs.0) {
                        let d = (i32::from(a) - i32::from(b)).abs();
                        differing += u64::from(d > 0);
                        worst = worst.max(d);
                    }
                }
            }
            (differing, worst)
        }

        #[test]
        fn lab_of_every_color_is_opencvs() {
            let space = EightBit::shared();
            let (differing, worst) = compare(COLOR_BGR2Lab, 255, |bgr| space.lab(rgb(bgr)));
            assert!(differing < 2000 && worst <= 1, "{differing} of 50 million codes differ, by up to {worst}");
        }

        #[test]
        fn color_of_every_lab_code_is_opencvs() {
            let space = EightBit::shared();
            let (differing, worst) = compare(COLOR_Lab2BGR, 255, |lab| {
                let c = space.rgb_of_lab(lab);
                [c.b, c.g, c.r]
            });
            assert_eq!((differing, worst), (0, 0));
        }

        #[test]
        fn hsv_of_every_color_is_opencvs() {
            let space = EightBit::shared();
            let (differing, worst) = compare(COLOR_BGR2HSV, 255, |bgr| space.hsv(rgb(bgr)));
            assert_eq!((differing, worst), (0, 0));
        }

        #[test]
        fn color_of_every_hsv_code_is_opencvs() {
            let (differing, worst) = compare(COLOR_HSV2BGR, 180, |hsv| {
                let c = rgb_of_hsv(hsv);
                [c.b, c.g, c.r]
            });
            assert!(differing < 2000 && worst <= 1, "{differing} of 36 million codes differ, by up to {worst}");
        }
    }
}
