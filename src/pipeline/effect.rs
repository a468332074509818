//! Effects as a job asks for them: names, parameters, and the colours they are combined with.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::job::{EffectRequest, GenerateRequest, Job, PaletteRequest};
use crate::kernel::color::Rgb8;
use crate::kernel::effect::{
    ColorEffect, DitherAlgorithm, DitherEffect, Effect, EnhancedBw, PopArt, PopArtStyle, Tone,
};
use crate::kernel::harmony;
use crate::kernel::palette::MAX_COLORS;

/// The effects by the name that files and manifests have, each with the other spellings that are accepted.
pub const NAMES: [(&str, &[&str]); 4] = [
    ("enhanced-bw", &["enhancedblackwhite", "enhanced-black-white", "enhancedbw"]),
    ("pop-art", &["popart"]),
    ("dither", &["dithering"]),
    ("color", &["colour"]),
];

const TONES: [(&str, Tone); 6] = [
    ("none", Tone::None),
    ("sepia", Tone::Sepia),
    ("selenium", Tone::Selenium),
    ("cool", Tone::Cool),
    ("platinum", Tone::Platinum),
    ("cyanotype", Tone::Cyanotype),
];

const STYLES: [(&str, PopArtStyle); 3] =
    [("poster", PopArtStyle::Poster), ("warhol", PopArtStyle::Warhol), ("halftone", PopArtStyle::Halftone)];

const ALGORITHMS: [(&str, DitherAlgorithm); 4] = [
    ("floyd-steinberg", DitherAlgorithm::FloydSteinberg),
    ("atkinson", DitherAlgorithm::Atkinson),
    ("bayer", DitherAlgorithm::Bayer),
    ("blue-noise", DitherAlgorithm::BlueNoise),
];

/// An effect, every parameter known.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedEffect {
    /// The effect.
    pub effect: Effect,
    /// The colours it is combined with, when asked.
    pub colors: Option<Colors>,
}

/// The colours that an effect is combined with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Colors {
    /// Those of the job's palette of this name.
    Palette(String),
    /// These.
    List(Vec<Rgb8>),
}

/// The name that files and manifests have.
pub fn canonical(name: &str) -> Option<&'static str> {
    let same = |known: &str| known.eq_ignore_ascii_case(name.trim());
    NAMES.into_iter().find(|(known, others)| same(known) || others.iter().any(|o| same(o))).map(|(known, _)| known)
}

/// A parameter (empty for the effect's name) and what is wrong with it.
type Wrong = (String, String);

/// What a person calls it: the name, and the words among its parameters, such as `pop-art, warhol`.
pub fn title(request: &EffectRequest) -> String {
    let name = canonical(request.name()).unwrap_or(request.name());
    let words = request.params().into_iter().flatten().filter_map(|(_, value)| value.as_str());
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(", ")
}

/// Reads one request of `job`.
///
/// # Errors
/// The parameter (empty for the name) and what is wrong with it.
pub fn plan(request: &EffectRequest, job: &Job) -> Result<PlannedEffect, Wrong> {
    let name = request.name();
    let Some(canonical) = canonical(name) else {
        let known = NAMES.map(|(known, _)| known).join(", ");
        return Err((String::new(), format!("there is no effect {name:?}; the effects are {known}")));
    };
    let empty = Map::new();
    let mut params = Params { values: request.params().unwrap_or(&empty), known: Vec::new() };
    let colors = params.colors("palette", job)?;
    let effect = match canonical {
        "enhanced-bw" => Effect::EnhancedBw(enhanced_bw(&mut params)?),
        "pop-art" => Effect::PopArt(pop_art(&mut params)?),
        "dither" => Effect::Dither(dither(&mut params)?),
        _ => Effect::Color(color(&mut params, colors.is_some())?),
    };
    params.finish(canonical)?;
    Ok(PlannedEffect { effect, colors })
}

fn enhanced_bw(params: &mut Params<'_>) -> Result<EnhancedBw, Wrong> {
    let usual = EnhancedBw::default();
    Ok(EnhancedBw {
        mix: params.three("mix", EnhancedBw::MIX)?,
        contrast: params.number("contrast", EnhancedBw::CONTRAST)?.unwrap_or(usual.contrast),
        clarity: params.number("clarity", EnhancedBw::CLARITY)?.unwrap_or(usual.clarity),
        sharpness: params.number("sharpness", EnhancedBw::SHARPNESS)?.unwrap_or(usual.sharpness),
        grain: params.number("grain", EnhancedBw::GRAIN)?.unwrap_or(usual.grain),
        tone: params.word("tone", &TONES)?.unwrap_or(usual.tone),
        seed: params.whole("seed", 0..=u32::MAX)?.map_or(usual.seed, u64::from),
    })
}

