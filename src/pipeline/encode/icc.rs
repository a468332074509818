//! The ICC profile that marks a JPEG as sRGB.

/// The length of [`SRGB_PROFILE`] in bytes.
const LEN: usize = 480;

/// sRGB (IEC 61966-2-1) as an ICC version 4 display profile: parametric curve, D50-adapted primaries.
///
/// Made here, and not by a colour library, because those stamp the profile with the hour, and the same picture must
/// give the same bytes. Layout after ICC.1:2010; the parametric curve and the shared tags keep it under half a kilobyte.
pub const SRGB_PROFILE: [u8; LEN] = build();

const fn build() -> [u8; LEN] {
    let mut profile = Builder { bytes: [0; LEN], at: 0 };
    // Header, 128 bytes.
    profile = profile.u32(LEN as u32).skip(4).u32(0x0430_0000).text(b"mntrRGB XYZ ");
    // A fixed date, 2025-01-01.
    profile = profile.u16(2025).u16(1).u16(1).skip(6).text(b"acsp").skip(28);
    profile = profile.u32(D50[0]).u32(D50[1]).u32(D50[2]).skip(48);

    // Tag table: signature, offset, size; the three curves share one element.
    profile = profile.u32(TAGS.len() as u32);
    let mut i = 0;
    while i < TAGS.len() {
        let (signature, offset, size) = TAGS[i];
        profile = profile.text(signature).u32(offset).u32(size);
        i += 1;
    }
    profile = profile.localized(b"sRGB").localized(b"CC0\0");
    profile = profile.xyz(D50).xyz([0x6FA2, 0x38F5, 0x0390]).xyz([0x6299, 0xB785, 0x18DA]);
    profile = profile.xyz([0x24A0, 0x0F84, 0xB6CF]);
    // Type 3: y = (a·x + b)^g from d on, c·x below; g 2.4, a 1/1.055, b 0.055/1.055, c 1/12.92, d 0.04045.
    profile = profile.text(b"para").skip(4).u16(3).skip(2);
    profile = profile.u32(0x2_6666).u32(0xF2A7).u32(0x0D59).u32(0x13D0).u32(0x0A5B);
    // Bradford, D65 to D50.
    profile = profile.text(b"sf32").skip(4).u32(0x1_0C42).u32(0x05DE).u32(0xFFFF_F325);
    profile = profile.u32(0x0793).u32(0xFD90).u32(0xFFFF_FBA1).u32(0xFFFF_FDA2).u32(0x03DC).u32(0xC06E);
    assert!(profile.at == LEN);
    profile.bytes
}

/// The D50 white point, s15Fixed16.
const D50: [u32; 3] = [0xF6D6, 0x1_0000, 0xD32D];

const TAGS: [(&[u8; 4], u32, u32); 10] = [
    (b"desc", 252, 36),
    (b"cprt", 288, 36),
    (b"wtpt", 324, 20),
    (b"rXYZ", 344, 20),
    (b"gXYZ", 364, 20),
    (b"bXYZ", 384, 20),
    (b"rTRC", 404, 32),
    (b"gTRC", 404, 32),
    (b"bTRC", 404, 32),
    (b"chad", 436, 44),
];

struct Builder {
    bytes: [u8; LEN],
    at: usize,
}

impl Builder {
    const fn text(mut self, text: &[u8]) -> Self {
        let mut i = 0;
        while i < text.len() {
            self.bytes[self.at] = text[i];
            self.at += 1;
            i += 1;
        }
        self
    }

    const fn u32(self, value: u32) -> Self {
        self.text(&value.to_be_bytes())
    }

    const fn u16(self, value: u16) -> Self {
        self.text(&value.to_be_bytes())
    }

    const fn skip(mut self, bytes: usize) -> Self {
        self.at += bytes;
        self
    }

    const fn xyz(self, xyz: [u32; 3]) -> Self {
        self.text(b"XYZ ").skip(4).u32(xyz[0]).u32(xyz[1]).u32(xyz[2])
    }

    /// A multiLocalizedUnicode element with one record of four UTF-16 characters.
    const fn localized(self, ascii: &[u8; 4]) -> Self {
        let mut out = self.text(b"mluc").skip(4).u32(1).u32(12).text(b"enUS").u32(8).u32(28);
        let mut i = 0;
        while i < 4 {
            out = out.u16(ascii[i] as u16);
            i += 1;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_lies_where_the_table_says() {
        for (signature, offset, size) in TAGS {
            let kind: &[u8] = match signature {
                b"desc" | b"cprt" => b"mluc",
                b"chad" => b"sf32",
                b"rTRC" | b"gTRC" | b"bTRC" => b"para",
                _ => b"XYZ ",
            };
            assert_eq!(&SRGB_PROFILE[offset as usize..offset as usize + 4], kind);
            assert!((offset + size) as usize <= LEN);
        }
    }

    #[test]
    fn a_colour_manager_finds_srgb_in_the_profile() {
        let profile = moxcms::ColorProfile::new_from_slice(&SRGB_PROFILE).unwrap();
        let srgb = moxcms::ColorProfile::new_srgb();
        let layout = moxcms::Layout::Rgb;
        let transform =
            profile.create_transform_8bit(layout, &srgb, layout, moxcms::TransformOptions::default()).unwrap();
        let colors: Vec<u8> =
            (0..=255u8).flat_map(|v| [[v, v, v], [v, 0, 255 - v], [255 - v, v, 40]]).flatten().collect();
        let mut seen = vec![0; colors.len()];
        transform.transform(&colors, &mut seen).unwrap();
        for (before, after) in colors.iter().zip(&seen) {
            assert!(before.abs_diff(*after) <= 1, "{before} became {after}");
        }
    }
}
