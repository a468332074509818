//! The committed fixtures are what the generator makes and what their names say, by other decoders than the project's.

#[path = "../fixtures/generator/mod.rs"]
mod generator;

use generator::Picture;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use std::collections::{BTreeSet, HashSet};
use std::io::Cursor;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/images")
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|e| panic!("{name}: {e}; run the fixtures example to write it"))
}

fn decode(name: &str) -> DynamicImage {
    image::load_from_memory(&file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn sides(image: &DynamicImage) -> (u32, u32) {
    (image.width(), image.height())
}

fn unique(rgb: &[u8]) -> usize {
    rgb.chunks_exact(3).collect::<HashSet<_>>().len()
}

/// Mean absolute difference in 8-bit codes.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / a.len() as f64
}

/// The JPEG encoder rounds its transform differently with AVX2, with which the committed files were written.
fn jpeg_bytes_are_comparable() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[test]
fn regenerating_gives_the_committed_bytes_and_no_other_file_lies_beside_them() {
    let made = generator::committed();
    let names: BTreeSet<String> = made.iter().map(|(name, _)| name.to_string()).collect();
    let found: BTreeSet<String> = std::fs::read_dir(folder())
        .expect("fixtures/images")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .collect();
    assert_eq!(found, names);
    for (name, bytes) in &made {
        let committed = file(name);
        if name.ends_with(".jpg") && !jpeg_bytes_are_comparable() {
            if let (Ok(made), Ok(found)) = (image::load_from_memory(bytes), image::load_from_memory(&committed)) {
                assert!(difference(&made.to_rgb8(), &found.to_rgb8()) < 1.0, "{name} shows another picture");
            }
            continue;
        }
        assert!(committed == *bytes, "{name} differs: {} bytes made, {} committed", bytes.len(), committed.len());
    }
    let total: usize = made.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(total < generator::COMMITTED_LIMIT_BYTES, "{total} bytes");
}

#[test]
fn pictures_do_not_depend_on_the_thread_count() {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    for make in [generator::flat_art, generator::photo, generator::portrait, generator::logo] {
        assert!(one.install(|| make(97, 71)) == three.install(|| make(97, 71)));
    }
}

#[test]
fn every_picture_can_have_any_size() {
    let makers: [fn(u32, u32) -> Picture; 9] = [
        generator::flat_art,
        generator::gradient_art,
        generator::photo,
        generator::noisy,
        generator::portrait,
        generator::noise,
        generator::grey_ramp,
        generator::logo,
        generator::fully_transparent,
    ];
    for make in makers {
        for (width, height) in [(1, 1), (1, 9), (40, 3), (33, 34)] {
            let picture = make(width, height);
            assert_eq!((picture.width, picture.height), (width, height));
            assert_eq!(picture.rgb.len(), (width * height * 3) as usize);
            assert!(picture.alpha.is_none_or(|alpha| alpha.len() == (width * height) as usize));
        }
    }
}

#[test]
fn a_photograph_has_a_photographs_share_of_unique_colors_and_flat_art_has_few() {
    let share = |picture: &Picture| {
        let decoded = image::load_from_memory(&generator::jpeg(picture, 92)).expect("a JPEG").to_rgb8();
        unique(&decoded) as f64 / f64::from(picture.width * picture.height)
    };
    // Small pictures repeat fewer colours; at 2048 × 2048 these shares are about 6 and 21 percent.
    let (photo, noisy) = (share(&generator::photo(768, 768)), share(&generator::noisy(768, 768)));
    assert!((0.08..0.35).contains(&photo), "{photo}");
    assert!(noisy > photo * 1.2, "{noisy} against {photo}");
    let flat = generator::flat_art(512, 512);
    assert!((100..6000).contains(&unique(&flat.rgb)), "{}", unique(&flat.rgb));
}

#[test]
fn each_file_has_the_format_and_size_its_name_promises() {
    for (name, format, size) in [
        ("flat_art.png", ImageFormat::Png, (1024, 768)),
        ("photo.jpg", ImageFormat::Jpeg, (768, 576)),
        ("portrait.jpg", ImageFormat::Jpeg, (512, 640)),
        ("photo.webp", ImageFormat::WebP, (320, 240)),
        ("animated.gif", ImageFormat::Gif, (120, 90)),
        ("scan.tiff", ImageFormat::Tiff, (160, 120)),
        ("icon.bmp", ImageFormat::Bmp, (64, 64)),
        ("1x1.png", ImageFormat::Png, (1, 1)),
        ("progressive.jpg", ImageFormat::Jpeg, (320, 240)),
    ] {
        assert_eq!(image::guess_format(&file(name)).ok(), Some(format), "{name}");
        assert_eq!(sides(&decode(name)), size, "{name}");
    }
    assert!(matches!(decode("grey.jpg"), DynamicImage::ImageLuma8(_)));
    assert!(matches!(decode("sixteen_bit.png"), DynamicImage::ImageRgb16(_)));
    assert_eq!(unique(&decode("one_color.png").to_rgb8()), 1);
}

#[test]
fn the_progressive_file_starts_with_a_progressive_frame() {
    assert!(file("progressive.jpg").windows(2).any(|pair| pair == [0xFF, 0xC2]));
    assert!(!file("photo.jpg").windows(2).any(|pair| pair == [0xFF, 0xC2]));
}

#[test]
fn the_cmyk_file_has_four_inks_that_show_the_photograph() {
    let bytes = file("cmyk.jpg");
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).expect("a baseline frame");
    assert_eq!(bytes[frame + 9], 4, "components");
    let shown = image::load_from_memory(&bytes).expect("a JPEG").to_rgb8();
    let off = difference(&shown, &generator::photo(320, 240).rgb);
    assert!(off < 8.0, "{off}");
}

