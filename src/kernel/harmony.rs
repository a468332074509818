//! Harmonic palettes from a picture's own colours, made in OKLCh.
//!
//! A picture gives a mood: its leading hue, a second and an accent hue, how colourful it is, and whether it is dark. A
//! recipe turns the mood into five colours on a staircase of lightness. Chroma is asked for as an amount and limited by
//! the sRGB gamut at that lightness and hue. Colours that come out too alike are pulled apart in lightness.
//!
//! Angles on the wheel follow common practice (J. Itten, *Kunst der Farbe*, 1961), measured in OKLCh (B. Ottosson 2020).

use super::color::{OkLab, Rgb8, delta_e_2000};
use super::gamut;
use super::palette::Palette;

/// The most palettes that [`harmonies`] makes.
pub const MAX_HARMONIES: usize = 64;

/// Colours of each palette, closer than this in ΔE2000, are pulled apart.
const APART: f32 = 10.0;

/// Mean ΔE2000 between the colours of two palettes, in order, under which the later one would be a repetition.
const REPEATED: f32 = 3.0;

/// Hue of pictures that have none: a calm blue.
const DEFAULT_HUE: f32 = 250.0;

/// Chroma in OKLCh that counts as neither muted nor strong.
const USUAL_CHROMA: f32 = 0.11;

/// The turn between numbered rounds, degrees: the golden angle, whose multiples never meet.
const TURN: f32 = 137.508;

/// A hue of the picture, degrees, with the lightness and chroma at which the picture shows it.
#[derive(Debug, Clone, Copy)]
struct Tone {
    hue: f32,
    l: f32,
    chroma: f32,
}

impl Tone {
    /// A hue that the picture does not show, where it shines.
    fn imagined(hue: f32) -> Self {
        Self { hue, l: cusp(hue), chroma: USUAL_CHROMA }
    }
}

/// What a picture's colours say.
#[derive(Debug, Clone, Copy)]
struct Mood {
    /// Hue that covers most, weighed by chroma; degrees.
    key: f32,
    /// The next one at least 35° away, or a neighbour of the key.
    second: f32,
    /// The most colourful of the others, small or not, or what the picture lacks most.
    accent: f32,
    /// The picture's three hues from its darkest to its lightest.
    own: [Tone; 3],
    /// 0 muted to 1 vivid.
    vivid: f32,
    /// Mean OKLab lightness under 0.5.
    dark: bool,
}

/// Signed angle from `a` to `b`, −180..=180.
fn turn(a: f32, b: f32) -> f32 {
    (b - a + 540.0).rem_euclid(360.0) - 180.0
}

/// The pleasanter neighbour of a hue: yellows go to orange and blues to the sea, the others on round the wheel.
fn neighbor(hue: f32) -> f32 {
    if matches!(hue.rem_euclid(360.0), 60.0..115.0 | 200.0..290.0) { hue - 30.0 } else { hue + 30.0 }
}

impl Mood {
    fn of(colors: &[(Rgb8, f32)]) -> Self {
        let parts: Vec<(OkLab, f32)> = (colors.iter())
            .filter(|(_, share)| share.is_finite() && *share > 0.0)
            .map(|(color, share)| (color.oklab(), *share))
            .collect();
        let total: f32 = parts.iter().map(|(_, share)| share).sum();
        if parts.is_empty() || !total.is_finite() {
            return Self::hueless(false);
        }
        let dark = parts.iter().map(|(lab, share)| lab.l * share).sum::<f32>() / total < 0.5;
        // Greys have no hue worth the name: 8-bit rounding alone gives them a chroma of up to 0.01. Area counts by its
        // root, so that a small bright thing is heard beside a large pale wall.
        let hued: Vec<(Tone, f32)> = (parts.iter())
            .filter(|(lab, _)| lab.chroma() > 0.015)
            .map(|(lab, share)| {
                (Tone { hue: lab.hue_degrees(), l: lab.l, chroma: lab.chroma() }, (share / total).sqrt())
            })
            .collect();
        let near = |a: f32, b: f32| (1.0 - turn(a, b).abs() / 40.0).max(0.0);
        let cover = |hue: f32| hued.iter().map(|(t, root)| near(hue, t.hue) * t.chroma * root).sum::<f32>();
        let by_cover = |part: &(Tone, f32)| cover(part.0.hue);
        let by_chroma = |part: &(Tone, f32)| part.0.chroma * part.1.sqrt();
        // The best part at least 35° away from what is taken; the first of equals.
        let best = |taken: &[f32], score: &dyn Fn(&(Tone, f32)) -> f32| {
            let free = hued.iter().filter(|part| taken.iter().all(|hue| turn(*hue, part.0.hue).abs() >= 35.0));
            let scored = free.map(|part| (part.0, score(part)));
            scored.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(tone, _)| tone)
        };
        let Some(key) = best(&[], &by_cover) else { return Self::hueless(dark) };
        let second = best(&[key.hue], &by_cover);
        let accent = second.and_then(|second| best(&[key.hue, second.hue], &by_chroma));
        let colorful = hued.iter().map(|(tone, root)| tone.chroma * root * root).sum::<f32>();
        let strongest = hued.iter().map(|(tone, root)| tone.chroma * root.min(0.3) / 0.3).fold(0.0, f32::max);
        let vivid = (0.5 * colorful / 0.12 + 0.5 * strongest / 0.18).clamp(0.25, 1.0);

