//! Adobe's palettes: swatch exchange (`.ase`) and colour tables (`.act`). All numbers are big-endian.

use super::{Draft, MAX_PALETTES, PaletteFileError, Place};
use crate::kernel::color::{Rgb8, encode_srgb};
use crate::kernel::gamut;

const GROUP_START: u16 = 0xC001;
const GROUP_END: u16 = 0xC002;
const SWATCH: u16 = 0x0001;

/// A cursor that knows its offset in the file.
struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], PaletteFileError> {
        let Some((head, tail)) = self.rest.split_at_checked(count) else {
            let problem = format!(
                "the file ends inside {what}: {count} bytes are announced, {} are left; it is cut off, export it again",
                self.rest.len()
            );
            return Err(Place::Offset(self.offset).problem(problem));
        };
        self.rest = tail;
        self.offset += count;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], PaletteFileError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    fn u16(&mut self, what: &str) -> Result<u16, PaletteFileError> {
        self.array(what).map(u16::from_be_bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, PaletteFileError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// UTF-16 with its length before it and a zero at its end.
    fn name(&mut self, what: &str) -> Result<String, PaletteFileError> {
        let units = usize::from(self.u16(what)?);
        let bytes = self.take(units * 2, what)?;
        let units = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).take_while(|unit| *unit != 0);
        Ok(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
    }

    fn components<const N: usize>(&mut self) -> Result<[f32; N], PaletteFileError> {
        let mut values = [0.0; N];
        for value in &mut values {
            let at = self.offset;
            *value = f32::from_be_bytes(self.array("a swatch")?);
            if !value.is_finite() {
                return Err(Place::Offset(at).problem("a colour component is not a number; export the swatches again"));
            }
        }
        Ok(values)
    }
}

/// Palettes of an `.ase` file: one per group, and one of the swatches outside every group, where the first of them is.
pub(super) fn swatch_exchange(bytes: &[u8]) -> Result<Vec<Draft>, PaletteFileError> {
    let mut file = Reader { rest: bytes, offset: 0 };
    file.take(4, "the header")?;
    let major = file.u16("the header")?;
    file.u16("the header")?;
    if major != 1 {
        let problem = format!("swatch exchange version {major} is not known; export as version 1");
        return Err(Place::Offset(4).problem(problem));
    }
    let blocks = file.u32("the header")?;

    let mut drafts: Vec<Draft> = Vec::new();
    // Indices into `drafts`: the open group, and the palette of loose swatches.
    let (mut group, mut loose): (Option<usize>, Option<usize>) = (None, None);
    for _ in 0..blocks {
        let at = file.offset;
        if file.rest.is_empty() {
            let problem =
                format!("the file ends before its {blocks} blocks are complete; it is cut off, export it again");
            return Err(Place::Offset(at).problem(problem));
        }
        let kind = file.u16("a block")?;
        // Some writers end a group with a bare type.
        if kind == GROUP_END && file.rest.len() < 4 {
            break;
        }
        let length = file.u32("a block")? as usize;
        let offset = file.offset;
        let mut block = Reader { rest: file.take(length, "a block")?, offset };
        match kind {
            GROUP_START => {
                if drafts.len() > MAX_PALETTES {
                    return Err(PaletteFileError::TooManyPalettes { got: drafts.len() });
                }
                let mut draft = Draft::new(Place::Offset(at));
                draft.name = Some(block.name("a group's name")?);
                group = Some(drafts.len());
                drafts.push(draft);
            }
            GROUP_END => group = None,
            SWATCH => {
                block.name("a swatch's name")?;
                let color = swatch_color(&mut block)?;
                let target = match (group, loose) {
                    (Some(open), _) => open,
                    (None, Some(index)) => index,
                    (None, None) => {
                        loose = Some(drafts.len());
                        drafts.push(Draft::new(Place::Offset(at)));
                        drafts.len() - 1
                    }
                };
                drafts[target].colors.push(color);
            }
            // Later versions may add blocks; their length says how to pass them.
            _ => {}
        }
    }
    Ok(drafts)
}

fn swatch_color(block: &mut Reader<'_>) -> Result<Rgb8, PaletteFileError> {
    let at = block.offset;
    let model: [u8; 4] = block.array("a swatch")?;
    match &model {
        b"RGB " => block.components().map(|[r, g, b]| Rgb8::new(code(r), code(g), code(b))),
        b"Gray" | b"GRAY" => block.components().map(|[grey]| Rgb8::new(code(grey), code(grey), code(grey))),
        b"LAB " => block.components().map(|[l, a, b]| lab_d50(l, a, b)),
        // Without a profile, as CSS does for device-cmyk().
        b"CMYK" => block.components().map(|[c, m, y, k]| {
            let ink = |ink: f32| code((1.0 - ink.clamp(0.0, 1.0)) * (1.0 - k.clamp(0.0, 1.0)));
            Rgb8::new(ink(c), ink(m), ink(y))
        }),
        _ => {
            let name = String::from_utf8_lossy(&model).escape_debug().to_string();
            Err(Place::Offset(at)
                .problem(format!("colour model \"{name}\" is not known; use RGB, Gray, LAB or CMYK swatches")))
        }
    }
}

/// A component of 0..=1 as a code.
fn code(value: f32) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0).round() as u8
}

