//! The HTTP face of the worker: HTTP/1 and h2c, every limit in place before a request is looked at.

mod events;
mod push;
mod render;
mod reply;
mod routes;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::auth::Auth;
use super::worker::Worker;

/// Connections at once. Cloud Run sends at most a thousand requests to an instance.
const MAX_CONNECTIONS: usize = 4_096;

/// How long a connection may take over the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a caller may take over the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of messages that are read at once; pictures that come along are counted by admission.
const BODIES: usize = 32 << 20;

/// Webhooks that are read at once.
const WEBHOOKS: usize = 2;

/// Streams at once on one h2c connection: the front end multiplexes every request of an instance.
const MAX_STREAMS: u32 = 1_024;

/// How every connection of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a connection that has begun with a part of [`PREFACE`] is looked at for the rest.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What handlers share.
#[derive(Clone)]
struct Face {
    worker: Worker,
    auth: Arc<Auth>,
    /// KiB of message bodies that may be read now.
    bodies: Arc<Semaphore>,
    /// Webhooks that are read now.
    webhooks: Arc<Semaphore>,
    started: Instant,
}

/// Every route.
pub fn router(worker: Worker, auth: Auth, started: Instant) -> Router {
    routes::router(Face {
        worker,
        auth: Arc::new(auth),
        bodies: Arc::new(Semaphore::new(BODIES >> 10)),
        webhooks: Arc::new(Semaphore::new(WEBHOOKS)),
        started,
    })
}

/// Serves until `shutdown`, then begins nothing new, lets what runs finish within the worker's time, and returns.
///
/// # Errors
/// Those of the listener.
pub async fn run(
    listener: TcpListener,
    router: Router,
    worker: Worker,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(30));
    let http = Arc::new(http);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = &mut shutdown => break,
        };
        let Ok(permit) = permit else { break };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Out of file descriptors, or the caller has gone again: the next one may have more luck.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Answers are small and complete: they must not wait for more.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let (http, watcher) = (http.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            if timeout(HEAD_TIMEOUT, protocol_is_clear(&stream)).await.is_err() {
                tracing::debug!("a connection said nothing");
                return;
            }
            let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            // A caller who breaks off is no event.
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    worker.drain();
    tracing::info!(running = worker.running(), "stopping: no new jobs, those that run may finish");
    worker.drained().await;
    // What has been answered is also sent.
    let _ = timeout(Duration::from_secs(1), graceful.shutdown()).await;
    Ok(())
}

/// Waits until a connection has said enough to tell which HTTP it speaks, or has ended: the library that tells them apart
/// waits for that without a limit.
async fn protocol_is_clear(stream: &TcpStream) {
    let mut head = [0; PREFACE.len()];
    while let Ok(length) = stream.peek(&mut head).await {
        if length == 0 || length == PREFACE.len() || !PREFACE.starts_with(&head[..length]) {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
