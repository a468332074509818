//! Mode `soft`: from an assignment to a colour table.
//!
//! With ω the soft weights, c the cluster centres and t their targets, a colour goes in each of a and b from x to
//! x' = Σ ω_i t_i + g·(x − Σ ω_i c_i): hue and chroma shift smoothly with the clusters, and the detail within a cluster is
//! kept, scaled by g, which falls with the distance that clusters move, so that stray hues follow the palette. In
//! lightness the line g·x is a rising curve f through the clusters: L' = f(L) + Σ ω_i (t_i − f(c_i)), so that the
//! weights only add what a curve cannot reach, and order is kept where targets allow. Colours that leave the gamut give
//! up chroma, not hue.

use std::sync::Arc;

use rayon::prelude::*;

use super::cluster::{Cluster, MAX_CLUSTERS};
use super::color::{ENCODE, ENCODE_SIZE, Lab, encode_index, encode_srgb};
use super::gamut;
pub use super::lightness::SLOPE_LIMITS;
use super::lightness::{Curve, Knees, isotonic};
use super::model::{BLOCK, ColorModel, LabPlanes, RadialBasis, SoftWeights, WEIGHT_ONE};
use super::simd::{exp_negative, vectorize};

/// Colours per piece of parallel work.
const PIECE: usize = 16 * BLOCK;

/// Weights stored per colour take 2 bytes a cluster; above this many bytes they are worked out again for every table.
const STORED_WEIGHT_BYTES: usize = 24 << 20;

/// A list of colours prepared for any number of soft maps: coordinates and weights.
///
/// Colour tables cover the list and one more entry, transparent black, for hidden pixels.
#[derive(Debug, Clone)]
pub struct ColorSet<'a> {
    colors: &'a [u32],
    labs: &'a LabPlanes,
    weights: Arc<ColorWeights>,
}

/// Soft weights of a list of colours on one model: what a [`ColorSet`] has beside the colours themselves.
#[derive(Debug, Clone)]
pub struct ColorWeights(Weighting);

#[derive(Debug, Clone)]
enum Weighting {
    /// Weights of every colour.
    Stored(SoftWeights),
    /// None: they are worked out again for every table.
    Recomputed(RadialBasis),
}

impl<'a> ColorSet<'a> {
    /// Prepares `colors`, whose coordinates are `labs`, for maps on `model`.
    ///
    /// Up to a bound on memory their weights are kept; beyond it, as for noise, each table works them out again, at
    /// about twice the time.
    pub fn new(model: &ColorModel, colors: &'a [u32], labs: &'a LabPlanes) -> Self {
        Self::bounded(model, colors, labs, STORED_WEIGHT_BYTES)
    }

    fn bounded(model: &ColorModel, colors: &'a [u32], labs: &'a LabPlanes, bytes: usize) -> Self {
        Self::weighted(colors, labs, Arc::new(ColorWeights::bounded(model, labs, bytes)))
    }

    /// The same with `weights` that were made before, of the same `labs`.
    pub fn weighted(colors: &'a [u32], labs: &'a LabPlanes, weights: Arc<ColorWeights>) -> Self {
        Self { colors, labs, weights }
    }

    /// The colours, packed.
    pub fn colors(&self) -> &'a [u32] {
        self.colors
    }
}

impl ColorWeights {
    /// Weights of the colours at `labs`, kept as [`ColorSet::new`] says.
    pub fn new(model: &ColorModel, labs: &LabPlanes) -> Self {
        Self::bounded(model, labs, STORED_WEIGHT_BYTES)
    }

    fn bounded(model: &ColorModel, labs: &LabPlanes, bytes: usize) -> Self {
        Self(if labs.len() * model.clusters().len() * 2 <= bytes {
            Weighting::Stored(model.weights(labs))
        } else {
            Weighting::Recomputed(model.basis().clone())
        })
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Weighting::Stored(weights) => weights.planes.iter().map(|plane| 2 * plane.len()).sum(),
            Weighting::Recomputed(_) => size_of::<Self>(),
        }
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

/// How a map follows its targets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// The slope of lightness beyond the outermost clusters, which also limits it between them; within [`SLOPE_LIMITS`], see
    /// [`slope`].
    pub slope: f32,
    /// How far hue and chroma are aimed beside the targets, as a share of what is missing, so that the mean of each
    /// region, not only its centre, comes to lie on its target: weights, slopes and the gamut bend what lies around a
    /// centre. 0 to [`SETTLING`].
    pub settling: f32,
}

