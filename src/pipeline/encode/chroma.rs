//! 4:2:0 or 4:4:4, by the picture.
//!
//! 4:2:0 keeps one chroma value for every 2×2 block. It shows where colour changes within a block: brand colours that
//! meet at an edge, coloured text. It does not show on photographs, whose chroma is smooth even where their detail is
//! dense, and it halves the work. So the measure is the share of sharp blocks among detailed ones:
//!
//! - a block is *detailed* when Y, Cb or Cr spans at least 12 levels within it;
//! - it is *sharp* when Cb or Cr spans at least 32.
//!
//! Counting among detailed blocks, and not among all, makes a small coloured logo on a wide empty page count in full.
//! On a dozen photographs the share was 0 to 3 %, for red autumn leaves 9 %; on flat art with hard edges 96 %.

use pulp::{Arch, Simd, WithSimd};

use super::planes;
use crate::kernel::color::Rgb8;
use crate::kernel::image::{Raster, Rows as _};
use crate::pipeline::job::Chroma;

/// Levels (of 256) that luma or chroma spans in a block with detail.
const DETAIL: i32 = 12;
/// Levels that Cb or Cr spans in a block that 4:2:0 would blur visibly.
const SHARP: i32 = 32;
/// 4:4:4 from one sharp block in so many detailed ones. With an eighth as the bound, a photograph under a strong
/// palette came out at an SSIMULACRA2 of 77 at quality 85; 80 is the target, and 4:4:4 gives 85.
const SHARE: u64 = 24;
/// [`choose_chroma`] looks at one row pair in so many, on pictures of at least its square of pairs.
const EVERY: usize = 8;

/// Counts sharp and detailed 2×2 blocks of the row pairs it is shown.
#[derive(Debug, Clone)]
pub struct ChromaMeter {
    arch: Arch,
    fill: Rgb8,
    blocks: u64,
    detailed: u64,
    sharp: u64,
}

impl ChromaMeter {
    /// A meter that sees transparent pixels over `fill`, as the JPEG will show them.
    pub fn new(fill: Rgb8) -> Self {
        Self { arch: Arch::new(), fill, blocks: 0, detailed: 0, sharp: 0 }
    }

    /// Looks at two neighbouring rows of packed pixels; a last odd column is left out.
    ///
    /// Every eighth pair of a picture is plenty, and takes a few tenths of a millisecond at 4 megapixels.
    pub fn add(&mut self, top: &[u32], bottom: &[u32]) {
        let (top, bottom) = (top.as_chunks::<2>().0, bottom.as_chunks::<2>().0);
        let [detailed, sharp] = self.arch.dispatch(Count { top, bottom, fill: self.fill });
        self.blocks += top.len().min(bottom.len()) as u64;
        self.detailed += detailed;
        self.sharp += sharp;
    }

    /// The verdict: [`Chroma::Full`] when at least one of 24 detailed blocks is sharp, or nothing was seen.
    pub fn chroma(&self) -> Chroma {
        if self.blocks == 0 || (self.sharp > 0 && self.sharp * SHARE >= self.detailed) {
            Chroma::Full
        } else {
            Chroma::Half
        }
    }
}

/// Chooses for a picture: every row pair of a small one, every eighth of a large one.
pub fn choose_chroma(picture: &Raster, fill: Rgb8) -> Chroma {
    let width = picture.width() as usize;
    let every = if picture.height() as usize >= 2 * EVERY * EVERY { EVERY } else { 1 };
    let mut meter = ChromaMeter::new(fill);
    for pair in picture.pixels().chunks_exact(2 * width).step_by(every) {
        let (top, bottom) = pair.split_at(width);
        meter.add(top, bottom);
    }
    meter.chroma()
}

struct Count<'a> {
    top: &'a [[u32; 2]],
    bottom: &'a [[u32; 2]],
    fill: Rgb8,
}

