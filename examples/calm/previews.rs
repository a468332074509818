//! How soon there is something to see of a large job.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;

use crate::job::Job;
use crate::process::{Home, Metrics, Worker, print_metrics};
use crate::table::{Table, median, number};
use crate::traffic::{News, check_news};
use crate::{Bench, sources};

/// Sides of the photograph.
const SIDE: u32 = 2048;

/// Palettes of the job.
const PALETTES: usize = 7;

/// Longer side of previews.
const PREVIEW: u32 = 384;

/// How long before the job its follower comes, so that it is there.
const AHEAD: Duration = Duration::from_millis(100);

/// When what happened, milliseconds after the job was known.
struct Measured {
    first_preview: f64,
    last_preview: f64,
    first_file: f64,
    whole: f64,
    /// From sending the job to the end of the answer.
    wall: f64,
}

/// Measures, and prints medians.
pub async fn run(bench: &Bench) -> Result<()> {
    let photograph = sources::photograph(SIDE);
    println!(
        "previews: a photograph of {SIDE}×{SIDE} (JPEG, {:.2} MB), {PALETTES} palettes, previews of {PREVIEW}; {} \
         times, each with a new process; milliseconds from the first news of the job, by the news' own clock",
        photograph.len() as f64 / 1e6,
        bench.arguments.repeats
    );
    let mut table = Table::new(&["medians, ms", "jpeg", "png"]);
    let mut columns: Vec<Vec<Measured>> = Vec::new();
    let mut kept = Vec::new();
    for format in ["jpeg", "png"] {
        let mut column = Vec::new();
        for _ in 1..bench.arguments.repeats {
            column.extend(once(bench, &photograph, format).await?.0);
        }
        let (measured, metrics) = once(bench, &photograph, format).await?;
        column.extend(measured);
        columns.push(column);
        kept.push((format, metrics));
    }
    let mut row = |name: &str, of: &dyn Fn(&Measured) -> f64| {
        let cells = columns.iter().map(|column| number(median(column.iter().map(of))));
        table.row(std::iter::once(name.to_owned()).chain(cells));
    };
    row("first preview", &|m| m.first_preview);
    row("last preview", &|m| m.last_preview);
    row("first full file", &|m| m.first_file);
    row("whole job", &|m| m.whole);
    row("wall, from sending to the answer", &|m| m.wall);
    row("first preview, % of the whole job", &|m| 100.0 * m.first_preview / m.whole);
    row("first full file, % of the whole job", &|m| 100.0 * m.first_file / m.whole);
    table.print();
    for (column, (format, _)) in columns.iter().zip(&kept) {
        let each = column.iter().map(|m| format!("{}/{}/{}", m.first_preview, m.first_file, m.whole));
        println!("  each {format} job, first preview/first file/whole: {}", each.collect::<Vec<_>>().join(", "));
    }
    println!("  (PNGs above CONCEPT_UPLOAD_MAX_SIZE_KB are stored as JPEG, too, as they are by default)");
    print_metrics(&kept.iter().map(|(format, metrics)| (*format, metrics)).collect::<Vec<_>>());
    Ok(())
}

/// One job of a new process; no times where its news were not whole.
async fn once(bench: &Bench, photograph: &[u8], format: &'static str) -> Result<(Option<Measured>, Metrics)> {
    let home = Arc::new(Home::new()?);
    home.put("photograph.jpg", photograph)?;
    let worker = Worker::start(&bench.program, &home, &[], &bench.caller).await?;
    let palettes = sources::brands()?.into_iter().take(PALETTES).collect();
    let job = Job::new(format!("as-{format}"), "u".into(), "photograph.jpg", palettes, &[format], Some(PREVIEW));
    let follow = bench.caller.follow(&worker.base, &job, |_| false);
    let send = async {
        sleep(AHEAD).await;
        bench.render(&worker, &home, &job).await
    };
    let (news, answered) = tokio::join!(follow, send);
    let metrics = worker.at_rest(&bench.caller).await?;
    let Some((_, wall)) = answered else { return Ok((None, metrics)) };
    let measured = news.and_then(|news| {
        check_news(&news, PALETTES, PALETTES)?;
        Measured::of(&news, wall)
    });
    let measured = measured.map_err(|error| bench.faults.add(format!("lost: news of {}: {error:#}", job.name())));
    Ok((measured.ok(), metrics))
}

impl Measured {
    fn of(news: &[News], wall: f64) -> Result<Self> {
        let first = news.first().context("there are no news")?.at_ms;
        let at =
            |news: Option<&News>| news.map(|news| news.at_ms.saturating_sub(first) as f64).context("nothing of it");
        let is = |preview: bool| move |news: &&News| news.file.as_ref().is_some_and(|file| file.preview == preview);
        Ok(Self {
            first_preview: at(news.iter().find(is(true)))?,
            last_preview: at(news.iter().rfind(is(true)))?,
            first_file: at(news.iter().find(is(false)))?,
            whole: at(news.last())?,
            wall,
        })
    }
}
