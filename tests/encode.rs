//! Pictures out, judged by decoders that share no code with the encoders' drivers.

use std::io::{self, Cursor};

use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::image::{Raster, Rows, pack_rgba};
use concept_worker::pipeline::encode::{EncodeError, EncodeOptions, SRGB_PROFILE, encode};
use concept_worker::pipeline::job::{Chroma, Effort, Format};
use proptest::prelude::*;

const SIDES: [(u32, u32); 9] =
    [(1, 1), (3, 5), (17, 33), (64, 64), (1, 200), (200, 1), (130, 65), (33, 129), (256, 192)];
const EFFORTS: [Effort; 2] = [Effort::Fast, Effort::Small];

fn options(format: Format) -> EncodeOptions {
    EncodeOptions::new(format)
}

fn to_bytes(rows: &mut dyn Rows, options: &EncodeOptions) -> Vec<u8> {
    let mut out = Vec::new();
    encode(rows, options, &mut out).unwrap();
    out
}

fn raster(width: u32, height: u32, pixel: impl Fn(u32, u32) -> u32) -> Raster {
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| pixel(x, y)).collect();
    Raster::new(width, height, pixels).unwrap()
}

/// Smooth, with a little texture, like a photograph.
fn photograph(width: u32, height: u32) -> Raster {
    raster(width, height, |x, y| {
        let wave = |f: f32, g: f32| ((x as f32 * f).sin() * (y as f32 * g).cos() * 50.0) as i32;
        let grain = (hash(x, y) % 7) as i32;
        let channel = |base: i32, w: i32| (base + w + grain).clamp(0, 255) as u8;
        pack_rgba(channel(120, wave(0.05, 0.03)), channel(110, wave(0.04, 0.05)), channel(90, wave(0.02, 0.06)), 255)
    })
}

fn noise(width: u32, height: u32, alpha: bool) -> Raster {
    raster(width, height, |x, y| hash(x, y) | if alpha { 0 } else { 0xFF00_0000 })
}

fn hash(x: u32, y: u32) -> u32 {
    let mut h = x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77);
    h = (h ^ h >> 15).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ h >> 12).wrapping_mul(0x297A_2D39);
    h ^ h >> 15
}

fn decoded(bytes: &[u8]) -> Vec<u32> {
    let picture = image::load_from_memory(bytes).unwrap().to_rgba8();
    picture.pixels().map(|p| u32::from_le_bytes(p.0)).collect()
}

fn zune(bytes: &[u8]) -> zune_jpeg::JpegDecoder<zune_jpeg::zune_core::bytestream::ZCursor<&[u8]>> {
    zune_jpeg::JpegDecoder::new(zune_jpeg::zune_core::bytestream::ZCursor::new(bytes))
}

/// Peak signal to noise over the colour channels, in decibels.
fn psnr(seen: &[u32], wanted: &[u32]) -> f64 {
    assert_eq!(seen.len(), wanted.len());
    let mut sum = 0.0;
    for (seen, wanted) in seen.iter().zip(wanted) {
        for (s, w) in seen.to_le_bytes().iter().zip(wanted.to_le_bytes()).take(3) {
            sum += f64::from(s.abs_diff(w)).powi(2);
        }
    }
    10.0 * (255.0f64.powi(2) * 3.0 * seen.len() as f64 / sum.max(1e-9)).log10()
}

/// Rows of indices.
#[derive(Clone)]
struct Indexed {
    width: u32,
    palette: Vec<u32>,
    indices: Vec<u8>,
    next: usize,
}

impl Indexed {
    /// Half flat, half a run through all colours; the first `see_through` colours are not opaque.
    fn new(width: u32, height: u32, colors: usize, see_through: usize) -> Self {
        let alpha = |i: usize| if i < see_through { (i as u32) << 24 } else { 0xFF00_0000 };
        let palette = (0..colors).map(|i| hash(i as u32, 7) & 0x00FF_FFFF | alpha(i)).collect();
        let indices = (0..width * height)
            .map(|i| {
                let (x, y) = (i % width, i / width);
                let index = if x < width / 2 { x / 9 + y / 7 } else { i };
                (index as usize % colors) as u8
            })
            .collect();
        Self { width, palette, indices, next: 0 }
    }

    fn pixels(&self) -> Vec<u32> {
        self.indices.iter().map(|&i| self.palette[i as usize]).collect()
    }
}