        // Where the picture has fewer hues, neighbours stand in. The accent then stands across from a single hue, or is
        // the warm side of the key where the second hue already stands across.
        let across = key.hue + 180.0;
        let second_tone = second.unwrap_or(Tone { hue: neighbor(key.hue), ..key });
        let accent_hue = match (accent, second) {
            (Some(accent), _) => accent.hue,
            (None, Some(second)) if turn(across, second.hue).abs() < 50.0 => {
                key.hue + turn(key.hue, 35.0).clamp(-25.0, 25.0)
            }
            _ => across,
        };
        let mut own = [key, second_tone, accent.unwrap_or(Tone { chroma: key.chroma * 1.2, l: key.l + 0.1, ..key })];
        own.sort_by(|x, y| x.l.total_cmp(&y.l));
        Self { key: key.hue, second: second_tone.hue, accent: accent_hue, own, vivid, dark }
    }

    /// The mood of a picture without hues.
    fn hueless(dark: bool) -> Self {
        let second = neighbor(DEFAULT_HUE);
        let mut own = [DEFAULT_HUE, second, DEFAULT_HUE].map(Tone::imagined);
        own.sort_by(|x, y| x.l.total_cmp(&y.l));
        Self { key: DEFAULT_HUE, second, accent: DEFAULT_HUE + 180.0, own, vivid: 0.35, dark }
    }

    /// The same mood on another part of the wheel.
    fn turned(self, angle: f32) -> Self {
        let own = self.own.map(|tone| Tone { hue: tone.hue + angle, ..tone });
        Self { key: self.key + angle, second: self.second + angle, accent: self.accent + angle, own, ..self }
    }

    /// The picture's own hues for primary, secondary and accent, each on the step of its lightness: in a dark picture the
    /// secondary is the darkest of the three.
    fn stepped(&self) -> [Tone; 3] {
        let [low, middle, high] = self.own;
        if self.dark { [middle, low, high] } else { [low, middle, high] }
    }
}

/// Lightness of primary, secondary, accent, background, highlight in OKLab, 0..=1.
type Stairs = [f32; 5];

const LIGHT: Stairs = [0.40, 0.58, 0.70, 0.885, 0.975];
const DARK: Stairs = [0.56, 0.42, 0.73, 0.24, 0.955];

/// The recipe of the picture's own hues.
const PRIMARY: &str = "Primary";

/// A way to five colours.
struct Recipe {
    name: &'static str,
    description: &'static str,
    /// Hues of the five, degrees.
    hues: fn(&Mood) -> [f32; 5],
    /// Lightness of the five in a light picture and in a dark one.
    light: Stairs,
    dark: Stairs,
    /// Chroma of the five in OKLCh, before the gamut's limit.
    chroma: [f32; 5],
    /// Share of the gamut's chroma that is used at most.
    reach: f32,
    /// How far chroma follows the picture's colourfulness: 0 not at all.
    follow: f32,
}

/// `anchor`, moved up to `reach` degrees towards the picture's key.
fn lean(anchor: f32, key: f32, reach: f32) -> f32 {
    let angle = turn(anchor, key);
    // Fades out beyond a quarter turn, so that hues across the wheel do not tip the anchor one way or the other.
    anchor + angle.clamp(-reach, reach) * (1.0 - (angle.abs() - 60.0).max(0.0) / 120.0)
}

