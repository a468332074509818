//! Cutting out without a model: for logos, drawings and products before a plain or graded ground.
//!
//! The border tells the ground: up to three flat colours or a smooth surface. What hangs together with it goes, soft
//! shadows become partly opaque black, and the band between is resolved into alpha and clean colour. The confidence
//! says whether the picture was of the kind for which that works.

use super::super::image::BaseImage;
use super::edge::{self, Tally};
use super::extent::{self, GROUND, SUBJECT};
use super::ground::{Backdrop, Shape, apart, color_at};
use super::{ringing, shadow};

/// At or above this confidence a cut may be used; below it the picture is better passed through.
pub const CONFIDENT: f32 = 0.5;

/// Ringing in compressed pictures, as a share of the contrast in a block, and in codes at most.
const RINGING: f32 = 0.18;
const MOST_RINGING: f32 = 40.0;
/// Ringing of light compression, codes.
const LIGHT: f32 = 8.0;

/// What to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassicOptions {
    /// Whether enclosed ground, such as the counters of letters, goes too.
    pub enclosed: bool,
}

impl Default for ClassicOptions {
    fn default() -> Self {
        Self { enclosed: true }
    }
}

/// The ground that was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Ground {
    /// One to three flat colours (sRGB), the most frequent first.
    Flat {
        /// The colours.
        colors: Vec<[u8; 3]>,
    },
    /// A smooth gradient.
    Gradient,
    /// None, or nothing in front of it: nothing was removed.
    None,
}

/// A cut-out.
#[derive(Debug, Clone, PartialEq)]
pub struct Classic {
    /// Alpha, `width·height` values.
    pub alpha: Vec<u8>,
    /// Clean foreground colours, 3 bytes a pixel; black where alpha is 0.
    pub rgb: Vec<u8>,
    /// How far the cut may be trusted, 0..=1; see [`CONFIDENT`].
    pub confidence: f32,
    /// The ground that was found.
    pub ground: Ground,
}

/// Cuts the subject out of `image`.
///
/// Hidden pixels count as ground. Where no ground is found, or nothing but ground, the picture comes back opaque with
/// confidence 0 and [`Ground::None`]. The same bytes on any number of threads. Needs about 8 bytes a pixel, results
/// included, and 14 where every other pixel differs from its neighbour.
pub fn cut_out(image: &BaseImage, options: &ClassicOptions) -> Classic {
    let Some(backdrop) = Backdrop::find(image) else { return untouched(image) };
    let width = image.width() as usize;
    let mut distances = backdrop.distances(image);
    let mut class = extent::divide(&distances, width, &backdrop, options.enclosed, backdrop.is_noisy());
    let stray = ringing::stray(&distances, width, &backdrop);
    let rings = stray > backdrop.tight;
    if rings {
        ringing::forgive(&mut distances, width, &backdrop, RINGING, MOST_RINGING);
        let bare = std::mem::replace(&mut class, extent::divide(&distances, width, &backdrop, options.enclosed, true));
        ringing::limit(&mut class, &bare, width);
    }
    if rings || backdrop.is_noisy() {
        ringing::reopen(&distances, &mut class, width);
    }
    let mut traits = Traits::of(image, &distances, &class, &backdrop);
    if traits.subject < 1e-4 {
        return untouched(image);
    }
    // Light compression blurs a shadow less than it would help a pale subject to pass for one.
    shadow::shade(image, &mut class, &backdrop, if rings { (stray - LIGHT).max(0.0) } else { 0.0 });
    traits.gentle = extent::gentle(&distances, &class, width, &backdrop);
    drop(distances);
    let dirt = (2.5 * backdrop.noise).max(0.9 * stray).max(1.5);
    let (mut alpha, mut rgb, tally) = edge::resolve(image, &class, &backdrop, dirt);
    if let Some(own) = image.alpha() {
        for ((alpha, color), &own) in alpha.iter_mut().zip(rgb.chunks_exact_mut(3)).zip(own) {
            *alpha = (u16::from(*alpha) * u16::from(own) / 255) as u8;
            if *alpha == 0 {
                color.fill(0);
            }
        }
    }
    let confidence = traits.confidence(&backdrop, &tally);
    let ground = match backdrop.shape {
        Shape::Flat(colors) => Ground::Flat { colors: colors.iter().map(|c| c.map(|v| (v + 0.5) as u8)).collect() },
        Shape::Surface(_) => Ground::Gradient,
    };
    Classic { alpha, rgb, confidence, ground }
}

