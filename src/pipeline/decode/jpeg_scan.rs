//! Whether the data of a JPEG covers its picture.
//!
//! A decoder that meets the end marker too early goes on with zero bits, without a word even in its strict mode, and
//! the rest of the picture is one block over and over. [`ends_in_repetition`] sees that from the pixels at no cost;
//! because a plain background looks the same, [`covers_picture`] then counts the Huffman codes.

use super::jpeg::entropy_coded;

/// Whether the last blocks of the bottom row all look the same; true of pictures too small to tell.
///
/// `samples` holds `channels` bytes a pixel. Compared are the inner parts of 8×8 blocks 32 columns apart, a distance of
/// whole MCUs in every usual sampling; chroma upsampling does not reach them from outside.
pub(super) fn ends_in_repetition(samples: &[u8], width: usize, height: usize, channels: usize) -> bool {
    let right = width / 32 * 32;
    if right < 128 {
        return true;
    }
    let row = &samples[(height - 1) * width * channels..];
    let inner = |x: usize| &row[(x + 2) * channels..][..4 * channels];
    inner(right - 32) == inner(right - 64) && inner(right - 32) == inner(right - 96)
}

/// Counts the codes of every scan that can be read without the coefficients: all of baseline, the first passes of
/// progressive. False when a scan ends before its last block; true where that cannot be told, because the decoder has
/// already been content with the headers.
pub(super) fn covers_picture(bytes: &[u8]) -> bool {
    Frame::default().walk(bytes).is_none_or(|covered| covered)
}

#[derive(Clone, Copy)]
struct Component {
    id: u8,
    h: usize,
    v: usize,
}

#[derive(Default)]
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    components: Vec<Component>,
    restart_interval: usize,
    /// DC tables 0 to 3, then AC tables 0 to 3.
    tables: [Option<Box<Table>>; 8],
}

/// Length and symbol of the code that starts with these 16 bits; length 0 where there is none.
struct Table(Vec<(u8, u8)>);

impl Table {
    /// From a DHT entry (ITU-T T.81, annex C); gives the number of bytes it took as well.
    fn new(entry: &[u8]) -> Option<(Self, usize)> {
        let (counts, symbols) = entry.split_first_chunk::<16>()?;
        let mut lookup = Vec::with_capacity(1 << 16);
        let mut symbols = symbols.iter();
        let mut taken = 16;
        for (length, &count) in (1_u8..).zip(counts) {
            for _ in 0..count {
                let symbol = *symbols.next()?;
                taken += 1;
                let end = lookup.len() + (1 << (16 - length));
                if end > 1 << 16 {
                    return None;
                }
                lookup.resize(end, (length, symbol));
            }
        }
        lookup.resize(1 << 16, (0, 0));
        Some((Self(lookup), taken))
    }
}

impl Frame {
    /// Walks the segments; `None` where they make no sense.
    fn walk(mut self, bytes: &[u8]) -> Option<bool> {
        let mut at = 2;
        loop {
            at += bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
            at += bytes.get(at..)?.iter().position(|&byte| byte != 0xFF)?;
            let marker = *bytes.get(at)?;
            at += 1;
            match marker {
                0x00 | 0x01 | 0xD0..=0xD8 => continue,
                0xD9 => return Some(true),
                _ => {}
            }
            let length = usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
            let segment = bytes.get(at + 2..at + length)?;
            at += length;
            match marker {
                0xC0..=0xC2 => self.frame(marker == 0xC2, segment)?,
                0xC4 => self.tables(segment)?,
                0xDD => self.restart_interval = usize::from(u16::from_be_bytes(*segment.first_chunk()?)),
                0xDA => {
                    let data = bytes.get(at..)?;
                    let data = &data[..entropy_coded(data)];
                    at += data.len();
                    if !self.scan(segment, data)? {
                        return Some(false);
                    }
                }
                _ => {}
            }
        }
    }

    fn frame(&mut self, progressive: bool, segment: &[u8]) -> Option<()> {
        let &[_, h0, h1, w0, w1, _, ref components @ ..] = segment else { return None };
        self.progressive = progressive;
        (self.width, self.height) = (u16::from_be_bytes([w0, w1]).into(), u16::from_be_bytes([h0, h1]).into());
        let read = |entry: &[u8; 3]| Component { id: entry[0], h: (entry[1] >> 4).into(), v: (entry[1] & 15).into() };
        self.components = components.as_chunks::<3>().0.iter().map(read).collect();
        self.components.iter().all(|component| component.h > 0 && component.v > 0).then_some(())
    }

