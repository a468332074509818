//! Memory first, then the picture; and meanwhile the question what an earlier delivery stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use tokio::sync::oneshot;

use super::Worker;
use super::claim::{Claim, Picture, WholePicture};
use super::clock::Clock;
use super::existing::{self, Existing};
use super::plan::{Plan, of_fill};
use super::run::{Facts, Keep};
use crate::pipeline::base::Base;
use crate::pipeline::decode::{self, DecodeError, Limits, Probe};
use crate::pipeline::footprint;
use crate::pipeline::identity::{self, Identity};
use crate::pipeline::plan;
use crate::pipeline::run;
use crate::service::admission::{Permit, Place};
use crate::service::failure::{Class, Failure};
use crate::service::jobs::{Entry, Stage};
use crate::service::source::{OpenSource, SourceAddress};
use crate::service::storage::{Location, Stat};

/// Requests for stored files that are under way at once when a job is resumed.
const PROBES_AT_ONCE: usize = 16;

/// Everything that computing needs.
pub struct Production {
    pub plan: Plan,
    pub identity: Identity,
    pub folder: Location,
    pub found: Existing,
    pub material: Material,
    pub probe: Probe,
    pub permit: Permit,
    /// Files of the same work that are stored already, by name.
    pub stored: HashMap<String, Stat>,
    pub keep: Keep,
    pub clock: Clock,
    pub entry: Entry,
    pub place: Option<Place>,
}

/// What variations are made of.
pub enum Material {
    /// The picture's file.
    File {
        bytes: Vec<u8>,
        named: Option<KnownAs>,
        /// The picture that takes the background's place.
        fill: Option<Vec<u8>>,
        fill_named: Option<KnownAs>,
        /// SHA-256 of the bytes, where it is known already.
        sha256: Option<String>,
    },
    /// The picture as another job left it.
    Made(MadeBase),
}

/// A name under which there is one content only.
pub struct KnownAs {
    pub address: String,
    pub generation: String,
}

/// A base that is kept, and what it is found by.
#[derive(Clone)]
pub struct MadeBase {
    pub key: String,
    /// SHA-256 of the picture's file.
    pub sha256: String,
    pub base: Arc<Base>,
}