impl Rows for Indexed {
    fn width(&self) -> u32 {
        self.width
    }
    fn height(&self) -> u32 {
        self.indices.len() as u32 / self.width
    }
    fn has_alpha(&self) -> bool {
        self.palette.iter().any(|p| p >> 24 != 255)
    }
    fn next_row(&mut self, row: &mut [u32]) {
        for (pixel, &index) in row.iter_mut().zip(&self.indices[self.next..]) {
            *pixel = self.palette[index as usize];
        }
        self.next += row.len();
    }
    fn palette(&self) -> Option<&[u32]> {
        Some(&self.palette)
    }
    fn next_indices(&mut self, row: &mut [u8]) {
        row.copy_from_slice(&self.indices[self.next..self.next + row.len()]);
        self.next += row.len();
    }
}

#[test]
fn png_keeps_every_pixel_and_every_alpha() {
    for (width, height) in SIDES {
        for picture in [photograph(width, height), noise(width, height, false), noise(width, height, true)] {
            for effort in EFFORTS {
                let bytes = to_bytes(&mut picture.clone(), &EncodeOptions { effort, ..options(Format::Png) });
                assert!(decoded(&bytes) == picture.pixels(), "{width}×{height} {effort:?}");
                let reader = png::Decoder::new(Cursor::new(&bytes)).read_info().unwrap();
                let expected = match picture.palette() {
                    Some(_) => png::ColorType::Indexed,
                    None if picture.has_alpha() => png::ColorType::Rgba,
                    None => png::ColorType::Rgb,
                };
                assert_eq!(reader.info().color_type, expected);
            }
        }
    }
}

#[test]
fn png_rows_that_repeat_and_rows_of_one_colour_survive() {
    let stripes = raster(97, 80, |x, y| pack_rgba((y / 9 * 30) as u8, 40, if y / 9 == 3 { x as u8 } else { 9 }, 255));
    let black = raster(97, 80, |_, _| pack_rgba(0, 0, 0, 255));
    let clear = raster(97, 80, |_, _| 0);
    for picture in [stripes, black, clear] {
        assert!(decoded(&to_bytes(&mut picture.clone(), &options(Format::Png))) == picture.pixels());
    }
}

#[test]
fn png_of_few_colours_is_indexed_at_the_least_depth() {
    for (colors, bits) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)] {
        for see_through in [0, 1, colors / 2] {
            for effort in EFFORTS {
                for (width, height) in [(1, 1), (3, 5), (17, 33), (61, 40)] {
                    let picture = Indexed::new(width, height, colors, see_through);
                    let bytes = to_bytes(&mut picture.clone(), &EncodeOptions { effort, ..options(Format::Png) });
                    assert!(decoded(&bytes) == picture.pixels(), "{colors} colours {width}×{height} {effort:?}");
                    let reader = png::Decoder::new(Cursor::new(&bytes)).read_info().unwrap();
                    let info = reader.info();
                    assert_eq!(info.color_type, png::ColorType::Indexed);
                    assert_eq!(info.bit_depth as u8, bits);
                    assert_eq!(info.palette.as_ref().unwrap().len(), colors * 3);
                    assert_eq!(info.trns.as_ref().map_or(0, |t| t.len()), see_through);
                }
            }
        }
    }
}

#[test]
fn png_says_that_it_is_srgb() {
    for picture in [&mut photograph(20, 20) as &mut dyn Rows, &mut Indexed::new(20, 20, 5, 1)] {
        let bytes = to_bytes(picture, &options(Format::Png));
        assert!(png::Decoder::new(Cursor::new(&bytes)).read_info().unwrap().info().srgb.is_some());
    }
}

#[test]
fn png_small_is_smaller_than_fast() {
    let [fast, small] = EFFORTS.map(|effort| {
        let options = EncodeOptions { effort, ..options(Format::Png) };
        [to_bytes(&mut photograph(300, 200), &options), to_bytes(&mut Indexed::new(300, 200, 9, 0), &options)]
    });
    assert!(small[0].len() < fast[0].len() && small[1].len() < fast[1].len());
}

#[test]
fn webp_without_loss_keeps_every_pixel_even_under_alpha_zero() {
    for (width, height) in SIDES {
        for picture in [photograph(width, height), noise(width, height, false), noise(width, height, true)] {
            for effort in EFFORTS {
                let options = EncodeOptions { lossless: true, effort, ..options(Format::Webp) };
                let bytes = to_bytes(&mut picture.clone(), &options);
                assert!(decoded(&bytes) == picture.pixels(), "{width}×{height} {effort:?}");
            }
        }
    }
}