fn untouched(image: &BaseImage) -> Classic {
    let alpha = match image.alpha() {
        Some(alpha) => alpha.to_vec(),
        None => vec![255; image.rgb().len() / 3],
    };
    Classic { alpha, rgb: image.rgb().to_vec(), confidence: 0.0, ground: Ground::None }
}

/// What the division of a picture says about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    /// Share of the subject.
    pub subject: f32,
    /// Share of the border that is ground.
    pub border: f32,
    /// Share of the subject that looks like a veil over the ground.
    pub faint: f32,
    /// How often the border goes from ground to subject.
    pub crossings: u32,
    /// Share of ground that is not tight.
    pub uneasy: f32,
    /// Share of the outline at which the subject fades into the ground.
    pub gentle: f32,
}

impl Traits {
    fn of(image: &BaseImage, distances: &[u8], class: &[u8], backdrop: &Backdrop) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let tight = extent::halves(backdrop.tight);
        let (mut subject, mut uneasy) = (0u64, 0u64);
        for (d, c) in distances.chunks(128).zip(class.chunks(128)) {
            let (mut s, mut u) = (0u8, 0u8);
            for (&d, &c) in d.iter().zip(c) {
                let front = c == SUBJECT;
                s += u8::from(front);
                u += u8::from(!front & (d > tight));
            }
            subject += u64::from(s);
            uneasy += u64::from(u);
        }
        let ground = class.len() as u64 - subject;
        let faint = faintness(image, class, backdrop);
        let share = |part: u64, whole: u64| part as f32 / whole.max(1) as f32;
        let mut border = Border::default();
        class[..width].iter().for_each(|&v| border.pass(v));
        class.chunks(width).for_each(|row| border.pass(row[width - 1]));
        class[(height - 1) * width..].iter().rev().for_each(|&v| border.pass(v));
        class.chunks(width).rev().for_each(|row| border.pass(row[0]));
        Self {
            subject: share(subject, class.len() as u64),
            border: share(border.ground, border.all),
            faint,
            uneasy: share(uneasy, ground),
            crossings: border.crossings,
            gentle: 0.0,
        }
    }

    fn confidence(&self, backdrop: &Backdrop, tally: &Tally) -> f32 {
        let rise = |v: f32, low: f32, high: f32| ((v - low) / (high - low)).clamp(0.0, 1.0);
        let band = tally.band.max(1) as f64;
        let miss = (tally.miss / band) as f32;
        let thin = (tally.sure as f64 / (tally.sure as f64 + band)) as f32;
        // Every factor falls long before a cut is torn, so that confidence ranks cuts and does not only divide them.
        let factors = [
            rise(backdrop.inliers, 0.3, 0.7),
            rise(self.border, 0.3, 1.0).sqrt(),
            1.0 - rise(backdrop.noise, 4.0, 16.0),
            1.0 - rise(self.faint, 0.22, 0.44),
            1.0 - rise(self.crossings as f32, 4.0, 16.0),
            1.0 - rise(self.uneasy, 0.0, 0.35),
            1.0 - rise(self.gentle, 0.03, 0.3),
            1.0 - rise(miss, 4.0, 20.0),
            rise(thin, -0.02, 0.1),
            0.8 + 0.2 * rise(thin, 0.1, 0.6),
            rise(self.subject, 2e-4, 2e-3),
            1.0 - rise(self.subject, 0.75, 0.92),
        ];
        factors.iter().product()
    }
}