impl Worker {
    /// Reads the picture into memory that admission has given for the whole job. `is_picture` is told once its header is read.
    ///
    /// # Errors
    /// [`Failure`]; nothing has been stored yet.
    pub(super) async fn fetch(
        &self,
        claim: Claim,
        is_picture: Option<oneshot::Sender<()>>,
        facts: &mut Facts,
    ) -> Result<Production, Failure> {
        let Claim {
            plan,
            identity,
            folder,
            found,
            address,
            mut picture,
            mut fill,
            keep,
            clock,
            entry,
            place,
            opener,
            permit,
            may_resume,
        } = claim;
        let waited = Instant::now();
        // By which name the content is known, where the name has a generation.
        let known_as = |address: Option<&SourceAddress>, source: &OpenSource| {
            Some(KnownAs { address: address?.to_string(), generation: source.generation.clone()? })
        };
        let named = match &picture {
            Picture::Open(source) => known_as(address.as_ref(), source),
            Picture::Whole(_) => None,
        };
        let fill_named = fill.as_deref().and_then(|source| known_as(plan.fill.as_ref(), source));
        let kept = self.made_base(&plan, &picture, named.as_ref(), fill.as_deref(), fill_named.as_ref());
        // Its facts are enough while there is no memory yet: held all that time, it could not be let go of.
        let kept = kept.map(|made| (made.base.probe, made.base.backdrop_bytes(self.shared.lanes.width())));
        let header = match &mut picture {
            _ if kept.is_some() => kept.as_ref().map(|(probe, _)| *probe),
            Picture::Whole(whole) => self.probe(&whole.bytes, true)?,
            Picture::Open(source) => {
                clock.in_time(source.head()).await??;
                let whole = source.is_whole();
                self.probe(source.head().await?, whole)?
            }
        };
        let mut behind = match &mut fill {
            Some(_) if kept.is_some() => None,
            Some(fill) => Some((clock.in_time(self.behind(fill)).await??, fill.size.unwrap_or(0))),
            None => None,
        };
        if let Some(is_picture) = is_picture {
            // Nobody may be waiting for it.
            let _ = is_picture.send(());
        }
        entry.stage(Stage::Queued);
        // Before there is memory for the job: the model may be waiting for that of others.
        clock.in_time(self.shared.models.await_model(&plan.job)).await??;
        let mut permit = match (&header, permit) {
            (_, Some(permit)) => permit,
            (Some(probe), None) => {
                self.check_work(probe, &plan)?;
                let backdrop = kept.as_ref().map_or(0, |(_, backdrop_bytes)| *backdrop_bytes);
                let peak = backdrop + self.peak(probe, facts.source_bytes, &plan, behind.as_ref());
                clock.in_time(self.shared.admission.acquire(peak)).await??
            }
            // The header lies behind a large block of metadata: it is all read before it is known what it takes.
            (None, None) => clock.in_time(self.shared.admission.acquire(facts.source_bytes)).await??,
        };
        drop(opener);
        facts.queued += waited.elapsed();
        entry.stage(Stage::Fetching);

        let fetching = Instant::now();
        let made = kept
            .as_ref()
            .and_then(|_| self.made_base(&plan, &picture, named.as_ref(), fill.as_deref(), fill_named.as_ref()));
        if kept.is_some() && made.is_none() {
            // It went while the job waited for memory: the picture is read after all, its fill included.
            if let Some(fill) = &mut fill {
                behind = Some((clock.in_time(self.behind(fill)).await??, fill.size.unwrap_or(0)));
            }
        }
        if made.is_some() {
            // Nothing of it needs to be read.
            fill = None;
        }
        let read = async {
            match picture {
                _ if made.is_some() => Ok((Vec::new(), None)),
                Picture::Whole(WholePicture { bytes, sha256 }) => Ok((bytes, Some(sha256))),
                Picture::Open(source) => source.whole().await.map(|bytes| (bytes, None)).map_err(Failure::from),
            }
        };
        let stored = async {
            if may_resume && keep == Keep::Stored {
                self.stored(&plan, &folder, &identity).await
            } else {
                Ok(HashMap::new())
            }
        };
        let read_fill = async {
            match fill {
                Some(fill) => fill.whole().await.map(Some).map_err(|error| of_fill(error.into())),
                None => Ok(None),
            }
        };
        let (read, stored, fill) = clock.in_time(async { tokio::join!(read, stored, read_fill) }).await?;
        let ((bytes, sha256), stored, fill) = (read?, stored?, fill?);
        if made.is_none() {
            facts.source_bytes = bytes.len() as u64;
        }
        let header = match header {
            Some(probe) => Some(probe),
            None => self.probe(&bytes, true)?,
        };
        let probe = header.ok_or_else(|| Failure::new(Class::BrokenPicture, "source: the picture has no header"))?;
        self.check_work(&probe, &plan)?;
        let backdrop = kept.map_or(0, |(_, backdrop_bytes)| backdrop_bytes);
        let needed = backdrop + self.peak(&probe, facts.source_bytes, &plan, behind.as_ref());
        clock.in_time(self.shared.admission.grow(&mut permit, needed)).await??;
        facts.fetched += fetching.elapsed();
        facts.adopted = stored.len();
        if let Some(generation) = &facts.generation {
            let resumed = stored.len();
            tracing::debug!(generation, bytes = bytes.len(), resumed, made = made.is_some(), "the picture is here");
        }
        let material = match made {
            Some(made) => Material::Made(made),
            None => Material::File { bytes, named, fill, fill_named, sha256 },
        };
        Ok(Production { plan, identity, folder, found, material, probe, permit, stored, keep, clock, entry, place })
    }

    /// The picture as another job left it, decoded and modelled, where its content is known and it is still kept.
    fn made_base(
        &self,
        plan: &Plan,
        picture: &Picture,
        named: Option<&KnownAs>,
        fill: Option<&OpenSource>,
        fill_named: Option<&KnownAs>,
    ) -> Option<MadeBase> {
        let cache = &self.shared.cache;
        let known = |named: Option<&KnownAs>| named.and_then(|name| cache.content(&name.address, &name.generation));
        let sha256 = match picture {
            Picture::Whole(whole) => whole.sha256.clone(),
            Picture::Open(_) => known(named)?.to_string(),
        };
        let fill = match fill {
            Some(_) => Some(known(fill_named)?),
            None => None,
        };
        let key = identity::base_key(&plan.job, &sha256, fill.as_deref(), self.options());
        let base = cache.base(&key)?;
        Some(MadeBase { key, sha256, base })
    }