/// The seven customary recipes, then the further ones.
const RECIPES: [Recipe; 15] = [
    Recipe {
        name: PRIMARY,
        description: "The picture's own leading hues, in order",
        hues: |m| {
            let [primary, secondary, accent] = m.stepped();
            [primary.hue, secondary.hue, accent.hue, m.key, accent.hue]
        },
        light: [0.38, 0.58, 0.74, 0.89, 0.975],
        dark: DARK,
        chroma: [0.11, 0.12, 0.13, 0.040, 0.012],
        reach: 0.88,
        follow: 0.4,
    },
    Recipe {
        name: "Accent",
        description: "The picture's accent takes the lead, its main hue steps back",
        hues: |m| [m.accent, m.key, m.accent + 24.0, m.key, m.accent],
        light: [0.55, 0.38, 0.76, 0.90, 0.98],
        dark: [0.64, 0.44, 0.80, 0.25, 0.96],
        chroma: [0.18, 0.07, 0.13, 0.025, 0.010],
        reach: 0.88,
        follow: 0.3,
    },
    Recipe {
        name: "Neutral",
        description: "Quiet greys with a breath of the picture's hue",
        hues: |m| [m.key, m.key, m.second, m.key, m.key],
        light: [0.33, 0.52, 0.70, 0.87, 0.98],
        dark: [0.55, 0.40, 0.74, 0.23, 0.95],
        chroma: [0.022, 0.020, 0.036, 0.014, 0.005],
        reach: 0.88,
        follow: 0.0,
    },
    Recipe {
        name: "Vibrant",
        description: "The picture's hues at full strength",
        hues: |m| [m.key, m.second, m.accent, m.key, m.accent],
        light: [0.50, 0.64, 0.74, 0.88, 0.975],
        dark: [0.58, 0.48, 0.76, 0.26, 0.96],
        chroma: [0.22, 0.21, 0.20, 0.075, 0.020],
        reach: 0.97,
        follow: 0.0,
    },
    Recipe {
        name: "Complementary",
        description: "The leading hue against its opposite",
        hues: |m| [m.key, m.key + 6.0, m.key + 180.0, m.key, m.key + 180.0],
        light: [0.38, 0.59, 0.70, 0.88, 0.975],
        dark: DARK,
        chroma: [0.10, 0.11, 0.16, 0.035, 0.012],
        reach: 0.88,
        follow: 0.4,
    },
    Recipe {
        name: "Warm",
        description: "Embers, terracotta, amber and cream",
        hues: |m| [lean(22.0, m.key, 10.0), lean(42.0, m.key, 10.0), lean(72.0, m.key, 8.0), 78.0, 85.0],
        light: [0.39, 0.60, 0.76, 0.89, 0.975],
        dark: [0.58, 0.42, 0.78, 0.24, 0.955],
        chroma: [0.13, 0.15, 0.15, 0.050, 0.018],
        reach: 0.88,
        follow: 0.3,
    },
    Recipe {
        name: "Cool",
        description: "Ink, ocean, lagoon and mist",
        hues: |m| [lean(262.0, m.key, 12.0), lean(236.0, m.key, 12.0), lean(190.0, m.key, 12.0), 220.0, 225.0],
        light: [0.36, 0.56, 0.72, 0.88, 0.975],
        dark: [0.58, 0.42, 0.77, 0.24, 0.955],
        chroma: [0.11, 0.12, 0.11, 0.040, 0.010],
        reach: 0.88,
        follow: 0.3,
    },
    Recipe {
        name: "Analogous",
        description: "The leading hue and its neighbours",
        hues: |m| [m.key, m.key + 32.0, m.key - 32.0, m.key + 16.0, m.key - 16.0],
        light: LIGHT,
        dark: DARK,
        chroma: [0.12, 0.12, 0.13, 0.045, 0.012],
        reach: 0.88,
        follow: 0.4,
    },
    Recipe {
        name: "Triadic",
        description: "Three hues, a third of the wheel apart",
        hues: |m| [m.key, m.key + 120.0, m.key - 120.0, m.key, m.key + 120.0],
        light: [0.40, 0.60, 0.72, 0.89, 0.975],
        dark: DARK,
        chroma: [0.12, 0.11, 0.14, 0.030, 0.012],
        reach: 0.88,
        follow: 0.4,
    },
    Recipe {
        name: "Split Complementary",
        description: "The leading hue against the two beside its opposite",
        hues: |m| [m.key, m.key + 150.0, m.key - 150.0, m.key, m.key + 150.0],
        light: [0.37, 0.56, 0.73, 0.89, 0.975],
        dark: DARK,
        chroma: [0.11, 0.11, 0.15, 0.030, 0.012],
        reach: 0.88,
        follow: 0.4,
    },
    Recipe {
        name: "Tetradic",
        description: "Two pairs of opposites",
        hues: |m| [m.key, m.key + 90.0, m.key + 180.0, m.key - 90.0, m.key],
        light: [0.38, 0.58, 0.72, 0.87, 0.975],
        dark: DARK,
        chroma: [0.11, 0.10, 0.15, 0.050, 0.012],
        reach: 0.88,
        follow: 0.4,
    },
    Recipe {
        name: "Monochrome",
        description: "One hue from deep to pale",
        hues: |m| [m.key, m.key, m.key, m.key, m.key],
        light: [0.34, 0.51, 0.68, 0.85, 0.97],
        dark: [0.56, 0.40, 0.73, 0.23, 0.95],
        chroma: [0.10, 0.12, 0.11, 0.055, 0.014],
        reach: 0.88,
        follow: 0.4,
    },
    Recipe {
        name: "Pastel",
        description: "The picture's hues in chalk",
        hues: |m| {
            let [primary, secondary, accent] = m.stepped();
            [primary.hue, secondary.hue, accent.hue, m.key + 40.0, m.key]
        },
        light: [0.70, 0.78, 0.85, 0.92, 0.985],
        dark: [0.80, 0.72, 0.87, 0.34, 0.97],
        chroma: [0.085, 0.085, 0.085, 0.045, 0.010],
        reach: 0.88,
        follow: 0.0,
    },
    Recipe {
        name: "Deep",
        description: "The picture's hues at night, with one light",
        hues: |m| {
            let [primary, secondary, accent] = m.stepped();
            [primary.hue, secondary.hue, accent.hue, m.key, m.accent]
        },
        light: [0.38, 0.50, 0.64, 0.24, 0.91],
        dark: [0.36, 0.48, 0.63, 0.17, 0.90],
        chroma: [0.11, 0.11, 0.13, 0.045, 0.030],
        reach: 0.88,
        follow: 0.2,
    },
    Recipe {
        name: "Earthy",
        description: "Soil, moss, clay and linen",
        hues: |m| [lean(48.0, m.key, 6.0), lean(120.0, m.key, 12.0), lean(62.0, m.key, 8.0), 82.0, 88.0],
        light: [0.36, 0.53, 0.69, 0.87, 0.97],
        dark: [0.52, 0.41, 0.70, 0.23, 0.94],
        chroma: [0.055, 0.065, 0.095, 0.035, 0.014],
        reach: 0.88,
        follow: 0.15,
    },
];

