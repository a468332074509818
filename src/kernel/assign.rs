//! Which palette colour each cluster of the picture becomes.
//!
//! Pins come first, then roles, then the assignment of least energy: clusters want a colour of their own rank in
//! lightness, of their chroma and hue, weighted by area; clusters that touch must not be pulled far apart (that is what
//! tears walls and skies); every palette colour should be used; the order of lightness should be kept. The weight of the
//! contact term rises until the predicted gain of the map is acceptable, so what was traded is known and reported.

use super::cluster::{self, Cluster, SplitMix64};
use super::color::Lab;
use super::gamut;
use super::model::ColorModel;
use super::palette::{Palette, Role};
use super::recolor::{self, Anchor, Shape, SoftMap};

/// The outcome: where every cluster goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Target of each cluster, inside the gamut.
    pub targets: Vec<Lab>,
    /// Palette colour of each cluster; `None` for clusters that stay because they are protected.
    pub colors: Vec<Option<usize>>,
    /// Palette colours that no cluster took.
    pub unused: Vec<usize>,
    /// Lightness detail, and how closely regions follow.
    pub shape: Shape,
    /// Pins and protected colours, exact.
    pub anchors: Vec<Anchor>,
    /// 99.9th percentile of the map's gain over the model's probe pairs.
    pub predicted_gain: f32,
    /// How much more than normal contacts counted, 1 for not at all.
    pub contact_weight: f32,
}

/// A gain (99.9th percentile, after rounding) that needs no more trading.
const ACCEPTABLE_GAIN: f32 = 4.5;
/// A gain that shows as tears.
const TEARING_GAIN: f32 = 7.0;
/// Weights of the contact term that are tried in turn, until the gain is acceptable and no colour is left out.
const CONTACT_WEIGHTS: [f32; 6] = [0.25, 0.06, 1.0, 4.0, 16.0, 64.0];
/// Lightness detail is not flattened below this to lower the gain.
const GENTLE_SLOPE: f32 = 0.6;
/// What regions may add to the gain by following their targets more closely, a factor.
const SETTLED_GAIN: f32 = 1.12;
/// A gain up to which they may in any case.
const SETTLED_ANYWAY: f32 = 4.0;
/// Random starts of the search, besides the two sensible ones.
const RANDOM_STARTS: usize = 10;
/// A pin or a protected colour takes the nearest cluster along when it is nearer than this.
const PIN_REACH: f32 = 20.0;
/// Lightness and chroma differences among clusters that share a colour, as kept by its tints.
const TINT_LIGHTNESS: f32 = 0.6;
const TINT_CHROMA: f32 = 0.2;
/// Tints stay between these lightnesses, so that they do not merge in white or black.
const TINT_RANGE: (f32, f32) = (3.0, 98.5);

