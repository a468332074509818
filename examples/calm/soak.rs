//! Everything mixed against one process with little memory and a cache that forgets soon: does its memory stay level?

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use image::ImageFormat;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::job::Job;
use crate::process::{BROKEN_CLASSES, Home, Metrics, Worker, print_metrics};
use crate::sources::{self, Palette};
use crate::table::{TIMES, Table, median, number, times};
use crate::traffic::{Answer, Caller, Dice, check_news};
use crate::{Bench, Faults};

const MIB: f64 = (1u64 << 20) as f64;

/// The process's memory limit, MiB.
const LIMIT_MB: u64 = 512;

/// Seconds that its cache keeps anything.
const CACHE_SECONDS: u64 = 2;

/// Sides of the larger picture.
const LARGE: u32 = 1024;

/// Jobs that duplicates are asked of: the newest. Some are still in flight.
const RECENT: usize = 64;

/// Jobs whose results are kept in the folder.
const KEPT: usize = 1_000;

/// How long the process is left alone afterwards before its memory is read again.
const REST: Duration = Duration::from_secs(5);

/// How long a follower waits for the end of a job that was answered.
const FOLLOWED: Duration = Duration::from_secs(60);

/// Pictures that cannot be used.
const BROKEN: [&str; 4] = ["truncated.jpg", "truncated.png", "bomb.png", "not_an_image.txt"];

/// What a caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Fresh,
    Duplicate,
    /// A job with previews, followed to its end.
    Followed,
    /// The same, and the follower goes away in the middle.
    LeftAlone,
    /// Follows a job that never comes, and goes away.
    Stray,
    Broken,
    /// One picture as the answer.
    Picture,
}

impl Action {
    /// Every action, with its share of twenty.
    const ALL: [(Self, usize); 7] = [
        (Self::Fresh, 7),
        (Self::Duplicate, 5),
        (Self::Followed, 1),
        (Self::LeftAlone, 2),
        (Self::Stray, 1),
        (Self::Broken, 2),
        (Self::Picture, 2),
    ];

    fn throw(dice: &mut Dice) -> Self {
        let all: Vec<Self> = Self::ALL.iter().flat_map(|&(action, share)| std::iter::repeat_n(action, share)).collect();
        *dice.pick(&all)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh jobs",
            Self::Duplicate => "duplicates",
            Self::Followed => "with previews, followed",
            Self::LeftAlone => "with previews, follower goes away",
            Self::Stray => "followers of nothing that go away",
            Self::Broken => "broken pictures",
            Self::Picture => "pictures as answers",
        }
    }
}

/// A job that was sent, and the files of its first answer.
struct Sent {
    job: Job,
    fingerprint: Mutex<Option<String>>,
}

#[derive(Default)]
struct State {
    /// Those whose results are in the folder, oldest first.
    sent: VecDeque<Arc<Sent>>,
    times: Vec<(Action, Duration)>,
    /// Answers that say the work was done for them, pictures included.
    computed: u64,
    again: u64,
    errors: u64,
    /// Followers who heard of the end only.
    forgotten: u64,
    /// Files of jobs that were looked at.
    files: u64,
}

struct Run {
    caller: Caller,
    faults: Faults,
    base: String,
    home: Arc<Home>,
    small: Vec<(String, Vec<u8>)>,
    brands: Vec<Palette>,
    next: AtomicU64,
    over: AtomicBool,
    state: Mutex<State>,
}

/// What was seen in one second.
struct Second {
    /// Since the start.
    at: f64,
    resident: f64,
    /// Requests answered so far.
    answered: usize,
}

