//! How pictures go into a model and how maps come out: what each published model was trained with.
//!
//! Read in the packages that people use them through: InSPyReNet in transparent-background 1.3.4 (`Remover.process`), U²-Net,
//! silueta and IS-Net in rembg 2.0.86 (`sessions/`), BiRefNet in its own repository (`inference.py`). Where a package makes 8 bits
//! before it brings the map back, the map stays whole here. tests/models/goldens.py does what they do, with PIL, and a test
//! compares.

use serde::{Deserialize, Serialize};

/// How pictures are brought to the model's size. Both widen their support when they reduce, as PIL does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// PIL's BILINEAR.
    Bilinear,
    /// PIL's LANCZOS, three lobes.
    Lanczos,
}

/// What a picture's bytes are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// 255.
    Byte,
    /// The largest value in the resized picture.
    Brightest,
}

/// What a model's output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Opacity, 0 to 1.
    Probability,
    /// The logarithm of the odds: a sigmoid makes it opacity.
    Logits,
    /// Any range: its least value is transparent and its greatest opaque.
    Stretched,
}

/// How a map is brought back to the picture's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// Bilinear between pixel centres; with `align_corners`, the outermost pixels' centres lie on each other.
    Bilinear {
        /// As torch's `F.interpolate` means it.
        align_corners: bool,
    },
    /// PIL's LANCZOS, three lobes; what overshoots is cut off.
    Lanczos,
}

/// How pictures go in and maps come out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contract {
    /// Side of the square input, pixels, where the file leaves it open.
    pub side: u32,
    /// How pictures are resized.
    pub filter: Filter,
    /// What bytes are divided by.
    pub scale: Scale,
    /// Subtracted from each channel after scaling: red, green, blue.
    pub mean: [f32; 3],
    /// Each channel is divided by this after that.
    pub std: [f32; 3],
    /// What the first output holds.
    pub output: Output,
    /// How the map is brought back.
    pub back: Back,
    /// Whether a second output holds the logits that the first was stretched from, which tell how sure the model is.
    pub second_logits: bool,
}

/// Mean and deviation of ImageNet's pictures.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

const INSPYRENET: Contract = Contract {
    side: 1024,
    filter: Filter::Bilinear,
    scale: Scale::Byte,
    mean: IMAGENET.0,
    std: IMAGENET.1,
    output: Output::Probability,
    back: Back::Bilinear { align_corners: true },
    second_logits: true,
};

const U2NET: Contract = Contract {
    side: 320,
    filter: Filter::Lanczos,
    scale: Scale::Brightest,
    output: Output::Stretched,
    back: Back::Lanczos,
    second_logits: false,
    ..INSPYRENET
};

impl Contract {
    /// Every preset by name.
    pub const PRESETS: [(&'static str, Self); 7] = [
        ("inspyrenet", INSPYRENET),
        ("inspyrenet-fast", Self { side: 384, ..INSPYRENET }),
        ("birefnet", Self { output: Output::Logits, second_logits: false, ..INSPYRENET }),
        ("isnet", Self { side: 1024, mean: [0.5; 3], std: [1.0; 3], ..U2NET }),
        ("u2net", U2NET),
        ("u2netp", U2NET),
        ("silueta", U2NET),
    ];

    /// The preset of this name.
    pub fn preset(name: &str) -> Option<Self> {
        Self::PRESETS.into_iter().find(|(known, _)| *known == name).map(|(_, contract)| contract)
    }
}
