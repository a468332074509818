//! The colours that a dither may use, and which of them stands for what.

use rayon::prelude::*;

use super::field::LUMINANCE;
use super::tone::ordered;
use crate::kernel::color::{DECODE, Rgb8};
use crate::kernel::dither::{MAX_COLORS, nearest};

/// Bound on the error that a dot takes over, in linear light. Beyond the range of the palette errors would add up and
/// trail far into the rest of the picture.
pub(super) const ERROR_LIMIT: f32 = 0.6;

/// The allowed colours. `C` is 1 for lightness alone and 3 for linear red, green and blue.
pub(super) trait Allowed<const C: usize>: Sync {
    /// The packed colours, opaque.
    fn colors(&self) -> Vec<u32>;
    /// What counts of a colour in linear light.
    fn reduce(&self, linear: [f32; 3]) -> [f32; C];
    /// The colour nearest to `wanted`, and its light. Thresholds half-way between levels move by `jitter` levels.
    fn nearest(&self, wanted: [f32; C], jitter: f32) -> (u16, [f32; C]);
    /// The colour for `wanted` under a threshold of 0..1.
    fn ordered(&self, wanted: [f32; C], threshold: f32) -> u16;
}

/// Evenly spaced codes of one channel.
pub(super) struct Levels {
    codes: Vec<u8>,
    linear: [f32; 16],
    /// Half-way between neighbouring levels in linear light, and how far they are apart.
    between: Vec<(f32, f32)>,
}

impl Levels {
    /// `count` levels, 2..=16.
    pub fn new(count: u8) -> Self {
        let codes: Vec<u8> = (0..u32::from(count)).map(|i| (i * 255 / (u32::from(count) - 1)) as u8).collect();
        let mut linear = [1f32; 16];
        linear.iter_mut().zip(&codes).for_each(|(l, &c)| *l = DECODE[usize::from(c)]);
        let between = linear[..codes.len()].windows(2).map(|l| (0.5 * (l[0] + l[1]), l[1] - l[0])).collect();
        Self { codes, linear, between }
    }

    #[inline(always)]
    fn nearest(&self, v: f32, jitter: f32) -> usize {
        self.between.iter().filter(|(middle, apart)| v > middle + jitter * apart).count()
    }

    #[inline(always)]
    fn ordered(&self, v: f32, threshold: f32) -> usize {
        let low = self.linear[1..self.codes.len() - 1].iter().filter(|l| v >= **l).count();
        let (from, to) = (self.linear[low], self.linear[low + 1]);
        low + usize::from(v - from > threshold * (to - from))
    }
}

/// Levels of grey.
pub(super) struct Greys(pub Levels);

impl Allowed<1> for Greys {
    fn colors(&self) -> Vec<u32> {
        self.0.codes.iter().map(|&v| Rgb8::new(v, v, v).packed()).collect()
    }
    #[inline(always)]
    fn reduce(&self, [r, g, b]: [f32; 3]) -> [f32; 1] {
        [LUMINANCE[0] * r + LUMINANCE[1] * g + LUMINANCE[2] * b]
    }
    #[inline(always)]
    fn nearest(&self, [v]: [f32; 1], jitter: f32) -> (u16, [f32; 1]) {
        let level = self.0.nearest(v, jitter);
        (level as u16, [self.0.linear[level]])
    }
    #[inline(always)]
    fn ordered(&self, [v]: [f32; 1], threshold: f32) -> u16 {
        self.0.ordered(v, threshold) as u16
    }
}

/// Levels of each channel.
pub(super) struct Channels(pub Levels);

impl Channels {
    #[inline(always)]
    fn index(&self, [r, g, b]: [usize; 3]) -> u16 {
        let n = self.0.codes.len();
        (r + n * (g + n * b)) as u16
    }
}

impl Allowed<3> for Channels {
    fn colors(&self) -> Vec<u32> {
        let codes = &self.0.codes;
        let n = codes.len();
        (0..n * n * n).map(|i| Rgb8::new(codes[i % n], codes[i / n % n], codes[i / (n * n)]).packed()).collect()
    }
    #[inline(always)]
    fn reduce(&self, linear: [f32; 3]) -> [f32; 3] {
        linear
    }
    #[inline(always)]
    fn nearest(&self, wanted: [f32; 3], jitter: f32) -> (u16, [f32; 3]) {
        let levels = wanted.map(|v| self.0.nearest(v, jitter));
        (self.index(levels), levels.map(|level| self.0.linear[level]))
    }
    #[inline(always)]
    fn ordered(&self, wanted: [f32; 3], threshold: f32) -> u16 {
        self.index(wanted.map(|v| self.0.ordered(v, threshold)))
    }
}

