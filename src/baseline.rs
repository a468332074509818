//! The predecessor's own pipeline, run by OpenCV on every pixel: oracle of tests and baseline of benches only.
//!
//! The steps and parameters are the predecessor's, k-means at full resolution with random centres and several attempts
//! included; its numpy steps are plain loops here, which flatters it. Nothing of the product calls this module. It
//! exists under the feature `opencv`, which needs OpenCV 4 (Debian: libopencv-core-dev, libopencv-imgproc-dev,
//! libclang-dev).
//!
//! Pictures are interleaved 8-bit blue, green, red without padding, `width·height·3` bytes.

use opencv::core::{self, KMEANS_RANDOM_CENTERS, Mat, MatTraitConst, TermCriteria, Vec3b};
use opencv::imgproc::{self, COLOR_BGR2HSV, COLOR_BGR2Lab, COLOR_HSV2BGR, COLOR_Lab2BGR};
use opencv::prelude::*;
use opencv::{Error, Result};

use crate::kernel::color::Rgb8;

/// Attempts the predecessor made.
pub const ATTEMPTS: i32 = 10;

/// What k-means found.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// The centres, in the space that was clustered.
    pub centres: Vec<[f32; 3]>,
    /// Index of its centre per pixel. OpenCV does not label again after its last step, so a pixel close to a border
    /// may carry the label of the centres one step before.
    pub labels: Vec<usize>,
    /// Squared distance to the centres, summed over pixels.
    pub compactness: f64,
}

/// How many threads OpenCV may use; 0 means none but the caller's.
///
/// # Errors
/// OpenCV's own.
pub fn threads(count: i32) -> Result<()> {
    core::set_num_threads(count)
}

/// Seeds OpenCV's random numbers, so that a run can be repeated.
///
/// # Errors
/// OpenCV's own.
pub fn seed(seed: i32) -> Result<()> {
    core::set_rng_seed(seed)
}

/// Mode `transfer`: k-means in BGR with k = min(5, n), then [`transfer_with`].
///
/// # Errors
/// A picture whose size does not fit its bytes, an empty palette, fewer pixels than clusters.
pub fn transfer(bgr: &[u8], width: usize, height: usize, palette: &[Rgb8], attempts: i32) -> Result<Vec<u8>> {
    picture(bgr, width, height)?;
    let clusters = cluster_bgr(bgr, palette.len().min(5), attempts)?;
    transfer_with(bgr, width, height, palette, &clusters)
}

/// Mode `faithful`: k-means in 8-bit Lab with k = min(10, 2n), then [`faithful_with`].
///
/// # Errors
/// A picture whose size does not fit its bytes, an empty palette, fewer pixels than clusters.
pub fn faithful(bgr: &[u8], width: usize, height: usize, palette: &[Rgb8], attempts: i32) -> Result<Vec<u8>> {
    let clusters = cluster_lab(bgr, width, height, (2 * palette.len()).min(10), attempts)?;
    faithful_with(bgr, width, height, palette, &clusters)
}

/// A picture's 8-bit Lab codes, the space in which `faithful` clusters.
///
/// # Errors
/// A picture whose size does not fit its bytes.
pub fn lab(bgr: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    bytes(&converted(&picture(bgr, width, height)?, COLOR_BGR2Lab)?)
}

/// The clustering of `transfer`: every pixel in BGR, at most 100 iterations, epsilon 0.2.
///
/// # Errors
/// OpenCV's own: no clusters asked for, or fewer pixels than clusters.
pub fn cluster_bgr(bgr: &[u8], k: usize, attempts: i32) -> Result<Clusters> {
    cluster(bgr, k, attempts, 0.2)
}

/// The clustering of `faithful`: every pixel in 8-bit Lab, at most 100 iterations, epsilon 0.1.
///
/// # Errors
/// A picture whose size does not fit its bytes, and OpenCV's own: no clusters, or fewer pixels than clusters.
pub fn cluster_lab(bgr: &[u8], width: usize, height: usize, k: usize, attempts: i32) -> Result<Clusters> {
    cluster(&lab(bgr, width, height)?, k, attempts, 0.1)
}

fn cluster(codes: &[u8], k: usize, attempts: i32, epsilon: f64) -> Result<Clusters> {
    let samples: Vec<f32> = codes.iter().map(|&code| f32::from(code)).collect();
    let samples = Mat::new_rows_cols_with_data(i32::try_from(codes.len() / 3)?, 3, &samples)?;
    let criteria = TermCriteria::new(core::TermCriteria_EPS + core::TermCriteria_MAX_ITER, 100, epsilon)?;
    let (mut labels, mut centres) = (Mat::default(), Mat::default());
    let compactness = core::kmeans(
        &samples,
        i32::try_from(k)?,
        &mut labels,
        criteria,
        attempts,
        KMEANS_RANDOM_CENTERS,
        &mut centres,
    )?;
    Ok(Clusters {
        centres: centres.data_typed::<f32>()?.as_chunks().0.to_vec(),
        labels: labels.data_typed::<i32>()?.iter().map(|&label| label as usize).collect(),
        compactness,
    })
}

