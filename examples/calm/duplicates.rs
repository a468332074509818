//! A quarter of all requests are duplicates, of jobs in flight and of jobs long done, to two processes that share a
//! folder, and Redis where it is installed: is each job done once, and how long do those wait who ask again?

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::job::{Job, Manifest};
use crate::process::{Home, Metrics, Worker, print_metrics};
use crate::redis_server::RedisServer;
use crate::table::{TIMES, Table, number, times};
use crate::traffic::{Answer, Caller, Dice};
use crate::{Bench, Faults, sources};

/// Duplicates among requests: one in so many.
const ONE_IN: usize = 4;

/// Client tasks.
const CLIENTS: usize = 64;

/// How many of them are at work, one phase after the other.
const LEVELS: [usize; 8] = [1, 8, 64, 2, 32, 16, 4, 48];

/// Phases of a run.
const PHASES: usize = 16;

/// Hits at once when nothing else runs.
const QUIET: [usize; 2] = [1, 8];

/// How long leases may take to be given back behind the answers.
const LEASES: Duration = Duration::from_secs(5);

/// A request to come. Numbers are those of jobs.
#[derive(Clone, Copy)]
enum Item {
    Fresh(usize),
    /// Again what has just been sent.
    Again(usize),
    /// Any job that is done; this one while none is.
    Old(usize),
}

/// A request as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fresh,
    /// A duplicate of a job that nobody had an answer to yet.
    InFlight,
    /// A duplicate of a job that was answered before.
    Done,
    /// The same when nothing else runs, with so many at once.
    Quiet(usize),
}

/// A request that was answered.
struct Sample {
    kind: Kind,
    /// Whether the process asked is the one that did the job, or was first asked to.
    same: bool,
    took: Duration,
}

/// What is known of a job.
#[derive(Default, Clone)]
struct Case {
    /// The process that was asked first; then the one that did it.
    process: usize,
    answered: bool,
    /// Answers that say it was done for them.
    computed: u32,
    fingerprint: Option<String>,
}

/// Everything that happened.
#[derive(Default)]
struct State {
    cases: Vec<Case>,
    /// Jobs that were answered, in that order.
    answered: Vec<usize>,
    samples: Vec<Sample>,
    /// Answers that say the work had been done before.
    cached: u64,
    /// Requests sent again because they were refused for now.
    again: u64,
    errors: u64,
}

struct Run {
    caller: Caller,
    faults: Faults,
    bases: [String; 2],
    jobs: Vec<Job>,
    items: Vec<Item>,
    next: AtomicUsize,
    phase: watch::Sender<usize>,
    state: Mutex<State>,
    seed: u64,
}

