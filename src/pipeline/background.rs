//! The stage before the colour model: the subject is cut out, once for all variations, or the picture passes as it is.
//!
//! Method `auto` never ruins a picture: where neither classic nor a model is sure, it passes the picture through and says so.

use std::time::Instant;

use super::decode::{self, DecodeError, Limits};
use super::job::{BackgroundRequest, Fill, Method};
use super::manifest::Background;
use super::segment::contract::Back;
use super::segment::{Loaded, ModelError, Segmenter, tensor};
use super::timing::Timings;
use crate::kernel::compose::{Behind, Blurred};
use crate::kernel::image::BaseImage;
use crate::kernel::matte::classic::{self, ClassicOptions, Ground};
use crate::kernel::matte::{clean, foreground, refine};
use crate::kernel::resample::{self, Kernel, Window};

/// At or above this confidence a model's matte counts as sure.
pub const MODEL_CONFIDENT: f32 = 0.6;

/// Share of visible area that must be missing before a picture's own alpha counts as its matte.
const OWN_ALPHA_SHARE: f64 = 0.01;

/// Why there is no cut-out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackgroundError {
    /// The model gave none.
    #[error("background: {0}")]
    Model(#[from] ModelError),
    /// The picture for the ground cannot be used.
    #[error("background.fill: {0}")]
    Fill(DecodeError),
}

impl BackgroundError {
    /// The short, stable class, as in manifests.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Model(error) => error.class(),
            Self::Fill(error) => error.class(),
        }
    }
}

/// A picture after the stage.
pub struct Stage {
    /// The picture, its ground transparent where it was removed.
    pub image: BaseImage,
    /// What lies behind variations, where that is a picture.
    pub backdrop: Option<Backdrop>,
    /// What was done and how sure that is.
    pub record: Background,
    /// Whether a model was asked and had seen the picture before.
    pub recalled: bool,
}

/// A picture that lies behind variations.
pub enum Backdrop {
    /// The base itself, out of focus.
    Blurred(Blurred),
    /// Another one.
    Picture(BaseImage),
}

/// A [`Backdrop`] at the size of one file.
pub enum SizedBackdrop<'a> {
    /// Enlarged as it is read.
    Blurred(&'a Blurred),
    /// 3 bytes a pixel.
    Picture(Vec<u8>),
}

impl Backdrop {
    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Blurred(blurred) => blurred.bytes(),
            Self::Picture(picture) => 4 * u64::from(picture.width()) * u64::from(picture.height()),
        }
    }

    /// The backdrop for a file of this size; another picture is cut to cover it.
    pub fn at(&self, width: u32, height: u32) -> SizedBackdrop<'_> {
        match self {
            Self::Blurred(blurred) => SizedBackdrop::Blurred(blurred),
            Self::Picture(picture) => SizedBackdrop::Picture(cover(picture, width, height)),
        }
    }
}

impl SizedBackdrop<'_> {
    /// What lies behind rows.
    pub fn behind(&self) -> Behind<'_> {
        match self {
            Self::Blurred(blurred) => Behind::Blurred(blurred),
            Self::Picture(rgb) => Behind::Picture(rgb),
        }
    }
}

/// `picture` scaled to cover the size, its middle kept.
fn cover(picture: &BaseImage, width: u32, height: u32) -> Vec<u8> {
    let size = (picture.width(), picture.height());
    resample::rgb(picture.rgb(), size, Window::covering(size, (width, height)), (width, height), Kernel::Lanczos)
}

/// A matte, the colours that go with it, and who made it.
struct Cut {
    alpha: Vec<u8>,
    rgb: Vec<u8>,
    by: By,
}