/// Recipes that are turned round the wheel when more palettes are asked for. Those of a fixed hue or of none are not.
const TURNED: [usize; 8] = [7, 8, 4, 9, 10, 11, 12, 13];

/// Harmonic palettes of five colours each, ordered primary, secondary, accent, background, highlight.
///
/// `image_colors` are the picture's colours with their shares (any positive scale; others are left out). The first seven
/// palettes are Primary, Accent, Neutral, Vibrant, Complementary, Warm, Cool; then come Analogous, Triadic, Split
/// Complementary, Tetradic, Monochrome, Pastel, Deep, Earthy, and after them numbered turns round the wheel, such as
/// "Analogous 2". The background is light or dark as the picture is, the highlight is the lightest colour. Colours of one
/// palette are at least ΔE2000 8 apart. Grey pictures, and none at all, get palettes round a calm blue.
///
/// `count` above [`MAX_HARMONIES`] gives that many. The same input gives the same palettes.
pub fn harmonies(image_colors: &[(Rgb8, f32)], count: usize) -> Vec<Palette> {
    let mood = Mood::of(image_colors);
    let count = count.min(MAX_HARMONIES);
    let customary = RECIPES.iter().map(|recipe| (recipe, 1, mood));
    let turned = (2..).flat_map(|round| {
        let mood = mood.turned(TURN * (round - 1) as f32);
        TURNED.into_iter().map(move |i| (&RECIPES[i], round, mood))
    });
    let mut made: Vec<([Rgb8; 5], Palette)> = Vec::with_capacity(count);
    // Fifteen rounds offer twice as many as are ever asked for, so that repetitions can be left out.
    for (recipe, round, mood) in customary.chain(turned.take(TURNED.len() * 15)) {
        if made.len() == count {
            break;
        }
        let colors = cook(recipe, &mood);
        let repeated = |other: &[Rgb8; 5]| {
            let apart = colors.iter().zip(other).map(|(x, y)| delta_e_2000(x.lab(), y.lab())).sum::<f32>();
            apart / 5.0 < REPEATED
        };
        if round > 1 && made.iter().any(|(other, _)| repeated(other)) {
            continue;
        }
        let name = if round == 1 { recipe.name.to_owned() } else { format!("{} {round}", recipe.name) };
        // Named and of five colours: never refused.
        if let Ok(palette) = Palette::new(name, colors) {
            made.push((colors, palette.described(Some(recipe.description.to_owned()))));
        }
    }
    made.into_iter().map(|(_, palette)| palette).collect()
}