/// Measures, and prints what came out.
pub async fn run(bench: &Bench) -> Result<()> {
    let redis = if bench.arguments.no_redis {
        None
    } else {
        RedisServer::start_with(&["--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru"])
    };
    let home = Arc::new(Home::new()?);
    let small = sources::small()?;
    for (name, bytes) in &small {
        home.put(name, bytes)?;
    }
    let settings: Vec<(&str, String)> = redis.iter().map(|redis| ("CONCEPT_REDIS_URL", redis.url())).collect();
    let start = || Worker::start(&bench.program, &home, &settings, &bench.caller);
    let (a, b) = tokio::join!(start(), start());
    let mut workers = [a?, b?];

    let requests = bench.arguments.requests as usize;
    let distinct = requests - requests / ONE_IN;
    let seed = bench.arguments.seed;
    let brands = sources::brands()?;
    let job = |number: usize| {
        let mut dice = Dice::new(!seed, number as u64);
        let count = 1 + dice.below(2);
        let palettes = sources::unique(&brands, number as u64, count);
        let (id, user) = (format!("job-{number}"), format!("user-{}", dice.below(5)));
        Job::new(id, user, &dice.pick(&small).0, palettes, &["jpeg"], None)
    };
    let run = Arc::new(Run {
        caller: bench.caller.clone(),
        faults: bench.faults.clone(),
        bases: workers.each_ref().map(|worker| worker.base.clone()),
        jobs: (0..distinct).map(job).collect(),
        items: items(distinct, requests - distinct, seed),
        next: AtomicUsize::new(0),
        phase: watch::Sender::new(0),
        state: Mutex::new(State { cases: vec![Case::default(); distinct], ..State::default() }),
        seed,
    });
    println!(
        "duplicates: {requests} requests for {distinct} jobs of {}×{}, 1 or 2 palettes, JPEG; two processes, {}; {} \
         client tasks, of which {LEVELS:?} are at work in turn",
        sources::SMALL.0,
        sources::SMALL.1,
        if redis.is_some() { "one folder and one Redis" } else { "one folder, no Redis" },
        CLIENTS,
    );
    let took = run.send_all().await?;
    let before = rest(&workers, &bench.caller).await?;
    for level in QUIET {
        run.send_hits(bench.arguments.hits as usize, level).await?;
    }
    let after = rest(&workers, &bench.caller).await?;

    let files = run.judge(&home, &after);
    run.print(took, &before, &after, files);
    println!("leases left: {}", run.leases(&home).await);
    for (name, worker) in ["A", "B"].into_iter().zip(&mut workers) {
        worker.print_log(name);
        if !worker.lives() {
            bench.faults.add(format!("lost: process {name} ended by itself"));
        }
    }
    let [a, b] = &after;
    print_metrics(&[("A", a), ("B", b)]);
    Ok(())
}

/// What both say of themselves when no job is running.
async fn rest(workers: &[Worker; 2], caller: &Caller) -> Result<[Metrics; 2]> {
    let (a, b) = tokio::join!(workers[0].at_rest(caller), workers[1].at_rest(caller));
    Ok([a?, b?])
}

fn sum(metrics: &[Metrics; 2], name: &str, label: &str) -> u64 {
    metrics.iter().map(|metrics| metrics.sum(name, label)).sum::<f64>() as u64
}

/// Every job once, in order, and duplicates behind them: half of what was sent just before, half of anything done.
fn items(distinct: usize, duplicates: usize, seed: u64) -> Vec<Item> {
    let mut dice = Dice::new(seed, u64::MAX);
    let mut behind: Vec<Vec<Item>> = vec![Vec::new(); distinct];
    for number in 0..duplicates {
        let job = dice.below(distinct);
        behind[job].push(if number % 2 == 0 { Item::Again(job) } else { Item::Old(job) });
    }
    let fresh = (0..distinct).map(Item::Fresh);
    fresh.zip(behind).flat_map(|(fresh, behind)| std::iter::once(fresh).chain(behind)).collect()
}