/// The colours of `transfer` for clusters in BGR: centres and palette ranked by R + G + B and matched, a shift in 8-bit
/// Lab by (0.7, 1, 1) of the cluster's difference, 0.75 of it over the original, and saturation times 1.2.
/// A palette of more colours than clusters gives every n-th rank.
///
/// # Errors
/// A picture whose size does not fit its bytes or the labels, or an empty palette.
pub fn transfer_with(
    bgr: &[u8],
    width: usize,
    height: usize,
    palette: &[Rgb8],
    clusters: &Clusters,
) -> Result<Vec<u8>> {
    let original = picture(bgr, width, height)?;
    check(palette, clusters, width * height)?;
    let shifts = transfer_shifts(palette, &clusters.centres)?;

    let mut codes = bytes(&converted(&original, COLOR_BGR2Lab)?)?;
    for (pixel, &label) in codes.chunks_exact_mut(3).zip(&clusters.labels) {
        for (code, shift) in pixel.iter_mut().zip(shifts[label]) {
            *code = (f32::from(*code) + shift).clamp(0.0, 255.0) as u8;
        }
    }
    let moved = converted(&picture(&codes, width, height)?, COLOR_Lab2BGR)?;
    let mut hsv = bytes(&converted(&blended(&moved, &original)?, COLOR_BGR2HSV)?)?;
    for pixel in hsv.chunks_exact_mut(3) {
        pixel[1] = (f32::from(pixel[1]) * 1.2).clamp(0.0, 255.0) as u8;
    }
    bytes(&converted(&picture(&hsv, width, height)?, COLOR_HSV2BGR)?)
}

fn transfer_shifts(palette: &[Rgb8], centres: &[[f32; 3]]) -> Result<Vec<[f32; 3]>> {
    let mut ranked_palette = palette.to_vec();
    ranked_palette.sort_by_key(|c| u32::from(c.r) + u32::from(c.g) + u32::from(c.b));
    let mut ranked_centres: Vec<usize> = (0..centres.len()).collect();
    ranked_centres.sort_by(|&a, &b| centres[a].iter().sum::<f32>().total_cmp(&centres[b].iter().sum()));

    let mut shifts = vec![[0.0; 3]; centres.len()];
    for (rank, &centre) in ranked_centres.iter().enumerate() {
        let last = palette.len() - 1;
        let place = match centres.len() {
            1 => last / 2,
            count => (rank as f64 * last as f64 / (count - 1) as f64).round() as usize,
        };
        let target = ranked_palette[place];
        let from = lab_of_bgr(centres[centre].map(|v| v as u8))?;
        let to = lab_of_bgr([target.b, target.g, target.r])?;
        let difference = |axis: usize| f32::from(to[axis]) - f32::from(from[axis]);
        shifts[centre] = [difference(0) * 0.7, difference(1), difference(2)];
    }
    Ok(shifts)
}

/// The colours of `faithful` for clusters in 8-bit Lab: every centre becomes the palette colour nearest in BGR, its
/// pixels are filled with it, and 0.75 of that is laid over the original.
///
/// # Errors
/// A picture whose size does not fit its bytes or the labels, or an empty palette.
pub fn faithful_with(
    bgr: &[u8],
    width: usize,
    height: usize,
    palette: &[Rgb8],
    clusters: &Clusters,
) -> Result<Vec<u8>> {
    let original = picture(bgr, width, height)?;
    check(palette, clusters, width * height)?;
    let mut fills = Vec::with_capacity(clusters.centres.len());
    for centre in &clusters.centres {
        let from = single(converted(&Mat::from_slice(&[Vec3b::from(centre.map(|v| v as u8))])?, COLOR_Lab2BGR)?)?;
        let mut best = (i32::MAX, [0; 3]);
        for to in palette.iter().map(|c| [c.b, c.g, c.r]) {
            let distance = from.iter().zip(to).map(|(&f, t)| (i32::from(f) - i32::from(t)).pow(2)).sum();
            if distance < best.0 {
                best = (distance, to);
            }
        }
        fills.push(best.1);
    }
    let flat: Vec<u8> = clusters.labels.iter().flat_map(|&label| fills[label]).collect();
    bytes(&blended(&picture(&flat, width, height)?, &original)?)
}

fn check(palette: &[Rgb8], clusters: &Clusters, pixels: usize) -> Result<()> {
    let bad = |what: &str| Err(Error::new(core::StsBadArg, what.to_owned()));
    if palette.is_empty() {
        return bad("the palette is empty; give it at least one colour");
    }
    if clusters.labels.len() != pixels {
        return bad("the clusters are of another picture; there must be one label per pixel");
    }
    if clusters.labels.iter().any(|&label| label >= clusters.centres.len()) {
        return bad("a label names a centre that is not there");
    }
    Ok(())
}

/// A picture's bytes as a three-channel matrix.
fn picture(codes: &[u8], width: usize, height: usize) -> Result<Mat> {
    if width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) != Some(codes.len()) || codes.is_empty() {
        let text = format!("{} bytes are no {width}×{height} picture of 3 bytes a pixel", codes.len());
        return Err(Error::new(core::StsBadSize, text));
    }
    let pixels: Vec<Vec3b> = codes.as_chunks::<3>().0.iter().map(|&pixel| Vec3b::from(pixel)).collect();
    Mat::new_rows_cols_with_data(i32::try_from(height)?, i32::try_from(width)?, &pixels)?.try_clone()
}

fn bytes(picture: &Mat) -> Result<Vec<u8>> {
    Ok(picture.data_bytes()?.to_vec())
}

fn converted(picture: &impl core::ToInputArray, code: i32) -> Result<Mat> {
    let mut result = Mat::default();
    imgproc::cvt_color_def(picture, &mut result, code)?;
    Ok(result)
}

fn blended(new: &Mat, old: &Mat) -> Result<Mat> {
    let mut result = Mat::default();
    core::add_weighted_def(new, 0.75, old, 0.25, 0.0, &mut result)?;
    Ok(result)
}

fn single(pixel: Mat) -> Result<[u8; 3]> {
    Ok(pixel.at::<Vec3b>(0)?.0)
}

fn lab_of_bgr(color: [u8; 3]) -> Result<[u8; 3]> {
    single(converted(&Mat::from_slice(&[Vec3b::from(color)])?, COLOR_BGR2Lab)?)
}