/// A colour on its way: OKLCh.
#[derive(Debug, Clone, Copy)]
struct Swatch {
    l: f32,
    chroma: f32,
    hue: f32,
}

impl Swatch {
    fn color(self) -> Rgb8 {
        OkLab::from_lch(self.l, self.chroma.min(max_chroma(self.l, self.hue)), self.hue).to_rgb8()
    }
}

/// The largest chroma in the sRGB gamut at that lightness and hue.
fn max_chroma(l: f32, hue: f32) -> f32 {
    let (mut inside, mut outside) = (0.0_f32, 0.4_f32);
    for _ in 0..14 {
        let middle = 0.5 * (inside + outside);
        if gamut::contains(OkLab::from_lch(l, middle, hue).to_linear()) { inside = middle } else { outside = middle }
    }
    inside
}

/// The lightness at which a hue is most colourful.
fn cusp(hue: f32) -> f32 {
    let lightness = |step: i32| step as f32 / 50.0;
    let best = (10..50).map(|step| (step, max_chroma(lightness(step), hue)));
    lightness(best.fold((25, 0.0), |best, next| if next.1 > best.1 { next } else { best }).0)
}

/// How yellow a hue is: 1 at pure yellow, 0 from orange and from green on.
fn yellowness(hue: f32) -> f32 {
    (1.0 - turn(102.0, hue).abs() / 28.0).max(0.0)
}

fn cook(recipe: &Recipe, mood: &Mood) -> [Rgb8; 5] {
    let stairs = if mood.dark { recipe.dark } else { recipe.light };
    let mut hues = (recipe.hues)(mood);
    // Yellow is light by nature: in the place of a deep primary it would be brown, so it takes the accent's.
    if yellowness(hues[0]) > 0.0 && yellowness(hues[2]) == 0.0 {
        hues.swap(0, 2);
    }
    let strength = 1.0 + recipe.follow * (mood.vivid - 0.6);
    let mut swatches: [Swatch; 5] = std::array::from_fn(|i| {
        let (mut l, mut hue) = (stairs[i], hues[i].rem_euclid(360.0));
        let mut chroma = recipe.chroma[i] * strength;
        // The picture's own hues keep something of the strength that they have there: sand stays sand.
        if let (true, Some(tone)) = (recipe.name == PRIMARY, mood.stepped().get(i)) {
            chroma *= (tone.chroma / USUAL_CHROMA).clamp(0.4, 1.35);
        }
        // Strong colours lean to the lightness at which their hue shines: yellows up, blues down.
        if chroma > 0.06 && (0.3..0.86).contains(&l) {
            let most = if l > 0.65 { 0.04 + 0.07 * yellowness(hue) } else { 0.04 };
            l += ((cusp(hue) - 0.68) * chroma * 2.5).clamp(-0.04, most);
        }
        // Dark yellow reads as mud; a painter's shade of yellow turns to orange and brown.
        let shade = ((0.72 - l) / 0.3).clamp(0.0, 1.0);
        hue -= 34.0 * yellowness(hue) * shade;
        // Acid green and magenta shout at a chroma where a red is calm.
        let loud = (1.0 - turn(138.0, hue).abs() / 45.0).max(0.0) + (1.0 - turn(328.0, hue).abs() / 35.0).max(0.0);
        // Lavender between violet and pale is the colour of unstyled web pages.
        let lavender = (1.0 - turn(288.0, hue).abs() / 35.0).max(0.0) * ((l - 0.5) / 0.2).clamp(0.0, 1.0);
        chroma *= 1.0 - 0.22 * loud - 0.3 * lavender;
        // On the gamut's very surface colours glow like a monitor; brands stay inside it.
        chroma = chroma.min(max_chroma(l, hue) * recipe.reach);
        Swatch { l, chroma, hue }
    });
    pull_apart(&mut swatches);
    swatches.map(Swatch::color)
}