/// The most that [`Shape::settling`] takes: more overshoots.
pub const SETTLING: f32 = 0.5;

/// A map of colours for one palette.
#[derive(Debug, Clone)]
pub struct SoftMap {
    /// Per cluster: t − f(c) in L, t − g·c in a and b; and t_L.
    offsets: Vec<[f32; 4]>,
    curve: Curve,
    /// g of a and b.
    chroma_slope: f32,
    strength: f32,
    anchors: Vec<Anchor>,
    /// Lightness to add to neutral colours, by source lightness in 256 steps; none where the map is monotone.
    guard: Option<Box<[f32; 256]>>,
    knees: Knees,
}

/// Lightness added where chroma shrinks towards black, so that it does not shrink abruptly for very dark targets.
const SHADE_MARGIN: f32 = 8.0;

/// How far from its target a centre may be aimed, so that the target itself stays in the picture, ΔE 1976.
const AIM_REACH: f32 = 5.0;
/// How often the aims are moved by [`Shape::settling`].
const SETTLING_ROUNDS: usize = 2;

/// How often the guard of grey ramps is mended at most, and by how much of what is missing: some of it gets lost, and
/// from 2.5 on it overshoots.
const GUARD_ROUNDS: usize = 24;
const GUARD_GAIN: f32 = 1.6;

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

/// Detail of a and b that is kept when clusters move by [`FAR`] or more on average.
const CHROMA_DETAIL: f32 = 0.55;
/// Mean move of the clusters, ΔE 1976, from which on chroma detail is down to [`CHROMA_DETAIL`].
const FAR: f32 = 20.0;

/// The factor of chroma detail: 1 for a palette of the picture's own colours.
fn chroma_slope(model: &ColorModel, targets: &[Lab]) -> f32 {
    let moved: f32 = model.clusters().iter().zip(targets).map(|(c, t)| c.share * c.center.distance(*t)).sum();
    // The half unit that rounding to 8 bits can move a centre does not count.
    1.0 - (1.0 - CHROMA_DETAIL) * ((moved - 0.5) / FAR).clamp(0.0, 1.0)
}

impl SoftMap {
    /// A map that sends cluster i to `targets[i]`, or near it in hue and chroma as `shape` says.
    ///
    /// `strength` is 0 (nothing moves) to 1; `anchors` override the map around single colours.
    pub fn new(model: &ColorModel, targets: &[Lab], shape: Shape, strength: f32, anchors: Vec<Anchor>) -> Self {
        // A target that is the centre but for rounding to 8 bits is the centre: nothing moves.
        let settled = |(c, t): (&Cluster, &Lab)| if t.to_rgb8() == c.center.to_rgb8() { c.center } else { *t };
        let targets: Vec<Lab> = model.clusters().iter().zip(targets).map(settled).collect();
        let moves = || model.clusters().iter().zip(&targets);
        let curve = Curve::new(moves().map(|(c, t)| (c.center.l, t.l, c.share)), shape.slope);
        let chroma_slope = chroma_slope(model, &targets);
        let offset = |(c, t): (&Cluster, &Lab)| {
            let (a, b) = (chroma_slope * c.center.a, chroma_slope * c.center.b);
            [t.l - curve.at(c.center.l), t.a - a, t.b - b, t.l]
        };
        let mut map = Self {
            offsets: moves().map(offset).collect(),
            curve,
            chroma_slope,
            strength,
            anchors: Vec::new(),
            guard: None,
            knees: Knees::NONE,
        };
        if strength > 0.0 && !map.offsets.is_empty() {
            let probes = model.probes();
            let (low, high) = map.lightness_range(&probes.labs, &probes.weights);
            map.knees = Knees::new(low, high, &targets);
            map.settle(model, &targets, shape.settling);
        }
        map.guard_greys(model);
        // What an anchor has to add depends on where the map would send its colour, so anchors come last.
        map.anchors = anchors.into_iter().map(|a| Anchor { to: a.from.lerp(a.to, strength), ..a }).collect();
        map
    }

