//! Pictures in: every format, depth, profile and orientation, and every way a file can be wrong.

use std::io::Cursor;

use concept_worker::kernel::image::BaseImage;
use concept_worker::pipeline::decode::{DecodeError, Limits, Probe, SourceFormat, decode, probe};
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use jpeg_encoder::{ColorType as JpegColor, Encoder as JpegEncoder, SamplingFactor};
use moxcms::ColorProfile;
use proptest::prelude::*;

fn read(bytes: &[u8]) -> BaseImage {
    decode(bytes, &Limits::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(bytes: &[u8]) -> DecodeError {
    decode(bytes, &Limits::default()).expect_err("a picture came out")
}

fn look(bytes: &[u8]) -> Probe {
    probe(bytes, &Limits::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// A picture whose pixels all differ from their neighbours.
fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 + y) as u8, (y * 11 + 3 * x) as u8, (x * y + 50) as u8]))
}

/// A smooth picture, which JPEG keeps nearly as it is.
fn smooth(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(40 + x * 150 / width) as u8, (60 + y * 150 / height) as u8, (200 - x * 100 / width) as u8])
    })
}

fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG written by the `png` crate, so that every header field can be set.
fn png_with(
    (width, height): (u32, u32),
    color: png::ColorType,
    depth: png::BitDepth,
    samples: &[u8],
    edit: impl FnOnce(&mut png::Info<'_>),
) -> Vec<u8> {
    let mut info = png::Info::with_size(width, height);
    (info.color_type, info.bit_depth) = (color, depth);
    edit(&mut info);
    let mut bytes = Vec::new();
    let mut writer = png::Encoder::with_info(&mut bytes, info).unwrap().write_header().unwrap();
    writer.write_image_data(samples).unwrap();
    writer.finish().unwrap();
    bytes
}

fn jpeg_with(
    (width, height): (u32, u32),
    color: JpegColor,
    samples: &[u8],
    edit: impl FnOnce(&mut JpegEncoder<&mut Vec<u8>>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new(&mut bytes, 100);
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    edit(&mut encoder);
    encoder.encode(samples, width as u16, height as u16, color).unwrap();
    bytes
}

/// An EXIF block with nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0]);
    block
}

fn worst_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn assert_near(got: [u8; 3], expected: [u8; 3], tolerance: u8) {
    assert!(worst_difference(&got, &expected) <= tolerance, "got {got:?}, expected {expected:?}");
}

fn first_pixel(image: &BaseImage) -> [u8; 3] {
    [image.rgb()[0], image.rgb()[1], image.rgb()[2]]
}

/// One sound file of each format, 24×16.
fn one_of_each() -> Vec<(SourceFormat, Vec<u8>)> {
    let picture = pattern(24, 16);
    let jpeg = |progressive| {
        jpeg_with((24, 16), JpegColor::Rgb, &picture, |encoder| {
            encoder.set_progressive(progressive);
            encoder.set_sampling_factor(SamplingFactor::F_2_2);
        })
    };
    let lossy = webp::Encoder::from_rgb(&picture, 24, 16).encode(80.0).to_vec();
    vec![
        (SourceFormat::Png, encoded(picture.clone(), ImageFormat::Png)),
        (SourceFormat::Jpeg, jpeg(false)),
        (SourceFormat::Jpeg, jpeg(true)),
        (SourceFormat::Webp, encoded(picture.clone(), ImageFormat::WebP)),
        (SourceFormat::Webp, lossy),
        (SourceFormat::Gif, encoded(picture.clone(), ImageFormat::Gif)),
        (SourceFormat::Bmp, encoded(picture.clone(), ImageFormat::Bmp)),
        (SourceFormat::Tiff, encoded(picture, ImageFormat::Tiff)),
    ]
}

// Formats

#[test]
fn lossless_formats_come_back_byte_for_byte() {
    let picture = pattern(37, 21);
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        let image = read(&encoded(picture.clone(), format));
        assert_eq!((image.width(), image.height()), (37, 21));
        assert_eq!(image.rgb(), picture.as_raw(), "{format:?}");
        assert_eq!(image.alpha(), None);
    }
}

#[test]
fn the_probe_and_the_picture_agree() {
    for (format, bytes) in one_of_each() {
        let header = look(&bytes);
        assert_eq!((header.format, header.width, header.height, header.orientation), (format, 24, 16, 1));
        assert!(header.peak_bytes >= 24 * 16 * 3, "{format}");
        let image = read(&bytes);
        assert_eq!((image.width(), image.height()), header.oriented_size(), "{format}");
    }
}

#[test]
fn jpeg_baseline_progressive_and_subsampled_stay_close() {
    let picture = smooth(67, 45);
    for progressive in [false, true] {
        for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2, SamplingFactor::F_1_2] {
            let bytes = jpeg_with((67, 45), JpegColor::Rgb, &picture, |encoder| {
                encoder.set_progressive(progressive);
                encoder.set_sampling_factor(sampling);
            });
            let image = read(&bytes);
            assert!(worst_difference(image.rgb(), &picture) <= 6, "{progressive} {sampling:?}");
        }
    }
}