    fn tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&kind, entry)) = segment.split_first() {
            let (table, taken) = Table::new(entry)?;
            *self.tables.get_mut(usize::from(kind >> 4) * 4 + usize::from(kind & 15))? = Some(Box::new(table));
            segment = &entry[taken..];
        }
        Some(())
    }

    /// Whether a scan's data reaches its last block; true for scans that cannot be read without the coefficients.
    fn scan(&self, segment: &[u8], data: &[u8]) -> Option<bool> {
        let (&count, rest) = segment.split_first()?;
        let (selectors, parameters) = rest.split_at_checked(usize::from(count) * 2)?;
        let &[from, to, approximation] = parameters else { return None };
        let first_pass = approximation >> 4 == 0;
        if self.progressive && !first_pass {
            return Some(true);
        }
        // The coefficients a block of this scan holds.
        let (dc, ac_end) = if self.progressive { (from == 0, usize::from(to)) } else { (true, 63) };
        let ac_start = usize::from(from).max(1);

        let mut blocks = Vec::new();
        let (mut across, mut down) = (0, 0);
        let wide = self.components.iter().map(|component| component.h).max()?;
        let high = self.components.iter().map(|component| component.v).max()?;
        for selector in selectors.as_chunks::<2>().0 {
            let component = self.components.iter().find(|component| component.id == selector[0])?;
            let tables = (usize::from(selector[1] >> 4), 4 + usize::from(selector[1] & 15));
            let dc_table = if dc { Some(self.tables.get(tables.0)?.as_deref()?) } else { None };
            let ac_table = if ac_end > 0 { Some(self.tables.get(tables.1)?.as_deref()?) } else { None };
            let per_mcu = if count == 1 { 1 } else { component.h * component.v };
            blocks.extend(std::iter::repeat_n((dc_table, ac_table), per_mcu));
            (across, down) = if count == 1 {
                ((self.width * component.h).div_ceil(wide * 8), (self.height * component.v).div_ceil(high * 8))
            } else {
                (self.width.div_ceil(wide * 8), self.height.div_ceil(high * 8))
            };
        }

        let mut bits = Bits { data, at: 0, buffer: 0, have: 0, short: false };
        let mut end_of_band_run = 0;
        for mcu in 0..across * down {
            if self.restart_interval > 0 && mcu > 0 && mcu % self.restart_interval == 0 {
                if !bits.restart() {
                    return Some(false);
                }
                end_of_band_run = 0;
            }
            for &(dc_table, ac_table) in &blocks {
                if let Some(table) = dc_table {
                    let size = bits.code(table)?;
                    bits.skip(size.min(16).into());
                }
                let Some(table) = ac_table else { continue };
                if end_of_band_run > 0 {
                    end_of_band_run -= 1;
                    continue;
                }
                let mut k = ac_start;
                while k <= ac_end {
                    let code = bits.code(table)?;
                    let (run, size) = (usize::from(code >> 4), u32::from(code & 15));
                    match (run, size) {
                        (15, 0) => k += 16,
                        (run, 0) => {
                            if self.progressive {
                                end_of_band_run = (1 << run) - 1 + bits.take(run as u32);
                            }
                            break;
                        }
                        (run, size) => {
                            bits.skip(size);
                            k += run + 1;
                        }
                    }
                }
            }
            if bits.short {
                return Some(false);
            }
        }
        Some(true)
    }
}

/// Entropy-coded bits, most significant first, with stuffed bytes taken out.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, left-aligned; zeros follow the last.
    buffer: u64,
    have: u32,
    /// More bits were asked for than there are.
    short: bool,
}

impl Bits<'_> {
    fn refill(&mut self) {
        while self.have <= 48 {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xFF), Some(0)) => {
                    self.at += 2;
                    0xFF
                }
                (Some(0xFF), _) | (None, _) => return,
                (Some(&byte), _) => {
                    self.at += 1;
                    byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.have);
            self.have += 8;
        }
    }

    /// Reads a Huffman code; `None` for bits that start no code, unless they are missing ones.
    fn code(&mut self, table: &Table) -> Option<u8> {
        if self.have < 16 {
            self.refill();
        }
        let (length, symbol) = table.0[(self.buffer >> 48) as usize];
        if length == 0 {
            self.short = self.have < 16;
            return self.short.then_some(symbol);
        }
        self.skip(length.into());
        Some(symbol)
    }

    fn skip(&mut self, bits: u32) {
        self.take(bits);
    }

    /// The next bits as a number, at most 16.
    fn take(&mut self, bits: u32) -> usize {
        if self.have < bits {
            self.refill();
        }
        if self.have < bits {
            self.short = true;
        }
        let value = if bits == 0 { 0 } else { self.buffer >> (64 - bits) };
        self.buffer <<= bits;
        self.have = self.have.saturating_sub(bits);
        value as usize
    }

    /// Drops the bits before a restart marker and steps over it; false when there is none.
    fn restart(&mut self) -> bool {
        self.refill();
        // Whole bytes in the buffer would be data nobody asked for.
        let padded = self.have < 8;
        (self.buffer, self.have) = (0, 0);
        let found = matches!(self.data.get(self.at..), Some([0xFF, 0xD0..=0xD7, ..]));
        self.at += 2;
        padded && found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_knows_its_codes() {
        let mut entry = [0; 19];
        (entry[0], entry[1], entry[16], entry[17], entry[18]) = (1, 2, 7, 8, 9);
        let (table, taken) = Table::new(&entry).unwrap();
        assert_eq!(taken, 19);
        assert_eq!((table.0[0], table.0[0x8000], table.0[0xC000]), ((1, 7), (2, 8), (2, 9)));
        entry[0] = 3;
        assert!(Table::new(&entry).is_none(), "more codes than bits allow");
    }

    #[test]
    fn bits_skip_stuffing_and_notice_their_end() {
        let mut bits = Bits { data: &[0xFF, 0, 0x80, 0xFF, 0xD0, 0x40], at: 0, buffer: 0, have: 0, short: false };
        assert_eq!((bits.take(8), bits.take(1), bits.short), (0xFF, 1, false));
        assert!(bits.restart());
        assert_eq!((bits.take(2), bits.take(6), bits.short), (1, 0, false));
        bits.take(1);
        assert!(bits.short);
    }

    #[test]
    fn repetition_is_looked_for_in_the_last_blocks() {
        let mut samples: Vec<u8> = (0..128 * 32).map(|i| (i % 128) as u8).collect();
        assert!(!ends_in_repetition(&samples, 128, 32, 1));
        samples[24 * 128..].fill(9);
        assert!(ends_in_repetition(&samples, 128, 32, 1));
        assert!(ends_in_repetition(&samples[..64], 8, 8, 1), "too small to tell");
    }
}