impl WithSimd for Count<'_> {
    type Output = [u64; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> [u64; 2] {
        let (mut detailed, mut sharp) = (0u64, 0u64);
        // Short stretches, so that the counters of a stretch are 32 bits wide, like the pixels.
        for (top, bottom) in self.top.chunks(1024).zip(self.bottom.chunks(1024)) {
            let (mut stretch_detailed, mut stretch_sharp) = (0u32, 0u32);
            for (top, bottom) in top.iter().zip(bottom) {
                let pixels = [top[0], top[1], bottom[0], bottom[1]].map(|p| planes::over(p, self.fill));
                let chroma = span(pixels, planes::CB).max(span(pixels, planes::CR));
                let any = chroma.max(span(pixels, planes::Y));
                stretch_detailed += u32::from(any >= DETAIL << 16);
                stretch_sharp += u32::from(chroma >= SHARP << 16);
            }
            detailed += u64::from(stretch_detailed);
            sharp += u64::from(stretch_sharp);
        }
        [detailed, sharp]
    }
}

/// The largest difference within a block, in 1/65536 of a level.
#[inline(always)]
fn span(pixels: [u32; 4], weights: [i32; 3]) -> i32 {
    let [a, b, c, d] = pixels.map(|p| planes::weigh(weights, p));
    a.max(b).max(c.max(d)) - a.min(b).min(c.min(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHITE: Rgb8 = Rgb8::new(255, 255, 255);

    fn picture(side: u32, pixel: impl Fn(u32, u32) -> u32) -> Raster {
        let pixels = (0..side * side).map(|i| pixel(i % side, i / side)).collect();
        Raster::new(side, side, pixels).unwrap()
    }

    fn rgb(r: u32, g: u32, b: u32) -> u32 {
        Rgb8::new(r as u8, g as u8, b as u8).packed()
    }

    #[test]
    fn coloured_shapes_keep_full_chroma() {
        let art = picture(300, |x, y| if (x / 31 + y / 17) % 2 == 0 { rgb(230, 57, 70) } else { rgb(29, 53, 87) });
        assert_eq!(choose_chroma(&art, WHITE), Chroma::Full);
    }

    #[test]
    fn a_small_red_logo_on_a_wide_page_keeps_full_chroma() {
        let logo = picture(300, |x, y| {
            let inside = (140..161).contains(&x) && (140..161).contains(&y);
            if inside { rgb(230, 0, 0) } else { rgb(255, 255, 255) }
        });
        assert_eq!(choose_chroma(&logo, WHITE), Chroma::Full);
    }

    #[test]
    fn grey_text_has_no_chroma_to_lose() {
        let text = picture(300, |x, y| if (x * 7 + y * 3) % 5 < 2 { rgb(0, 0, 0) } else { rgb(255, 255, 255) });
        assert_eq!(choose_chroma(&text, WHITE), Chroma::Half);
    }

    #[test]
    fn smooth_colour_under_dense_texture_takes_half_chroma() {
        let photo = picture(300, |x, y| {
            let grain = (x * 31 + y * 57) * (x + 3 * y) % 40;
            rgb(60 + x / 3 + grain, 90 + y / 4 + grain, 40 + (x + y) / 8 + grain)
        });
        assert_eq!(choose_chroma(&photo, WHITE), Chroma::Half);
    }

    #[test]
    fn colours_under_full_transparency_do_not_count() {
        let hidden = picture(64, |x, y| if (x + y) % 2 == 0 { 0x0000_00FF } else { 0x00FF_0000 });
        assert_eq!(choose_chroma(&hidden, WHITE), Chroma::Half);
    }

    #[test]
    fn a_line_of_pixels_keeps_full_chroma() {
        let line = Raster::new(1, 5, vec![rgb(255, 0, 0); 5]).unwrap();
        assert_eq!(choose_chroma(&line, WHITE), Chroma::Full);
    }
}
