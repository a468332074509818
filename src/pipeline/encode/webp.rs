//! WebP through libwebp, lossy and lossless.
//!
//! No ICC profile is written: the WebP container specification says that a file without an ICCP chunk is to be taken
//! as sRGB, and a profile would force the extended container (VP8X) on every file.
//!
//! libwebp takes the picture whole. One raster (3 bytes a pixel, 4 with alpha) is filled here from the rows; libwebp
//! copies it into its own form (4 bytes a pixel, and 1.5 to 2.5 for the lossy planes).

use std::io::Write;

use webp::{Encoder, PixelLayout, WebPConfig};

use super::{EncodeError, EncodeOptions, planes};
use crate::kernel::image::Rows;
use crate::pipeline::job::{Effort, Format};

/// The longest side of a WebP picture, in pixels (14 bits).
pub const LONGEST_SIDE: u32 = 16_383;

/// Writes a WebP.
pub(super) fn encode(rows: &mut dyn Rows, options: &EncodeOptions, out: &mut dyn Write) -> Result<(), EncodeError> {
    let failed = |message: String| EncodeError::Encoder { format: Format::Webp, message };
    let (width, height) = (rows.width(), rows.height());
    let has_alpha = rows.has_alpha();
    let (layout, bytes) = if has_alpha { (PixelLayout::Rgba, 4) } else { (PixelLayout::Rgb, 3) };

    let mut config = WebPConfig::new().map_err(|()| failed("libwebp has another version than its headers".into()))?;
    configure(&mut config, options);

    let stride = width as usize * bytes;
    let mut raster = Vec::new();
    raster.try_reserve_exact(stride * height as usize).map_err(|error| failed(error.to_string()))?;
    raster.resize(stride * height as usize, 0);
    let mut row = vec![0; width as usize];
    for line in raster.chunks_exact_mut(stride) {
        rows.next_row(&mut row);
        if has_alpha {
            planes::pack_rgba(&row, line);
        } else {
            planes::pack_rgb(&row, line);
        }
    }

    let encoded = Encoder::new(&raster, layout, width, height)
        .encode_advanced(&config)
        .map_err(|error| failed(format!("{error:?}")))?;
    drop(raster);
    out.write_all(&encoded)?;
    out.flush()?;
    Ok(())
}

/// Settings by measurement at 4 megapixels, milliseconds and kilobytes (photograph, flat art), one thread:
///
/// | lossy, quality 85 | photograph | flat art |
/// |---|---|---|
/// | method 0 | 77 ms, 331 kB | 72 ms, 208 kB |
/// | method 2 | 130 ms, 226 kB | 112 ms, 177 kB |
/// | method 4 | 309 ms, 216 kB | 223 ms, 170 kB |
///
/// | lossless | photograph | flat art |
/// |---|---|---|
/// | method 0, quality 20 | 268 ms, 2.67 MB | 46 ms, 21 kB |
/// | method 1, quality 20 | 764 ms, 2.54 MB | 89 ms, 19 kB |
/// | method 4, quality 75 | 2316 ms, 2.23 MB | 146 ms, 17 kB |
fn configure(config: &mut WebPConfig, options: &EncodeOptions) {
    if options.lossless {
        config.lossless = 1;
        // Colours under alpha 0 are pixels too: without loss means every byte.
        config.exact = 1;
        // Here quality says how long to search.
        (config.method, config.quality) = match options.effort {
            Effort::Fast => (0, 20.0),
            Effort::Small => (4, 75.0),
        };
    } else {
        let asked = f32::from(options.quality.clamp(1, 100));
        // libwebp's 85 looks worse than JPEG's 85, most of all on coloured edges, whose chroma it halves: SSIMULACRA2 of
        // 72 to 80 on photographs and flat art. 90 with chroma fitted to the luma around it gives 81 to 86, still in
        // fewer bytes than JPEG. The ends of the scale stay where they are.
        config.quality = asked + asked * (100.0 - asked) / 255.0;
        config.use_sharp_yuv = 1;
        config.method = match options.effort {
            Effort::Fast => 2,
            Effort::Small => 4,
        };
    }
}