#[test]
fn jpeg_with_restart_markers_is_whole() {
    let picture = smooth(80, 48);
    let bytes = jpeg_with((80, 48), JpegColor::Rgb, &picture, |encoder| encoder.set_restart_interval(3));
    assert!(worst_difference(read(&bytes).rgb(), &picture) <= 6);
}

#[test]
fn gray_jpeg_has_equal_channels() {
    let gray: Vec<u8> = (0..32 * 24).map(|i| (i / 4) as u8).collect();
    let image = read(&jpeg_with((32, 24), JpegColor::Luma, &gray, |_| {}));
    for (rgb, gray) in image.rgb().chunks_exact(3).zip(&gray) {
        assert_near([rgb[0], rgb[1], rgb[2]], [*gray; 3], 3);
        assert!(rgb[0] == rgb[1] && rgb[1] == rgb[2]);
    }
}

#[test]
fn inks_of_cmyk_and_ycck_jpegs_become_light() {
    for (inks, light) in [
        ([0, 0, 0, 0], [255, 255, 255]),
        ([255, 0, 0, 0], [0, 255, 255]),
        ([0, 255, 255, 0], [255, 0, 0]),
        ([0, 0, 0, 255], [0, 0, 0]),
        ([20, 200, 60, 100], [143, 33, 119]),
    ] {
        for color in [JpegColor::Cmyk, JpegColor::CmykAsYcck] {
            for progressive in [false, true] {
                let bytes =
                    jpeg_with((16, 16), color, &inks.repeat(256), |encoder| encoder.set_progressive(progressive));
                assert_near(first_pixel(&read(&bytes)), light, 3);
            }
        }
    }
}

#[test]
fn cmyk_without_an_adobe_marker_stores_ink() {
    let mut bytes = jpeg_with((16, 16), JpegColor::Cmyk, &[20, 200, 60, 100].repeat(256), |_| {});
    let adobe = bytes.windows(5).position(|window| window == b"Adobe").unwrap();
    bytes[adobe..adobe + 5].copy_from_slice(b"Other");
    assert_near(first_pixel(&read(&bytes)), [8, 78, 24], 3);
}

#[test]
fn the_first_frame_of_a_gif_is_read() {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for color in [[200, 10, 10, 255], [10, 200, 10, 255]] {
        encoder.encode_frame(image::Frame::new(RgbaImage::from_pixel(5, 4, Rgba(color)))).unwrap();
    }
    drop(encoder);
    let image = read(&bytes);
    assert_eq!((image.width(), image.height(), first_pixel(&image)), (5, 4, [200, 10, 10]));
}

#[test]
fn the_default_image_of_an_apng_is_read() {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 3, 2);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[9; 18]).unwrap();
    writer.write_image_data(&[90; 18]).unwrap();
    writer.finish().unwrap();
    assert_eq!(read(&bytes).rgb(), [9; 18]);
}

#[test]
fn the_first_frame_of_an_animated_webp_is_read() {
    let config = webp::WebPConfig::new().unwrap();
    let mut encoder = webp::AnimEncoder::new(6, 4, &config);
    let (first, second) = ([250, 20, 20].repeat(24), [20, 20, 250].repeat(24));
    encoder.add_frame(webp::AnimFrame::from_rgb(&first, 6, 4, 0));
    encoder.add_frame(webp::AnimFrame::from_rgb(&second, 6, 4, 100));
    assert_near(first_pixel(&read(&encoder.encode())), [250, 20, 20], 12);
}

// Depth, palette, alpha

#[test]
fn every_png_color_type_and_depth_expands_to_eight_bits() {
    use png::{BitDepth as Depth, ColorType as Color};
    let palette = |info: &mut png::Info<'_>| info.palette = Some(vec![10, 20, 30, 200, 100, 50].into());
    let bits = [0b0100_0000];
    for (depth, expected) in [(Depth::One, 255), (Depth::Two, 85), (Depth::Four, 68), (Depth::Eight, 64)] {
        let data: &[u8] =
            &if depth == Depth::Eight { [0, 64] } else { [bits[0], 0] }[..if depth == Depth::Eight { 2 } else { 1 }];
        let image = read(&png_with((2, 1), Color::Grayscale, depth, data, |_| {}));
        let gray = if matches!(depth, Depth::One | Depth::Eight) { image.rgb()[3] } else { image.rgb()[0] };
        assert_eq!(gray, expected, "{depth:?}");
    }
    for (depth, data) in
        [(Depth::One, [0b0100_0000, 0]), (Depth::Two, [0b0001_0000, 0]), (Depth::Four, [1, 0]), (Depth::Eight, [0, 1])]
    {
        let length = if depth == Depth::Eight { 2 } else { 1 };
        let image = read(&png_with((2, 1), Color::Indexed, depth, &data[..length], palette));
        assert_eq!(image.rgb(), [10, 20, 30, 200, 100, 50], "{depth:?}");
    }
}