#[test]
fn webp_with_loss_stays_close_and_keeps_alpha() {
    let picture = photograph(160, 120);
    let bytes = to_bytes(&mut picture.clone(), &options(Format::Webp));
    assert!(psnr(&decoded(&bytes), picture.pixels()) > 34.0);
    let soft = raster(160, 120, |x, y| pack_rgba(200, 100, 50, (x + y).min(255) as u8));
    let seen = decoded(&to_bytes(&mut soft.clone(), &options(Format::Webp)));
    assert!(seen.iter().zip(soft.pixels()).all(|(a, b)| a >> 24 == b >> 24));
}

#[test]
fn jpeg_stays_close_at_odd_sides() {
    for (width, height) in SIDES {
        for chroma in [Chroma::Half, Chroma::Full] {
            for progressive in [false, true] {
                let picture = photograph(width, height);
                let options = EncodeOptions { chroma, progressive, quality: 90, ..options(Format::Jpeg) };
                let bytes = to_bytes(&mut picture.clone(), &options);
                let psnr = psnr(&decoded(&bytes), picture.pixels());
                assert!(psnr > 36.0, "{width}×{height} {chroma:?} progressive {progressive}: {psnr}");
                let luma = if chroma == Chroma::Half { 0x22 } else { 0x11 };
                assert_eq!(sampling(&bytes, progressive), [luma, 0x11, 0x11]);
            }
        }
    }
}

/// The sampling factors of the three components, from the frame header.
fn sampling(jpeg: &[u8], progressive: bool) -> [u8; 3] {
    let marker = if progressive { 0xC2 } else { 0xC0 };
    let at = jpeg.windows(4).position(|w| w == [0xFF, marker, 0, 17]).unwrap();
    [0, 1, 2].map(|component| jpeg[at + 11 + 3 * component])
}

#[test]
fn jpeg_chroma_is_averaged_and_not_picked() {
    // Columns of two colours of one luma: 4:2:0 must show their mean everywhere.
    let picture =
        raster(64, 64, |x, _| if x % 2 == 0 { pack_rgba(200, 60, 100, 255) } else { pack_rgba(60, 128, 112, 255) });
    let options = EncodeOptions { chroma: Chroma::Half, quality: 98, ..options(Format::Jpeg) };
    for pixel in decoded(&to_bytes(&mut picture.clone(), &options)) {
        for (seen, mean) in pixel.to_le_bytes().into_iter().zip([130, 94, 106]) {
            assert!(seen.abs_diff(mean) <= 6, "{seen} for {mean}");
        }
    }
}

#[test]
fn jpeg_agrees_with_a_second_decoder() {
    for (width, height) in [(131, 77), (40, 400)] {
        let picture = photograph(width, height);
        let bytes = to_bytes(&mut picture.clone(), &EncodeOptions { chroma: Chroma::Half, ..options(Format::Jpeg) });
        let rgb = zune(&bytes).decode().unwrap();
        let seen: Vec<u32> = rgb.chunks_exact(3).map(|p| pack_rgba(p[0], p[1], p[2], 255)).collect();
        assert!(psnr(&seen, picture.pixels()) > 34.0);
    }
}

#[test]
fn jpeg_carries_the_srgb_profile() {
    for progressive in [false, true] {
        let bytes = to_bytes(&mut photograph(20, 90), &EncodeOptions { progressive, ..options(Format::Jpeg) });
        let mut decoder = zune(&bytes);
        decoder.decode_headers().unwrap();
        assert_eq!(decoder.icc_profile().as_deref(), Some(&SRGB_PROFILE[..]));
    }
}

#[test]
fn jpeg_shows_the_fill_behind_transparency() {
    let fill = Rgb8::new(250, 20, 120);
    let clear = raster(40, 40, |_, _| pack_rgba(9, 200, 3, 0));
    let half = raster(40, 40, |_, _| pack_rgba(0, 100, 20, 128));
    for (mut picture, wanted) in [(clear, [250, 20, 120]), (half, [125, 60, 70])] {
        for pixel in decoded(&to_bytes(&mut picture, &EncodeOptions { fill, quality: 95, ..options(Format::Jpeg) })) {
            for (seen, wanted) in pixel.to_le_bytes().into_iter().zip(wanted) {
                assert!(seen.abs_diff(wanted) <= 2, "{seen} for {wanted}");
            }
        }
    }
    let white = decoded(&to_bytes(&mut raster(8, 8, |_, _| 0), &options(Format::Jpeg)));
    assert!(white.iter().all(|&p| p == 0xFFFF_FFFF));
}

