//! How much memory a job will hold at its peak: an estimate from above, made from the picture's header.

use super::decode::Probe;
use super::job::{Format, Job, Mode};
use super::plan;
use super::run::{self, RunOptions};
use crate::kernel::resize;

/// What every run holds whatever the picture: bitmaps of colours, bins, buffers.
const FIXED: u64 = 8 << 20;

/// What each thread holds whatever the picture: a bitmap of colours and rows.
const PER_THREAD: u64 = 3 << 20;

/// The most that weights are kept for; beyond it they are worked out again.
const WEIGHTS: u64 = 24 << 20;

/// The most that an effect holds for each pixel beside the picture, its result included.
const EFFECT_PER_PIXEL: u64 = 16;

/// What an effect holds beside that for each pixel of a picture of up to two megapixels, which a poster's shapes are drawn in.
const EFFECT_PER_SMALL_PIXEL: u64 = 44;

/// The most that removing a background holds for each pixel, the picture before and after included. What a model's session holds
/// is counted once, when it is loaded.
const MATTE_PER_PIXEL: u64 = 28;

/// Distinct colours there can be.
const COLORS: u64 = 1 << 24;

/// Bytes that a run of `job` holds at its peak on `threads` threads when files are handed over: source, rasters, colours,
/// the encoders' buffers and the files that wait to be taken away, of which at most [`waiting_bytes`] do.
///
/// Every pixel may have a colour of its own: a photograph takes a third of the estimate, noise nearly all of it.
pub fn peak_bytes(probe: &Probe, source_bytes: u64, job: &Job, options: &RunOptions, threads: usize) -> u64 {
    let threads = threads as u64;
    let pixels = base_pixels(probe, options);
    let colors = pixels.min(COLORS);
    // The decoder's rasters; a picture that is brought down is held beside its small copy for a moment.
    let decode = probe.peak_bytes + if pixels < stored_pixels(probe) { 4 * pixels } else { 0 };
    let index = 4 * pixels + colors * (20 + 4 * threads);
    let predecessor = match job.recolor.mode {
        // Every colour's nearest centre and distance, and a copy of the colours in 8 bits.
        Mode::Transfer | Mode::Faithful => 16 * colors,
        Mode::Soft | Mode::Exact | Mode::Tint => (20 * colors).min(WEIGHTS),
    };
    let written = encoder_bytes(pixels, job, options) + largest_file(pixels, job, options);
    let palettes = threads * (4 * colors + written);
    // The picture as pixels, for all of them; then what each holds.
    let effects = match job.effects.len() as u64 {
        0 => 0,
        count => {
            let each = EFFECT_PER_PIXEL * pixels + EFFECT_PER_SMALL_PIXEL * pixels.min(2_000_000);
            4 * pixels + threads.min(count) * (each + written)
        }
    };
    let matte = if job.background.is_asked() { MATTE_PER_PIXEL * pixels } else { 0 };
    source_bytes
        + FIXED
        + threads * PER_THREAD
        + decode.max(matte).max(index + predecessor + palettes.max(effects))
        + waiting_bytes(probe, job, options)
}

/// Bytes that the picture of header `fill` takes when it lies behind the subject: its file, what decoding it takes, and
/// on each thread itself at the size of the variation and half resized to it.
pub fn behind_bytes(fill: &Probe, fill_bytes: u64, probe: &Probe, options: &RunOptions, threads: usize) -> u64 {
    let (width, height) = resize::fit(probe.width, probe.height, options.max_dimension, 0);
    fill_bytes + fill.peak_bytes + cover_bytes((fill.width, fill.height), (width, height), threads)
}

/// Bytes that a picture of size `fill` takes behind one of size `picture`: itself, and on each thread itself at the other's size
/// and half resized to it.
pub fn cover_bytes(fill: (u32, u32), picture: (u32, u32), threads: usize) -> u64 {
    let [w, h, fill_w, fill_h] = [picture.0, picture.1, fill.0, fill.1].map(u64::from);
    let half = (fill_w * h).max(w * fill_h);
    3 * fill_w * fill_h + threads as u64 * 3 * (w * h + half)
}

/// Bytes of finished files that may wait to be taken away: twice the largest one.
pub fn waiting_bytes(probe: &Probe, job: &Job, options: &RunOptions) -> u64 {
    2 * largest_file(base_pixels(probe, options), job, options)
}

/// Pixels that a job recolours and encodes: those of the base times palettes and outputs.
pub fn work_pixels(probe: &Probe, job: &Job, options: &RunOptions) -> u64 {
    let files = run::object_names(job, options).len() as u64;
    base_pixels(probe, options).saturating_mul(files.max(1))
}