/// Share of the subject, on a sparse grid, that is near the ground's colour as the subject goes; less of it counts
/// where it differs in another direction than the rest, as glass does not.
fn faintness(image: &BaseImage, class: &[u8], backdrop: &Backdrop) -> f32 {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let step = (width.max(height) / 256).max(1);
    let mut far = Vec::new();
    for y in (0..height).step_by(step) {
        for x in (0..width).step_by(step) {
            if class[y * width + x] == SUBJECT {
                let c = color_at(image.rgb(), y * width + x);
                let b = backdrop.at(x, y, c);
                far.push((apart(c, b), [c[0] - b[0], c[1] - b[1], c[2] - b[2]]));
            }
        }
    }
    far.sort_by(|x, y| x.0.total_cmp(&y.0));
    let most = far.get(far.len() * 19 / 20).map_or(0.0, |f| f.0);
    let faint = far.partition_point(|f| f.0 < (3.0 * backdrop.loose).max(0.22 * most));
    let mut way = [0f32; 3];
    for (length, d) in &far[faint..] {
        (0..3).for_each(|i| way[i] += d[i] / length.max(1.0));
    }
    let length = (way[0] * way[0] + way[1] * way[1] + way[2] * way[2]).sqrt();
    let weight = |(far, d): &(f32, [f32; 3])| {
        let along = (d[0] * way[0] + d[1] * way[1] + d[2] * way[2]) / (far * length).max(1e-3);
        if length < 1.0 || along > 0.9 { 1.0 } else { 0.3 }
    };
    far[..faint].iter().map(weight).sum::<f32>() / far.len().max(1) as f32
}

/// A walk around the border.
#[derive(Default)]
struct Border {
    all: u64,
    ground: u64,
    crossings: u32,
    /// Whether the last pixel was ground.
    on_ground: bool,
}