#[test]
fn transparency_chunks_become_alpha() {
    use png::{BitDepth, ColorType};
    let indexed = png_with((3, 1), ColorType::Indexed, BitDepth::Eight, &[0, 1, 1], |info| {
        info.palette = Some(vec![10, 20, 30, 200, 100, 50].into());
        info.trns = Some(vec![128].into());
    });
    let image = read(&indexed);
    assert_eq!(image.alpha(), Some(&[128, 255, 255][..]));
    assert_eq!(image.rgb()[..6], [10, 20, 30, 200, 100, 50]);
    let keyed = png_with((2, 1), ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6], |info| {
        info.trns = Some(vec![0, 4, 0, 5, 0, 6].into());
    });
    assert_eq!(read(&keyed).alpha(), Some(&[255, 0][..]));
    let gray = png_with((2, 1), ColorType::Grayscale, BitDepth::Sixteen, &[0, 7, 1, 0], |info| {
        info.trns = Some(vec![0, 7].into());
    });
    assert_eq!(read(&gray).alpha(), Some(&[0, 255][..]));
}

#[test]
fn sixteen_bit_samples_round_to_the_nearest_code() {
    use png::{BitDepth, ColorType};
    let values: [u16; 6] = [0, 128, 129, 32_767, 65_406, 65_535];
    let expected = [0, 0, 1, 127, 254, 255];
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    let gray = read(&png_with((6, 1), ColorType::Grayscale, BitDepth::Sixteen, &data, |_| {}));
    assert_eq!(gray.rgb().iter().step_by(3).copied().collect::<Vec<_>>(), expected);
    let rgb = read(&png_with((2, 1), ColorType::Rgb, BitDepth::Sixteen, &data, |_| {}));
    assert_eq!(rgb.rgb(), expected);
    let data: Vec<u8> = [1000_u16, 2000, 3000, 32_767].iter().flat_map(|value| value.to_be_bytes()).collect();
    let rgba = read(&png_with((1, 1), ColorType::Rgba, BitDepth::Sixteen, &data, |_| {}));
    assert_eq!((rgba.rgb(), rgba.alpha()), (&[4, 8, 12][..], Some(&[127][..])));
    let data: Vec<u8> = [1000_u16, 32_767].iter().flat_map(|value| value.to_be_bytes()).collect();
    let gray_alpha = read(&png_with((1, 1), ColorType::GrayscaleAlpha, BitDepth::Sixteen, &data, |_| {}));
    assert_eq!((gray_alpha.rgb(), gray_alpha.alpha()), (&[4, 4, 4][..], Some(&[127][..])));
}

#[test]
fn sixteen_bit_tiffs_round_like_pngs() {
    let picture = image::ImageBuffer::<Rgba<u16>, _>::from_raw(1, 1, vec![129_u16, 32_767, 65_406, 40_000]).unwrap();
    let image = read(&encoded(picture, ImageFormat::Tiff));
    assert_eq!((image.rgb(), image.alpha()), (&[1, 127, 254][..], Some(&[156][..])));
    let gray = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(2, 1, vec![129_u16, 65_535]).unwrap();
    assert_eq!(read(&encoded(gray, ImageFormat::Tiff)).rgb(), [1, 1, 1, 255, 255, 255]);
}

#[test]
fn alpha_survives_and_hidden_color_does_not() {
    let picture = RgbaImage::from_fn(9, 7, |x, y| Rgba([x as u8, y as u8, 99, if x == 0 { 0 } else { 30 * x as u8 }]));
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Bmp] {
        let image = read(&encoded(picture.clone(), format));
        let alpha = image.alpha().unwrap_or_else(|| panic!("{format:?} lost its alpha"));
        for (i, pixel) in picture.pixels().enumerate() {
            assert_eq!(alpha[i], pixel[3], "{format:?}");
            let expected = if pixel[3] == 0 { [0; 3] } else { [pixel[0], pixel[1], pixel[2]] };
            assert_eq!(image.rgb()[i * 3..][..3], expected, "{format:?}");
        }
    }
}

#[test]
fn lossy_webp_keeps_its_alpha_plane() {
    let picture = RgbaImage::from_fn(32, 32, |x, _| Rgba([180, 90, 40, 8 * x as u8]));
    let image = read(&webp::Encoder::from_rgba(&picture, 32, 32).encode(90.0));
    let alpha: Vec<u8> = picture.pixels().map(|pixel| pixel[3]).collect();
    assert_eq!(image.alpha(), Some(&alpha[..]));
}

#[test]
fn interlaced_pngs_equal_plain_ones() {
    for (width, height) in [(1, 1), (2, 3), (5, 4), (8, 8), (19, 23)] {
        let plain = RgbaImage::from_fn(width, height, |x, y| Rgba([x as u8, y as u8, (x * y) as u8, 100 + y as u8]));
        let interlaced = adam7(&plain);
        assert!(interlaced[28] == 1, "the header says interlaced");
        assert_eq!(read(&interlaced), read(&encoded(plain, ImageFormat::Png)), "{width}×{height}");
    }
}