fn stored_pixels(probe: &Probe) -> u64 {
    u64::from(probe.width) * u64::from(probe.height)
}

fn base_pixels(probe: &Probe, options: &RunOptions) -> u64 {
    let (width, height) = resize::fit(probe.width, probe.height, options.max_dimension, 0);
    u64::from(width) * u64::from(height)
}

/// What an encoder holds of a picture beside what it has written.
fn encoder_bytes(pixels: u64, job: &Job, options: &RunOptions) -> u64 {
    let outputs = plan::outputs(job, options);
    let held = outputs.iter().map(|output| match output.format {
        Format::Png => 0,
        Format::Jpeg if output.progressive => 9 * pixels,
        Format::Jpeg => 0,
        Format::Webp => 10 * pixels,
    });
    // Reduced sizes are gathered beside the full one, at four bytes a pixel.
    let reduced = outputs.iter().filter(|o| o.max_dimension.is_some()).count() as u64;
    held.max().unwrap_or(0) + (1 << 20) + reduced.min(4) * pixels
}

/// The most bytes that one file can have. The encoders' worst cases; a file grows in a buffer of twice its size at most.
fn largest_file(pixels: u64, job: &Job, options: &RunOptions) -> u64 {
    let files = plan::outputs(job, options);
    let sizes = files.iter().map(|output| match output.format {
        Format::Png => 4 * pixels,
        Format::Webp if output.lossless => 4 * pixels,
        Format::Jpeg | Format::Webp => match output.quality.unwrap_or(options.quality) {
            0..=90 => pixels,
            _ => 3 * pixels,
        },
    });
    sizes.max().unwrap_or(0) + (64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::decode::{self, Limits};

    fn png_header(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        drop(encoder.write_header().unwrap());
        bytes
    }

    fn estimate(side: u32, outputs: &str, options: &RunOptions) -> u64 {
        let header = png_header(side, side);
        let probe = decode::probe(&header, &Limits::default()).unwrap();
        let job = format!(r#"{{"source": "x", "palettes": {{"generate": 7}}, "outputs": {outputs}}}"#);
        peak_bytes(&probe, 1 << 20, &Job::from_json(job.as_bytes()).unwrap(), options, 2)
    }

    #[test]
    fn a_jpeg_job_of_4_megapixels_fits_twice_into_what_a_container_of_512_mib_leaves() {
        let options = RunOptions::default();
        let bytes = estimate(2048, r#"[{"format": "jpeg"}]"#, &options);
        assert!((100 << 20..225 << 20).contains(&bytes), "{bytes}");
        let bytes = estimate(2048, r#"[{"format": "png"}]"#, &options);
        assert!((100 << 20..300 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn larger_pictures_more_threads_and_heavier_formats_take_more() {
        let options = RunOptions::default();
        let plain = estimate(2048, r#"[{"format": "jpeg"}]"#, &options);
        assert!(estimate(4096, r#"[{"format": "jpeg"}]"#, &options) > 3 * plain);
        assert!(estimate(2048, r#"[{"format": "webp"}]"#, &options) > plain + (60 << 20));
        assert!(estimate(4096, r#"[{"format": "jpeg"}]"#, &RunOptions { max_dimension: 1024, ..options }) < 2 * plain);
    }

    #[test]
    fn effects_and_mattes_take_their_part() {
        let probe = decode::probe(&png_header(2048, 2048), &Limits::default()).unwrap();
        let bytes = |more: &str| {
            let job =
                format!(r#"{{"source": "x", "palettes": {{"generate": 1}}, "outputs": [{{"format": "jpeg"}}]{more}}}"#);
            peak_bytes(&probe, 1 << 20, &Job::from_json(job.as_bytes()).unwrap(), &RunOptions::default(), 2)
        };
        let plain = bytes("");
        let effects = bytes(r#", "effects": ["dither", "color", "pop-art"]"#);
        assert!(effects > plain, "{effects} {plain}");
        assert_eq!(effects, bytes(r#", "effects": ["dither", "color"]"#), "no more at once than there are threads");
        assert!(bytes(r#", "background": {"action": "remove"}"#) >= plain.max(28 << 22));
    }

    #[test]
    fn work_is_pixels_times_files() {
        let probe = decode::probe(&png_header(100, 50), &Limits::default()).unwrap();
        let job = r#"{"source": "x", "palettes": {"generate": 7}, "outputs": [{"format": "png"}, {"format": "jpeg"}]}"#;
        assert_eq!(work_pixels(&probe, &Job::from_json(job.as_bytes()).unwrap(), &RunOptions::default()), 70_000);
    }
}