    /// Aims hue and chroma beside the targets by a share of what the regions' means miss of them. A region whose mean is
    /// not its centre to begin with keeps that difference.
    ///
    /// Lightness stays: moving it would make up for little and disturb its order.
    fn settle(&mut self, model: &ColorModel, targets: &[Lab], share: f32) {
        if share == 0.0 {
            return;
        }
        let regions = model.regions();
        let full = Self { strength: 1.0, ..self.clone() };
        let mut aims = vec![[0f32; 2]; targets.len()];
        for _ in 0..SETTLING_ROUNDS {
            let offsets = full.offsets.iter().zip(&aims).map(|(o, aim)| [o[0], o[1] + aim[0], o[2] + aim[1], o[3]]);
            let out = Self { offsets: offsets.collect(), ..full.clone() }.labs(&regions.labs, &regions.weights);
            let means = regions.means(&LabPlanes::new(&pack_labs(&out)));
            for (i, (aim, mean)) in aims.iter_mut().zip(means).enumerate() {
                // A flat colour is its region, and must not leave its target for the sake of smoothed edges around it.
                let Some(mean) = mean.filter(|_| !regions.flat[i]) else { continue };
                let (target, own, center) = (targets[i], regions.own[i], model.clusters()[i].center);
                aim[0] += share * (target.a - mean.a + own.a - center.a);
                aim[1] += share * (target.b - mean.b + own.b - center.b);
                let far = (aim[0] * aim[0] + aim[1] * aim[1]).sqrt();
                *aim = aim.map(|v| v * (AIM_REACH / far.max(AIM_REACH)));
            }
        }
        for (offset, aim) in self.offsets.iter_mut().zip(aims) {
            offset[1] += aim[0];
            offset[2] += aim[1];
        }
    }

    /// Adds to the lightness of greys what keeps a grey ramp from darkening on its way up. Knees and gamut mapping take
    /// some of what is added, so it is added to until the colours that come out rise.
    fn guard_greys(&mut self, model: &ColorModel) {
        if self.strength == 0.0 || self.offsets.is_empty() {
            return;
        }
        let ramp = LabPlanes { l: (0..256).map(|i| i as f32 / 2.55).collect(), a: vec![0.0; 256], b: vec![0.0; 256] };
        let weights = model.weights(&ramp);
        // A source step is 1/2.55 of lightness; keep at least a tenth of it.
        let least = |i: usize| i as f32 * 0.1 * self.strength / 2.55;
        for _ in 0..GUARD_ROUNDS {
            let mapped = self.labs(&ramp, &weights);
            let mut fitted: Vec<[f32; 3]> = (0..256).map(|i| mapped.get(i).to_linear()).collect();
            gamut::fit_all(&mut fitted);
            let rest: Vec<(f32, f32)> =
                fitted.into_iter().enumerate().map(|(i, rgb)| (Lab::from_linear(rgb).l - least(i), 1.0)).collect();
            let rising = isotonic(&rest);
            if rising.iter().zip(&rest).all(|(x, y)| (x - y.0).abs() <= 0.05) {
                break;
            }
            let guard = self.guard.get_or_insert_with(|| Box::new([0.0; 256]));
            for (slot, (x, y)) in guard.iter_mut().zip(rising.iter().zip(&rest)) {
                *slot += GUARD_GAIN * (x - y.0) / self.strength;
            }
        }
    }

    /// Where colours go, before they are brought into the gamut.
    pub fn labs(&self, labs: &LabPlanes, weights: &SoftWeights) -> LabPlanes {
        let n = labs.len();
        let mut out = LabPlanes { l: vec![0.0; n], a: vec![0.0; n], b: vec![0.0; n] };
        vectorize(
            #[inline(always)]
            || {
                let planes = out.l.chunks_mut(BLOCK).zip(out.a.chunks_mut(BLOCK)).zip(out.b.chunks_mut(BLOCK));
                for (i, ((l, a), b)) in planes.enumerate() {
                    let (start, len) = (i * BLOCK, l.len());
                    let mut spare = NO_LABS;
                    let lab = lab_block(labs, start, len, &mut spare);
                    let block = self.move_block(&lab, &self.stored_shift(weights, start, len));
                    l.copy_from_slice(&block[0][..len]);
                    a.copy_from_slice(&block[1][..len]);
                    b.copy_from_slice(&block[2][..len]);
                }
            },
        );
        out
    }