#[test]
fn equal_input_gives_equal_bytes() {
    for format in [Format::Png, Format::Jpeg, Format::Webp] {
        for lossless in [false, true] {
            let options = EncodeOptions { lossless, ..options(format) };
            let once = to_bytes(&mut photograph(200, 150), &options);
            assert!(once == to_bytes(&mut photograph(200, 150), &options));
        }
    }
}

#[test]
fn sides_beyond_the_format_are_refused_before_a_row_is_read() {
    struct Wide(u32, u32);
    impl Rows for Wide {
        fn width(&self) -> u32 {
            self.0
        }
        fn height(&self) -> u32 {
            self.1
        }
        fn has_alpha(&self) -> bool {
            false
        }
        fn next_row(&mut self, _: &mut [u32]) {
            panic!("read");
        }
    }
    for (format, side, limit) in [(Format::Jpeg, 65_536, 65_535), (Format::Webp, 16_384, 16_383)] {
        for (width, height) in [(side, 1), (1, side)] {
            let mut out = Vec::new();
            let error = encode(&mut Wide(width, height), &options(format), &mut out).unwrap_err();
            assert!(matches!(error, EncodeError::TooWide { limit: l, .. } if l == limit));
            assert!(error.to_string().contains(&format!("set max_dimension to {limit} or less")), "{error}");
            assert!(out.is_empty());
        }
    }
}

#[test]
fn the_longest_sides_of_jpeg_and_webp_work() {
    for (format, sides) in [(Format::Jpeg, [65_535, 65_500]), (Format::Webp, [16_383; 2])] {
        for side in sides {
            for (width, height) in [(side, 70), (2, side)] {
                let mut picture = raster(width, height, |x, y| hash(x / 50, y / 50) | 0xFF00_0000);
                let bytes = to_bytes(&mut picture, &options(format));
                let seen = image::load_from_memory(&bytes).unwrap();
                assert_eq!((seen.width(), seen.height()), (width, height));
                let seen: Vec<u32> = seen.to_rgba8().pixels().map(|p| u32::from_le_bytes(p.0)).collect();
                assert!(psnr(&seen, picture.pixels()) > 25.0);
            }
        }
    }
}

/// Takes so many bytes, then fails.
struct FullDisk(usize);

impl io::Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "disk full"));
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_not_a_panic() {
    for format in [Format::Png, Format::Jpeg, Format::Webp] {
        for effort in EFFORTS {
            for progressive in [false, true] {
                let options = EncodeOptions { effort, progressive, lossless: true, ..options(format) };
                let (noise, indexed) = (noise(100, 100, false), Indexed::new(200, 200, 200, 0));
                let lengths = [to_bytes(&mut noise.clone(), &options), to_bytes(&mut indexed.clone(), &options)];
                for room in [0, 5, 60, 800, usize::MAX] {
                    let sources = [&mut noise.clone() as &mut dyn Rows, &mut indexed.clone()];
                    for (rows, length) in sources.into_iter().zip(lengths.each_ref().map(Vec::len)) {
                        // The last byte must count too.
                        let mut disk = FullDisk(room.min(length - 1));
                        let error = encode(rows, &options, &mut disk).unwrap_err();
                        assert!(matches!(error, EncodeError::Io(_)), "{format:?} {room}: {error}");
                        assert!(error.to_string().contains("room"));
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn png_of_any_small_picture_comes_back(
        width in 1u32..40,
        mut pixels in prop::collection::vec(prop_oneof![any::<u32>(), Just(0xFF00_0000), Just(0)], 1..400),
    ) {
        let height = (pixels.len() as u32).div_ceil(width);
        pixels.resize((width * height) as usize, 0xFFFF_FFFF);
        let picture = Raster::new(width, height, pixels).unwrap();
        prop_assert!(decoded(&to_bytes(&mut picture.clone(), &options(Format::Png))) == picture.pixels());
    }
}
