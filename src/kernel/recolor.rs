//! Mode `soft`: from an assignment to a colour table.
//!
//! With ω the soft weights, c the cluster centres and t their targets, a colour of coordinates (L, a, b) goes to
//! ab' = ab + Σ ω_i (t_i − c_i)_ab and L' = Σ ω_i t_i,L + g·(L − Σ ω_i c_i,L): hue and chroma shift smoothly, and the
//! lightness detail within a cluster is kept, scaled by g. Colours that leave the gamut give up chroma, not hue.

use pulp::Arch;
use rayon::prelude::*;

use super::cluster::MAX_CLUSTERS;
use super::color::{ENCODE, ENCODE_SIZE, GAMUT_SLACK, Lab, OkLab, encode_index, encode_srgb};
use super::model::{BLOCK, ColorModel, LabPlanes, SoftWeights, WEIGHT_ONE};

/// Colours per piece of parallel work.
const PIECE: usize = 16 * BLOCK;

/// Weights stored per colour take 2 bytes a cluster; above this many bytes the grid takes over.
const EXACT_WEIGHT_BYTES: usize = 24 << 20;

/// Nodes a side of the grid that stands in for exact weights.
const GRID: usize = 33;

/// A list of colours prepared for any number of soft maps: coordinates and weights.
///
/// Colour tables cover the list and one more entry, transparent black, for hidden pixels.
#[derive(Debug, Clone)]
pub struct ColorSet {
    colors: Vec<u32>,
    weights: Weighting,
}

#[derive(Debug, Clone)]
enum Weighting {
    /// Coordinates and weights of every colour.
    Exact(LabPlanes, SoftWeights),
    /// Weights on a regular RGB grid; displacements are interpolated between its nodes.
    Grid(SoftWeights),
}

impl ColorSet {
    /// Prepares `colors`, whose coordinates are `labs`, for maps on `model`.
    ///
    /// Up to a bound on memory every colour has its own weights; beyond it they are interpolated from a 33³ grid, which
    /// changes results by less than ΔE2000 1.
    pub fn new(model: &ColorModel, colors: Vec<u32>, labs: LabPlanes) -> Self {
        if colors.len() * model.clusters().len() * 2 <= EXACT_WEIGHT_BYTES {
            let weights = model.weights(&labs);
            Self { colors, weights: Weighting::Exact(labs, weights) }
        } else {
            Self::on_grid(model, colors)
        }
    }

    fn on_grid(model: &ColorModel, colors: Vec<u32>) -> Self {
        let nodes = (0..GRID * GRID * GRID).map(|i| {
            let code = |step: usize| (step as f32 * (255.0 / (GRID - 1) as f32)) / 255.0;
            [code(i / (GRID * GRID)), code(i / GRID % GRID), code(i % GRID)]
        });
        let decode = |v: f32| if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) };
        let mut labs = LabPlanes::default();
        for node in nodes {
            let lab = Lab::from_linear(node.map(decode));
            labs.l.push(lab.l);
            labs.a.push(lab.a);
            labs.b.push(lab.b);
        }
        Self { colors, weights: Weighting::Grid(model.weights(&labs)) }
    }

    /// The colours, packed.
    pub fn colors(&self) -> &[u32] {
        &self.colors
    }
}

/// A colour that must land on a given place, with its near surroundings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Anchor {
    /// The source colour.
    pub from: Lab,
    /// Where it goes.
    pub to: Lab,
}

/// ΔE within which an anchor holds fully, and beyond which it has no say.
const ANCHOR_INNER: f32 = 2.0;
const ANCHOR_OUTER: f32 = 14.0;

/// A map of colours for one palette.
#[derive(Debug, Clone)]
pub struct SoftMap {
    /// Per cluster: t_L − g·c_L, t_a − c_a, t_b − c_b.
    offsets: Vec<[f32; 3]>,
    /// g.
    slope: f32,
    strength: f32,
    anchors: Vec<Anchor>,
    /// Lightness to add to neutral colours, by source lightness in 256 steps; none where the map is monotone.
    guard: Option<Box<[f32; 256]>>,
}