/// Any colours, dark to light, in linear and in square-root light.
pub(super) struct Palette {
    colors: Vec<Rgb8>,
    linear: Vec<[f32; 3]>,
    root: Vec<[f32; 3]>,
    /// For ordered dithers: at every node of square-root light, red fastest, the colours that mix to it, dark to light.
    mixtures: Vec<[u8; MIXED]>,
}

impl Palette {
    /// `colors`, at least one; `mixes` says whether [`Allowed::ordered`] is going to be used.
    pub fn new(colors: &[Rgb8], mixes: bool) -> Self {
        let mut colors = ordered(colors);
        colors.truncate(MAX_COLORS);
        let light = |v: u8| DECODE[usize::from(v)];
        let linear: Vec<[f32; 3]> = colors.iter().map(|c| [light(c.r), light(c.g), light(c.b)]).collect();
        let root = linear.iter().map(|c| c.map(f32::sqrt)).collect();
        let mut palette = Self { colors, linear, root, mixtures: Vec::new() };
        if mixes {
            let node = |i: usize| i as f32 / (NODES - 1) as f32;
            let color = |i: usize| [node(i % NODES), node(i / NODES % NODES), node(i / (NODES * NODES))];
            let nodes = (0..NODES * NODES * NODES).into_par_iter();
            palette.mixtures = nodes.map(|i| palette.mixture(color(i).map(|v| v * v))).collect();
        }
        palette
    }

    /// The colours that diffusion over [`MIXED`] dots of one colour would choose (T. Knoll 1999), dark to light.
    fn mixture(&self, wanted: [f32; 3]) -> [u8; MIXED] {
        let mut error = [0f32; 3];
        let mut mixture: [u8; MIXED] = std::array::from_fn(|_| {
            let choice = nearest(&self.root, std::array::from_fn(|c| wanted[c] + error[c]));
            for c in 0..3 {
                error[c] = (error[c] + wanted[c] - self.linear[choice][c]).clamp(-ERROR_LIMIT, ERROR_LIMIT);
            }
            choice as u8
        });
        mixture.sort_unstable();
        mixture
    }
}

/// How far black and white move: all the way there would be nothing out of reach, and little contrast.
const FITTED: f32 = 0.35;
/// Colours that are mixed to one under an ordered dither.
const MIXED: usize = 16;
/// Nodes of red, green and blue at which mixtures are tabulated.
const NODES: usize = 33;

impl Allowed<3> for Palette {
    fn colors(&self) -> Vec<u32> {
        self.colors.iter().map(|c| c.packed()).collect()
    }
    /// Black moves towards the darkest colour and white towards the lightest, so that less of the scale is out of
    /// reach.
    #[inline(always)]
    fn reduce(&self, linear: [f32; 3]) -> [f32; 3] {
        let (Some(dark), Some(light)) = (self.root.first(), self.root.last()) else { return linear };
        std::array::from_fn(|c| {
            let (dark, light) = (FITTED * dark[c], 1.0 - FITTED * (1.0 - light[c]));
            let root = dark + linear[c].sqrt() * (light - dark);
            root * root
        })
    }
    #[inline(always)]
    fn nearest(&self, wanted: [f32; 3], _: f32) -> (u16, [f32; 3]) {
        let choice = nearest(&self.root, wanted);
        (choice as u16, self.linear[choice])
    }
    #[inline(always)]
    fn ordered(&self, wanted: [f32; 3], threshold: f32) -> u16 {
        let node = wanted.map(|v| (v.clamp(0.0, 1.0).sqrt() * (NODES - 1) as f32 + 0.5) as usize);
        let mixture = self.mixtures.get(node[0] + NODES * (node[1] + NODES * node[2]));
        mixture.map_or(0, |mixture| u16::from(mixture[(threshold * MIXED as f32) as usize % MIXED]))
    }
}
