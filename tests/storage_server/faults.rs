//! What goes wrong, at random from a seed or exactly as queued.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The content of an object, or a range of it.
    Read,
    /// Content on its way in.
    Write,
    /// The start or the state of a resumable upload.
    Session,
    /// An object's metadata.
    Metadata,
    /// The objects of a bucket.
    List,
    /// A deletion.
    Delete,
    /// A bucket.
    Bucket,
    /// Something the server does not know.
    Unknown,
}

/// How a request goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Answered with this status, nothing done.
    Status(u16),
    /// The connection breaks before an answer, nothing done.
    Drop,
    /// It is done, then the connection breaks.
    LoseAnswer,
    /// The connection breaks in the middle of the content of the answer.
    Cut,
    /// The content of the answer stops in the middle for this time.
    Stall(Duration),
    /// A byte of the content of the answer is another.
    Corrupt,
    /// It is done and answered, but only after this time.
    Late(Duration),
}

/// What goes wrong at random. Percentages are of all requests, and exclude each other.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The same seed and the same order of requests fail in the same way.
    pub seed: u64,
    /// Answered with 429 or 503.
    pub fail_percent: f64,
    /// Dropped before they are answered.
    pub drop_percent: f64,
    /// Done, but never answered.
    pub lose_answer_percent: f64,
    /// Reads that are cut short; of writes nothing.
    pub cut_percent: f64,
    /// Every request is answered this much later.
    pub delay: Duration,
}

impl Faults {
    /// A percentage of all requests fails, one half with a status and the rest with connections that break.
    pub fn mixed(seed: u64, percent: f64) -> Self {
        let part = percent / 6.0;
        Self {
            seed,
            fail_percent: 3.0 * part,
            drop_percent: part,
            lose_answer_percent: part,
            cut_percent: part,
            delay: Duration::ZERO,
        }
    }
}

/// The faults to come.
#[derive(Debug, Default)]
pub(super) struct Plan {
    faults: Faults,
    random: u64,
    queued: HashMap<Kind, VecDeque<Fault>>,
}

impl Plan {
    pub(super) fn set(&mut self, faults: Faults) {
        self.random = faults.seed;
        self.faults = faults;
    }

    pub(super) fn queue(&mut self, kind: Kind, fault: Fault) {
        self.queued.entry(kind).or_default().push_back(fault);
    }

    pub(super) fn forget(&mut self) {
        self.queued.clear();
    }

    pub(super) fn delay(&self) -> Duration {
        self.faults.delay
    }

    /// What becomes of the next request.
    pub(super) fn next(&mut self, kind: Kind) -> Option<Fault> {
        if let Some(fault) = self.queued.get_mut(&kind).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let roll = (self.draw() % 1_000_000) as f64 / 10_000.0;
        let which = self.draw();
        let faults = &self.faults;
        let mut edge = 0.0;
        for (percent, fault) in [
            (faults.fail_percent, Fault::Status(if which.is_multiple_of(2) { 429 } else { 503 })),
            (faults.drop_percent, Fault::Drop),
            (faults.lose_answer_percent, Fault::LoseAnswer),
            (faults.cut_percent, Fault::Cut),
        ] {
            edge += percent;
            if roll < edge {
                return Some(fault);
            }
        }
        None
    }

    /// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