/// CIELAB with the D50 white of ICC profiles to sRGB; `l` 0..=1 as the format has it.
fn lab_d50(l: f32, a: f32, b: f32) -> Rgb8 {
    // Some writers give percent.
    let l = if l > 1.5 { l } else { l * 100.0 }.clamp(0.0, 100.0);
    let fy = (l + 16.0) / 116.0;
    let inverse = |f: f32| if f > 6.0 / 29.0 { f * f * f } else { 3.0 * (6.0f32 / 29.0).powi(2) * (f - 4.0 / 29.0) };
    let x = 0.964_22 * inverse(fy + a.clamp(-128.0, 128.0) / 500.0);
    let y = inverse(fy);
    let z = 0.825_21 * inverse(fy - b.clamp(-128.0, 128.0) / 200.0);
    // XYZ with D50 to linear sRGB through the Bradford adaptation (B. Lindbloom's table).
    let linear = [
        3.133_856 * x - 1.616_866_7 * y - 0.490_614_6 * z,
        -0.978_768_4 * x + 1.916_141_5 * y + 0.033_454 * z,
        0.071_945_3 * x - 0.228_991_4 * y + 1.405_242_7 * z,
    ];
    let [r, g, b] = gamut::fit(linear).map(encode_srgb);
    Rgb8::new(r, g, b)
}

/// The palette of an `.act` file of 768 or 772 bytes.
pub(super) fn color_table(bytes: &[u8]) -> Result<Draft, PaletteFileError> {
    let (table, tail) = bytes.split_at_checked(768).unwrap_or((bytes, &[]));
    let mut colors: Vec<Rgb8> = table.as_chunks::<3>().0.iter().map(|&[r, g, b]| Rgb8::new(r, g, b)).collect();
    if let [count_high, count_low, clear_high, clear_low, ..] = *tail {
        let count = usize::from(u16::from_be_bytes([count_high, count_low]));
        let clear = usize::from(u16::from_be_bytes([clear_high, clear_low]));
        if count > colors.len() {
            let problem = format!("the colour table announces {count} colours and has room for 256; export it again");
            return Err(Place::Offset(768).problem(problem));
        }
        colors.truncate(count);
        if clear < colors.len() {
            colors.remove(clear);
        }
    } else {
        let black = Rgb8::new(0, 0, 0);
        let used = colors.iter().rposition(|color| *color != black).map_or(0, |last| last + 1);
        // One black at the end may be meant; a run of it is the unused part of the table.
        if colors.len() - used > 1 {
            colors.truncate(used.max(1));
        }
    }
    let mut draft = Draft::new(Place::Offset(0));
    draft.colors = colors;
    Ok(draft)
}
