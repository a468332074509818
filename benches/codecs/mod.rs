//! The codec floor: the very codecs that the engine uses, from and to a raster that is already there, with nothing else
//! around them.

#![allow(dead_code)] // Each bench that includes this uses a part of it.

use png::{ColorType, DeflateCompression, Filter};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

/// Quality of JPEG encoding, the engine's default.
pub const QUALITY: u8 = 85;

/// Interleaved 8-bit RGB without padding.
pub struct Rgb {
    pub width: u32,
    pub height: u32,
    pub samples: Vec<u8>,
}

/// Names the JPEG codecs of this build.
pub const JPEG_CODECS: &str =
    if cfg!(feature = "turbojpeg") { "libjpeg-turbo" } else { "zune-jpeg and jpeg-encoder (SIMD)" };

/// Decodes a JPEG as this build of the engine does.
pub fn decode_jpeg(bytes: &[u8]) -> Rgb {
    #[cfg(feature = "turbojpeg")]
    return decode_jpeg_turbo(bytes);
    #[cfg(not(feature = "turbojpeg"))]
    decode_jpeg_portable(bytes)
}

/// Encodes a baseline JPEG with the codec of this build of the engine, and gives its size in bytes.
pub fn encode_jpeg(picture: &Rgb, chroma_halved: bool) -> usize {
    #[cfg(feature = "turbojpeg")]
    return encode_jpeg_turbo(picture, chroma_halved);
    #[cfg(not(feature = "turbojpeg"))]
    encode_jpeg_portable(picture, chroma_halved)
}

pub fn decode_jpeg_portable(bytes: &[u8]) -> Rgb {
    let mut decoder = JpegDecoder::new(ZCursor::new(bytes));
    let samples = decoder.decode().expect("a whole JPEG");
    let (width, height) = decoder.dimensions().expect("a decoded JPEG has sides");
    Rgb { width: width as u32, height: height as u32, samples }
}

/// Takes chroma from the first pixel of each block, which is this encoder's quickest way.
pub fn encode_jpeg_portable(picture: &Rgb, chroma_halved: bool) -> usize {
    let mut out = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut out, QUALITY);
    encoder.set_sampling_factor(match chroma_halved {
        true => jpeg_encoder::SamplingFactor::R_4_2_0,
        false => jpeg_encoder::SamplingFactor::R_4_4_4,
    });
    let (width, height) = (picture.width as u16, picture.height as u16);
    encoder.encode(&picture.samples, width, height, jpeg_encoder::ColorType::Rgb).expect("encodes");
    out.len()
}

#[cfg(feature = "turbojpeg")]
pub fn decode_jpeg_turbo(bytes: &[u8]) -> Rgb {
    let mut decompressor = turbojpeg::Decompressor::new().expect("starts");
    let header = decompressor.read_header(bytes).expect("a JPEG");
    let (width, height) = (header.width, header.height);
    let mut samples = vec![0; width * height * 3];
    let format = turbojpeg::PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &mut samples[..], width, pitch: 3 * width, height, format };
    decompressor.decompress(bytes, image).expect("a whole JPEG");
    Rgb { width: width as u32, height: height as u32, samples }
}

#[cfg(feature = "turbojpeg")]
pub fn encode_jpeg_turbo(picture: &Rgb, chroma_halved: bool) -> usize {
    let mut compressor = turbojpeg::Compressor::new().expect("starts");
    compressor.set_quality(i32::from(QUALITY)).expect("sets");
    let subsampling = if chroma_halved { turbojpeg::Subsamp::Sub2x2 } else { turbojpeg::Subsamp::None };
    compressor.set_subsamp(subsampling).expect("sets");
    let (width, height) = (picture.width as usize, picture.height as usize);
    let format = turbojpeg::PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &picture.samples[..], width, pitch: 3 * width, height, format };
    compressor.compress_to_owned(image).expect("encodes").len()
}

pub fn decode_png(bytes: &[u8]) -> Rgb {
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().expect("a PNG");
    let mut samples = vec![0; reader.output_buffer_size().expect("it fits into memory")];
    let frame = reader.next_frame(&mut samples).expect("a whole PNG");
    samples.truncate(frame.buffer_size());
    Rgb { width: frame.width, height: frame.height, samples }
}

/// Encodes an RGB PNG by the quick compressor behind one fixed filter, or a filter chosen for each row; gives its size.
pub fn encode_png(picture: &Rgb, filter: Filter) -> usize {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, picture.width, picture.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_deflate_compression(DeflateCompression::FdeflateUltraFast);
    encoder.set_filter(filter);
    encoder.write_header().expect("writes").write_image_data(&picture.samples).expect("encodes");
    out.len()
}

/// Whether the first two components of a JPEG differ in sampling, and whether it has restart markers, as this engine's
/// files have when libjpeg-turbo wrote them.
pub fn jpeg_layout(bytes: &[u8]) -> Option<JpegLayout> {
    let (mut at, mut layout) = (2, JpegLayout::default());
    loop {
        let &[0xFF, marker, high, low, ..] = bytes.get(at..)? else { return None };
        let payload = bytes.get(at + 4..at + 2 + usize::from(u16::from_be_bytes([high, low])))?;
        match marker {
            0xC0..=0xC2 => layout.chroma_halved = payload.get(7)? != payload.get(10)?,
            0xDD => layout.restarts = true,
            0xDA => return Some(layout),
            _ => {}
        }
        at += 4 + payload.len();
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JpegLayout {
    pub chroma_halved: bool,
    pub restarts: bool,
}