/// Writes an Adam7 PNG by hand; the `png` crate writes plain ones only.
fn adam7(picture: &RgbaImage) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let mut rows = Vec::new();
    for (x0, dx, y0, dy) in
        [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    {
        for y in (y0..height).step_by(dy) {
            let row: Vec<u8> = (x0..width).step_by(dx).flat_map(|x| picture.get_pixel(x, y).0).collect();
            if !row.is_empty() {
                rows.push(0);
                rows.extend(row);
            }
        }
    }
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 6, 0, 0, 1]);
    let mut bytes = b"\x89PNG\r\n\x1A\n".to_vec();
    for (kind, content) in [(b"IHDR", header), (b"IDAT", stored(&rows)), (b"IEND", vec![])] {
        bytes.extend(chunk(kind, &content));
    }
    bytes
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = (content.len() as u32).to_be_bytes().to_vec();
    bytes.extend(kind);
    bytes.extend(content);
    let crc = bytes[4..].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 })
    });
    bytes.extend((!crc).to_be_bytes());
    bytes
}

/// Data as one stored block of a zlib stream.
fn stored(data: &[u8]) -> Vec<u8> {
    fdeflate::compress_to_vec(data)
}

// Colour profiles

fn p3() -> Vec<u8> {
    ColorProfile::new_display_p3().encode().unwrap()
}

/// A PNG of one 8-bit colour under a profile.
fn tagged(color: [u8; 3], profile: Vec<u8>) -> Vec<u8> {
    png_with((1, 1), png::ColorType::Rgb, png::BitDepth::Eight, &color, |info| info.icc_profile = Some(profile.into()))
}

#[test]
fn display_p3_becomes_srgb() {
    // From the primaries of both spaces; colours outside sRGB are clipped.
    for (wide, expected) in [
        ([255, 0, 0], [255, 0, 0]),
        ([0, 255, 0], [0, 255, 0]),
        ([128, 128, 128], [128, 128, 128]),
        ([200, 100, 50], [215, 93, 31]),
        ([100, 150, 200], [83, 152, 205]),
    ] {
        assert_near(first_pixel(&read(&tagged(wide, p3()))), expected, 1);
    }
}

#[test]
fn adobe_rgb_becomes_srgb_in_every_container() {
    let profile = ColorProfile::new_adobe_rgb().encode().unwrap();
    let picture = RgbImage::from_pixel(16, 16, Rgb([120, 160, 90]));
    let expected = [99, 161, 85];
    assert_near(first_pixel(&read(&tagged([120, 160, 90], profile.clone()))), expected, 1);
    let jpeg = jpeg_with((16, 16), JpegColor::Rgb, &picture, |encoder| encoder.add_icc_profile(&profile).unwrap());
    assert_near(first_pixel(&read(&jpeg)), expected, 4);
    let mut webp = Vec::new();
    let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
    encoder.set_icc_profile(profile.clone()).unwrap();
    encoder.write_image(&picture, 16, 16, ExtendedColorType::Rgb8).unwrap();
    assert_near(first_pixel(&read(&webp)), expected, 1);
    let mut tiff = Cursor::new(Vec::new());
    let mut encoder = image::codecs::tiff::TiffEncoder::new(&mut tiff);
    encoder.set_icc_profile(profile).unwrap();
    encoder.write_image(&picture, 16, 16, ExtendedColorType::Rgb8).unwrap();
    assert_near(first_pixel(&read(tiff.get_ref())), expected, 1);
}

#[test]
fn profiles_leave_alpha_alone_and_convert_both_depths_alike() {
    let shallow = png_with((1, 1), png::ColorType::Rgba, png::BitDepth::Eight, &[200, 100, 50, 77], |info| {
        info.icc_profile = Some(p3().into());
    });
    let samples: Vec<u8> = [200, 200, 100, 100, 50, 50, 77, 77].to_vec();
    let deep = png_with((1, 1), png::ColorType::Rgba, png::BitDepth::Sixteen, &samples, |info| {
        info.icc_profile = Some(p3().into());
    });
    for bytes in [shallow, deep] {
        let image = read(&bytes);
        assert_near(first_pixel(&image), [215, 93, 31], 1);
        assert_eq!(image.alpha(), Some(&[77][..]));
    }
}

#[test]
fn sixteen_bits_are_converted_before_they_are_rounded() {
    // Two P3 colours a 16-bit step apart in the dark, where 8-bit rounding first would lose the difference.
    let ramp: Vec<u8> = (0..256_u16).flat_map(|v| [v * 16, v * 16 / 2, 0]).flat_map(u16::to_be_bytes).collect();
    let image = read(&png_with((256, 1), png::ColorType::Rgb, png::BitDepth::Sixteen, &ramp, |info| {
        info.icc_profile = Some(p3().into());
    }));
    let reds: Vec<u8> = image.rgb().iter().step_by(3).copied().collect();
    assert!(reds.windows(2).all(|pair| pair[1] >= pair[0] && pair[1] - pair[0] <= 1), "{reds:?}");
}

