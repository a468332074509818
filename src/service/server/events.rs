//! What happens to a job, as it happens: server-sent events and WebSocket, the same news in the same order.
//!
//! Whoever comes back names the last news that was seen and gets those after it. A job that another instance runs is followed
//! through the shared cache, where there is one, and else until its manifest is there.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{Face, reply};
use crate::pipeline::job::check_id;
use crate::service::jobs::{News, Track};
use crate::service::worker::Worker;

/// How long a job that nobody has heard of is waited for: its message may be on its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a job that another instance runs is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How often what another instance tells is looked at, and the manifest.
const LOOK_AGAIN_ELSEWHERE: Duration = Duration::from_millis(500);

/// How often a caller hears that the connection is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The longest that one connection follows a job.
const LONGEST: Duration = Duration::from_secs(3_600);

/// How often its manifest is looked at while it tells nothing.
const LOOK_FOR_MANIFEST: Duration = Duration::from_secs(2);

/// News of another instance's job that are read at once.
const AT_ONCE: usize = 256;

/// The largest number of news that is believed: what a number of JSON holds exactly.
const MOST_SEEN: u64 = 1 << 53;

#[derive(Deserialize)]
pub struct EventsQuery {
    user_id: Option<String>,
    /// The last news that was seen.
    last_event_id: Option<String>,
}

/// Up to where somebody has heard a story.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// The story; empty where none was heard, or a plain number was given.
    run: String,
    id: u64,
}

impl Seen {
    /// Reads what [`Self::of`] wrote, or a plain number; nothing was heard of anything else.
    fn parse(text: &str) -> Self {
        let (run, id) = text.trim().rsplit_once('-').unwrap_or(("", text.trim()));
        match id.parse() {
            Ok(id) if run.len() <= 16 && id < MOST_SEEN => Self { run: run.to_owned(), id },
            _ => Self::default(),
        }
    }

    /// How an event is numbered.
    fn of(news: &News) -> String {
        format!("{}-{}", news.run, news.id)
    }

    /// Up to where the story `run` was heard.
    fn within(&self, run: &str) -> u64 {
        if self.run.is_empty() || self.run == run { self.id } else { 0 }
    }
}