    /// The least and the most lightness of [`Self::labs`], without keeping any of it.
    fn lightness_range(&self, labs: &LabPlanes, weights: &SoftWeights) -> (f32, f32) {
        let (mut low, mut high) = ([f32::MAX; BLOCK], [f32::MIN; BLOCK]);
        vectorize(
            #[inline(always)]
            || {
                for start in (0..labs.len()).step_by(BLOCK) {
                    let len = BLOCK.min(labs.len() - start);
                    let mut spare = NO_LABS;
                    let lab = lab_block(labs, start, len, &mut spare);
                    let block = self.move_block(&lab, &self.stored_shift(weights, start, len));
                    for ((low, high), &l) in low.iter_mut().zip(&mut high).zip(&block[0][..len]) {
                        *low = low.min(l);
                        *high = high.max(l);
                    }
                }
            },
        );
        (low.into_iter().fold(f32::MAX, f32::min), high.into_iter().fold(f32::MIN, f32::max))
    }

    /// The table of output colours: one packed opaque entry a colour of `set`, then one of transparent black.
    pub fn table(&self, set: &ColorSet<'_>) -> Vec<u32> {
        let n = set.colors.len();
        let mut table = vec![0u32; n + 1];
        if self.strength == 0.0 || self.offsets.is_empty() {
            table[..n].copy_from_slice(set.colors);
            return table;
        }
        table[..n].par_chunks_mut(PIECE).enumerate().for_each(|(p, out)| {
            vectorize(
                #[inline(always)]
                || {
                    for (b, out) in out.chunks_mut(BLOCK).enumerate() {
                        let start = p * PIECE + b * BLOCK;
                        let mut spare = NO_LABS;
                        let lab = lab_block(set.labs, start, out.len(), &mut spare);
                        let shift = match &set.weights.0 {
                            Weighting::Stored(weights) => self.stored_shift(weights, start, out.len()),
                            Weighting::Recomputed(basis) => self.recomputed_shift(basis, &lab),
                        };
                        let moved = self.move_block(&lab, &shift);
                        pack_block([&moved[0], &moved[1], &moved[2]], out);
                    }
                },
            );
        });
        table
    }

    /// Σ ω_i·offset_i of a block of colours whose weights are stored.
    #[inline(always)]
    fn stored_shift(&self, weights: &SoftWeights, start: usize, len: usize) -> [[f32; BLOCK]; 4] {
        // Sums stay in registers: eight colours at a time, all clusters, one store.
        const LANES: usize = 8;
        let mut spare = [[0u16; BLOCK]; MAX_CLUSTERS];
        let mut rows: [&[u16; BLOCK]; MAX_CLUSTERS] = [&[0; BLOCK]; MAX_CLUSTERS];
        for ((row, plane), spare) in rows.iter_mut().zip(&weights.planes).zip(&mut spare) {
            *row = block(plane, start, len, spare);
        }
        let k = self.offsets.len().min(MAX_CLUSTERS);
        let mut shift = [[0f32; BLOCK]; 4];
        for lane in 0..BLOCK / LANES {
            let mut sums = [[0f32; LANES]; 4];
            for (row, offset) in rows[..k].iter().zip(&self.offsets) {
                let weights = row.as_chunks::<LANES>().0[lane];
                for i in 0..LANES {
                    let w = f32::from(weights[i]) * (1.0 / WEIGHT_ONE);
                    for (sum, o) in sums.iter_mut().zip(offset) {
                        sum[i] += w * o;
                    }
                }
            }
            for (plane, sum) in shift.iter_mut().zip(&sums) {
                plane[lane * LANES..][..LANES].copy_from_slice(sum);
            }
        }
        shift
    }

    /// The same, working the weights out.
    #[inline(always)]
    fn recomputed_shift(&self, basis: &RadialBasis, lab: &[&[f32; BLOCK]; 3]) -> [[f32; BLOCK]; 4] {
        let mut shift = [[0f32; BLOCK]; 4];
        for (weights, offset) in basis.weigh_block(lab[0], lab[1], lab[2]).iter().zip(&self.offsets) {
            add_scaled(&mut shift, weights, offset);
        }
        shift
    }

