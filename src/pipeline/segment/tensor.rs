//! Pictures into tensors, and tensors into maps.

use super::contract::{Back, Contract, Filter, Output, Scale};
use crate::kernel::image::BaseImage;
use crate::kernel::matte::refine;
use crate::kernel::resample::{self, Kernel, Window};

/// Where every map's opacity lies.
pub const DECIDED: f32 = 0.5;

/// A model's answer at its own size: opacity, 0 to 1, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width·height` opacities.
    pub opacity: Vec<f32>,
    /// How sure the model is that there is a subject and where it ends, 0 to 1.
    pub confidence: f32,
}

/// The picture at the model's size, 3 bytes a pixel, as Pillow resizes it.
pub fn resized(image: &BaseImage, filter: Filter, target: (u32, u32)) -> Vec<u8> {
    let kernel = match filter {
        Filter::Bilinear => Kernel::Bilinear,
        Filter::Lanczos => Kernel::Lanczos,
    };
    let size = (image.width(), image.height());
    resample::rgb(image.rgb(), size, Window::whole(size.0, size.1), target, kernel)
}

/// The picture as the model takes it: channel after channel, row-major, normalised.
pub fn prepare(image: &BaseImage, contract: &Contract, size: (u32, u32)) -> Vec<f32> {
    normalized(&resized(image, contract.filter, size), contract)
}

/// Bytes, 3 a pixel, as the model takes them.
pub fn normalized(rgb: &[u8], contract: &Contract) -> Vec<f32> {
    let scale = match contract.scale {
        Scale::Byte => 255.0,
        Scale::Brightest => f64::from(rgb.iter().copied().max().unwrap_or(0)).max(1e-6),
    };
    let pixels = rgb.len() / 3;
    let mut planes = vec![0f32; pixels * 3];
    for (channel, plane) in planes.chunks_exact_mut(pixels.max(1)).enumerate() {
        let (mean, std) = (f64::from(contract.mean[channel]), f64::from(contract.std[channel]));
        let table: [f32; 256] = std::array::from_fn(|byte| ((byte as f64 / scale - mean) / std) as f32);
        for (value, pixel) in plane.iter_mut().zip(rgb.chunks_exact(3)) {
            *value = table[usize::from(pixel[channel])];
        }
    }
    planes
}

/// Makes a map of a model's first output and, where it has one, of its logits.
///
/// # Errors
/// Values that are no numbers.
pub fn map(output: &[f32], logits: Option<&[f32]>, kind: Output, width: usize, height: usize) -> Result<Map, String> {
    let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
    if !finite(output) || !logits.is_none_or(finite) {
        return Err("its output holds values that are no numbers; check the file, and whether its provider computes in half precision".into());
    }
    let sigmoid = |logit: f32| 1.0 / (1.0 + (-logit).exp());
    let opacity: Vec<f32> = match kind {
        Output::Probability => output.iter().map(|p| p.clamp(0.0, 1.0)).collect(),
        Output::Logits => output.iter().copied().map(sigmoid).collect(),
        Output::Stretched => {
            let (least, most) = output.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
            let range = most - least;
            // A map that is the same everywhere tells nothing apart: it stays what it is.
            match range > 1e-6 {
                true => output.iter().map(|v| (v - least) / range).collect(),
                false => output.iter().map(|v| v.clamp(0.0, 1.0)).collect(),
            }
        }
    };
    let confidence = match (logits, kind) {
        (Some(logits), _) => confidence(logits.iter().copied().map(sigmoid)),
        // What was there before it was stretched.
        (None, Output::Stretched) => confidence(output.iter().map(|v| v.clamp(0.0, 1.0))),
        (None, _) => confidence(opacity.iter().copied()),
    };
    Ok(Map { width, height, opacity, confidence })
}

/// The map at the picture's size as its package brings it there: `width·height` opacities.
pub fn full_size(map: &Map, back: Back, width: u32, height: u32) -> Vec<f32> {
    match back {
        Back::Bilinear { align_corners } => {
            refine::bilinear(&map.opacity, map.width, map.height, width, height, align_corners)
        }
        Back::Lanczos => {
            let mut full = resample::plane(&map.opacity, (map.width, map.height), (width, height), Kernel::Lanczos);
            full.iter_mut().for_each(|p| *p = p.clamp(0.0, 1.0));
            full
        }
    }
}