/// Limits of g: flatter than the first loses texture, steeper than the second adds noise.
pub const SLOPE_LIMITS: (f32, f32) = (0.45, 1.15);

/// The ratio of the targets' lightness range to the centres', limited to [`SLOPE_LIMITS`]; exactly 1 when within 2 %.
pub fn slope(model: &ColorModel, targets: &[Lab]) -> f32 {
    let range = |values: &mut dyn Iterator<Item = f32>| {
        let (low, high) = values.fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(v), high.max(v)));
        high - low
    };
    let from = range(&mut model.clusters().iter().map(|c| c.center.l));
    let to = range(&mut targets.iter().map(|t| t.l));
    if model.clusters().len() < 2 || from < 1.0 {
        return 1.0;
    }
    let ratio = to / from;
    if (ratio - 1.0).abs() < 0.02 { 1.0 } else { ratio.clamp(SLOPE_LIMITS.0, SLOPE_LIMITS.1) }
}

impl SoftMap {
    /// A map that sends cluster i to `targets[i]`, with lightness detail scaled by `slope`.
    ///
    /// `strength` is 0 (nothing moves) to 1; `anchors` override the map around single colours.
    pub fn new(model: &ColorModel, targets: &[Lab], slope: f32, strength: f32, anchors: Vec<Anchor>) -> Self {
        let offsets = model
            .clusters()
            .iter()
            .zip(targets)
            .map(|(c, t)| [t.l - slope * c.center.l, t.a - c.center.a, t.b - c.center.b])
            .collect();
        let mut map = Self { offsets, slope, strength, anchors: Vec::new(), guard: None };
        map.guard = map.monotone_guard(model);
        // What an anchor has to add depends on where the map would send its colour, so anchors come last.
        map.anchors = anchors;
        map
    }

    /// What to add to the lightness of greys so that a grey ramp never darkens on its way up.
    fn monotone_guard(&self, model: &ColorModel) -> Option<Box<[f32; 256]>> {
        let ramp = LabPlanes {
            l: (0..256).map(|i| i as f32 / 2.55).collect(),
            a: vec![0.0; 256],
            b: vec![0.0; 256],
        };
        let mapped = self.labs(&ramp, &model.weights(&ramp));
        // A source step is 1/2.55 of lightness; keep at least a tenth of it.
        let least = 0.1 * self.strength / 2.55;
        let rising = isotonic(&mapped.l.iter().enumerate().map(|(i, l)| l - i as f32 * least).collect::<Vec<_>>());
        let guard: [f32; 256] = std::array::from_fn(|i| rising[i] + i as f32 * least - mapped.l[i]);
        guard.iter().any(|d| d.abs() > 0.05).then(|| Box::new(guard))
    }

    /// Where colours go, before they are brought into the gamut.
    pub fn labs(&self, labs: &LabPlanes, weights: &SoftWeights) -> LabPlanes {
        let n = labs.len();
        let mut out = LabPlanes { l: vec![0.0; n], a: vec![0.0; n], b: vec![0.0; n] };
        let mut start = 0;
        while start < n {
            let len = BLOCK.min(n - start);
            let block = self.exact_block(labs, weights, start, len);
            out.l[start..start + len].copy_from_slice(&block[0][..len]);
            out.a[start..start + len].copy_from_slice(&block[1][..len]);
            out.b[start..start + len].copy_from_slice(&block[2][..len]);
            start += len;
        }
        out
    }