/// Measures, and prints what came out.
pub async fn run(bench: &Bench) -> Result<()> {
    let seconds = bench.arguments.seconds;
    let home = Arc::new(Home::new()?);
    let small = sources::small()?;
    for (name, bytes) in &small {
        home.put(name, bytes)?;
    }
    for name in BROKEN {
        home.put(name, &sources::fixture(name)?)?;
    }
    home.put("large.jpg", &sources::photograph(LARGE))?;
    let settings =
        [("CONCEPT_MEMORY_LIMIT_MB", LIMIT_MB.to_string()), ("CONCEPT_CACHE_TTL_SECONDS", CACHE_SECONDS.to_string())];
    let mut worker = Worker::start(&bench.program, &home, &settings, &bench.caller).await?;
    println!(
        "soak: {} callers for {seconds} s, one process, limit {LIMIT_MB} MiB, cache of {CACHE_SECONDS} s; jobs of \
         {}×{} and, with previews, of {LARGE}×{LARGE}",
        bench.arguments.callers,
        sources::SMALL.0,
        sources::SMALL.1
    );
    let idle = worker.metrics(&bench.caller).await?.sum("concept_resident_bytes", "") / MIB;
    let run = Arc::new(Run {
        caller: bench.caller.clone(),
        faults: bench.faults.clone(),
        base: worker.base.clone(),
        home,
        small,
        brands: sources::brands()?,
        next: AtomicU64::new(0),
        over: AtomicBool::new(false),
        state: Mutex::default(),
    });
    let mut callers = JoinSet::new();
    for me in 0..bench.arguments.callers {
        let (run, dice) = (run.clone(), Dice::new(bench.arguments.seed, me.into()));
        callers.spawn(async move { run.call(dice).await });
    }
    let start = Instant::now();
    let watched = run.watch(&worker, start, seconds).await;
    run.over.store(true, Ordering::SeqCst);
    while let Some(done) = callers.join_next().await {
        done?;
    }
    let took = start.elapsed();
    let watched = watched?;
    let metrics = worker.at_rest(&bench.caller).await?;
    run.judge(&metrics);
    sleep(REST).await;
    let last = worker.metrics(&bench.caller).await?;
    run.print(took, &watched, idle, last.sum("concept_resident_bytes", "") / MIB, metrics.computed());
    if !worker.lives() {
        bench.faults.add("lost: the process ended by itself");
    }
    worker.print_log("the process");
    print_metrics(&[("the process", &last)]);
    Ok(())
}

impl Run {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the process's memory every second.
    async fn watch(&self, worker: &Worker, start: Instant, seconds: u32) -> Result<Vec<Second>> {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut seen = Vec::new();
        while start.elapsed().as_secs() < seconds.into() {
            ticks.tick().await;
            let metrics = worker.metrics(&self.caller).await.context("the process is gone")?;
            let resident = metrics.sum("concept_resident_bytes", "") / MIB;
            let answered = self.state().times.len();
            seen.push(Second { at: start.elapsed().as_secs_f64(), resident, answered });
        }
        Ok(seen)
    }

    /// One caller, until time is up.
    async fn call(&self, mut dice: Dice) {
        while !self.over.load(Ordering::SeqCst) {
            let action = Action::throw(&mut dice);
            let start = Instant::now();
            let result = match action {
                Action::Fresh => self.fresh(&mut dice).await,
                Action::Duplicate => self.duplicate(&mut dice).await,
                Action::Followed => self.with_previews(None).await,
                Action::LeftAlone => self.with_previews(Some(1 + dice.below(6))).await,
                Action::Stray => self.stray(&mut dice).await,
                Action::Broken => self.broken(&mut dice).await,
                Action::Picture => self.picture(&mut dice).await,
            };
            self.state().times.push((action, start.elapsed()));
            if let Err(problem) = result {
                self.state().errors += 1;
                self.faults.add(format!("wrong or lost: {}: {problem:#}", action.name()));
            }
            if let Err(problem) = self.tidy().await {
                self.faults.add(format!("lost: {problem:#}"));
            }
        }
    }

    fn job(&self, source: &str, palettes: usize, format: &'static str, previews: Option<u32>) -> Job {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let palettes = sources::unique(&self.brands, number, palettes);
        Job::new(format!("job-{number}"), format!("user-{}", number % 3), source, palettes, &[format], previews)
    }

    /// Remembers a job that is about to be sent.
    fn remember(&self, job: Job) -> Arc<Sent> {
        let sent = Arc::new(Sent { job, fingerprint: Mutex::default() });
        self.state().sent.push_back(sent.clone());
        sent
    }

    async fn fresh(&self, dice: &mut Dice) -> Result<()> {
        let source = dice.pick(&self.small).0.clone();
        let format = *dice.pick(&["jpeg", "png", "webp"]);
        let sent = self.remember(self.job(&source, 1 + dice.below(2), format, None));
        let answer = self.caller.render(&self.base, &sent.job.body, None).await?;
        self.look(&sent, &answer)
    }

    async fn duplicate(&self, dice: &mut Dice) -> Result<()> {
        let sent = {
            let state = self.state();
            let newest = state.sent.len().min(RECENT);
            (newest > 0).then(|| state.sent[state.sent.len() - 1 - dice.below(newest)].clone())
        };
        let Some(sent) = sent else { return Ok(()) };
        let answer = self.caller.render(&self.base, &sent.job.body, None).await?;
        self.look(&sent, &answer)
    }

