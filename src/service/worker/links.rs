//! Links to what is stored: signed by storage, or below the address that the results are served from.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::Worker;
use crate::pipeline::manifest::{Manifest, StepOutput};
use crate::service::failure::Failure;
use crate::service::storage::{Location, StorageError};

/// Links that are signed at once.
const SIGNED_AT_ONCE: usize = 16;

impl Worker {
    /// Puts links into a manifest where the settings ask for them.
    ///
    /// # Errors
    /// [`Failure`] when nothing here can sign.
    pub async fn link(&self, manifest: &mut Manifest, folder: &Location) -> Result<(), Failure> {
        let mut links = Vec::new();
        let named = |output: &mut StepOutput| !output.object.is_empty();
        let before = manifest.steps.iter_mut().flat_map(|step| &mut step.outputs);
        links.extend(before.filter_map(|output| named(output).then(|| (output.object.clone(), &mut output.link))));
        for entry in &mut manifest.variations {
            let after = entry.steps.iter_mut().flat_map(|step| &mut step.outputs);
            links.extend(after.filter_map(|output| named(output).then(|| (output.object.clone(), &mut output.link))));
            let made = entry.error.is_none();
            if made {
                links.push((entry.object.clone(), &mut entry.link));
            }
            if let Some(copy) = entry.upload.as_mut().filter(|copy| made && copy.error.is_none()) {
                links.push((copy.object.clone(), &mut copy.link));
            }
            if let Some(copy) = entry.preview.as_mut().filter(|copy| copy.error.is_none()) {
                links.push((copy.object.clone(), &mut copy.link));
            }
        }
        let (objects, links): (Vec<String>, Vec<&mut Option<String>>) = links.into_iter().unzip();
        // Signing may ask a service each time.
        let make = |object: String| async move { self.link_to(&folder.join(&object)).await };
        let made: Vec<_> = stream::iter(objects).map(make).buffered(SIGNED_AT_ONCE).collect().await;
        for (link, made) in links.into_iter().zip(made) {
            *link = made.map_err(|error| Failure::of_destination(&error))?;
        }
        Ok(())
    }

    /// Links to objects by their names, as far as the settings ask for them and they are had in time.
    pub async fn links_within(
        &self,
        time: Duration,
        objects: Vec<String>,
        folder: &Location,
    ) -> HashMap<String, String> {
        let until = Instant::now() + time;
        let link = async |object: String| {
            let link = timeout_at(until, self.link_to(&folder.join(&object))).await;
            Some((object, link.ok()?.ok()??))
        };
        let links = stream::iter(objects).map(link).buffer_unordered(SIGNED_AT_ONCE);
        links.filter_map(async |link| link).collect().await
    }

    /// The link to one object, where the settings ask for links.
    ///
    /// # Errors
    /// [`StorageError`] when nothing here can sign.
    pub async fn link_to(&self, location: &Location) -> Result<Option<String>, StorageError> {
        let settings = &self.shared.settings;
        // The address serves one bucket: what lies in others has to be signed.
        let served = location.bucket() == self.shared.rules.default_destination.bucket();
        match (settings.public_base_url.as_ref().filter(|_| served), settings.signed_links) {
            (Some(base), _) => Ok(Some(public_link(base, location))),
            (None, Some(time)) => self.shared.storage.signed_link(location, time).await,
            (None, None) => Ok(None),
        }
    }
}

/// A link below the address that a bucket is served from.
fn public_link(base: &str, location: &Location) -> String {
    format!("{}/{}", base.trim_end_matches('/'), escaped(location.name()))
}

/// A name as a part of a URL or a header: everything escaped but plain characters and slashes (RFC 3986, 2.3).
pub fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            text.push(byte as char);
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_escape_what_a_url_cannot_hold_and_keep_the_folders() {
        let location = Location::parse("gs://palettes/u 1/j/palette_Wärme.png").unwrap();
        let link = public_link("https://cdn.example.com/", &location);
        assert_eq!(link, "https://cdn.example.com/u%201/j/palette_W%C3%A4rme.png");
    }
}