/// Who made a matte, or why nobody did.
enum By {
    Classic { confidence: f32, ground: &'static str },
    Model { confidence: f32, loaded: Box<Loaded>, recalled: bool },
}

/// Runs the stage on `image` as `request` asks. `fill` holds the bytes of the picture that it names.
///
/// # Errors
/// [`BackgroundError`]; never because nothing was sure.
pub fn remove(
    image: BaseImage,
    request: &BackgroundRequest,
    segmenter: &Segmenter,
    fill: Option<&[u8]>,
    max_pixels: u64,
    timings: &Timings,
) -> Result<Stage, BackgroundError> {
    let start = Instant::now();
    // A bad fill must be known before a model has worked for a second.
    let picture = fill.map(|bytes| decode_fill(bytes, max_pixels)).transpose()?;
    let mut record = Background::default();
    let method = request.method.unwrap_or_default();
    let own = hidden_share(&image);
    let cut = match method {
        Method::Auto if own >= OWN_ALPHA_SHARE => {
            record.method = "alpha".into();
            record.confidence = 1.0;
            record.removed = true;
            None
        }
        Method::Auto => automatic(&image, request, segmenter, &mut record)?,
        Method::Classic => sure_classic(classic(&image, request), &mut record),
        Method::Model => Some(model(&image, request, segmenter)?),
    };
    let blur = matches!(request.fill, Some(Fill::Blur));
    let backdrop = match (picture, &cut) {
        (Some(picture), _) => Some(Backdrop::Picture(picture)),
        (None, Some(cut)) if blur => Some(Backdrop::Blurred(Blurred::new(&image, &cut.alpha))),
        (None, None) if blur => image.alpha().map(|alpha| Backdrop::Blurred(Blurred::new(&image, alpha))),
        (None, _) => None,
    };
    let recalled = matches!(&cut, Some(Cut { by: By::Model { recalled: true, .. }, .. }));
    let image = match cut {
        Some(cut) => {
            describe(&cut.by, &mut record);
            apply(image, cut, request.clean)
        }
        None if record.removed && request.clean => tidied(image),
        None => image,
    };
    record.subject_share = rounded(1.0 - hidden_share(&image));
    if record.removed && record.subject_share == 0.0 {
        record.notes.push("Nothing is left: the whole picture was taken for background.".into());
    }
    timings.add("matte", start);
    Ok(Stage { image, backdrop, record, recalled })
}

fn decode_fill(bytes: &[u8], max_pixels: u64) -> Result<BaseImage, BackgroundError> {
    let limits = Limits { max_pixels, max_source_bytes: u64::MAX, ..Limits::default() };
    decode::decode(bytes, &limits).map_err(BackgroundError::Fill)
}

/// Classic where it is sure, else a model where there is one and it is sure, else none; what was tried is written down.
fn automatic(
    image: &BaseImage,
    request: &BackgroundRequest,
    segmenter: &Segmenter,
    record: &mut Background,
) -> Result<Option<Cut>, BackgroundError> {
    let cut = classic(image, request);
    let By::Classic { confidence, .. } = cut.by else { return Ok(Some(cut)) };
    if confidence >= classic::CONFIDENT {
        return Ok(Some(cut));
    }
    drop(cut);
    let unsure = format!("no plain ground was found (confidence {confidence:.2} of {:.2})", classic::CONFIDENT);
    record.confidence = rounded(f64::from(confidence));
    let kept = |record: &mut Background, and: String| {
        record.method = "none".into();
        record.flagged = true;
        record.notes.push(format!("The background was kept: {unsure}, {and}."));
        Ok(None)
    };
    if request.model.is_none() && segmenter.registry().default_model().is_none() {
        return kept(record, "and no model is configured".into());
    }
    match model(image, request, segmenter) {
        Ok(cut) => {
            let By::Model { confidence, .. } = cut.by else { return Ok(Some(cut)) };
            if confidence >= MODEL_CONFIDENT {
                record.notes.push(format!("A model was asked: {unsure}."));
                return Ok(Some(cut));
            }
            describe(&cut.by, record);
            record.removed = false;
            kept(
                record,
                format!("and the model found no clear subject (confidence {confidence:.2} of {MODEL_CONFIDENT:.2})"),
            )
        }
        // The job's mistake, or something that the next delivery may not meet: neither is passed over.
        Err(error @ ModelError::Unknown(_)) => Err(error.into()),
        Err(error) if error.is_passing() => Err(error.into()),
        Err(error) => kept(record, format!("and {error}")),
    }
}

fn sure_classic(cut: Cut, record: &mut Background) -> Option<Cut> {
    let By::Classic { confidence, .. } = cut.by else { return Some(cut) };
    if confidence >= classic::CONFIDENT {
        return Some(cut);
    }
    record.method = "none".into();
    record.confidence = rounded(f64::from(confidence));
    record.flagged = true;
    record.notes.push(format!(
        "The background was kept: no plain ground was found (confidence {confidence:.2} of {:.2}); method model may find the \
         subject.",
        classic::CONFIDENT
    ));
    None
}

fn classic(image: &BaseImage, request: &BackgroundRequest) -> Cut {
    let options = ClassicOptions { enclosed: request.enclosed };
    let made = classic::cut_out(image, &options);
    let ground = match made.ground {
        Ground::Flat { .. } => "flat",
        Ground::Gradient => "gradient",
        Ground::None => "none",
    };
    Cut { alpha: made.alpha, rgb: made.rgb, by: By::Classic { confidence: made.confidence, ground } }
}

fn model(image: &BaseImage, request: &BackgroundRequest, segmenter: &Segmenter) -> Result<Cut, ModelError> {
    let made = segmenter.segment(request.model.as_deref(), image)?;
    let (map, back) = (&made.map, made.by.spec.contract.back);
    let alpha = if request.refine {
        let align_corners = back == Back::Bilinear { align_corners: true };
        refine::guided(&map.opacity, map.width, map.height, align_corners, image)
    } else {
        tensor::bytes(&tensor::full_size(map, back, image.width(), image.height()))
    };
    let rgb = foreground::estimate(image, &alpha);
    Ok(Cut {
        alpha,
        rgb,
        by: By::Model { confidence: made.map.confidence, loaded: Box::new(made.by), recalled: made.recalled },
    })
}

/// The picture with its matte, times any alpha that it had, which classic has seen to itself.
fn apply(image: BaseImage, mut cut: Cut, tidy: bool) -> BaseImage {
    let (width, height) = (image.width(), image.height());
    if tidy {
        clean::clean(&mut cut.alpha, width, height);
    }
    if let (Some(own), By::Model { .. }) = (image.alpha(), &cut.by) {
        for (alpha, &own) in cut.alpha.iter_mut().zip(own) {
            *alpha = ((u32::from(*alpha) * u32::from(own) + 127) / 255) as u8;
        }
    }
    // Both planes have the picture's own length.
    BaseImage::new(width, height, cut.rgb, Some(cut.alpha)).unwrap_or(image)
}

/// The picture with its own alpha cleaned.
fn tidied(image: BaseImage) -> BaseImage {
    let Some(mut alpha) = image.alpha().map(<[u8]>::to_vec) else { return image };
    clean::clean(&mut alpha, image.width(), image.height());
    BaseImage::new(image.width(), image.height(), image.rgb().to_vec(), Some(alpha)).unwrap_or(image)
}

fn describe(by: &By, record: &mut Background) {
    record.removed = true;
    match by {
        By::Classic { confidence, ground } => {
            record.method = "classic".into();
            record.confidence = rounded(f64::from(*confidence));
            record.ground = Some((*ground).into());
        }
        By::Model { confidence, loaded, .. } => {
            record.method = "model".into();
            record.confidence = rounded(f64::from(*confidence));
            record.model = Some(loaded.name.clone());
            record.model_sha256 = Some(loaded.sha256.clone());
            record.provider = Some(loaded.choice.provider.name().into());
            record.provider_reason = Some(loaded.choice.reason());
            if *confidence < MODEL_CONFIDENT {
                record.flagged = true;
                record.notes.push(format!("The model is not sure of the subject: confidence {confidence:.2}."));
            }
        }
    }
}

/// Share of the picture's area that its alpha hides, 0 to 1.
fn hidden_share(image: &BaseImage) -> f64 {
    let Some(alpha) = image.alpha() else { return 0.0 };
    let opaque: u64 = alpha.iter().map(|&a| u64::from(a)).sum();
    1.0 - opaque as f64 / (255.0 * alpha.len() as f64)
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