fn pop_art(params: &mut Params<'_>) -> Result<PopArt, Wrong> {
    let usual = PopArt::default();
    Ok(PopArt {
        style: params.word("style", &STYLES)?.unwrap_or(usual.style),
        levels: params.whole("levels", PopArt::LEVELS)?,
        outline: params.number("outline", PopArt::OUTLINE)?.unwrap_or(usual.outline),
        grid: params.whole("grid", PopArt::GRID)?.unwrap_or(usual.grid),
        dots: params.whole("dots", PopArt::DOTS)?.unwrap_or(usual.dots),
    })
}

fn dither(params: &mut Params<'_>) -> Result<DitherEffect, Wrong> {
    let usual = DitherEffect::default();
    Ok(DitherEffect {
        algorithm: params.word("algorithm", &ALGORITHMS)?.unwrap_or(usual.algorithm),
        levels: params.whole("levels", DitherEffect::LEVELS)?.unwrap_or(usual.levels),
        grey: params.flag("grey")?.unwrap_or(usual.grey),
        scale: params.whole("scale", DitherEffect::SCALE)?,
    })
}

fn color(params: &mut Params<'_>, palette: bool) -> Result<ColorEffect, Wrong> {
    let effect = ColorEffect {
        vibrance: params.number("vibrance", ColorEffect::VIBRANCE)?,
        saturation: params.number("saturation", ColorEffect::SATURATION)?,
        temperature: params.number("temperature", ColorEffect::TEMPERATURE)?,
        tint: params.number("tint", ColorEffect::TINT)?,
        hue_degrees: params.number("hue", ColorEffect::HUE_DEGREES)?,
        duotone: params.two_colors("duotone")?,
    };
    // Both give every lightness its colour: nothing would be left for the others to do.
    let others = ColorEffect { duotone: None, ..effect } != ColorEffect::default();
    match (palette, effect.duotone) {
        (true, Some(_)) => {
            Err(("duotone".into(), "palette gives the colours already; leave one of the two out".into()))
        }
        (true, None) if others => Err(("palette".into(), ONLY_ONE.into())),
        (false, Some(_)) if others => Err(("duotone".into(), ONLY_ONE.into())),
        _ => Ok(effect),
    }
}

/// Of `palette` and `duotone` beside adjustments.
const ONLY_ONE: &str = "it replaces every colour, and adjustments would do nothing; leave vibrance, saturation, temperature, \
                        tint and hue out, or leave it out";

/// Parameters as they are read: whatever nobody asked for is a mistake.
struct Params<'a> {
    values: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl Params<'_> {
    fn get(&mut self, name: &'static str) -> Option<&Value> {
        self.known.push(name);
        self.values.get(name).filter(|value| !value.is_null())
    }

    fn number(&mut self, name: &'static str, range: RangeInclusive<f32>) -> Result<Option<f32>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        in_range(name, value, &range).map(Some)
    }

    fn three(&mut self, name: &'static str, range: RangeInclusive<f32>) -> Result<Option<[f32; 3]>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong = || (name.to_owned(), format!("{value} is no list of three numbers: red, green, blue"));
        let [r, g, b] = value.as_array().map(Vec::as_slice).ok_or_else(wrong)? else { return Err(wrong()) };
        let one = |value: &Value| in_range(name, value, &range);
        let mix = [one(r)?, one(g)?, one(b)?];
        match mix.iter().sum::<f32>() >= EnhancedBw::LEAST_SUM {
            true => Ok(Some(mix)),
            false => Err((
                name.to_owned(),
                format!("{value} adds up to too little; give weights whose sum is {} or more", EnhancedBw::LEAST_SUM),
            )),
        }
    }

    fn whole<T>(&mut self, name: &'static str, range: RangeInclusive<T>) -> Result<Option<T>, Wrong>
    where
        T: TryFrom<u64> + PartialOrd + std::fmt::Display,
    {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err((name.into(), format!("{value} is no whole number from {} to {}", range.start(), range.end()))),
        }
    }

    fn flag(&mut self, name: &'static str) -> Result<Option<bool>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| (name.to_owned(), format!("{value} is not true or false")))
    }

    fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(word)));
        match found {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Err((name.to_owned(), format!("{value} is not one of {}", all.join(", "))))
            }
        }
    }

    fn two_colors(&mut self, name: &'static str) -> Result<Option<[Rgb8; 2]>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong =
            |why: &str| (name.to_owned(), format!("{value} {why}; give [\"#112233\", \"#FFEEDD\"], dark and light"));
        match color_list(value) {
            Some(Ok(colors)) => match colors[..] {
                [dark, light] => Ok(Some([dark, light])),
                _ => Err(wrong("holds not two colours")),
            },
            _ => Err(wrong("is no list of colours")),
        }
    }

    /// A palette of the job by its name, or a list of colours.
    fn colors(&mut self, name: &'static str, job: &Job) -> Result<Option<Colors>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        if let Some(palette) = value.as_str() {
            let known = palette_names(job);
            return match known.iter().any(|known| known == palette) {
                true => Ok(Some(Colors::Palette(palette.to_owned()))),
                false => {
                    let names = if known.is_empty() { "it has none".into() } else { known.join(", ") };
                    Err((
                        name.into(),
                        format!("the job has no palette {palette:?} ({names}); name one, or list colours"),
                    ))
                }
            };
        }
        match color_list(value) {
            Some(Ok(colors)) if (1..=MAX_COLORS).contains(&colors.len()) => Ok(Some(Colors::List(colors))),
            Some(Ok(_)) => Err((name.into(), format!("give 1 to {MAX_COLORS} colours"))),
            Some(Err(problem)) => Err((name.into(), problem)),
            None => Err((name.into(), format!("{value} is neither the name of a palette nor a list of colours"))),
        }
    }

    fn finish(&self, effect: &str) -> Result<(), Wrong> {
        match self.values.keys().find(|key| !self.known.contains(&key.as_str())) {
            None => Ok(()),
            Some(unknown) => {
                let known = self.known.join(", ");
                Err((unknown.clone(), format!("{effect} has no parameter {unknown:?}; it has {known}")))
            }
        }
    }
}