    /// The header's facts; none when more bytes are needed to find it.
    fn probe(&self, head: &[u8], whole: bool) -> Result<Option<Probe>, Failure> {
        let limits = Limits { max_pixels: self.options().max_pixels, max_source_bytes: u64::MAX, ..Limits::default() };
        match decode::probe(head, &limits) {
            Ok(probe) => Ok(Some(probe)),
            Err(DecodeError::Truncated { .. } | DecodeError::Broken { .. }) if !whole => Ok(None),
            Err(error) => {
                let class = Class::of(error.class()).unwrap_or(Class::BrokenPicture);
                Err(Failure::new(class, run::explain(error.to_string(), error.class())))
            }
        }
    }

    /// The header's facts of the picture behind.
    async fn behind(&self, fill: &mut OpenSource) -> Result<Probe, Failure> {
        let whole = fill.is_whole();
        let head = fill.head().await.map_err(|error| of_fill(error.into()))?;
        match self.probe(head, whole).map_err(of_fill)? {
            Some(probe) => Ok(probe),
            None => {
                let message =
                    "background.fill: the picture's header lies behind a large block of metadata; save it without";
                Err(Failure::new(Class::BrokenPicture, message))
            }
        }
    }

    fn check_work(&self, probe: &Probe, plan: &Plan) -> Result<(), Failure> {
        let limit = self.shared.settings.max_work_megapixels.saturating_mul(1_000_000);
        let work = footprint::work_pixels(probe, &plan.job, self.options());
        if work <= limit {
            return Ok(());
        }
        let message = format!(
            "the job asks for {} million pixels of variations, more than the limit of {}; ask for fewer palettes or outputs, \
             or raise CONCEPT_MAX_WORK_MEGAPIXELS",
            work.div_ceil(1_000_000),
            self.shared.settings.max_work_megapixels
        );
        Err(Failure::new(Class::TooMuchWork, message))
    }

    /// Bytes that the job takes; `behind` is the picture behind and its file's size.
    fn peak(&self, probe: &Probe, source_bytes: u64, plan: &Plan, behind: Option<&(Probe, u64)>) -> u64 {
        let (options, threads) = (self.options(), self.shared.lanes.width());
        let behind =
            behind.map_or(0, |(fill, fill_bytes)| footprint::behind_bytes(fill, *fill_bytes, probe, options, threads));
        behind + footprint::peak_bytes(probe, source_bytes, &plan.job, options, threads)
    }

    /// Files of the job that an earlier delivery of the same work stored.
    async fn stored(
        &self,
        plan: &Plan,
        folder: &Location,
        identity: &Identity,
    ) -> Result<HashMap<String, Stat>, Failure> {
        let options = self.options();
        let mut names = run::object_names(&plan.job, options);
        if options.upload_over.is_some() {
            let copies: Vec<String> =
                names.iter().filter(|name| name.ends_with(".png")).map(|name| plan::upload_name(name)).collect();
            names.extend(copies);
        }
        names.extend(run::preview_names(&plan.job, options));
        let storage = &self.shared.storage;
        let ask = |name: String| async move {
            let location = folder.join(&name);
            storage.stat(&location).await.map(|stat| stat.map(|stat| (name, stat)))
        };
        let mut answers = stream::iter(names).map(ask).buffer_unordered(PROBES_AT_ONCE);
        let mut stored = HashMap::new();
        while let Some(answer) = answers.next().await {
            match answer.map_err(|error| Failure::of_destination(&error))? {
                Some((name, stat)) if stat.work_key.as_deref() == Some(&identity.key) => {
                    stored.insert(name, stat);
                }
                Some(_) => return Err(existing::conflict(folder)),
                None => {}
            }
        }
        Ok(stored)
    }
}