    /// The table of output colours: one packed opaque entry a colour of `set`, then one of transparent black.
    pub fn table(&self, set: &ColorSet) -> Vec<u32> {
        let n = set.colors.len();
        let mut table = vec![0u32; n + 1];
        if self.strength == 0.0 || self.offsets.is_empty() {
            table[..n].copy_from_slice(&set.colors);
            return table;
        }
        let arch = Arch::new();
        match &set.weights {
            Weighting::Exact(labs, weights) => {
                table[..n].par_chunks_mut(PIECE).enumerate().for_each(|(p, out)| {
                    arch.dispatch(|| {
                        for (b, out) in out.chunks_mut(BLOCK).enumerate() {
                            let block = self.exact_block(labs, weights, p * PIECE + b * BLOCK, out.len());
                            pack_block(&block, out);
                        }
                    });
                });
            }
            Weighting::Grid(weights) => {
                let grid = self.displacements(weights);
                table[..n].par_chunks_mut(PIECE).zip(set.colors.par_chunks(PIECE)).for_each(|(out, colors)| {
                    arch.dispatch(|| {
                        for (out, colors) in out.chunks_mut(BLOCK).zip(colors.chunks(BLOCK)) {
                            let block = self.grid_block(&grid, colors);
                            pack_block(&block, out);
                        }
                    });
                });
            }
        }
        table
    }

    #[inline(always)]
    fn exact_block(&self, labs: &LabPlanes, weights: &SoftWeights, start: usize, len: usize) -> [[f32; BLOCK]; 3] {
        let mut lab = [[0f32; BLOCK]; 3];
        lab[0][..len].copy_from_slice(&labs.l[start..start + len]);
        lab[1][..len].copy_from_slice(&labs.a[start..start + len]);
        lab[2][..len].copy_from_slice(&labs.b[start..start + len]);
        let mut shift = [[0f32; BLOCK]; 3];
        let [shift_l, shift_a, shift_b] = &mut shift;
        for (plane, offset) in weights.planes.iter().zip(&self.offsets).take(MAX_CLUSTERS) {
            let [ol, oa, ob] = offset.map(|v| v / WEIGHT_ONE);
            let plane = &plane[start..start + len];
            for (((w, l), a), b) in plane.iter().zip(shift_l.iter_mut()).zip(shift_a.iter_mut()).zip(shift_b.iter_mut()) {
                let w = f32::from(*w);
                *l += w * ol;
                *a += w * oa;
                *b += w * ob;
            }
        }
        self.move_block(&lab, &shift)
    }

    #[inline(always)]
    fn move_block(&self, lab: &[[f32; BLOCK]; 3], shift: &[[f32; BLOCK]; 3]) -> [[f32; BLOCK]; 3] {
        let mut out = [[0f32; BLOCK]; 3];
        for i in 0..BLOCK {
            out[0][i] = lab[0][i] + self.strength * (self.slope * lab[0][i] + shift[0][i] - lab[0][i]);
            out[1][i] = lab[1][i] + self.strength * shift[1][i];
            out[2][i] = lab[2][i] + self.strength * shift[2][i];
        }
        if let Some(guard) = &self.guard {
            for i in 0..BLOCK {
                let at = (lab[0][i] * 2.55).clamp(0.0, 255.0);
                let low = at as usize;
                let high = (low + 1).min(255);
                let add = guard[low] + (at - low as f32) * (guard[high] - guard[low]);
                let chroma_squared = lab[1][i] * lab[1][i] + lab[2][i] * lab[2][i];
                out[0][i] += add * (-chroma_squared / 400.0).exp();
            }
        }
        for anchor in &self.anchors {
            for i in 0..BLOCK {
                let here = Lab { l: lab[0][i], a: lab[1][i], b: lab[2][i] };
                let d = here.distance(anchor.from);
                let t = ((ANCHOR_OUTER - d) / (ANCHOR_OUTER - ANCHOR_INNER)).clamp(0.0, 1.0);
                let hold = t * t * (3.0 - 2.0 * t);
                out[0][i] += hold * (here.l + anchor.to.l - anchor.from.l - out[0][i]);
                out[1][i] += hold * (here.a + anchor.to.a - anchor.from.a - out[1][i]);
                out[2][i] += hold * (here.b + anchor.to.b - anchor.from.b - out[2][i]);
            }
        }
        out
    }

    /// Σ ω_i·offset_i on every node of the grid.
    fn displacements(&self, weights: &SoftWeights) -> Vec<[f32; 4]> {
        (0..GRID * GRID * GRID)
            .map(|node| {
                let mut sum = [0f32; 4];
                for (plane, offset) in weights.planes.iter().zip(&self.offsets) {
                    let w = f32::from(plane[node]) / WEIGHT_ONE;
                    for (s, o) in sum.iter_mut().zip(offset) {
                        *s += w * o;
                    }
                }
                sum
            })
            .collect()
    }