fn in_range(name: &str, value: &Value, range: &RangeInclusive<f32>) -> Result<f32, Wrong> {
    match value.as_f64().map(|number| number as f32).filter(|number| range.contains(number)) {
        Some(number) => Ok(number),
        None => Err((name.into(), format!("{value} is no number from {} to {}", range.start(), range.end()))),
    }
}

fn color_list(value: &Value) -> Option<Result<Vec<Rgb8>, String>> {
    let list = value.as_array()?;
    let color = |value: &Value| {
        let text = value.as_str().ok_or_else(|| format!("{value} is no colour"))?;
        text.parse::<Rgb8>().map_err(|error| error.to_string())
    };
    Some(list.iter().map(color).collect())
}

/// The names of a job's palettes; of generated ones, those that are sure.
fn palette_names(job: &Job) -> Vec<String> {
    match &job.palettes {
        PaletteRequest::List(list) => list.iter().map(|spec| spec.name.clone()).collect(),
        PaletteRequest::Generate(GenerateRequest { generate }) => {
            harmony::harmonies(&[], *generate as usize).into_iter().map(|palette| palette.name().to_owned()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(effect: &str) -> Result<PlannedEffect, String> {
        let job = format!(
            r##"{{"source": "a.png", "palettes": [{{"name": "Warm", "colors": ["#264653", "#E9C46A"]}}], "effects": [{effect}]}}"##
        );
        let job = Job::from_json(job.as_bytes()).map_err(|error| error.to_string())?;
        plan(&job.effects[0], &job).map_err(|(_, problem)| problem)
    }

    #[test]
    fn effects_go_by_several_spellings_and_have_one_name() {
        for (name, canonical_name) in [
            ("enhanced-bw", "enhanced-bw"),
            ("enhancedblackwhite", "enhanced-bw"),
            ("PopArt", "pop-art"),
            ("dithering", "dither"),
            ("color", "color"),
        ] {
            assert_eq!(canonical(name), Some(canonical_name));
            assert!(planned(&format!("{name:?}")).is_ok(), "{name}");
        }
        assert_eq!(canonical("sepia"), None);
    }

    #[test]
    fn every_parameter_reaches_its_field() {
        let effect = |text: &str| planned(text).unwrap().effect;
        assert_eq!(effect(r#""dither""#), Effect::Dither(DitherEffect::default()));
        assert_eq!(
            effect(
                r#"{"name": "enhanced-bw", "params": {"mix": [1, 0, 0.5], "contrast": 0.1, "clarity": 0.2, "sharpness": 0.3,
                "grain": 0.4, "tone": "sepia", "seed": 7}}"#
            ),
            Effect::EnhancedBw(EnhancedBw {
                mix: Some([1.0, 0.0, 0.5]),
                contrast: 0.1,
                clarity: 0.2,
                sharpness: 0.3,
                grain: 0.4,
                tone: Tone::Sepia,
                seed: 7
            })
        );
        assert_eq!(
            effect(
                r#"{"name": "pop-art", "params": {"style": "warhol", "levels": 3, "outline": 0, "grid": 3, "dots": 99}}"#
            ),
            Effect::PopArt(PopArt { style: PopArtStyle::Warhol, levels: Some(3), outline: 0.0, grid: 3, dots: 99 })
        );
        assert_eq!(
            effect(
                r#"{"name": "dither", "params": {"algorithm": "blue-noise", "levels": 4, "grey": false, "scale": 2}}"#
            ),
            Effect::Dither(DitherEffect {
                algorithm: DitherAlgorithm::BlueNoise,
                levels: 4,
                grey: false,
                scale: Some(2)
            })
        );
        assert_eq!(
            effect(
                r#"{"name": "color", "params": {"vibrance": 0.1, "saturation": -0.2, "temperature": 0.3, "tint": -0.4,
                "hue": 90}}"#
            ),
            Effect::Color(ColorEffect {
                vibrance: Some(0.1),
                saturation: Some(-0.2),
                temperature: Some(0.3),
                tint: Some(-0.4),
                hue_degrees: Some(90.0),
                duotone: None,
            })
        );
        assert_eq!(
            effect(r##"{"name": "color", "params": {"duotone": ["#000000", "#FFFFFF"]}}"##),
            Effect::Color(ColorEffect {
                duotone: Some([Rgb8::new(0, 0, 0), Rgb8::new(255, 255, 255)]),
                ..ColorEffect::default()
            })
        );
    }

    #[test]
    fn an_effect_takes_a_palette_of_the_job_or_colors_of_its_own() {
        let colors = |palette: &str| {
            planned(&format!(r#"{{"name": "pop-art", "params": {{"palette": {palette}}}}}"#))
                .map(|planned| planned.colors)
        };
        assert_eq!(colors("\"Warm\""), Ok(Some(Colors::Palette("Warm".into()))));
        assert_eq!(colors("[\"#010203\"]"), Ok(Some(Colors::List(vec![Rgb8::new(1, 2, 3)]))));
        assert!(colors("\"Cold\"").unwrap_err().contains("Warm"));
        for bad in ["[]", "7", "[\"red-ish\"]", "[1]"] {
            assert!(colors(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_field_and_what_would_be_right() {
        for (effect, parts) in [
            (r#""sepia""#, ["effects[0]", "enhanced-bw, pop-art, dither, color"]),
            (r#"{"name": "dither", "params": {"level": 3}}"#, ["effects[0].params.level", "levels"]),
            (r#"{"name": "dither", "params": {"levels": 300}}"#, ["effects[0].params.levels", "2 to 16"]),
            (r#"{"name": "dither", "params": {"levels": 2.5}}"#, ["effects[0].params.levels", "whole"]),
            (r#"{"name": "dither", "params": {"algorithm": "bayes"}}"#, ["effects[0].params.algorithm", "bayer"]),
            (r#"{"name": "dither", "params": {"grey": 1}}"#, ["effects[0].params.grey", "true or false"]),
            (r#"{"name": "color", "params": {"hue": 181}}"#, ["effects[0].params.hue", "-180 to 180"]),
            (r#"{"name": "color", "params": {"hue": "1e999"}}"#, ["effects[0].params.hue", "number"]),
            (r##"{"name": "color", "params": {"duotone": ["#000"]}}"##, ["effects[0].params.duotone", "two"]),
            (r#"{"name": "enhanced-bw", "params": {"mix": [1, -1, 0]}}"#, ["effects[0].params.mix", "sum"]),
            (r#"{"name": "enhanced-bw", "params": {"mix": [-1, 0, 0]}}"#, ["effects[0].params.mix", "0.05"]),
            (r#"{"name": "color", "params": {"vibrance": 1, "palette": "Warm"}}"#, ["params.palette", "leave it out"]),
            (
                r##"{"name": "color", "params": {"hue": 9, "duotone": ["#000", "#fff"]}}"##,
                ["effects[0].params.duotone", "leave it out"],
            ),
            (
                r##"{"name": "color", "params": {"palette": "Warm", "duotone": ["#000", "#fff"]}}"##,
                ["effects[0].params.duotone", "one of the two"],
            ),
            (r#"{"name": "dither", "levels": 9}"#, ["effects[0]", "unknown field \"levels\""]),
            (r#"{"params": {}}"#, ["effects[0]", "no name"]),
            (r#"{"name": "dither", "params": 7}"#, ["effects[0]", "params is no object"]),
            ("7", ["effects[0]", "neither a name"]),
        ] {
            let error = planned(effect).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{effect}: {error}");
        }
    }
}
