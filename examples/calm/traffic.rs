//! A caller: sends jobs, follows them, and throws dice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;

use crate::job::Job;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a job is sent again after it was refused for now, and how long after.
const AGAIN: (u32, Duration) = (20, Duration::from_millis(500));

/// Somebody who calls. Clones share connections.
#[derive(Clone)]
pub struct Caller {
    client: reqwest::Client,
}

/// An answer to a job.
pub struct Answer {
    pub status: u16,
    /// Whether the work had been done before; of manifests only.
    pub cached: Option<bool>,
    pub content_type: String,
    pub body: Bytes,
    /// From sending it first to the end of the last answer.
    pub took: Duration,
    /// How often it was sent again.
    pub again: u32,
}

/// One piece of news of a job.
#[derive(Debug, Deserialize)]
pub struct News {
    pub id: u64,
    pub at_ms: u64,
    #[serde(default)]
    pub file: Option<NewsFile>,
    #[serde(default)]
    pub state: Option<String>,
    pub last: bool,
}

/// A file that has been stored.
#[derive(Debug, Deserialize)]
pub struct NewsFile {
    pub preview: bool,
}

impl Caller {
    pub fn new() -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(512).timeout(PATIENCE).build()?;
        Ok(Self { client })
    }

    /// The text at an address.
    pub async fn get(&self, url: &str) -> Result<String> {
        Ok(self.client.get(url).send().await?.error_for_status()?.text().await?)
    }

    /// Sends a job; where it is refused for now, again and again, within limits.
    pub async fn render(&self, base: &str, job: &Value, accept: Option<&str>) -> Result<Answer> {
        let start = Instant::now();
        let (most, pause) = AGAIN;
        let mut again = 0;
        loop {
            let mut answer = self.once(base, job, accept).await?;
            if !matches!(answer.status, 429 | 503) || again == most {
                (answer.took, answer.again) = (start.elapsed(), again);
                return Ok(answer);
            }
            again += 1;
            sleep(pause).await;
        }
    }

    /// Sends a job once.
    pub async fn once(&self, base: &str, job: &Value, accept: Option<&str>) -> Result<Answer> {
        let mut request = self.client.post(format!("{base}/v1/render")).json(job);
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let cached = header("x-concept-cached").map(|value| value == "true");
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let body = response.bytes().await?;
        Ok(Answer { status, cached, content_type, body, took: Duration::ZERO, again: 0 })
    }

    /// Follows a job until its last news or until there are enough, and goes away then.
    pub async fn follow(&self, base: &str, job: &Job, enough: impl Fn(&[News]) -> bool) -> Result<Vec<News>> {
        let url = format!("{base}/v1/jobs/{}/events?user_id={}", job.id, job.user);
        let response = self.client.get(url).send().await?.error_for_status()?;
        let (mut stream, mut buffer, mut news) = (response.bytes_stream(), Vec::new(), Vec::new());
        while let Some(chunk) = stream.next().await {
            buffer.extend_from_slice(&chunk?);
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = buffer.drain(..end + 2).collect();
                let event = std::str::from_utf8(&event).context("an event is no text")?;
                let data = event.lines().find_map(|line| line.strip_prefix("data:"));
                if let Some(data) = data {
                    news.push(serde_json::from_str(data.trim_start()).context("an event is no news")?);
                }
                if enough(&news) {
                    return Ok(news);
                }
            }
        }
        Ok(news)
    }
}

impl Answer {
    /// Its class and message where it is an error, else its status.
    pub fn problem(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        format!("answered {}: {}", self.status, text.chars().take(300).collect::<String>())
    }

    /// The class of an error.
    pub fn class(&self) -> Option<String> {
        let value: Value = serde_json::from_slice(&self.body).ok()?;
        Some(value["error"]["class"].as_str()?.to_owned())
    }
}

/// Checks that a job's news are whole: numbered without a gap, to a good end, with so many previews and files.
pub fn check_news(news: &[News], previews: usize, files: usize) -> Result<()> {
    ensure!(news.iter().map(|n| n.id).eq(1..=news.len() as u64), "the news are not numbered from 1 without a gap");
    let last = news.last().context("there are no news")?;
    ensure!(last.last && last.state.as_deref() == Some("complete"), "the last news are not of a good end");
    let count = |preview: bool| news.iter().filter_map(|n| n.file.as_ref()).filter(|f| f.preview == preview).count();
    let told = (count(true), count(false));
    ensure!(told == (previews, files), "{} previews and {} files were told of", told.0, told.1);
    Ok(())
}

/// Numbers that look random and are the same in every run (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// Dice of their own for each `number`.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut dice = Self(seed ^ number.wrapping_mul(0xD134_2543_DE82_EF95));
        dice.next();
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