#[test]
fn an_srgb_profile_keeps_the_bytes() {
    let profile = ColorProfile::new_srgb().encode().unwrap();
    let picture = pattern(64, 64);
    let bytes = png_with((64, 64), png::ColorType::Rgb, png::BitDepth::Eight, &picture, |info| {
        info.icc_profile = Some(profile.into());
    });
    assert_eq!(read(&bytes).rgb(), picture.as_raw());
}

#[test]
fn a_gray_profile_changes_the_tone_curve() {
    let profile = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
    for (depth, data) in [(png::BitDepth::Eight, vec![55]), (png::BitDepth::Sixteen, vec![55, 55])] {
        let image = read(&png_with((1, 1), png::ColorType::Grayscale, depth, &data, |info| {
            info.icc_profile = Some(profile.clone().into());
        }));
        // Linear 55/255 is 0.2157, which sRGB writes as 128.
        assert_near(first_pixel(&image), [128; 3], 1);
    }
    let jpeg = jpeg_with((8, 8), JpegColor::Luma, &[55; 64], |encoder| encoder.add_icc_profile(&profile).unwrap());
    assert_near(first_pixel(&read(&jpeg)), [128; 3], 2);
}

/// A CMYK profile (ICC.1, `mft1`) whose grid has the sixteen corners; each is grey of a lightness that falls with
/// the sum of the inks, except that full cyan alone is a reddish Lab (50, 60, 40).
fn odd_cmyk_profile() -> Vec<u8> {
    let mut table = b"mft1\0\0\0\0\x04\x03\x02\0".to_vec();
    for i in 0..9 {
        table.extend(if i % 4 == 0 { 0x10000_u32 } else { 0 }.to_be_bytes());
    }
    (0..4).for_each(|_| table.extend(0..=255_u8));
    for corner in 0..16_u8 {
        let inks = corner.count_ones() as u8;
        table.extend(if corner == 0b1000 { [128, 188, 168] } else { [255 - inks * 60, 128, 128] });
    }
    (0..3).for_each(|_| table.extend(0..=255_u8));
    let mut profile = vec![0; 128];
    let length = 128 + 4 + 12 + table.len();
    profile[..4].copy_from_slice(&(length as u32).to_be_bytes());
    profile[8] = 2;
    profile[12..24].copy_from_slice(b"prtrCMYKLab ");
    profile[36..40].copy_from_slice(b"acsp");
    for (at, value) in [(68, 0x0000_F6D6_u32), (72, 0x0001_0000), (76, 0x0000_D32D)] {
        profile[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    profile.extend(1_u32.to_be_bytes());
    profile.extend(b"A2B0");
    profile.extend(144_u32.to_be_bytes());
    profile.extend((table.len() as u32).to_be_bytes());
    profile.extend(table);
    profile
}

#[test]
fn a_cmyk_profile_decides_what_the_inks_look_like() {
    let profile = odd_cmyk_profile();
    for color in [JpegColor::Cmyk, JpegColor::CmykAsYcck] {
        let of = |inks: [u8; 4]| {
            first_pixel(&read(&jpeg_with((16, 16), color, &inks.repeat(256), |encoder| {
                encoder.add_icc_profile(&profile).unwrap();
            })))
        };
        assert_near(of([0, 0, 0, 0]), [255, 255, 255], 3);
        // Lab (50.2, 60, 40) in D50 is sRGB (214, 61, 56); a conversion without the profile gives cyan.
        assert_near(of([255, 0, 0, 0]), [214, 61, 56], 3);
        // Full black is L* 76.5 in this profile.
        assert_near(of([0, 0, 0, 255]), [189, 189, 189], 4);
    }
}

#[test]
fn a_broken_profile_is_ignored() {
    let mut cut = p3();
    cut.truncate(200);
    let mut altered = p3();
    altered[130..].iter_mut().for_each(|byte| *byte ^= 0x5A);
    for profile in [b"not a profile".to_vec(), cut, altered, odd_cmyk_profile()] {
        assert_eq!(first_pixel(&read(&tagged([200, 100, 50], profile))), [200, 100, 50]);
    }
}

#[test]
fn profiles_with_flipped_bytes_never_cost_the_picture() {
    for profile in [p3(), odd_cmyk_profile(), ColorProfile::new_gray_with_gamma(2.0).encode().unwrap()] {
        for at in (0..profile.len()).step_by(7) {
            let mut profile = profile.clone();
            profile[at] ^= 0xFF;
            assert_eq!(read(&tagged([200, 100, 50], profile)).rgb().len(), 3);
        }
    }
}

// Orientation

#[test]
fn exif_orientation_is_applied_in_every_container() {
    let picture = smooth(32, 16);
    for value in 1..=8 {
        let mut expected = DynamicImage::from(picture.clone());
        expected.apply_orientation(Orientation::from_exif(value).unwrap());
        let expected = expected.to_rgb8();
        let png = png_with((32, 16), png::ColorType::Rgb, png::BitDepth::Eight, &picture, |info| {
            info.exif_metadata = Some(exif(value).into());
        });
        let mut webp = Vec::new();
        let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
        encoder.set_exif_metadata(exif(value)).unwrap();
        encoder.write_image(&picture, 32, 16, ExtendedColorType::Rgb8).unwrap();
        let jpeg = jpeg_with((32, 16), JpegColor::Rgb, &picture, |encoder| {
            encoder.add_exif_metadata(&exif(value)).unwrap();
        });
        for (bytes, tolerance) in [(png, 0), (webp, 0), (tiff(&picture, value), 0), (jpeg, 6)] {
            let header = look(&bytes);
            assert_eq!((header.width, header.height, header.orientation), (32, 16, value), "{}", header.format);
            assert_eq!(header.oriented_size(), expected.dimensions());
            let image = read(&bytes);
            assert_eq!((image.width(), image.height()), expected.dimensions());
            assert!(worst_difference(image.rgb(), &expected) <= tolerance, "{} {value}", header.format);
        }
    }
}

/// A little-endian TIFF with one strip and an orientation tag.
fn tiff(picture: &RgbImage, orientation: u8) -> Vec<u8> {
    let data = picture.as_raw();
    let entries: [(u16, u16, u32, u32); 10] = [
        (256, 3, 1, picture.width()),
        (257, 3, 1, picture.height()),
        (258, 3, 3, 8 + data.len() as u32),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (274, 3, 1, u32::from(orientation)),
        (277, 3, 1, 3),
        (278, 3, 1, picture.height()),
        (279, 4, 1, data.len() as u32),
    ];
    let mut bytes = b"II*\0".to_vec();
    bytes.extend((8 + data.len() as u32 + 6).to_le_bytes());
    bytes.extend(data);
    bytes.extend([8, 0, 8, 0, 8, 0]);
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn an_orientation_beyond_the_standard_is_none() {
    for value in [0, 9, 255] {
        let bytes = jpeg_with((8, 8), JpegColor::Rgb, &pattern(8, 8), |encoder| {
            encoder.add_exif_metadata(&exif(value)).unwrap();
        });
        assert_eq!(look(&bytes).orientation, 1);
    }
}

// Sizes

#[test]
fn one_pixel_is_a_picture_in_every_format() {
    let picture = RgbImage::from_pixel(1, 1, Rgb([200, 30, 90]));
    for format in
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff]
    {
        let image = read(&encoded(picture.clone(), format));
        assert_eq!((image.width(), image.height()), (1, 1));
        let tolerance = if format == ImageFormat::Jpeg { 12 } else { 0 };
        assert_near(first_pixel(&image), [200, 30, 90], tolerance);
    }
}

#[test]
fn the_widest_and_the_tallest_pictures_are_read() {
    for (width, height) in [(65_535, 1), (1, 65_535)] {
        let picture = RgbImage::from_pixel(width, height, Rgb([90, 90, 90]));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff] {
            let image = read(&encoded(picture.clone(), format));
            assert_eq!((image.width(), image.height()), (width, height), "{format:?}");
            assert_near(first_pixel(&image), [90; 3], 2);
        }
    }
}

#[test]
fn limits_are_checked_against_the_header() {
    for (format, bytes) in one_of_each() {
        let few = Limits { max_pixels: 24 * 16 - 1, ..Limits::default() };
        let short = Limits { max_side: 23, ..Limits::default() };
        let small = Limits { max_source_bytes: bytes.len() as u64 - 1, ..Limits::default() };
        let enough = Limits { max_pixels: 24 * 16, max_side: 24, max_source_bytes: bytes.len() as u64 };
        for limits in [few, short, small] {
            for error in [decode(&bytes, &limits).unwrap_err(), probe(&bytes, &limits).unwrap_err()] {
                assert_eq!(error.class(), "picture-too-large", "{format}");
                assert!(error.to_string().contains("limit"), "{error}");
            }
        }
        assert!(decode(&bytes, &enough).is_ok());
    }
}

#[test]
fn a_header_that_claims_too_much_is_refused_before_any_data() {
    let mut png = b"\x89PNG\r\n\x1A\n".to_vec();
    let header = [&60_000_u32.to_be_bytes()[..], &60_000_u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    png.extend(chunk(b"IHDR", &header));
    let mut jpeg = jpeg_with((8, 8), JpegColor::Rgb, &pattern(8, 8), |_| {});
    let frame = jpeg.windows(2).position(|window| window == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    let mut gif = b"GIF89a".to_vec();
    gif.extend([0x60, 0xEA, 0x60, 0xEA, 0, 0, 0]);
    let mut bmp = encoded(pattern(4, 4), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&60_000_u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000_u32.to_le_bytes());
    bmp.truncate(54);
    let mut tiff = tiff(&pattern(4, 4), 1);
    for tag in [256_u16, 257, 278] {
        let at = tiff.windows(4).rposition(|window| window == [tag.to_le_bytes(), 3_u16.to_le_bytes()].concat());
        tiff[at.unwrap() + 8..at.unwrap() + 12].copy_from_slice(&60_000_u32.to_le_bytes());
    }
    for (name, bytes) in [("png", png), ("jpeg", jpeg), ("gif", gif), ("bmp", bmp), ("tiff", tiff)] {
        let error = refused(&bytes);
        assert_eq!(error.class(), "picture-too-large", "{name}: {error}");
        assert!(error.to_string().contains("60000×60000"), "{name}: {error}");
    }
}

#[test]
fn a_header_that_claims_more_than_the_file_holds_is_refused() {
    // Within the limits, so the size must be found wanting by the data.
    let limits = Limits { max_pixels: 1 << 24, ..Limits::default() };
    for (format, bytes) in one_of_each() {
        let mut lying = bytes.clone();
        let at = |needle: &[u8]| bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        match format {
            SourceFormat::Png => {
                let header = [&24_u32.to_be_bytes()[..], &1600_u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
                lying.splice(8..33, chunk(b"IHDR", &header));
            }
            SourceFormat::Jpeg => {
                let frame =
                    if bytes.windows(2).any(|w| w == [0xFF, 0xC2]) { at(&[0xFF, 0xC2]) } else { at(&[0xFF, 0xC0]) };
                lying[frame + 5] = 4;
            }
            SourceFormat::Gif => lying[at(b"!")..].copy_from_slice(&bytes[at(b"!")..]),
            SourceFormat::Bmp => lying[22..26].copy_from_slice(&1600_u32.to_le_bytes()),
            SourceFormat::Tiff | SourceFormat::Webp => continue,
        }
        if format == SourceFormat::Gif {
            continue;
        }
        let error = decode(&lying, &limits).expect_err(format.name());
        assert_eq!(error.class(), "broken-picture", "{format}: {error}");
    }
}

/// The samplings, orders and markers that a JPEG's data may come in.
fn jpeg_kinds(width: u32, height: u32, samples: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut kinds = Vec::new();
    for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2, SamplingFactor::F_4_1] {
        for (progressive, restart) in [(false, 0), (false, 5), (true, 0)] {
            let bytes = jpeg_with((width, height), JpegColor::Rgb, samples, |encoder| {
                encoder.set_sampling_factor(sampling);
                encoder.set_progressive(progressive);
                encoder.set_optimized_huffman_tables(!progressive && restart == 0);
                if restart > 0 {
                    encoder.set_restart_interval(restart);
                }
            });
            kinds.push((format!("{sampling:?} progressive {progressive} restart {restart}"), bytes));
        }
    }
    kinds
}

/// A sequential file with a scan for each component.
fn has_separate_scans(jpeg: &[u8]) -> bool {
    let sequential = jpeg.windows(4).any(|window| window == [0xFF, 0xC0, 0, 17]);
    sequential && jpeg.windows(5).any(|window| window == [0xFF, 0xDA, 0, 8, 1])
}

#[test]
fn flat_jpegs_are_not_taken_for_cut_ones() {
    for (width, height) in [(7, 5), (150, 90), (256, 64), (300, 33)] {
        let flat = [250, 251, 252].repeat((width * height) as usize);
        for (kind, bytes) in jpeg_kinds(width, height, &flat) {
            if has_separate_scans(&bytes) {
                continue;
            }
            let image = decode(&bytes, &Limits::default()).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert!(worst_difference(image.rgb(), &flat) <= 2, "{width}×{height} {kind}");
        }
    }
}

#[test]
fn baseline_jpegs_with_a_scan_per_channel_are_read_right_or_refused() {
    let picture = smooth(150, 90);
    let mut seen = 0;
    for (kind, bytes) in jpeg_kinds(150, 90, &picture) {
        if !has_separate_scans(&bytes) {
            continue;
        }
        seen += 1;
        match decode(&bytes, &Limits::default()) {
            Ok(image) => assert!(worst_difference(image.rgb(), &picture) <= 6, "{kind}"),
            Err(error) if cfg!(feature = "turbojpeg") => panic!("libjpeg-turbo reads these: {kind}: {error}"),
            Err(error) => assert_eq!(error.class(), "unsupported-picture", "{kind}: {error}"),
        }
    }
    assert!(seen > 0);
}

#[test]
fn a_jpeg_whose_header_is_taller_than_its_data_is_refused() {
    let picture = pattern(200, 64);
    for (kind, mut bytes) in jpeg_kinds(200, 64, &picture) {
        let frame = bytes.windows(2).position(|window| matches!(window, [0xFF, 0xC0 | 0xC2])).unwrap();
        bytes[frame + 6] = 160;
        let expected = if has_separate_scans(&bytes) { "unsupported-picture" } else { "broken-picture" };
        let error = refused(&bytes);
        assert_eq!(error.class(), expected, "{kind}: {error}");
    }
}

// Files that are no pictures, or not whole

#[test]
fn no_bytes_and_no_picture_are_told_apart() {
    assert_eq!(refused(b""), DecodeError::Empty);
    assert_eq!(DecodeError::Empty.class(), "broken-picture");
    for bytes in [&b"#264653\n#2A9D8F\n"[..], b"\0", b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", b"<svg/>", b"B", b"RI"] {
        let error = refused(bytes);
        assert_eq!(error.class(), "unsupported-picture", "{error}");
        assert!(error.to_string().contains("give PNG, JPEG, WebP"), "{error}");
    }
}

#[test]
fn the_name_of_a_file_means_nothing_to_its_format() {
    // A JPEG sent as .png is a JPEG: only the bytes are looked at.
    assert_eq!(look(&one_of_each()[1].1).format, SourceFormat::Jpeg);
}

#[test]
fn truncated_files_are_refused_with_their_format() {
    for (format, bytes) in one_of_each() {
        for length in 1..bytes.len() {
            let result = decode(&bytes[..length], &Limits::default());
            // The last bytes of a GIF, a BMP and a TIFF may hold nothing of the picture.
            let Err(error) = result else {
                let complete = match format {
                    SourceFormat::Gif => length + 4 >= bytes.len(),
                    _ => false,
                };
                assert!(complete, "{format}: a picture came out of {length} of {} bytes", bytes.len());
                continue;
            };
            if length >= 18 {
                assert_eq!(error.class(), "broken-picture", "{format} at {length}: {error}");
                assert!(error.to_string().contains(&format.to_string()), "{error}");
            }
        }
    }
}

#[test]
fn most_truncations_are_called_truncations() {
    for (format, bytes) in one_of_each() {
        let error = refused(&bytes[..bytes.len() / 2]);
        assert!(matches!(error, DecodeError::Truncated { .. }), "{format}: {error:?}");
        assert!(error.to_string().contains("transfer or export the file again"));
    }
}

#[test]
fn a_jpeg_padded_with_zeros_after_a_lost_connection_is_cut_short() {
    for progressive in [false, true] {
        let mut bytes =
            jpeg_with((64, 64), JpegColor::Rgb, &pattern(64, 64), |encoder| encoder.set_progressive(progressive));
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        assert!(matches!(refused(&bytes), DecodeError::Truncated { format: SourceFormat::Jpeg, .. }));
    }
}

#[test]
fn trailing_bytes_after_a_picture_do_no_harm() {
    for (format, mut bytes) in one_of_each() {
        let clean = read(&bytes);
        bytes.extend(b"appended by a camera \xFF\xD8\xFF\xD9");
        assert_eq!(read(&bytes), clean, "{format}");
    }
}

#[test]
fn damaged_png_data_is_noticed() {
    let bytes = encoded(pattern(64, 64), ImageFormat::Png);
    let data = bytes.windows(4).position(|window| window == b"IDAT").unwrap();
    for at in (data + 4..bytes.len() - 16).step_by(97) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        assert_eq!(refused(&bytes).class(), "broken-picture");
    }
}

#[test]
fn a_png_altered_by_a_text_transfer_is_named_as_such() {
    let bytes = encoded(pattern(4, 4), ImageFormat::Png);
    let mangled: Vec<u8> = [&bytes[..4], &bytes[5..]].concat();
    assert!(refused(&mangled).to_string().contains("text-mode transfer"));
}

#[test]
fn unsupported_samples_are_named() {
    let picture = image::Rgb32FImage::from_pixel(2, 2, Rgb([0.5, 0.25, 1.0]));
    let error = refused(&encoded(picture, ImageFormat::Tiff));
    assert_eq!(error.class(), "unsupported-picture");
    assert!(error.to_string().contains("TIFF") && error.to_string().contains("32F"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_never_panic(which in 0..8_usize, flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
        let (_, mut bytes) = one_of_each().swap_remove(which);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
        match (probe(&bytes, &limits), decode(&bytes, &limits)) {
            (Ok(header), Ok(image)) => prop_assert_eq!(header.oriented_size(), (image.width(), image.height())),
            (Err(_), Ok(_)) => prop_assert!(false, "a picture came out of a header that is refused"),
            (_, Err(error)) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_bytes_after_a_signature_never_panic(which in 0..6_usize, rest in proptest::collection::vec(any::<u8>(), 0..300)) {
        let start: &[u8] = [&b"\x89PNG\r\n\x1A\n"[..], b"\xFF\xD8", b"RIFF\0\x01\0\0WEBP", b"GIF89a", b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", b"II*\0"][which];
        let limits = Limits { max_pixels: 1 << 16, ..Limits::default() };
        let _ = decode(&[start, &rest].concat(), &limits);
    }
}
