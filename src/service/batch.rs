//! Batch: jobs from a file of lines, split among the tasks of a Cloud Run Job.
//!
//! Line `i` belongs to task `i mod count`. Every job is worked on like a message: its manifest is its mark, so that a task
//! that is tried again goes on where it stopped, and a line that cannot be run leaves a record.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::envelope::{Delivery, Payload};
use super::failure::Disposition;
use super::storage::{Location, Storage, StorageError};
use super::worker::{Delivered, Worker};

/// The largest file of jobs, bytes.
pub const MAX_BYTES: u64 = 256 << 20;

/// How often a job is tried that fails for reasons outside it.
const TRIES: u32 = 4;

/// How long to wait before the second try; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Which lines are this task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// This task, from 0.
    pub index: u64,
    /// All tasks, at least 1.
    pub count: u64,
}

impl Shard {
    /// The shard that Cloud Run names in its variables; everything where it names none.
    ///
    /// # Errors
    /// A text for variables that make no sense.
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number = |name: &str, usual: u64| match var(name) {
            None => Ok(usual),
            Some(text) => text.trim().parse().map_err(|_| format!("{name} is {text:?}; it must be a whole number")),
        };
        let shard = Self { index: number("CLOUD_RUN_TASK_INDEX", 0)?, count: number("CLOUD_RUN_TASK_COUNT", 1)? };
        if shard.index < shard.count {
            Ok(shard)
        } else {
            Err(format!("CLOUD_RUN_TASK_INDEX is {} of {} tasks; it counts from 0", shard.index, shard.count))
        }
    }

    const fn holds(self, line: u64) -> bool {
        line % self.count == self.index
    }
}

/// What came of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines of this task.
    pub jobs: u64,
    /// Of these, those that have their manifest or the record of a failure for good.
    pub settled: u64,
    /// Of these, those with a failure for good, or with variations that could not be made.
    pub failed: u64,
    /// Lines that could not be worked on to their end.
    pub unsettled: u64,
}

impl Summary {
    /// Whether every job was made in full.
    pub const fn is_success(&self) -> bool {
        self.failed == 0 && self.unsettled == 0
    }
}

/// Reads a file of jobs from storage.
///
/// # Errors
/// [`StorageError`].
pub async fn read(storage: &Storage, location: &Location) -> Result<Vec<u8>, StorageError> {
    let mut download = storage.read(location, None, MAX_BYTES).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = download.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Works on this task's lines, several at once; blank ones are none. `progress` is told of each that is through, and of how
/// many there are.
///
/// Ends early once `stopped` is ready; what was not through by then is unsettled.
pub async fn run(
    worker: &Worker,
    jobs: &Bytes,
    shard: Shard,
    at_once: usize,
    progress: impl Fn(u64, u64),
    stopped: impl Future<Output = ()>,
) -> Summary {
    let mine = || {
        let lines = jobs.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        lines.zip(0u64..).filter(|(_, at)| shard.holds(*at)).map(|(line, at)| (at, jobs.slice_ref(line)))
    };
    let total = mine().count() as u64;
    let mut summary = Summary { jobs: total, ..Summary::default() };
    let mut through = stream::iter(mine()).map(|(at, line)| settle(worker, at, line)).buffer_unordered(at_once.max(1));
    tokio::pin!(stopped);
    loop {
        let delivered = tokio::select! {
            delivered = through.next() => delivered,
            () = &mut stopped => None,
        };
        let Some(delivered) = delivered else { break };
        match delivered {
            Delivered { disposition: Disposition::Acknowledge, complete } => {
                summary.settled += 1;
                summary.failed += u64::from(!complete);
            }
            Delivered { .. } => summary.unsettled += 1,
        }
        progress(summary.settled + summary.unsettled, total);
    }
    summary.unsettled = total - summary.settled;
    summary
}

/// Works on one line, again where that may help.
async fn settle(worker: &Worker, at: u64, line: Bytes) -> Delivered {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        if worker.is_draining() {
            tracing::debug!(job = at, "left to the next run");
            return Delivered { disposition: Disposition::Unavailable, complete: false };
        }
        let delivery = Delivery {
            payload: Payload::Job(line.clone()),
            // Its record is named by what it says: lines of other files have the same numbers.
            message_id: None,
            subscription: None,
            delivery_attempt: None,
            publish_time: None,
            ordering_key: None,
        };
        let delivered = worker.deliver(delivery, None, None).await;
        if delivered.disposition == Disposition::Acknowledge || attempt == TRIES || worker.is_draining() {
            return delivered;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(index: &str, count: &str) -> Result<Shard, String> {
        Shard::read(|name| match name {
            "CLOUD_RUN_TASK_INDEX" => Some(index.to_owned()),
            _ => Some(count.to_owned()),
        })
    }

    #[test]
    fn every_line_belongs_to_exactly_one_task() {
        let shards: Vec<Shard> = (0..7).map(|i| shard(&i.to_string(), "7").unwrap()).collect();
        for line in 0..100 {
            assert_eq!(shards.iter().filter(|shard| shard.holds(line)).count(), 1);
        }
        assert_eq!(Shard::read(|_| None), Ok(Shard { index: 0, count: 1 }));
    }

    #[test]
    fn task_numbers_that_make_no_sense_are_errors() {
        for (index, count) in [("1", "1"), ("0", "0"), ("-1", "2"), ("x", "2")] {
            assert!(shard(index, count).is_err(), "{index} of {count}");
        }
    }
}
