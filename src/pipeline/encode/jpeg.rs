//! JPEG: rows are pulled by the encoder as it needs them.

use std::cell::RefCell;
use std::io::{BufWriter, Write};

use jpeg_encoder::{Encoder, EncodingError, ImageBuffer, JpegColorType, SamplingFactor};
use pulp::Arch;

use super::{EncodeError, EncodeOptions, SRGB_PROFILE, planes};
use crate::kernel::color::Rgb8;
use crate::kernel::image::Rows;
use crate::pipeline::job::{Chroma, Format};

/// Writes a JPEG, through libjpeg-turbo where the build has it and the width allows.
pub(super) fn encode(rows: &mut dyn Rows, options: &EncodeOptions, out: &mut dyn Write) -> Result<(), EncodeError> {
    #[cfg(feature = "turbojpeg")]
    if super::turbo::takes(rows.width(), rows.height(), options.progressive) {
        return super::turbo::encode(rows, options, out);
    }
    encode_portable(rows, options, out)
}

fn encode_portable(rows: &mut dyn Rows, options: &EncodeOptions, out: &mut dyn Write) -> Result<(), EncodeError> {
    // The encoder writes eight bytes at a time.
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    let halved = halved(options.chroma);
    let source = PlaneSource::new(rows, halved, options.fill)?;

    let mut encoder = Encoder::new(&mut out, options.quality.clamp(1, 100));
    encoder.set_sampling_factor(if halved { SamplingFactor::R_4_2_0 } else { SamplingFactor::R_4_4_4 });
    encoder.set_progressive(options.progressive);
    // Progressive files hold the whole picture anyway; the standard Huffman tables, made for baseline, would make them
    // a fifth larger than baseline.
    encoder.set_optimized_huffman_tables(options.progressive);
    encoder.add_icc_profile(&SRGB_PROFILE).map_err(encoder_error)?;
    encoder.encode_image(source).map_err(encoder_error)?;
    out.flush()?;
    Ok(())
}

/// Whether chroma has half the resolution each way.
pub(super) fn halved(chroma: Chroma) -> bool {
    match chroma {
        Chroma::Half => true,
        Chroma::Full | Chroma::Auto => false,
    }
}

fn encoder_error(error: EncodingError) -> EncodeError {
    match error {
        EncodingError::IoError(error) => EncodeError::Io(error),
        other => EncodeError::Encoder { format: Format::Jpeg, message: other.to_string() },
    }
}

/// The rows as the encoder asks for them: in order, the last one again and again until its blocks are full.
///
/// For 4:2:0 the encoder takes the chroma of every other pixel of every other row. Those places hold the mean of their
/// 2×2 block, computed here, which is what its own averaging would give, at a tenth of the time.
struct PlaneSource<'a> {
    width: u16,
    height: u16,
    halved: bool,
    fill: Option<Rgb8>,
    arch: Arch,
    // The encoder borrows its source shared.
    state: RefCell<PlaneState<'a>>,
}

struct PlaneState<'a> {
    rows: &'a mut dyn Rows,
    /// Rows pulled so far.
    pulled: u32,
    packed: [Vec<u32>; 2],
    luma: [Vec<u8>; 2],
    chroma: [Vec<u8>; 2],
    /// One value for each 2×2 block; empty at full resolution.
    chroma_halved: [Vec<u8>; 2],
}

impl<'a> PlaneSource<'a> {
    fn new(rows: &'a mut dyn Rows, halved: bool, fill: Rgb8) -> Result<Self, EncodeError> {
        let (width, height) = (rows.width(), rows.height());
        let side = |side: u32| {
            let limit = u32::from(u16::MAX);
            u16::try_from(side).map_err(|_| EncodeError::TooWide { format: Format::Jpeg, width, height, limit })
        };
        let fill = rows.has_alpha().then_some(fill);
        let pixels = width as usize;
        let state = PlaneState {
            rows,
            pulled: 0,
            packed: [vec![0; pixels], vec![0; pixels]],
            luma: [vec![0; pixels], vec![0; pixels]],
            chroma: [vec![0; pixels], vec![0; pixels]],
            chroma_halved: if halved { [(); 2].map(|()| vec![0; pixels.div_ceil(2)]) } else { [vec![], vec![]] },
        };
        Ok(Self {
            width: side(width)?,
            height: side(height)?,
            halved,
            fill,
            arch: Arch::new(),
            state: RefCell::new(state),
        })
    }
}

impl PlaneState<'_> {
    fn pull(&mut self, slot: usize, arch: Arch, fill: Option<Rgb8>) {
        let row = &mut self.packed[slot];
        self.rows.next_row(row);
        self.pulled += 1;
        if let Some(fill) = fill {
            planes::flatten(arch, row, fill);
        }
        planes::luma(arch, row, &mut self.luma[slot]);
    }
}

impl ImageBuffer for PlaneSource<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.width
    }

    fn height(&self) -> u16 {
        self.height
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let state = &mut *self.state.borrow_mut();
        let slot = if self.halved { usize::from(y & 1) } else { 0 };
        if u32::from(y) >= state.pulled {
            state.pull(slot, self.arch, self.fill);
            let [cb, cr] = &mut state.chroma;
            if !self.halved {
                planes::chroma_full(self.arch, &state.packed[0], cb, cr);
            } else {
                // The row below, or for the last row of an odd number the same row.
                let below = if state.pulled < u32::from(self.height) {
                    state.pull(1, self.arch, self.fill);
                    1
                } else {
                    0
                };
                let [cb, cr] = &mut state.chroma_halved;
                planes::chroma_halved(self.arch, [&state.packed[0], &state.packed[below]], cb, cr);
                for (halved, chroma) in state.chroma_halved.iter().zip(&mut state.chroma) {
                    planes::double(halved, chroma);
                }
            }
        }
        let [luma, cb, cr, _] = buffers;
        luma.extend_from_slice(&state.luma[slot]);
        cb.extend_from_slice(&state.chroma[0]);
        cr.extend_from_slice(&state.chroma[1]);
    }
}