/// Assigns the clusters of `model` to the colours of `palette`. Deterministic.
pub fn assign(model: &ColorModel, palette: &Palette) -> Assignment {
    let labs: Vec<Lab> = palette.colors().iter().map(|c| c.lab()).collect();
    let fixed = fix(model, palette);
    let anchors = anchors(palette);
    let mut best: Option<(f32, Assignment)> = None;
    for contact_weight in CONTACT_WEIGHTS {
        let search = Search::new(model, &labs, &fixed, contact_weight);
        let colors = search.solve();
        if best.as_ref().is_some_and(|b| b.1.colors == colors) {
            continue;
        }
        let targets = targets(model, &labs, &colors, &fixed);
        let mut shape = Shape { slope: recolor::slope(model, &targets), settling: 0.0 };
        let mut predicted_gain = predict(model, &targets, shape);
        if predicted_gain > ACCEPTABLE_GAIN && shape.slope > GENTLE_SLOPE {
            // Steep lightness detail is the cheapest thing to give up.
            let gentler = Shape { slope: (shape.slope * 0.75).max(GENTLE_SLOPE), ..shape };
            let gain = predict(model, &targets, gentler);
            if gain < predicted_gain {
                (shape, predicted_gain) = (gentler, gain);
            }
        }
        let unused: Vec<usize> = (0..labs.len()).filter(|p| !colors.contains(&Some(*p))).collect();
        let regret = regret(predicted_gain, unused.len(), contrast(&targets, &labs));
        if best.as_ref().is_none_or(|b| regret < b.0) {
            let anchors = anchors.clone();
            let found = Assignment { targets, colors, unused, shape, anchors, predicted_gain, contact_weight };
            best = Some((regret, found));
        }
        let spare = labs.len().saturating_sub(model.clusters().len());
        if best.as_ref().is_some_and(|(_, b)| b.predicted_gain <= ACCEPTABLE_GAIN && b.unused.len() <= spare) {
            break;
        }
    }
    // CONTACT_WEIGHTS is not empty, and the first round always fills `best`.
    best.map(|b| settled(model, b.1)).unwrap_or_else(|| Assignment {
        targets: Vec::new(),
        colors: Vec::new(),
        unused: (0..labs.len()).collect(),
        shape: Shape { slope: 1.0, settling: 0.0 },
        anchors,
        predicted_gain: 1.0,
        contact_weight: 1.0,
    })
}

/// The assignment with regions that follow their targets as closely as the gain allows. What is assigned does not depend
/// on it: a palette used in full is worth more.
fn settled(model: &ColorModel, mut found: Assignment) -> Assignment {
    let bearable = (SETTLED_GAIN * found.predicted_gain).clamp(SETTLED_ANYWAY, TEARING_GAIN.max(found.predicted_gain));
    for settling in [recolor::SETTLING, recolor::SETTLING / 2.0] {
        let shape = Shape { settling, ..found.shape };
        let gain = predict(model, &found.targets, shape);
        if gain <= bearable {
            (found.shape, found.predicted_gain) = (shape, gain);
            break;
        }
    }
    found
}

/// The gain of a map at full strength, after gamut mapping and rounding.
fn predict(model: &ColorModel, targets: &[Lab], shape: Shape) -> f32 {
    let probes = model.probes();
    let map = SoftMap::new(model, targets, shape, 1.0, Vec::new());
    let out = recolor::pack_labs(&map.labs(&probes.labs, &probes.weights));
    probes.pairs.steepness(&out).map_or(1.0, |(p999, _)| p999 as f32)
}

/// What a candidate costs, in units of gain above the acceptable: an unused brand colour 1.6, each further one 0.8 more
/// than the one before, gain that the eye takes for a tear four times its excess, and lost contrast up to 3.
fn regret(gain: f32, unused: usize, contrast: f32) -> f32 {
    let unused = unused as f32;
    (gain - ACCEPTABLE_GAIN).max(0.0)
        + 3.0 * (gain - TEARING_GAIN).max(0.0)
        + unused * (1.2 + 0.4 * unused)
        + 4.0 * (0.75 - contrast).max(0.0)
}

/// How much of the palette's range of lightness the targets span, 0..=1.
fn contrast(targets: &[Lab], labs: &[Lab]) -> f32 {
    let range = |labs: &[Lab]| {
        let (low, high) = labs.iter().fold((f32::MAX, f32::MIN), |(low, high), c| (low.min(c.l), high.max(c.l)));
        high - low
    };
    if labs.len() < 2 || targets.len() < 2 { 1.0 } else { (range(targets) / range(labs).max(1.0)).clamp(0.0, 1.0) }
}

/// What a cluster may become.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Choice {
    Free,
    Color(usize),
    Stays,
}