/// Moves the lightness of colours that are too alike apart, keeping the highlight (the last) lightest and the order of
/// lightness.
fn pull_apart(swatches: &mut [Swatch; 5]) {
    // By lightness; the order is kept throughout.
    let mut order = [0, 1, 2, 3, 4];
    order.sort_by(|&x: &usize, &y: &usize| swatches[x].l.total_cmp(&swatches[y].l).then(x.cmp(&y)));
    for _ in 0..60 {
        let labs = swatches.map(|s| s.color().lab());
        let mut worst: Option<(usize, usize, f32)> = None;
        for (at, &x) in order.iter().enumerate() {
            for (above, &y) in order.iter().enumerate().skip(at + 1) {
                let apart = delta_e_2000(labs[x], labs[y]);
                if apart < worst.map_or(APART, |(_, _, apart)| apart) {
                    worst = Some((at, above, apart));
                }
            }
        }
        let Some((low, high, _)) = worst else { return };
        // Everything below goes down with the lower one and everything above up, as far as there is room.
        for &i in &order[..=low] {
            swatches[i].l = (swatches[i].l - 0.01).max(0.13);
        }
        for &i in &order[high..] {
            // White is for the highlight: the others stop short of it.
            let ceiling = if i == order[4] { 0.985 } else { 0.935 };
            swatches[i].l = (swatches[i].l + 0.01).min(ceiling).max(swatches[i].l);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pictures() -> Vec<(&'static str, Vec<(Rgb8, f32)>)> {
        let list = |colors: &[(u32, f32)]| -> Vec<(Rgb8, f32)> {
            colors.iter().map(|(c, s)| (Rgb8::new((c >> 16) as u8, (c >> 8) as u8, *c as u8), *s)).collect()
        };
        vec![
            ("sunset", list(&[(0x2B1B3D, 0.3), (0xE0633D, 0.25), (0xF4B860, 0.2), (0x7A3B69, 0.15), (0xFCE8C8, 0.1)])),
            ("forest", list(&[(0x1F3B24, 0.4), (0x4E7A3A, 0.3), (0x8A6B45, 0.15), (0xCFE0B0, 0.1), (0xD9482B, 0.05)])),
            ("sea", list(&[(0x0E4D74, 0.4), (0x3FA7C4, 0.3), (0xE9DCC0, 0.2), (0xF2F6F7, 0.1)])),
            ("grey", list(&[(0x202020, 0.2), (0x808080, 0.5), (0xE8E8E8, 0.3)])),
            ("one red", list(&[(0xD01020, 1.0)])),
            ("one yellow", list(&[(0xFFE000, 1.0)])),
            ("white", list(&[(0xFFFFFF, 1.0)])),
            ("black", list(&[(0x000000, 1.0)])),
            ("pure", list(&[(0xFF0000, 0.34), (0x00FF00, 0.33), (0x0000FF, 0.33)])),
            ("none", Vec::new()),
        ]
    }

    fn palette(colors: &[(Rgb8, f32)], name: &str) -> Vec<OkLab> {
        let all = harmonies(colors, MAX_HARMONIES);
        all.iter().find(|p| p.name() == name).unwrap().colors().iter().map(|c| c.oklab()).collect()
    }

    fn assert_sound(colors: &[(Rgb8, f32)], what: &str) {
        let all = harmonies(colors, MAX_HARMONIES);
        assert_eq!(all.len(), MAX_HARMONIES, "{what}");
        for palette in &all {
            let about = format!("{what}: {} {:?}", palette.name(), palette.colors());
            assert_eq!(palette.colors().len(), 5, "{about}");
            let labs: Vec<_> = palette.colors().iter().map(|c| c.lab()).collect();
            for (i, x) in labs.iter().enumerate() {
                for y in &labs[..i] {
                    assert!(delta_e_2000(*x, *y) >= 8.0, "{about}: {}", delta_e_2000(*x, *y));
                }
            }
            let lightest = labs.iter().map(|lab| lab.l).fold(0.0, f32::max);
            let darkest = labs.iter().map(|lab| lab.l).fold(100.0, f32::min);
            assert!(labs[4].l >= lightest, "{about}: the highlight is not the lightest");
            assert!(
                lightest - darkest >= if palette.name().starts_with("Pastel") { 22.0 } else { 45.0 },
                "{about}: lightness from {darkest} to {lightest}"
            );
        }
        for (i, x) in all.iter().enumerate() {
            for y in &all[..i] {
                assert_ne!(x.name(), y.name(), "{what}");
                assert_ne!(x.colors(), y.colors(), "{what}: {} and {}", x.name(), y.name());
            }
        }
    }

    #[test]
    fn every_picture_gives_distinct_palettes_of_five_distinct_colors() {
        for (name, colors) in pictures() {
            assert_sound(&colors, name);
        }
    }

    #[test]
    fn the_customary_seven_come_first_and_fewer_are_a_prefix_of_more() {
        for (_, colors) in pictures() {
            let all = harmonies(&colors, 20);
            let names: Vec<_> = all.iter().take(7).map(Palette::name).collect();
            assert_eq!(names, ["Primary", "Accent", "Neutral", "Vibrant", "Complementary", "Warm", "Cool"]);
            assert_eq!(harmonies(&colors, 9), all[..9]);
        }
    }

    #[test]
    fn the_count_is_kept_from_nothing_to_the_cap() {
        let colors = &pictures()[0].1;
        assert!(harmonies(colors, 0).is_empty());
        assert_eq!(harmonies(colors, 1).len(), 1);
        assert_eq!(harmonies(colors, usize::MAX).len(), MAX_HARMONIES);
    }

    #[test]
    fn warm_is_warm_cool_is_cool_and_neutral_is_quiet() {
        for (name, colors) in pictures() {
            for lab in palette(&colors, "Warm") {
                assert!(turn(50.0, lab.hue_degrees()).abs() < 60.0, "{name}: {}", lab.hue_degrees());
            }
            for lab in palette(&colors, "Cool") {
                assert!(turn(228.0, lab.hue_degrees()).abs() < 55.0, "{name}: {}", lab.hue_degrees());
            }
            for lab in palette(&colors, "Neutral") {
                assert!(lab.chroma() < 0.05, "{name}: {}", lab.chroma());
            }
            let strength = |name: &str| palette(&colors, name).iter().map(|lab| lab.chroma()).sum::<f32>();
            assert!(strength("Vibrant") > strength("Primary"), "{name}");
        }
    }

    #[test]
    fn complementary_holds_the_leading_hue_and_its_opposite() {
        for (name, colors) in pictures() {
            let key = Mood::of(&colors).key;
            let labs = palette(&colors, "Complementary");
            let has =
                |hue: f32| labs.iter().any(|lab| lab.chroma() > 0.04 && turn(hue, lab.hue_degrees()).abs() < 20.0);
            assert!(has(key) && has(key + 180.0), "{name}: {key} {labs:?}");
        }
    }

    #[test]
    fn the_background_is_light_or_dark_as_the_picture_is() {
        let lightness = |i: usize| palette(&pictures()[i].1, "Primary")[3].l;
        assert!(lightness(1) < 0.35, "the forest is dark");
        assert!(lightness(2) > 0.8, "the sea is light");
    }

    #[test]
    fn the_leading_hue_is_the_pictures_own() {
        let hue = palette(&pictures()[4].1, "Primary")[0].hue_degrees();
        assert!(turn(Rgb8::new(0xD0, 0x10, 0x20).oklab().hue_degrees(), hue).abs() < 8.0, "{hue}");
    }

    #[test]
    fn nonsense_shares_are_left_out() {
        let red = Rgb8::new(200, 30, 30);
        let blue = Rgb8::new(30, 60, 200);
        let odd = [(blue, f32::NAN), (red, 0.5), (blue, -1.0), (blue, 0.0), (blue, f32::INFINITY)];
        assert_eq!(harmonies(&odd, 15), harmonies(&[(red, 0.5)], 15));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_picture_gives_sound_palettes(
            parts in prop::collection::vec((any::<[u8; 3]>(), 0.0f32..1.0), 0..12)
        ) {
            let colors: Vec<_> = parts.iter().map(|([r, g, b], share)| (Rgb8::new(*r, *g, *b), *share)).collect();
            assert_sound(&colors, &format!("{colors:?}"));
        }
    }
}