/// Opacities as bytes, cut off as the packages do it.
pub fn bytes(opacity: &[f32]) -> Vec<u8> {
    opacity.iter().map(|p| (255.0 * p) as u8).collect()
}

/// How decided a map is where something may be: the mean of |2p − 1| over all pixels that are not clearly ground. 0 where
/// nothing is likelier subject than ground: a map that was stretched shows noise there.
fn confidence(opacity: impl Iterator<Item = f32>) -> f32 {
    const CLEARLY_GROUND: f32 = 0.1;
    let (mut sum, mut count, mut subject) = (0f64, 0u32, false);
    for p in opacity {
        if p > CLEARLY_GROUND {
            sum += f64::from((2.0 * p - 1.0).abs());
            count += 1;
            subject |= p > DECIDED;
        }
    }
    if subject { (sum / f64::from(count)) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(name: &str) -> Contract {
        Contract::preset(name).unwrap()
    }

    #[test]
    fn channels_lie_one_after_another_and_are_normalised() {
        let rgb = [255, 0, 0, 0, 255, 0];
        let planes = normalized(&rgb, &preset("inspyrenet"));
        let near = |got: f32, expected: f32| assert!((got - expected).abs() < 1e-5, "{got} {expected}");
        near(planes[0], (1.0 - 0.485) / 0.229);
        near(planes[1], -0.485 / 0.229);
        near(planes[2], -0.456 / 0.224);
        near(planes[3], (1.0 - 0.456) / 0.224);
        near(planes[4], -0.406 / 0.225);
        // U²-Net's scale is the brightest value.
        let dark = normalized(&[50, 0, 0], &preset("u2net"));
        near(dark[0], (1.0 - 0.485) / 0.229);
        let black = normalized(&[0, 0, 0], &preset("u2net"));
        assert!(black.iter().all(|v| v.is_finite()));
        near(normalized(&[255, 255, 255], &preset("isnet"))[0], 0.5);
    }

    #[test]
    fn a_picture_of_any_shape_comes_to_the_models_size() {
        for (width, height) in [(1, 1), (3, 1), (1, 700), (640, 480)] {
            let image = BaseImage::new(width, height, vec![90; (width * height * 3) as usize], None).unwrap();
            for filter in [Filter::Bilinear, Filter::Lanczos] {
                let bytes = resized(&image, filter, (32, 48));
                assert_eq!(bytes, vec![90; 32 * 48 * 3], "{width}×{height}");
            }
        }
    }

    #[test]
    fn maps_are_opacities_whatever_the_output_holds() {
        let opacity = |values: &[f32], kind| map(values, None, kind, values.len(), 1).unwrap().opacity;
        assert_eq!(opacity(&[-0.1, 0.5, 1.1], Output::Probability), [0.0, 0.5, 1.0]);
        let logits = opacity(&[0.0, 20.0, -20.0], Output::Logits);
        assert!(logits[0] == 0.5 && logits[1] > 0.999 && logits[2] < 0.001);
        assert_eq!(opacity(&[2.0, 3.0, 4.0], Output::Stretched), [0.0, 0.5, 1.0]);
        assert_eq!(opacity(&[0.25; 3], Output::Stretched), [0.25; 3]);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(map(&[0.0, bad], None, Output::Probability, 2, 1).is_err());
            assert!(map(&[0.0, 0.0], Some(&[0.0, bad]), Output::Probability, 2, 1).is_err());
        }
    }

    #[test]
    fn a_map_stretched_from_nothing_earns_no_confidence() {
        let clear: Vec<f32> = (0..100).map(|i| if i < 40 { 12.0 } else { -12.0 }).collect();
        let noise: Vec<f32> = (0..100).map(|i| -4.0 + (i % 7) as f32 * 0.01).collect();
        let stretched = |values: &[f32]| -> Vec<f32> {
            let (least, most) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
            values.iter().map(|v| (v - least) / (most - least)).collect()
        };
        let of =
            |logits: &[f32]| map(&stretched(logits), Some(logits), Output::Probability, 100, 1).unwrap().confidence;
        assert!(of(&clear) > 0.99);
        assert_eq!(of(&noise), 0.0);
        let unsure: Vec<f32> = (0..100).map(|i| if i < 40 { 0.4 } else { -0.4 }).collect();
        assert!(of(&unsure) < 0.3);
    }
}