fn fix(model: &ColorModel, palette: &Palette) -> Vec<Choice> {
    let clusters = model.clusters();
    let mut fixed = vec![Choice::Free; clusters.len()];
    let index_of = |color| palette.colors().iter().position(|&c| c == color);
    let mut claim = |from: Lab, choice: Choice| {
        let i = cluster::nearest(clusters, from);
        if clusters.get(i).is_some_and(|c| c.center.distance(from) < PIN_REACH) && fixed[i] == Choice::Free {
            fixed[i] = choice;
        }
    };
    for color in palette.protect() {
        claim(color.lab(), Choice::Stays);
    }
    for &(from, to) in palette.pins() {
        if let Some(p) = index_of(to) {
            claim(from.lab(), Choice::Color(p));
        }
    }
    // Background first: it is the most recognisable region, and primary and secondary are what is left by area.
    for role in [Role::Background, Role::Primary, Role::Secondary, Role::Accent, Role::Highlight] {
        let Some(p) = palette.roles().iter().find(|(r, _)| *r == role).and_then(|&(_, color)| index_of(color)) else {
            continue;
        };
        let free = (0..clusters.len()).filter(|&i| fixed[i] == Choice::Free);
        let chosen = match role {
            Role::Background => free.max_by(|&x, &y| model.border(x).total_cmp(&model.border(y)).then(y.cmp(&x))),
            Role::Primary | Role::Secondary => free.min(),
            Role::Accent => {
                let small: Vec<usize> = free.clone().filter(|&i| clusters[i].share < 0.15).collect();
                let from = if small.is_empty() { free.collect() } else { small };
                from.into_iter().max_by(|&x, &y| {
                    clusters[x].center.chroma().total_cmp(&clusters[y].center.chroma()).then(y.cmp(&x))
                })
            }
            Role::Highlight => {
                free.max_by(|&x, &y| clusters[x].center.l.total_cmp(&clusters[y].center.l).then(y.cmp(&x)))
            }
        };
        if let Some(i) = chosen {
            fixed[i] = Choice::Color(p);
        }
    }
    fixed
}

fn anchors(palette: &Palette) -> Vec<Anchor> {
    let pins = palette.pins().iter().map(|&(from, to)| Anchor { from: from.lab(), to: to.lab() });
    let protect = palette.protect().iter().map(|c| Anchor { from: c.lab(), to: c.lab() });
    pins.chain(protect).collect()
}

/// Targets of an assignment: one cluster of a colour is aimed at it, the others become its tints.
fn targets(model: &ColorModel, labs: &[Lab], colors: &[Option<usize>], fixed: &[Choice]) -> Vec<Lab> {
    let clusters = model.clusters();
    let exact: Vec<Option<usize>> = (0..labs.len()).map(|p| lands_on(clusters, labs[p], p, colors, fixed)).collect();
    colors
        .iter()
        .enumerate()
        .map(|(i, &color)| {
            let Some(p) = color else { return clusters[i].center };
            let first = exact[p].unwrap_or(i);
            if first == i {
                return labs[p];
            }
            let (from, here) = (clusters[first].center, clusters[i].center);
            let tint = Lab {
                l: bend(labs[p].l, TINT_LIGHTNESS * (here.l - from.l)),
                a: labs[p].a + TINT_CHROMA * (here.a - from.a),
                b: labs[p].b + TINT_CHROMA * (here.b - from.b),
            };
            Lab::from_linear(gamut::fit(tint.to_linear()))
        })
        .collect()
}