/// `GET /v1/jobs/{id}/events`.
pub async fn events(
    State(face): State<Face>,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Response {
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let follower = match follow(&face, id, query, resumed) {
        Ok(follower) => follower,
        Err(refusal) => return *refusal,
    };
    let event = |news: News| {
        let event = Event::default().id(Seen::of(&news)).event("progress");
        // News are numbers and text, which always have a JSON form.
        Ok::<_, Infallible>(event.json_data(&news).unwrap_or_default())
    };
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(follower.news().map(event)).keep_alive(keep_alive).into_response();
    // Front ends that gather answers would hold the news back.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}

/// `GET /v1/jobs/{id}/ws`.
pub async fn socket(
    State(face): State<Face>,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
    upgrade: WebSocketUpgrade,
) -> Response {
    match follow(&face, id, query, None) {
        // Callers only close; whatever else they say is short.
        Ok(follower) => upgrade.max_message_size(4 << 10).on_upgrade(move |socket| serve(socket, follower)),
        Err(refusal) => *refusal,
    }
}

async fn serve(socket: WebSocket, follower: Follower) {
    use futures_util::SinkExt as _;

    let (mut say, mut hear) = socket.split();
    let news = follower.news();
    tokio::pin!(news);
    loop {
        tokio::select! {
            next = timeout(KEEP_ALIVE, news.next()) => {
                let message = match next {
                    Ok(Some(news)) => Message::Text(serde_json::to_string(&news).unwrap_or_default().into()),
                    Ok(None) => break,
                    Err(_) => Message::Ping(Default::default()),
                };
                match timeout(KEEP_ALIVE, say.send(message)).await {
                    Ok(Ok(())) => {}
                    _ => return,
                }
            }
            heard = hear.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    let _ = timeout(KEEP_ALIVE, say.send(Message::Close(None))).await;
}

fn follow(face: &Face, id: String, query: EventsQuery, resumed: Option<&str>) -> Result<Follower, Box<Response>> {
    for name in query.user_id.iter().chain([&id]) {
        if let Err(problem) = check_id(name) {
            return Err(reply::error(StatusCode::BAD_REQUEST, "bad-request", &format!("the id {problem}")).into());
        }
    }
    let seen = resumed.or(query.last_event_id.as_deref()).map(Seen::parse).unwrap_or_default();
    Ok(Follower { worker: face.worker.clone(), user: query.user_id, id, seen })
}

/// Somebody who follows a job.
struct Follower {
    worker: Worker,
    user: Option<String>,
    id: String,
    /// What was heard last.
    seen: Seen,
}

/// Where a follower gets news from.
enum Source {
    /// It looks for the job.
    Searching,
    /// The job runs here.
    Here(Arc<Track>),
    /// Another instance tells.
    Elsewhere(Elsewhere),
    /// There will be no more.
    End,
}

/// How far the news of another instance have been read.
struct Elsewhere {
    /// Where they are; empty where only the manifest is known.
    list: String,
    /// Entries that have been read.
    read: usize,
    /// Whether what was heard before has been looked for.
    is_sought: bool,
    /// Whether the last that was told says that nothing will happen any more.
    is_over: bool,
    /// Since when nothing was told.
    silent_since: Instant,
    /// When the manifest was looked for.
    looked: Option<Instant>,
    /// Whether the record of a failure was there at the first look.
    failed_before: Option<bool>,
}

impl Source {
    /// News in this list, from the beginning; without a name, the manifest alone.
    fn elsewhere(list: String) -> Self {
        let silent_since = Instant::now();
        Self::Elsewhere(Elsewhere {
            list,
            read: 0,
            is_sought: false,
            is_over: false,
            silent_since,
            looked: None,
            failed_before: None,
        })
    }
}

impl Follower {
    /// News after what was heard last, in order, until the last.
    fn news(self) -> impl Stream<Item = News> {
        let until = Instant::now() + LONGEST;
        let begin = (self, Source::Searching, Vec::<News>::new().into_iter(), until);
        stream::unfold(begin, |(mut follower, mut source, mut ready, until)| async move {
            loop {
                if let Some(news) = ready.next() {
                    if let Source::Elsewhere(elsewhere) = &mut source {
                        // After the last of one delivery there may be a new beginning already. One that was heard before counts, too.
                        elsewhere.is_over = news.last;
                    }
                    if news.id <= follower.seen.within(&news.run) {
                        continue;
                    }
                    follower.seen = Seen { run: news.run.clone(), id: news.id };
                    if matches!(&source, Source::Here(track) if track.is_over(news.id)) {
                        source = Source::End;
                    }
                    return Some((news, (follower, source, ready, until)));
                }
                if Instant::now() > until || follower.worker.is_draining() {
                    return None;
                }
                match source {
                    Source::End => return None,
                    Source::Searching => source = follower.search().await?,
                    Source::Here(ref track) => match follower.listen(track).await {
                        Heard::News(news) => ready = news.into_iter(),
                        Heard::Nothing => source = Source::Searching,
                        Heard::End => return None,
                    },
                    Source::Elsewhere(ref mut elsewhere) => match follower.overhear(elsewhere).await {
                        Some(news) => ready = news.into_iter(),
                        None => return None,
                    },
                }
            }
        })
    }

    /// Finds out where the job runs; none when nobody has heard of it for a while.
    async fn search(&mut self) -> Option<Source> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let user = self.user.as_deref();
            let track = self.worker.jobs().track(user, &self.id);
            // One on which nobody works here any more may be another instance's by now, unless it is done.
            if let Some(track) = track.clone().filter(|track| !track.is_idle() || track.status().manifest.is_some()) {
                return Some(Source::Here(track));
            }
            if let Some(list) = user.and_then(|user| self.worker.news_elsewhere(user, &self.id))
                && let Some(shared) = self.worker.cache().shared()
                && shared.entries(&list, 0, 1).await.is_some_and(|news| !news.is_empty())
            {
                return Some(Source::elsewhere(list));
            }
            let done = self.done().await;
            let has_ended = track.as_ref().is_some_and(|track| track.has_ended());
            // Done before anybody followed it: the manifest is all there is to tell. Of a failure the track knows more.
            if done.is_some_and(|done| done.error.is_none() || !has_ended) {
                return Some(Source::elsewhere(String::new()));
            }
            let has_news = |track: &Arc<Track>| !track.news_after(self.seen.within(track.run())).is_empty();
            if let Some(track) = track.filter(|track| has_ended || has_news(track)) {
                return Some(Source::Here(track));
            }
            if Instant::now() > patience || self.worker.is_draining() {
                return None;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The next news of a job that runs here.
    async fn listen(&self, track: &Track) -> Heard {
        let mut newest = track.follow();
        loop {
            let seen = self.seen.within(track.run());
            let news = track.news_after(seen);
            if !news.is_empty() {
                return Heard::News(news);
            }
            // What is heard already was perhaps the last.
            if track.is_over(seen) {
                return Heard::End;
            }
            match timeout(Duration::from_secs(1), newest.changed()).await {
                Ok(Err(_)) => return Heard::End,
                Err(_) if self.worker.is_draining() => return Heard::End,
                Err(_) if track.is_idle() => return Heard::Nothing,
                _ => {}
            }
        }
    }

    /// What another instance tells next, perhaps nothing; none when there is no more to come.
    async fn overhear(&self, from: &mut Elsewhere) -> Option<Vec<News>> {
        if !from.is_sought {
            from.is_sought = self.seek(from).await.is_some();
        }
        let news = if from.is_sought { self.read(from).await } else { Vec::new() };
        if !news.is_empty() {
            from.silent_since = Instant::now();
            return Some(news);
        }
        if from.is_over {
            return None;
        }
        if from.list.is_empty() || from.looked.is_none_or(|at| at.elapsed() >= LOOK_FOR_MANIFEST) {
            from.looked = Some(Instant::now());
            let done = self.done().await;
            let has_failed = done.as_ref().is_some_and(|done| done.error.is_some());
            let failed_before = *from.failed_before.get_or_insert(has_failed);
            // A record of failure that was there before may be of an earlier try, as long as the job may be told of.
            let is_old = has_failed
                && failed_before
                && !from.list.is_empty()
                && from.silent_since.elapsed() < self.worker.jobs().time_to_live();
            if let Some(done) = done.filter(|_| !is_old) {
                // What was told before the manifest was written may come behind it.
                sleep(LOOK_AGAIN).await;
                let late = self.read(from).await;
                return Some(if late.is_empty() { vec![done] } else { late });
            }
        }
        sleep(LOOK_AGAIN_ELSEWHERE).await;
        Some(Vec::new())
    }

    /// Finds the place in the list up to which the news have been heard. Stories from before it are over for whoever heard that;
    /// where the list does not have it, all of it is new. None where the list could not be read.
    async fn seek(&self, from: &mut Elsewhere) -> Option<()> {
        let mut at = 0;
        while !self.seen.run.is_empty() {
            let entries = self.entries(&from.list, at).await?;
            // Not every piece of news comes into the list: the last before it will do.
            let heard = |news: &News| news.run == self.seen.run && news.id <= self.seen.id;
            if let Some(place) = entries.iter().rposition(|entry| entry.as_ref().is_some_and(heard)) {
                from.is_over = entries[place].as_ref().is_some_and(|news| news.last);
                from.read = at + place + 1;
            }
            if entries.is_empty() {
                break;
            }
            at += entries.len();
        }
        Some(())
    }

    /// What is in the list behind what was read.
    async fn read(&self, from: &mut Elsewhere) -> Vec<News> {
        let entries = self.entries(&from.list, from.read).await.unwrap_or_default();
        if entries.is_empty()
            && from.read > 0
            && self.entries(&from.list, from.read - 1).await.is_some_and(|last| last.is_empty())
        {
            // A list that came to the end of its life begins again.
            from.read = 0;
        }
        from.read += entries.len();
        entries.into_iter().flatten().collect()
    }

    /// Entries of a list, an empty one where it has no name; those that make no sense are none. None where it could not be read.
    async fn entries(&self, list: &str, from: usize) -> Option<Vec<Option<News>>> {
        let Some(shared) = self.worker.cache().shared().filter(|_| !list.is_empty()) else { return Some(Vec::new()) };
        let entries = shared.entries(list, from, AT_ONCE).await?;
        Some(entries.iter().map(|entry| serde_json::from_slice(entry).ok()).collect())
    }

    /// The one piece of news of a job of which only the manifest is known; it goes to the end of what was heard.
    async fn done(&self) -> Option<News> {
        let status = self.worker.status(self.user.as_deref(), &self.id).await.ok()??;
        let news = status.news();
        news.last.then(|| News { run: self.seen.run.clone(), id: self.seen.id + 1, ..news })
    }
}

/// What came of listening.
enum Heard {
    News(Vec<News>),
    /// Nobody works on the job here.
    Nothing,
    /// There is no more to come.
    End,
}