    #[inline(always)]
    fn move_block(&self, lab: &[&[f32; BLOCK]; 3], shift: &[[f32; BLOCK]; 4]) -> [[f32; BLOCK]; 3] {
        let mut out = [[0f32; BLOCK]; 3];
        // Look-ups in a loop of their own, so that the others vectorise.
        let (mut place, mut part) = ([0u32; BLOCK], [0f32; BLOCK]);
        for i in 0..BLOCK {
            let at = (lab[0][i] * 2.55).clamp(0.0, 255.0);
            let below = at.floor();
            // The whole number, from the low bits; a cast would saturate, and not vectorise.
            place[i] = (below + 8_388_608.0).to_bits() & 255;
            part[i] = at - below;
        }
        let curve = look_up(self.curve.steps(), &place, &part);
        for i in 0..BLOCK {
            out[0][i] = curve[i] + shift[0][i];
        }
        if let Some(guard) = &self.guard {
            let add = look_up(guard, &place, &part);
            for i in 0..BLOCK {
                let chroma_squared = lab[1][i] * lab[1][i] + lab[2][i] * lab[2][i];
                out[0][i] += add[i] * exp_negative(chroma_squared * (-1.0 / 400.0));
            }
        }
        for i in 0..BLOCK {
            let l = self.knees.apply(out[0][i]);
            // A colour darker than its target takes less of the target's chroma, as a shaded surface does.
            let shade = (l + SHADE_MARGIN) / (shift[3][i] + SHADE_MARGIN);
            let share = self.strength * shade.clamp(0.0, 1.0);
            out[0][i] = lab[0][i] + self.strength * (l - lab[0][i]);
            out[1][i] = lab[1][i] + share * (shift[1][i] + (self.chroma_slope - 1.0) * lab[1][i]);
            out[2][i] = lab[2][i] + share * (shift[2][i] + (self.chroma_slope - 1.0) * lab[2][i]);
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
}

/// Values between the steps of a table.
#[inline(always)]
fn look_up(steps: &[f32; 256], place: &[u32; BLOCK], part: &[f32; BLOCK]) -> [f32; BLOCK] {
    let (mut low, mut high) = ([0f32; BLOCK], [0f32; BLOCK]);
    for i in 0..BLOCK {
        low[i] = steps[place[i] as usize & 255];
        high[i] = steps[(place[i] as usize + 1).min(255)];
    }
    for i in 0..BLOCK {
        low[i] += part[i] * (high[i] - low[i]);
    }
    low
}

#[inline(always)]
fn add_scaled(shift: &mut [[f32; BLOCK]; 4], weights: &[f32; BLOCK], offset: &[f32; 4]) {
    let [l, a, b, target] = shift;
    for i in 0..BLOCK {
        l[i] += weights[i] * offset[0];
        a[i] += weights[i] * offset[1];
        b[i] += weights[i] * offset[2];
        target[i] += weights[i] * offset[3];
    }
}

/// Room for the coordinates of a last, shorter block.
type LabBlock = [[f32; BLOCK]; 3];

const NO_LABS: LabBlock = [[0f32; BLOCK]; 3];

/// A block of coordinates, the last one padded with black.
#[inline(always)]
fn lab_block<'a>(labs: &'a LabPlanes, start: usize, len: usize, spare: &'a mut LabBlock) -> [&'a [f32; BLOCK]; 3] {
    let [l, a, b] = spare;
    [block(&labs.l, start, len, l), block(&labs.a, start, len, a), block(&labs.b, start, len, b)]
}

/// `BLOCK` values of a plane where there are so many, else what there is, in `spare`.
#[inline(always)]
fn block<'a, T: Copy>(plane: &'a [T], start: usize, len: usize, spare: &'a mut [T; BLOCK]) -> &'a [T; BLOCK] {
    let values = &plane[start..start + len];
    if let Some(whole) = values.first_chunk() {
        return whole;
    }
    spare[..len].copy_from_slice(values);
    spare
}

/// Brings a block of Lab colours into the gamut, codes it and packs it.
#[inline(always)]
fn pack_block(lab: [&[f32; BLOCK]; 3], out: &mut [u32]) {
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
        excess[i] = gamut::excess([r, g, b]);
    }
    let worst = excess[..out.len()].iter().copied().fold(f32::MIN, f32::max);
    let code = |index: u32| u32::from(encode[index as usize & (ENCODE_SIZE - 1)]);
    for (i, slot) in out.iter_mut().enumerate() {
        *slot = code(codes[0][i]) | code(codes[1][i]) << 8 | code(codes[2][i]) << 16 | 0xff00_0000;
    }
    if worst > gamut::SLACK {
        fit_block(&linear, &excess, out);
    }
}