/// The cluster that stands for colour `p`: the one that a pin or a role gave it, else the largest that takes it. Where that
/// leaves the others too little room towards white, the lightest, so that clouds stay lighter than their sky; towards
/// black, the darkest.
fn lands_on(clusters: &[Cluster], color: Lab, p: usize, colors: &[Option<usize>], fixed: &[Choice]) -> Option<usize> {
    /// Lightness that may be lost without anybody missing it.
    const SPARE: f32 = 1.0;
    let sharing = || (0..colors.len()).filter(|&i| colors[i] == Some(p));
    if let Some(asked) = sharing().find(|&i| fixed[i] == Choice::Color(p)) {
        return Some(asked);
    }
    let lightness = |i: usize| clusters[i].center.l;
    // Clusters are sorted by share.
    let largest = sharing().next()?;
    let lightest = sharing().max_by(|&x, &y| lightness(x).total_cmp(&lightness(y)).then(y.cmp(&x)))?;
    let darkest = sharing().min_by(|&x, &y| lightness(x).total_cmp(&lightness(y)).then(x.cmp(&y)))?;
    let lacking = |step: f32, room: f32| TINT_LIGHTNESS * step - room.max(0.0);
    let up = lacking(lightness(lightest) - lightness(largest), TINT_RANGE.1 - color.l);
    let down = lacking(lightness(largest) - lightness(darkest), color.l - TINT_RANGE.0);
    Some(match () {
        () if up > SPARE && up >= down => lightest,
        () if down > SPARE => darkest,
        () => largest,
    })
}

/// `from + by`, slowing down before the ends of [`TINT_RANGE`] so that differing steps stay different.
fn bend(from: f32, by: f32) -> f32 {
    let room = if by >= 0.0 { TINT_RANGE.1 - from } else { from - TINT_RANGE.0 };
    if room <= 0.5 {
        return from;
    }
    from + by.signum() * room * (1.0 - (-by.abs() / room).exp())
}

/// How much a colour looks like skin, 0..=1: a warm hue of moderate chroma and lightness, whatever the complexion. People
/// accept a blue sky turned red, but not a green face.
fn skin_likeness(lab: Lab) -> f32 {
    let within =
        |v: f32, low: f32, high: f32, soft: f32| (((v - low) / soft).min((high - v) / soft) + 1.0).clamp(0.0, 1.0);
    let hue = lab.b.atan2(lab.a).to_degrees().rem_euclid(360.0);
    within(hue, 35.0, 75.0, 15.0) * within(lab.chroma(), 14.0, 42.0, 8.0) * within(lab.l, 35.0, 88.0, 8.0)
}

/// The energy of assignments, tabulated.
struct Search<'a> {
    fixed: &'a [Choice],
    n: usize,
    /// Cost of cluster i taking colour p.
    unary: Vec<f32>,
    /// Cost of clusters i and j taking colours p and q, `[((i·k + j)·n + p)·n + q]`.
    pair: Vec<f32>,
}

const LIGHTNESS_COST: f32 = 90.0;
const CHROMA_COST: f32 = 35.0;
const HUE_COST: f32 = 6.0;
const SKIN_COST: f32 = 900.0;
const UNUSED_COST: f32 = 40.0;
const CONTACT_COST: f32 = 6.0;
const INVERSION_COST: f32 = 30.0;
const INVERSION_CONTACT_COST: f32 = 1000.0;