    /// A job with previews and somebody who follows it: to its end, or until so many news.
    async fn with_previews(&self, news: Option<usize>) -> Result<()> {
        const PALETTES: usize = 2;
        let sent = self.remember(self.job("large.jpg", PALETTES, "jpeg", Some(256)));
        let most = news.unwrap_or(usize::MAX);
        let follow = async {
            let follow = self.caller.follow(&self.base, &sent.job, |heard| heard.len() >= most);
            timeout(FOLLOWED, follow).await.context("the news do not come to an end")?
        };
        let send = self.caller.render(&self.base, &sent.job.body, None);
        let (heard, answer) = tokio::join!(follow, send);
        self.look(&sent, &answer?)?;
        let heard = heard?;
        // Of a job that was done and forgotten for want of memory before its follower found it, only the end is known.
        let forgotten = matches!(&*heard, [end] if end.last && end.state.as_deref() == Some("complete"));
        self.state().forgotten += u64::from(forgotten && news.is_none());
        // Whoever was refused for now has more news than a good story.
        match news {
            None if !forgotten && self.state().again == 0 => check_news(&heard, PALETTES, PALETTES).context("news"),
            _ => Ok(()),
        }
    }

    async fn stray(&self, dice: &mut Dice) -> Result<()> {
        let job = self.job("large.jpg", 1, "jpeg", None);
        let patience = Duration::from_millis(50 + dice.below(250) as u64);
        match timeout(patience, self.caller.follow(&self.base, &job, |_| false)).await {
            Err(_) => Ok(()),
            Ok(heard) => {
                ensure!(heard?.is_empty(), "there are news of a job that nobody sent");
                Ok(())
            }
        }
    }

    async fn broken(&self, dice: &mut Dice) -> Result<()> {
        let source = *dice.pick(&BROKEN);
        let job = self.job(source, 1, "jpeg", None);
        let answer = self.caller.render(&self.base, &job.body, None).await?;
        self.state().again += u64::from(answer.again);
        let class = answer.class().unwrap_or_default();
        ensure!(BROKEN_CLASSES.contains(&&*class), "{source}: {}", answer.problem());
        Ok(())
    }

    async fn picture(&self, dice: &mut Dice) -> Result<()> {
        let (name, _) = dice.pick(&self.small).clone();
        let (format, kind) =
            *dice.pick(&[("jpeg", ImageFormat::Jpeg), ("png", ImageFormat::Png), ("webp", ImageFormat::WebP)]);
        let mut job = self.job(&name, 1, format, None);
        if let Some(body) = job.body.as_object_mut() {
            body.remove("job_id");
        }
        let answer = self.caller.render(&self.base, &job.body, Some(kind.to_mime_type())).await?;
        self.state().again += u64::from(answer.again);
        ensure!(answer.status == 200, "{}", answer.problem());
        ensure!(answer.content_type == kind.to_mime_type(), "it is {}, not {format}", answer.content_type);
        let picture = image::load_from_memory_with_format(&answer.body, kind).context("it cannot be read")?;
        let size = (picture.width(), picture.height());
        ensure!(size == sources::SMALL, "it has {} × {} pixels", size.0, size.1);
        self.state().computed += 1;
        Ok(())
    }

    /// Looks at the answer to a job.
    fn look(&self, sent: &Sent, answer: &Answer) -> Result<()> {
        let name = sent.job.name();
        self.state().again += u64::from(answer.again);
        ensure!(answer.status == 200, "{name}: {}", answer.problem());
        let manifest = sent.job.read(&answer.body).with_context(|| name.clone())?;
        let cached = answer.cached.with_context(|| format!("{name}: was it done before?"))?;
        self.state().computed += u64::from(!cached);
        let mut known = sent.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        let fingerprint = manifest.fingerprint();
        let same = *known.get_or_insert_with(|| fingerprint.clone()) == fingerprint;
        ensure!(same, "{name} was answered with different files");
        Ok(())
    }

    /// Checks the oldest jobs' files and removes them, so that the folder stays small. Those that somebody still asks
    /// for stay.
    async fn tidy(&self) -> Result<()> {
        let old = {
            let mut state = self.state();
            match state.sent.front() {
                Some(sent) if state.sent.len() > KEPT && Arc::strong_count(sent) == 1 => state.sent.pop_front(),
                _ => None,
            }
        };
        let Some(old) = old else { return Ok(()) };
        let files = self.check(&old)?;
        self.state().files += files;
        let folder = self.home.results(&old.job.user, &old.job.id);
        tokio::fs::remove_dir_all(&folder).await.with_context(|| format!("{} cannot be removed", folder.display()))
    }