    /// Tetrahedral interpolation of the displacements (six tetrahedra a cell, split along the grey diagonal).
    #[inline(always)]
    fn grid_block(&self, grid: &[[f32; 4]], colors: &[u32]) -> [[f32; BLOCK]; 3] {
        let planes = {
            let mut padded = [0u32; BLOCK];
            padded[..colors.len()].copy_from_slice(colors);
            lab_block(&padded)
        };
        let mut shift = [[0f32; BLOCK]; 3];
        for (i, &packed) in colors.iter().enumerate() {
            let [r, g, b, _] = packed.to_le_bytes();
            let place = |v: u8| {
                let at = f32::from(v) * ((GRID - 1) as f32 / 255.0);
                let low = (at as usize).min(GRID - 2);
                (low, at - low as f32)
            };
            let ((ri, rf), (gi, gf), (bi, bf)) = (place(r), place(g), place(b));
            let base = (ri * GRID + gi) * GRID + bi;
            const STEP: [usize; 3] = [GRID * GRID, GRID, 1];
            let mut axes = [(rf, STEP[0]), (gf, STEP[1]), (bf, STEP[2])];
            if axes[0].0 < axes[1].0 {
                axes.swap(0, 1);
            }
            if axes[1].0 < axes[2].0 {
                axes.swap(1, 2);
            }
            if axes[0].0 < axes[1].0 {
                axes.swap(0, 1);
            }
            let corners = [base, base + axes[0].1, base + axes[0].1 + axes[1].1, base + STEP[0] + STEP[1] + STEP[2]];
            let parts = [1.0 - axes[0].0, axes[0].0 - axes[1].0, axes[1].0 - axes[2].0, axes[2].0];
            for (corner, part) in corners.iter().zip(parts) {
                let node = &grid[*corner];
                shift[0][i] += part * node[0];
                shift[1][i] += part * node[1];
                shift[2][i] += part * node[2];
            }
        }
        self.move_block(&planes, &shift)
    }
}

#[inline(always)]
fn lab_block(colors: &[u32; BLOCK]) -> [[f32; BLOCK]; 3] {
    let lut = &*super::color::DECODE;
    let mut linear = [[0f32; BLOCK]; 3];
    for (i, &packed) in colors.iter().enumerate() {
        let [r, g, b, _] = packed.to_le_bytes();
        linear[0][i] = lut[r as usize];
        linear[1][i] = lut[g as usize];
        linear[2][i] = lut[b as usize];
    }
    let mut out = [[0f32; BLOCK]; 3];
    for i in 0..BLOCK {
        let lab = Lab::from_linear([linear[0][i], linear[1][i], linear[2][i]]);
        out[0][i] = lab.l;
        out[1][i] = lab.a;
        out[2][i] = lab.b;
    }
    out
}

/// Brings a block of Lab colours into the gamut, codes it and packs it.
#[inline(always)]
fn pack_block(lab: &[[f32; BLOCK]; 3], out: &mut [u32]) {
    let encode = &*ENCODE;
    let mut linear = [[0f32; BLOCK]; 3];
    let mut codes = [[0u32; BLOCK]; 3];
    let mut excess = [0f32; BLOCK];
    for i in 0..BLOCK {
        let [r, g, b] = Lab { l: lab[0][i], a: lab[1][i], b: lab[2][i] }.to_linear();
        linear[0][i] = r;
        linear[1][i] = g;
        linear[2][i] = b;
        codes[0][i] = encode_index(r);
        codes[1][i] = encode_index(g);
        codes[2][i] = encode_index(b);
        excess[i] = (r.max(g).max(b) - 1.0).max(-r.min(g).min(b));
    }
    let worst = excess[..out.len()].iter().copied().fold(f32::MIN, f32::max);
    let code = |index: u32| u32::from(encode[index as usize & (ENCODE_SIZE - 1)]);
    for (i, slot) in out.iter_mut().enumerate() {
        *slot = code(codes[0][i]) | code(codes[1][i]) << 8 | code(codes[2][i]) << 16 | 0xff00_0000;
    }
    if worst > GAMUT_SLACK {
        reduce_chroma(&linear, &excess, out);
    }
}