impl Run {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends everything, at changing concurrency; how long that took.
    async fn send_all(self: &Arc<Self>) -> Result<Duration> {
        let start = Instant::now();
        let mut clients = JoinSet::new();
        for me in 0..CLIENTS {
            let run = self.clone();
            clients.spawn(async move {
                let mut phase = run.phase.subscribe();
                let at_work = |phase: &usize| *phase >= PHASES || me < LEVELS[phase % LEVELS.len()];
                while phase.wait_for(at_work).await.is_ok() {
                    let at = run.next.fetch_add(1, Ordering::SeqCst);
                    let now = at * PHASES / run.items.len();
                    run.phase.send_if_modified(|phase| now > std::mem::replace(phase, now.max(*phase)));
                    let Some(item) = run.items.get(at) else { break };
                    run.send(*item, at).await;
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done?;
        }
        Ok(start.elapsed())
    }

    async fn send(&self, item: Item, at: usize) {
        let mut dice = Dice::new(self.seed, at as u64);
        let process = dice.below(2);
        let (job, kind) = {
            let mut state = self.state();
            let job = match item {
                Item::Old(_) if !state.answered.is_empty() => *dice.pick(&state.answered),
                Item::Fresh(job) | Item::Again(job) | Item::Old(job) => job,
            };
            let case = &mut state.cases[job];
            let kind = match item {
                Item::Fresh(_) => {
                    case.process = process;
                    Kind::Fresh
                }
                _ if case.answered => Kind::Done,
                _ => Kind::InFlight,
            };
            (job, kind)
        };
        self.ask(job, kind, process).await;
    }

    /// Asks for `count` jobs that are done, so many at once.
    async fn send_hits(self: &Arc<Self>, count: usize, level: usize) -> Result<()> {
        let done = Arc::new(self.state().answered.clone());
        if done.is_empty() {
            return Ok(());
        }
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..level {
            let (run, done, next) = (self.clone(), done.clone(), next.clone());
            clients.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count {
                        break;
                    }
                    let mut dice = Dice::new(run.seed ^ level as u64, (number + run.items.len()) as u64);
                    run.ask(*dice.pick(&done), Kind::Quiet(level), number % 2).await;
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done?;
        }
        Ok(())
    }

    /// Sends a job to a process and looks at the answer.
    async fn ask(&self, number: usize, kind: Kind, process: usize) {
        let job = &self.jobs[number];
        let result = self.caller.render(&self.bases[process], &job.body, None).await;
        let mut answer = match result {
            Ok(answer) => answer,
            Err(error) => {
                self.state().errors += 1;
                return self.faults.add(format!("lost: the answer to {} ({kind:?}): {error:#}", job.name()));
            }
        };
        match self.look(job, &mut answer) {
            Ok((manifest, cached)) => self.note(number, kind, process, &answer, &manifest, cached),
            Err(problem) => {
                let mut state = self.state();
                state.errors += 1;
                state.again += u64::from(answer.again);
                drop(state);
                self.faults.add(format!("wrong: {} ({kind:?}): {problem}", job.name()));
            }
        }
    }

    /// Reads an answer.
    fn look(&self, job: &Job, answer: &mut Answer) -> Result<(Manifest, bool), String> {
        if answer.status != 200 {
            return Err(answer.problem());
        }
        let manifest = job.read(&answer.body).map_err(|error| format!("{error:#}"))?;
        let cached = answer.cached.ok_or("the answer does not say whether it was done before")?;
        Ok((manifest, cached))
    }

    fn note(&self, number: usize, kind: Kind, process: usize, answer: &Answer, manifest: &Manifest, cached: bool) {
        let mut state = self.state();
        state.again += u64::from(answer.again);
        state.cached += u64::from(cached);
        let case = &mut state.cases[number];
        let same = case.process == process;
        case.computed += u32::from(!cached);
        if !cached {
            case.process = process;
        }
        let first = !std::mem::replace(&mut case.answered, true);
        let fingerprint = manifest.fingerprint();
        let differs = case.fingerprint.get_or_insert_with(|| fingerprint.clone()) != &fingerprint;
        if first {
            state.answered.push(number);
        }
        state.samples.push(Sample { kind, same, took: answer.took });
        drop(state);
        if differs {
            self.faults.add(format!("wrong: {} was answered with different files", self.jobs[number].name()));
        }
    }

    /// Looks for jobs that were computed twice or are lost; how many files are stored.
    fn judge(&self, home: &Home, metrics: &[Metrics; 2]) -> u64 {
        let state = self.state();
        let mut files = 0;
        for (job, case) in self.jobs.iter().zip(&state.cases) {
            match job.stored(home) {
                Ok(manifest) => {
                    files += manifest.count();
                    if case.fingerprint.as_ref().is_some_and(|known| *known != manifest.fingerprint()) {
                        self.faults.add(format!("wrong: {} is stored with other files than answered", job.name()));
                    }
                }
                Err(error) => self.faults.add(format!("lost: {}: {error:#}", job.name())),
            }
            match case.computed {
                1 => {}
                0 if !case.answered => {}
                0 => self.faults.add(format!("wrong: every answer to {} says it was done before", job.name())),
                n => self.faults.add(format!("twice: {n} answers to {} say it was done for them", job.name())),
            }
        }
        let (computed, distinct) = (metrics.iter().map(Metrics::computed).sum::<u64>(), self.jobs.len() as u64);
        if computed > distinct {
            self.faults.add(format!("twice: {computed} jobs were computed, {distinct} were sent"));
        } else if computed < distinct && state.errors == 0 {
            self.faults.add(format!("lost: {computed} jobs were computed, {distinct} were answered"));
        }
        // Whoever loses the race for the manifest counts as a duplicate; its files tell.
        let uploads = sum(metrics, "concept_uploads_total", "");
        if uploads > files && state.again == 0 && state.errors == 0 {
            self.faults.add(format!("twice: {uploads} files were stored, manifests list {files}"));
        }
        files
    }

    fn print(&self, took: Duration, before: &[Metrics; 2], after: &[Metrics; 2], files: u64) {
        let state = self.state();
        let count = |kind: fn(&Kind) -> bool| state.samples.iter().filter(|sample| kind(&sample.kind)).count();
        let quiet = count(|kind| matches!(kind, Kind::Quiet(_)));
        let mut table = Table::new(&["figure", "value"]);
        for (name, value) in [
            ("requests", self.items.len().to_string()),
            ("distinct jobs", self.jobs.len().to_string()),
            ("computed, both processes together", before.iter().map(Metrics::computed).sum::<u64>().to_string()),
            ("computed after the quiet hits", after.iter().map(Metrics::computed).sum::<u64>().to_string()),
            ("files that manifests list", files.to_string()),
            ("files stored, both processes together", sum(after, "concept_uploads_total", "").to_string()),
            ("answered as duplicates", (state.cached - quiet as u64).to_string()),
            ("  of these merged with work in progress", sum(before, "concept_merged_total", "").to_string()),
            ("sent while the job was in flight", count(|kind| *kind == Kind::InFlight).to_string()),
            ("sent when the job was done (hits)", count(|kind| *kind == Kind::Done).to_string()),
            ("quiet hits, all answered as duplicates", quiet.to_string()),
            ("errors", state.errors.to_string()),
            ("sent again after 429 or 503", state.again.to_string()),
            ("seconds", number(took.as_secs_f64())),
            ("requests/s", number(self.items.len() as f64 / took.as_secs_f64())),
        ] {
            table.row([name.to_owned(), value]);
        }
        table.print();
        println!();
        let mut table = Table::new(&[&["from sending to the end of the answer"], &TIMES[..]].concat());
        let mut row = |name: &str, is_it: &dyn Fn(&Sample) -> bool| {
            let found = times(state.samples.iter().filter(|sample| is_it(sample)).map(|sample| sample.took));
            table.row(std::iter::once(name.to_owned()).chain(found));
        };
        row("fresh jobs", &|sample| sample.kind == Kind::Fresh);
        row("duplicates of jobs in flight", &|sample| sample.kind == Kind::InFlight);
        row("  asked of the same process", &|sample| sample.kind == Kind::InFlight && sample.same);
        row("  asked of the other process", &|sample| sample.kind == Kind::InFlight && !sample.same);
        row("duplicates of jobs done (hits)", &|sample| sample.kind == Kind::Done);
        row("  asked of the process that did it", &|sample| sample.kind == Kind::Done && sample.same);
        row("  asked of the other process", &|sample| sample.kind == Kind::Done && !sample.same);
        for level in QUIET {
            let kind = Kind::Quiet(level);
            row(&format!("quiet hits, {level} at once"), &|sample| sample.kind == kind);
            row("  asked of the process that did it", &|sample| sample.kind == kind && sample.same);
            row("  asked of the other process", &|sample| sample.kind == kind && !sample.same);
        }
        table.print();
    }

    /// Leases that are still there when all have had time to be given back.
    async fn leases(&self, home: &Home) -> usize {
        let start = Instant::now();
        loop {
            let folders: HashSet<_> = self.jobs.iter().map(|job| home.results(&job.user, &job.id)).collect();
            let left = folders.iter().filter(|folder| folder.join("lease.json").exists()).count();
            if left == 0 || start.elapsed() > LEASES {
                return left;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