    /// What was answered is stored; how many files that are.
    fn check(&self, sent: &Sent) -> Result<u64> {
        let known = sent.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fingerprint) = &*known else { return Ok(0) };
        let stored = sent.job.stored(&self.home).with_context(|| sent.job.name())?;
        ensure!(stored.fingerprint() == *fingerprint, "{} is stored with other files", sent.job.name());
        Ok(stored.count())
    }

    /// Looks for jobs that were computed twice or are lost.
    fn judge(&self, metrics: &Metrics) {
        let state = self.state();
        let mut files = state.files;
        for sent in &state.sent {
            match self.check(sent) {
                Ok(count) => files += count,
                Err(problem) => self.faults.add(format!("lost: {problem:#}")),
            }
        }
        let (computed, uploads) = (metrics.computed(), metrics.sum("concept_uploads_total", "") as u64);
        if uploads > files && state.again == 0 && state.errors == 0 {
            self.faults.add(format!("twice: {uploads} files were stored, manifests list {files}"));
        }
        // Answers that went wrong may have been computed.
        if computed != state.computed && state.errors == 0 {
            let word = if computed > state.computed { "twice" } else { "wrong" };
            self.faults.add(format!("{word}: {computed} jobs were computed, {} answers say so", state.computed));
        }
    }

    fn print(&self, took: Duration, watched: &[Second], idle: f64, rested: f64, computed: u64) {
        let state = self.state();
        let mut table = Table::new(&["figure", "value"]);
        for (name, value) in [
            ("requests", state.times.len().to_string()),
            ("requests/s", number(state.times.len() as f64 / took.as_secs_f64())),
            ("jobs computed, as the process says", computed.to_string()),
            ("jobs computed, as the answers say", state.computed.to_string()),
            ("followers told of the end only", state.forgotten.to_string()),
            ("errors", state.errors.to_string()),
            ("sent again after 429 or 503", state.again.to_string()),
            ("resident MiB, idle before", number(idle)),
            ("resident MiB, 5 s afterwards", number(rested)),
        ] {
            table.row([name.to_owned(), value]);
        }
        table.print();
        println!();
        let mut table = Table::new(&[&["what was sent"], &TIMES[..]].concat());
        for (action, _) in Action::ALL {
            let found = times(state.times.iter().filter(|(is, _)| *is == action).map(|(_, took)| *took));
            table.row(std::iter::once(action.name().to_owned()).chain(found));
        }
        table.print();
        println!();
        tenths(watched);
    }
}

/// Resident memory by tenths of the time, and how it goes.
fn tenths(watched: &[Second]) {
    let mut table = Table::new(&["tenth", "seconds", "median MiB", "max MiB", "requests/s"]);
    let end = watched.last().map_or(0.0, |second| second.at);
    let mut before = (0.0, 0);
    for tenth in 0..10 {
        let (from, to) = (end * f64::from(tenth) / 10.0, end * f64::from(tenth + 1) / 10.0);
        let within: Vec<&Second> = watched.iter().filter(|second| from < second.at && second.at <= to).collect();
        let Some(last) = within.last() else { continue };
        let rate = (last.answered - before.1) as f64 / (last.at - before.0).max(f64::EPSILON);
        before = (last.at, last.answered);
        table.row([
            (tenth + 1).to_string(),
            format!("{from:.0}–{to:.0}"),
            number(median(within.iter().map(|second| second.resident))),
            number(within.iter().map(|second| second.resident).fold(0.0, f64::max)),
            number(rate),
        ]);
    }
    table.print();
    let settled: Vec<&Second> = watched.iter().filter(|second| second.at > end / 5.0).collect();
    println!(
        "  slope of resident memory: {:+.2} MiB/min over all {} samples, {:+.2} MiB/min without the first fifth",
        60.0 * slope(&watched.iter().collect::<Vec<_>>()),
        watched.len(),
        60.0 * slope(&settled)
    );
}

/// MiB a second, by least squares.
fn slope(watched: &[&Second]) -> f64 {
    let count = watched.len() as f64;
    let mean = |of: &dyn Fn(&Second) -> f64| watched.iter().map(|second| of(second)).sum::<f64>() / count;
    let (at, resident) = (mean(&|second| second.at), mean(&|second| second.resident));
    let (mut above, mut below) = (0.0, 0.0);
    for second in watched {
        above += (second.at - at) * (second.resident - resident);
        below += (second.at - at).powi(2);
    }
    above / below
}