impl<'a> Search<'a> {
    fn new(model: &ColorModel, labs: &[Lab], fixed: &'a [Choice], contact_weight: f32) -> Self {
        let clusters = model.clusters();
        let (k, n) = (clusters.len(), labs.len());
        let rank = |values: &[f32]| {
            let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            let range = (high - low).max(1.0);
            values.iter().map(|v| (v - low) / range).collect::<Vec<f32>>()
        };
        let from = rank(&clusters.iter().map(|c| c.center.l).collect::<Vec<_>>());
        let to = rank(&labs.iter().map(|t| t.l).collect::<Vec<_>>());
        // Chroma, too, is compared within the picture's and the palette's own ranges: all-vivid and all-muted palettes
        // would otherwise send everything to their least or most colourful member.
        let strongest = |values: &mut dyn Iterator<Item = Lab>| values.map(Lab::chroma).fold(30.0, f32::max);
        let from_chroma = strongest(&mut clusters.iter().map(|c| c.center));
        let to_chroma = strongest(&mut labs.iter().copied());
        let mut unary = vec![0f32; k * n];
        for (i, c) in clusters.iter().enumerate() {
            for (p, t) in labs.iter().enumerate() {
                let (cc, tc) = (c.center.chroma(), t.chroma());
                let cos = if cc > 1.0 && tc > 1.0 { (c.center.a * t.a + c.center.b * t.b) / (cc * tc) } else { 1.0 };
                let lightness = LIGHTNESS_COST * (from[i] - to[p]);
                let chroma = CHROMA_COST * (cc / from_chroma - tc / to_chroma);
                let hue = (HUE_COST * cc.min(tc) + SKIN_COST * skin_likeness(c.center)) * (1.0 - cos);
                unary[i * n + p] = c.share.sqrt() * (lightness * lightness + chroma * chroma + hue) / 20.0;
            }
        }
        let mut pair = vec![0f32; k * k * n * n];
        for i in 0..k {
            for j in (0..k).filter(|&j| j != i) {
                let apart = clusters[i].center.distance(clusters[j].center);
                let contact = model.contact(i, j) * contact_weight * CONTACT_COST;
                let weight = (clusters[i].share * clusters[j].share).sqrt();
                for p in 0..n {
                    for q in (0..n).filter(|&q| q != p) {
                        let stretch = (labs[p].distance(labs[q]) - 1.6 * apart - 6.0).max(0.0);
                        let inverted = (clusters[i].center.l - clusters[j].center.l > 4.0) && labs[p].l < labs[q].l
                            || (clusters[j].center.l - clusters[i].center.l > 4.0) && labs[q].l < labs[p].l;
                        // Touching regions that swap their order of lightness look solarised.
                        let depth = ((labs[p].l - labs[q].l).abs() / 10.0).min(3.0);
                        let touching = INVERSION_CONTACT_COST * model.contact(i, j);
                        let order = if inverted { (INVERSION_COST * weight + touching) * depth } else { 0.0 };
                        pair[((i * k + j) * n + p) * n + q] = contact * stretch * stretch + order;
                    }
                }
            }
        }
        Self { fixed, n, unary, pair }
    }

    fn solve(&self) -> Vec<Option<usize>> {
        let k = self.fixed.len();
        let mut random = SplitMix64::new(0x00c0_ffee);
        let mut best: Option<(f32, Vec<usize>)> = None;
        for start in 0..RANDOM_STARTS + 2 {
            let mut state: Vec<usize> = (0..k)
                .map(|i| match start {
                    0 => (0..self.n).min_by(|&p, &q| self.unary(i, p).total_cmp(&self.unary(i, q))).unwrap_or(0),
                    1 => i % self.n,
                    _ => (random.next() % self.n as u64) as usize,
                })
                .collect();
            for (slot, choice) in state.iter_mut().zip(self.fixed) {
                if let Choice::Color(p) = choice {
                    *slot = *p;
                }
            }
            self.descend(&mut state);
            let energy = self.energy(&state);
            if best.as_ref().is_none_or(|b| energy < b.0 - 1e-4) {
                best = Some((energy, state));
            }
        }
        let state = best.map(|b| b.1).unwrap_or_default();
        state.into_iter().zip(self.fixed).map(|(p, f)| (*f != Choice::Stays).then_some(p)).collect()
    }

    fn unary(&self, i: usize, p: usize) -> f32 {
        self.unary[i * self.n + p]
    }

    /// What cluster `i` costs when it takes `p`, given the others.
    fn local(&self, state: &[usize], i: usize, p: usize) -> f32 {
        let k = state.len();
        let mut cost = self.unary(i, p);
        for (j, &q) in state.iter().enumerate() {
            if j != i && self.fixed[j] != Choice::Stays {
                cost += self.pair[((i * k + j) * self.n + p) * self.n + q];
            }
        }
        cost
    }

    fn unused(&self, state: &[usize]) -> f32 {
        let mut seen = [false; super::palette::MAX_COLORS];
        for (&p, f) in state.iter().zip(self.fixed) {
            seen[p] |= *f != Choice::Stays;
        }
        UNUSED_COST * seen[..self.n].iter().filter(|s| !**s).count() as f32
    }