#[test]
fn the_rotated_file_shows_the_upright_photograph_once_its_exif_tag_is_obeyed() {
    let reader = ImageReader::new(Cursor::new(file("rotated_exif_6.jpg"))).with_guessed_format().expect("a format");
    let mut decoder = reader.into_decoder().expect("a header");
    let orientation = decoder.orientation().expect("an orientation");
    assert_eq!(orientation, image::metadata::Orientation::Rotate90);
    let mut shown = DynamicImage::from_decoder(decoder).expect("pixels");
    assert_eq!(sides(&shown), (240, 320));
    shown.apply_orientation(orientation);
    assert!(difference(&shown.to_rgb8(), &generator::photo(320, 240).rgb) < 4.0);
}

#[test]
fn the_wide_gamut_files_hold_a_display_p3_profile_that_gives_the_known_srgb_patches() {
    for (name, tolerance) in [("wide_gamut_p3.png", 1), ("wide_gamut_p3.jpg", 4)] {
        let reader = ImageReader::new(Cursor::new(file(name))).with_guessed_format().expect("a format");
        let mut decoder = reader.into_decoder().expect("a header");
        let icc = decoder.icc_profile().expect("metadata").unwrap_or_else(|| panic!("{name} has no profile"));
        let profile = moxcms::ColorProfile::new_from_slice(&icc).expect("a profile");
        let pixels = DynamicImage::from_decoder(decoder).expect("pixels").to_rgb8();
        let layout = moxcms::Layout::Rgb;
        let transform = profile
            .create_transform_8bit(layout, &moxcms::ColorProfile::new_srgb(), layout, Default::default())
            .expect("a transform");
        let mut shown = vec![0; pixels.len()];
        transform.transform(&pixels, &mut shown).expect("matching rows");
        for (i, (stored, srgb)) in generator::wide_gamut_patches().iter().enumerate() {
            let at = (16 * 192 + i * 32 + 16) * 3;
            for c in 0..3 {
                assert!(pixels.as_raw()[at + c].abs_diff(stored[c]) <= tolerance, "{name} patch {i}");
                assert!(shown[at + c].abs_diff(srgb[c]) <= 2 * tolerance, "{name} patch {i}: {:?}", &shown[at..at + 3]);
            }
        }
    }
}

#[test]
fn the_indexed_file_is_stored_with_a_palette_of_at_most_sixteen() {
    let bytes = file("indexed.png");
    let reader = png::Decoder::new(Cursor::new(&bytes)).read_info().expect("a header");
    assert_eq!(reader.info().color_type, png::ColorType::Indexed);
    assert!(reader.info().palette.as_ref().is_some_and(|palette| palette.len() <= 48));
    assert!(unique(&decode("indexed.png").to_rgb8()) >= 8);
}

#[test]
fn the_animation_starts_with_the_poster_and_goes_on_without_it() {
    use image::AnimationDecoder;
    let bytes = file("animated.gif");
    let decoder = image::codecs::gif::GifDecoder::new(Cursor::new(&bytes)).expect("a header");
    let frames = decoder.into_frames().collect_frames().expect("frames");
    assert_eq!(frames.len(), 3);
    let first = DynamicImage::ImageRgba8(frames[0].buffer().clone()).to_rgb8();
    assert!(difference(&first, &generator::flat_art(120, 90).rgb) < 4.0);
    assert_eq!(frames[1].buffer().get_pixel(60, 45).0[..3], [200, 30, 30]);
}

#[test]
fn the_logo_has_soft_edges_and_random_colour_where_nobody_sees_it() {
    let logo = decode("logo_transparent_garbage.png").to_rgba8();
    let hidden: Vec<u8> = logo.pixels().filter(|p| p.0[3] == 0).flat_map(|p| [p.0[0], p.0[1], p.0[2]]).collect();
    let count = hidden.len() / 3;
    assert!(count > 20_000, "{count} hidden pixels");
    assert!(unique(&hidden) > count * 9 / 10);
    let soft = logo.pixels().filter(|p| (1..255).contains(&p.0[3])).map(|p| p.0[3]).collect::<BTreeSet<_>>();
    assert!(soft.len() > 100, "{} levels of alpha", soft.len());
    assert!(decode("fully_transparent.png").to_rgba8().pixels().all(|p| p.0[3] == 0));
}

#[test]
fn the_ramp_holds_every_grey_in_order() {
    let ramp = decode("grey_ramp.png").to_rgb8();
    let row: Vec<u8> = (0..ramp.width()).map(|x| ramp.get_pixel(x, 0).0[0]).collect();
    assert!(row.is_sorted());
    assert_eq!(row.iter().collect::<BTreeSet<_>>().len(), 256);
}

#[test]
fn the_broken_files_are_recognisable_and_cannot_be_decoded() {
    for (name, format) in [("truncated.png", ImageFormat::Png), ("bomb.png", ImageFormat::Png)] {
        assert_eq!(image::guess_format(&file(name)).ok(), Some(format));
    }
    assert!(image::load_from_memory(&file("truncated.png")).is_err());
    assert_eq!(&file("truncated.jpg")[..3], [0xFF, 0xD8, 0xFF]);
    assert!(!file("truncated.jpg").ends_with(&[0xFF, 0xD9]), "the end marker is cut off");
    let bomb = file("bomb.png");
    let header = png::Decoder::new(Cursor::new(&bomb)).read_info().expect("a sound header");
    assert_eq!((header.info().width, header.info().height), (60_000, 60_000));
    assert!(bomb.len() < 2_000);
    assert!(image::guess_format(&file("not_an_image.txt")).is_err());
}