/// Fits those colours of a block whose excess is above the slack into the gamut.
#[inline(always)]
fn fit_block(linear: &[[f32; BLOCK]; 3], excess: &[f32; BLOCK], out: &mut [u32]) {
    let mut place = [0usize; BLOCK];
    let mut found = 0;
    for (i, &e) in excess.iter().enumerate().take(out.len()) {
        place[found] = i;
        found += usize::from(e > gamut::SLACK);
    }
    const LANES: usize = 16;
    for places in place[..found].chunks(LANES) {
        // Spare lanes repeat the first colour.
        let mut rgb = [[0f32; LANES]; 3];
        for n in 0..LANES {
            let i = places[if n < places.len() { n } else { 0 }];
            for (plane, from) in rgb.iter_mut().zip(linear) {
                plane[n] = from[i];
            }
        }
        let fitted = gamut::fit_lanes(&rgb);
        for (n, &i) in places.iter().enumerate() {
            let [r, g, b] = [fitted[0][n], fitted[1][n], fitted[2][n]].map(encode_srgb);
            out[i] = u32::from_le_bytes([r, g, b, 255]);
        }
    }
}

/// Packs Lab colours as a table does: into the gamut, coded, opaque.
pub fn pack_labs(labs: &LabPlanes) -> Vec<u32> {
    let mut out = vec![0u32; labs.len()];
    out.par_chunks_mut(PIECE).enumerate().for_each(|(p, out)| {
        vectorize(
            #[inline(always)]
            || {
                for (b, out) in out.chunks_mut(BLOCK).enumerate() {
                    let start = p * PIECE + b * BLOCK;
                    let mut spare = NO_LABS;
                    pack_block(lab_block(labs, start, out.len(), &mut spare), out);
                }
            },
        );
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cluster;
    use crate::kernel::color::{Rgb8, delta_e_2000};
    use crate::kernel::image::BaseImage;
    use crate::kernel::quality::gain::NeighborPairs;
    use crate::kernel::unique::IndexedImage;

    /// A smooth field with five regions, as photographs have.
    fn model() -> (IndexedImage, LabPlanes, ColorModel) {
        let (w, h) = (160u32, 120u32);
        let mut rgb = Vec::new();
        for y in 0..h {
            for x in 0..w {
                let (u, v) = (x as f32 / w as f32, y as f32 / h as f32);
                let wave = |f: f32, p: f32| 0.5 + 0.5 * (f * u + 3.0 * v * f + p).sin();
                rgb.extend([wave(5.0, 0.0), wave(4.0, 2.0), wave(3.0, 4.0)].map(|c| (c * 255.0) as u8));
            }
        }
        let image = IndexedImage::new(BaseImage::new(w, h, rgb, None).unwrap(), 0);
        let labs = LabPlanes::new(image.colors());
        let neighbors = NeighborPairs::new(image.colors(), 4096);
        let points = cluster::bins(image.colors(), [&labs.l, &labs.a, &labs.b], image.counts());
        let seeding = cluster::Seeding::new(points, MAX_CLUSTERS);
        let model = ColorModel::new(&image, &labs, &seeding, &neighbors, 5, 50);
        (image, labs, model)
    }

    fn shape(slope: f32) -> Shape {
        Shape { slope, settling: 0.0 }
    }

    fn targets() -> Vec<Lab> {
        ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"]
            .iter()
            .map(|c| c.parse::<Rgb8>().unwrap().lab())
            .collect()
    }

    #[test]
    fn centers_as_their_own_targets_change_nothing_by_more_than_one_code() {
        let (image, labs, model) = model();
        let own: Vec<Lab> = model.clusters().iter().map(|c| c.center.to_rgb8().lab()).collect();
        let map = SoftMap::new(&model, &own, Shape { slope: slope(&model, &own), settling: SETTLING }, 1.0, Vec::new());
        let set = ColorSet::new(&model, image.colors(), &labs);
        for (from, to) in image.colors().iter().zip(map.table(&set)) {
            let off = from.to_le_bytes().iter().zip(to.to_le_bytes()).map(|(x, y)| x.abs_diff(y)).max();
            assert!(off <= Some(1), "{:?} {:?}", Rgb8::from_packed(*from), Rgb8::from_packed(to));
        }
    }

    #[test]
    fn strength_zero_is_the_picture_itself() {
        let (image, labs, model) = model();
        let map = SoftMap::new(&model, &targets(), shape(1.0), 0.0, Vec::new());
        let table = map.table(&ColorSet::new(&model, image.colors(), &labs));
        assert_eq!(&table[..image.colors().len()], image.colors());
    }

    #[test]
    fn weights_worked_out_again_give_the_same_colors_within_a_code() {
        let (image, labs, model) = model();
        let map = SoftMap::new(&model, &targets(), shape(0.8), 1.0, Vec::new());
        let stored = map.table(&ColorSet::new(&model, image.colors(), &labs));
        let again = map.table(&ColorSet::bounded(&model, image.colors(), &labs, 0));
        for (x, y) in stored.iter().zip(&again) {
            assert!(x.to_le_bytes().iter().zip(y.to_le_bytes()).all(|(x, y)| x.abs_diff(y) <= 1));
            let apart = delta_e_2000(Rgb8::from_packed(*x).lab(), Rgb8::from_packed(*y).lab());
            assert!(apart <= 1.0, "{apart}");
        }
    }

    #[test]
    fn anchors_land_exactly_and_protected_colors_stay() {
        let (image, labs, model) = model();
        let from = Rgb8::from_packed(image.colors()[image.colors().len() / 2]);
        let to = Rgb8::new(10, 120, 200);
        for (anchor, expected) in [(to, to), (from, from)] {
            let anchors = vec![Anchor { from: from.lab(), to: anchor.lab() }];
            let map = SoftMap::new(&model, &targets(), shape(0.8), 1.0, anchors);
            let table = map.table(&ColorSet::new(&model, image.colors(), &labs));
            let at = image.colors().iter().position(|&c| c == from.packed()).unwrap();
            assert_eq!(Rgb8::from_packed(table[at]), expected);
        }
    }

    #[test]
    fn anchors_go_part_of_the_way_where_strength_does() {
        let (image, labs, model) = model();
        let from = Rgb8::from_packed(image.colors()[image.colors().len() / 2]);
        let to = Rgb8::new(10, 120, 200);
        let anchors = vec![Anchor { from: from.lab(), to: to.lab() }];
        let map = SoftMap::new(&model, &targets(), shape(0.8), 0.25, anchors);
        let table = map.table(&ColorSet::new(&model, image.colors(), &labs));
        let at = image.colors().iter().position(|&c| c == from.packed()).unwrap();
        assert_eq!(Rgb8::from_packed(table[at]), from.lab().lerp(to.lab(), 0.25).to_rgb8());
    }

    #[test]
    fn grey_ramps_never_darken_on_their_way_up() {
        let (_, _, model) = model();
        let ramp: Vec<u32> = (0..=255u8).map(|v| Rgb8::new(v, v, v).packed()).collect();
        let labs = LabPlanes::new(&ramp);
        // Targets against the order of lightness: the guard has work to do.
        let mut targets = targets();
        targets.sort_by(|x, y| y.l.total_cmp(&x.l));
        let map = SoftMap::new(&model, &targets, shape(0.6), 1.0, Vec::new());
        let out = map.labs(&labs, &model.weights(&labs));
        assert!(out.l.windows(2).all(|w| w[1] >= w[0] - 1e-3), "{:?}", out.l);
    }

    #[test]
    fn settled_regions_lie_nearer_to_their_targets() {
        let (_, _, model) = model();
        let regions = model.regions();
        let miss = |settling: f32| -> f32 {
            let map = SoftMap::new(&model, &targets(), Shape { slope: 0.8, settling }, 1.0, Vec::new());
            let out = LabPlanes::new(&pack_labs(&map.labs(&regions.labs, &regions.weights)));
            let off = |(mean, target): (Option<Lab>, Lab)| {
                mean.map_or(0.0, |m| ((m.a - target.a).powi(2) + (m.b - target.b).powi(2)).sqrt())
            };
            regions.means(&out).into_iter().zip(targets()).map(off).sum()
        };
        let (loose, settled) = (miss(0.0), miss(SETTLING));
        assert!(settled < 0.7 * loose, "{loose} {settled}");
    }
}