    fn energy(&self, state: &[usize]) -> f32 {
        let movable = (0..state.len()).filter(|&i| self.fixed[i] != Choice::Stays);
        // Pair costs are counted from both ends by `local`.
        let sum: f32 = movable.map(|i| 0.5 * (self.local(state, i, state[i]) + self.unary(i, state[i]))).sum();
        sum + self.unused(state)
    }

    /// Single moves and swaps while they lower the energy.
    fn descend(&self, state: &mut [usize]) {
        let free: Vec<usize> = (0..state.len()).filter(|&i| self.fixed[i] == Choice::Free).collect();
        for _ in 0..40 {
            let mut improved = false;
            for &i in &free {
                let (old, mut best) = (state[i], (0.0f32, state[i]));
                let (here, unused) = (self.local(state, i, old), self.unused(state));
                for p in (0..self.n).filter(|&p| p != old) {
                    state[i] = p;
                    let change = self.local(state, i, p) - here + self.unused(state) - unused;
                    if change < best.0 - 1e-4 {
                        best = (change, p);
                    }
                }
                state[i] = best.1;
                improved |= best.1 != old;
            }
            for (at, &i) in free.iter().enumerate() {
                for &j in &free[at + 1..] {
                    if state[i] == state[j] {
                        continue;
                    }
                    let before = self.local(state, i, state[i]) + self.local(state, j, state[j]);
                    let shared = self.shared(state, i, j);
                    state.swap(i, j);
                    let after = self.local(state, i, state[i]) + self.local(state, j, state[j]);
                    if after - self.shared(state, i, j) < before - shared - 1e-4 {
                        improved = true;
                    } else {
                        state.swap(i, j);
                    }
                }
            }
            if !improved {
                break;
            }
        }
    }

    fn shared(&self, state: &[usize], i: usize, j: usize) -> f32 {
        self.pair[((i * state.len() + j) * self.n + state[i]) * self.n + state[j]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(l: f32, share: f32) -> Cluster {
        Cluster { center: Lab { l, a: 0.0, b: 0.0 }, share }
    }

    #[test]
    fn the_largest_cluster_lands_on_a_shared_color_unless_the_others_lack_room() {
        // The sky, the cloud in it, the trees.
        let clusters = [cluster(80.0, 0.6), cluster(95.0, 0.3), cluster(30.0, 0.1)];
        let grey = |l: f32| Lab { l, a: 0.0, b: 0.0 };
        let shared = [Some(0), Some(0), Some(1)];
        let on = |color: f32, p: usize, colors: &[Option<usize>], fixed: &[Choice]| {
            lands_on(&clusters, grey(color), p, colors, fixed)
        };
        let free = [Choice::Free; 3];
        assert_eq!(on(60.0, 0, &shared, &free), Some(0));
        assert_eq!(on(97.0, 0, &shared, &free), Some(1), "clouds stay lighter than their sky");
        let all = [Some(0), Some(0), Some(0)];
        assert_eq!(on(8.0, 0, &all, &free), Some(2), "the darkest takes the dark");
        assert_eq!(on(50.0, 1, &all, &free), None);
        let asked = [Choice::Color(0), Choice::Free, Choice::Free];
        assert_eq!(on(97.0, 0, &shared, &asked), Some(0), "a role or a pin comes first");
        let alike = [cluster(92.0, 0.7), cluster(92.3, 0.01)];
        assert_eq!(lands_on(&alike, grey(100.0), 0, &all[..2], &free[..2]), Some(0), "nothing to gain on white");
    }

    #[test]
    fn leaving_colors_out_costs_more_and_more() {
        let lost = |unused: usize| regret(ACCEPTABLE_GAIN, unused, 1.0);
        assert_eq!(lost(0), 0.0);
        assert!((lost(1) - 1.6).abs() < 1e-5 && lost(3) - lost(2) > lost(2) - lost(1));
    }
}