impl Border {
    fn pass(&mut self, class: u8) {
        self.all += 1;
        self.ground += u64::from(class == GROUND);
        self.crossings += u32::from(self.on_ground && class != GROUND);
        self.on_ground = class == GROUND;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 160;

    /// Coverage of the shape whose signed distance is given, by 8 × 8 samples a pixel.
    fn coverage(inside: impl Fn(f32, f32) -> bool) -> Vec<f32> {
        (0..SIDE * SIDE)
            .map(|i| {
                let hits = (0..64)
                    .filter(|s| {
                        let (dx, dy) = ((s % 8) as f32 / 8.0 + 0.0625, (s / 8) as f32 / 8.0 + 0.0625);
                        inside((i % SIDE) as f32 + dx, (i / SIDE) as f32 + dy)
                    })
                    .count();
                hits as f32 / 64.0
            })
            .collect()
    }

    /// The shape in one colour over a ground, with an error added to every pixel.
    fn picture(
        alpha: &[f32],
        front: [f32; 3],
        ground: impl Fn(f32, f32) -> [f32; 3],
        mut error: impl FnMut(usize) -> f32,
    ) -> BaseImage {
        let mut rgb = Vec::new();
        for (i, &a) in alpha.iter().enumerate() {
            let b = ground((i % SIDE) as f32 / SIDE as f32, (i / SIDE) as f32 / SIDE as f32);
            let error = error(i);
            rgb.extend((0..3).map(|c| (a * front[c] + (1.0 - a) * b[c] + error).round().clamp(0.0, 255.0) as u8));
        }
        BaseImage::new(SIDE as u32, SIDE as u32, rgb, None).unwrap()
    }

    fn ring(x: f32, y: f32) -> bool {
        let r = (x - 80.0).hypot(y - 76.0);
        (22.0..52.0).contains(&r)
    }

    /// Mean and greatest error of alpha.
    fn errors(got: &[u8], truth: &[f32]) -> (f32, f32) {
        let each = got.iter().zip(truth).map(|(&g, t)| (f32::from(g) / 255.0 - t).abs());
        (each.clone().sum::<f32>() / truth.len() as f32, each.fold(0.0, f32::max))
    }

    const BLUE: [f32; 3] = [30.0, 60.0, 140.0];

    fn cut(image: &BaseImage) -> Classic {
        cut_out(image, &ClassicOptions::default())
    }

    #[test]
    fn antialiased_shapes_on_a_flat_ground_get_their_exact_alpha_and_color() {
        let alpha = coverage(ring);
        let result = cut(&picture(&alpha, BLUE, |_, _| [250.0, 244.0, 230.0], |_| 0.0));
        let (mean, most) = errors(&result.alpha, &alpha);
        assert!(mean < 0.001 && most < 0.04, "{mean} {most}");
        assert_eq!(result.ground, Ground::Flat { colors: vec![[250, 244, 230]] });
        assert!(result.confidence >= 0.9, "{}", result.confidence);
        for (c, &a) in result.rgb.chunks(3).zip(&result.alpha) {
            if a == 0 {
                assert_eq!(c, [0, 0, 0]);
            } else if a > 25 {
                let off = c.iter().zip(BLUE).map(|(&c, f)| (f32::from(c) - f).abs()).fold(0.0, f32::max);
                assert!(off <= 8.0, "{c:?} at alpha {a}");
            }
        }
    }

    #[test]
    fn gradients_are_followed() {
        let alpha = coverage(ring);
        let linear = |x: f32, y: f32| [120.0 + 100.0 * x, 200.0 - 60.0 * y, 180.0 + 40.0 * x * y];
        let radial = |x: f32, y: f32| [245.0 - 80.0 * x.hypot(y); 3];
        for image in [picture(&alpha, BLUE, linear, |_| 0.0), picture(&alpha, BLUE, radial, |_| 0.0)] {
            let result = cut(&image);
            let (mean, _) = errors(&result.alpha, &alpha);
            assert!(mean < 0.002, "{mean}");
            assert_eq!(result.ground, Ground::Gradient);
            assert!(result.confidence >= CONFIDENT, "{}", result.confidence);
        }
    }

    #[test]
    fn enclosed_ground_goes_or_stays_as_asked() {
        let alpha = coverage(ring);
        let image = picture(&alpha, BLUE, |_, _| [255.0; 3], |_| 0.0);
        let middle = 76 * SIDE + 80;
        assert_eq!(cut(&image).alpha[middle], 0);
        assert_eq!(cut_out(&image, &ClassicOptions { enclosed: false }).alpha[middle], 255);
    }

    #[test]
    fn noise_leaves_neither_specks_nor_holes() {
        let alpha = coverage(ring);
        let mut state = 1u64;
        let mut noise = move || {
            // The sum of four uniform values: nearly normal, deviation 4.
            (0..4)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 33) as f32 / (1u64 << 31) as f32 - 0.5) * 6.93
                })
                .sum()
        };
        let result = cut(&picture(&alpha, BLUE, |_, _| [200.0, 196.0, 190.0], |_| noise()));
        let far = |i: usize| ((i % SIDE) as f32 - 79.5).hypot((i / SIDE) as f32 - 75.5);
        for (i, &a) in result.alpha.iter().enumerate() {
            match far(i) {
                r if (26.0..48.0).contains(&r) => assert_eq!(a, 255, "{i}"),
                r if !(19.0..55.0).contains(&r) => assert_eq!(a, 0, "{i}"),
                _ => {}
            }
        }
        assert!(result.confidence >= CONFIDENT, "{}", result.confidence);
    }

    #[test]
    fn ringing_beside_edges_is_ground() {
        let alpha = coverage(ring);
        // Waves of up to 12 codes within eight pixels of the outline.
        let wave = |i: usize| {
            let r = ((i % SIDE) as f32 - 79.5).hypot((i / SIDE) as f32 - 75.5);
            let beyond = (r - 52.0).max(22.0 - r);
            if (0.5..8.0).contains(&beyond) { 12.0 * (1.0 - beyond / 8.0) * (beyond * 1.9).sin() } else { 0.0 }
        };
        let result = cut(&picture(&alpha, BLUE, |_, _| [235.0; 3], wave));
        let left = result.alpha.iter().enumerate().filter(|&(i, &a)| alpha[i] == 0.0 && a > 20).count();
        assert!(left <= 40, "{left}");
        let (mean, _) = errors(&result.alpha, &alpha);
        assert!(mean < 0.005, "{mean}");
    }

    #[test]
    fn a_soft_shadow_becomes_partly_opaque_black() {
        let mut alpha = coverage(|x, y| (50.0..110.0).contains(&x) && (30.0..100.0).contains(&y));
        let shape = alpha.clone();
        let ground = [225.0, 225.0, 228.0];
        let mut rgb = Vec::new();
        for (i, alpha) in alpha.iter_mut().enumerate() {
            let (x, y) = ((i % SIDE) as f32 - 80.0, (i / SIDE) as f32 - 102.0);
            let t = (1.0 - (x / 62.0).hypot(y / 40.0)).clamp(0.0, 1.0);
            let shadow = 0.4 * t * t * (3.0 - 2.0 * t);
            let total = *alpha + (1.0 - *alpha) * shadow;
            for c in 0..3 {
                let v = *alpha * [200.0, 90.0, 40.0][c] + (1.0 - *alpha) * (1.0 - shadow) * ground[c];
                rgb.push(v.round() as u8);
            }
            *alpha = total;
        }
        let result = cut(&BaseImage::new(SIDE as u32, SIDE as u32, rgb, None).unwrap());
        let (mean, _) = errors(&result.alpha, &alpha);
        assert!(mean < 0.01, "{mean}");
        for (i, c) in result.rgb.chunks(3).enumerate() {
            if shape[i] == 0.0 && result.alpha[i] > 40 {
                assert!(c.iter().all(|&v| v < 60), "{i}: {c:?} at {}", result.alpha[i]);
            }
        }
    }

    #[test]
    fn pictures_without_a_subject_or_without_a_ground_come_back_whole_and_doubted() {
        let flat = BaseImage::new(40, 30, vec![77; 3600], None).unwrap();
        // Checks of many colours.
        let busy: Vec<u8> = (0..90 * 90)
            .flat_map(|i| {
                let cell = (i % 90 / 6 * 7 + i / 90 / 6 * 13) as u32;
                [1u32, 5, 11].map(|k| ((cell.wrapping_mul(2_654_435_761) >> k) & 255) as u8)
            })
            .collect();
        let busy = BaseImage::new(90, 90, busy, None).unwrap();
        for image in [&flat, &busy] {
            let result = cut(image);
            assert!(result.confidence < CONFIDENT, "{}", result.confidence);
        }
        let result = cut(&flat);
        assert_eq!((result.confidence, result.ground), (0.0, Ground::None));
        assert!(result.alpha.iter().all(|&a| a == 255) && result.rgb == flat.rgb());
    }

    #[test]
    fn any_size_is_taken() {
        for (w, h) in [(1u32, 1u32), (2, 2), (1, 50), (50, 1), (3, 2), (17, 5), (2000, 2)] {
            let rgb: Vec<u8> = (0..w * h * 3).map(|i| (i * 53 % 256) as u8).collect();
            for alpha in [None, Some((0..w * h).map(|i| (i * 91 % 256) as u8).collect())] {
                let image = BaseImage::new(w, h, rgb.clone(), alpha).unwrap();
                let result = cut(&image);
                assert_eq!((result.alpha.len(), result.rgb.len()), ((w * h) as usize, (w * h * 3) as usize));
                assert!((0.0..=1.0).contains(&result.confidence), "{w}×{h}: {}", result.confidence);
            }
        }
    }

    #[test]
    fn hidden_pixels_stay_hidden() {
        let alpha = coverage(ring);
        let image = picture(&alpha, BLUE, |_, _| [255.0; 3], |_| 0.0);
        let own: Vec<u8> = (0..SIDE * SIDE).map(|i| if i % SIDE < 70 { 0 } else { 255 }).collect();
        let image = BaseImage::new(SIDE as u32, SIDE as u32, image.rgb().to_vec(), Some(own)).unwrap();
        let result = cut(&image);
        for i in 0..SIDE * SIDE {
            assert!(i % SIDE >= 70 || result.alpha[i] == 0, "{i}");
        }
    }

    #[test]
    fn the_result_is_the_same_on_any_number_of_threads() {
        let alpha = coverage(ring);
        let image = picture(&alpha, BLUE, |x, y| [200.0 + 40.0 * x, 190.0, 180.0 - 50.0 * y], |i| (i * 7 % 5) as f32);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| cut(&image))
        };
        assert!(run(1) == run(3));
    }
}