/// As [`super::color::map_into_gamut`], for those colours of a block whose excess is above the slack.
#[inline(always)]
fn reduce_chroma(linear: &[[f32; BLOCK]; 3], excess: &[f32; BLOCK], out: &mut [u32]) {
    let mut place = [0usize; BLOCK];
    let mut found = 0;
    for (i, &e) in excess.iter().enumerate().take(out.len()) {
        place[found] = i;
        found += usize::from(e > GAMUT_SLACK);
    }
    // Whole vectors of eight; the spare lanes repeat the first colour.
    let lanes = found.div_ceil(8) * 8;
    let mut ok = [[0f32; BLOCK]; 3];
    let mut keep = [[0f32; BLOCK]; 2];
    for n in 0..lanes {
        let i = place[if n < found { n } else { 0 }];
        ok[0][n] = linear[0][i];
        ok[1][n] = linear[1][i];
        ok[2][n] = linear[2][i];
    }
    for n in 0..lanes {
        let lab = OkLab::from_linear([ok[0][n], ok[1][n], ok[2][n]]);
        // White and black have no chroma to give.
        let open = if lab.l > 0.0 && lab.l < 1.0 { 1.0 } else { 0.0 };
        ok[0][n] = lab.l.clamp(0.0, 1.0);
        ok[1][n] = lab.a * open;
        ok[2][n] = lab.b * open;
        keep[1][n] = 1.0;
    }
    for _ in 0..12 {
        for n in 0..lanes {
            let middle = 0.5 * (keep[0][n] + keep[1][n]);
            let [r, g, b] = OkLab { l: ok[0][n], a: ok[1][n] * middle, b: ok[2][n] * middle }.to_linear();
            let inside = r.min(g).min(b) >= -GAMUT_SLACK && r.max(g).max(b) <= 1.0 + GAMUT_SLACK;
            keep[0][n] = if inside { middle } else { keep[0][n] };
            keep[1][n] = if inside { keep[1][n] } else { middle };
        }
    }
    for n in 0..found {
        let t = keep[0][n];
        let [r, g, b] = OkLab { l: ok[0][n], a: ok[1][n] * t, b: ok[2][n] * t }.to_linear().map(encode_srgb);
        out[place[n]] = u32::from_le_bytes([r, g, b, 255]);
    }
}

/// Packs Lab colours as a table does: into the gamut, coded, opaque.
pub fn pack_labs(labs: &LabPlanes) -> Vec<u32> {
    let mut out = vec![0u32; labs.len()];
    let arch = Arch::new();
    out.par_chunks_mut(PIECE).enumerate().for_each(|(p, out)| {
        arch.dispatch(|| {
            for (b, out) in out.chunks_mut(BLOCK).enumerate() {
                let start = p * PIECE + b * BLOCK;
                let mut block = [[0f32; BLOCK]; 3];
                block[0][..out.len()].copy_from_slice(&labs.l[start..start + out.len()]);
                block[1][..out.len()].copy_from_slice(&labs.a[start..start + out.len()]);
                block[2][..out.len()].copy_from_slice(&labs.b[start..start + out.len()]);
                pack_block(&block, out);
            }
        });
    });
    out
}

/// The nearest non-decreasing sequence in the least-squares sense (pool adjacent violators, Ayer et al. 1955).
fn isotonic(values: &[f32]) -> Vec<f32> {
    let mut pools: Vec<(f64, usize)> = Vec::with_capacity(values.len());
    for &v in values {
        let mut pool = (f64::from(v), 1);
        while let Some(&last) = pools.last()
            && last.0 > pool.0
        {
            pools.pop();
            let count = last.1 + pool.1;
            pool = ((last.0 * last.1 as f64 + pool.0 * pool.1 as f64) / count as f64, count);
        }
        pools.push(pool);
    }
    pools.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean as f32, count)).collect()
}
