//! Pictures over https, from hosts that are allowed and addresses that are public.
//!
//! The address is judged where the connection is made, after the name has been resolved, so that a name cannot be pointed
//! at this network between the check and its use. Redirects are followed here one by one, each under the same rules.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use url::{Host, Url};

use super::address::is_public;
use crate::config::Hosts;
use crate::service::failure::Class;

/// Longest URL that is read, bytes.
const MAX_URL_BYTES: usize = 8 << 10;
/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Most addresses of a name that are looked at.
const MAX_ADDRESSES: usize = 32;
/// Limit of connecting to one host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a picture could not be fetched. Places are shown without their query, which may hold a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// Not a URL that pictures are fetched from.
    #[error("the source {0}")]
    Url(&'static str),
    /// A host that is not on the list.
    #[error("the source's host {host} is not allowed; use another, or add it to CONCEPT_SOURCE_HOSTS")]
    HostNotAllowed {
        /// The host, also one that was redirected to.
        host: String,
    },
    /// A host whose addresses are none of the public internet.
    #[error(
        "the source's host {host} has no public address, and others are not fetched from; use a public host or a bucket"
    )]
    NotPublic {
        /// The host.
        host: String,
    },
    /// More redirects than are followed.
    #[error("{place} redirects more than {MAX_REDIRECTS} times; use the address it ends at")]
    TooManyRedirects {
        /// Where it began.
        place: String,
    },
    /// Nothing is there.
    #[error("there is nothing at {place}; check the source")]
    NotFound {
        /// Where.
        place: String,
    },
    /// The host does not give it to everyone.
    #[error("{place} may not be read; make it public, sign its address, or put it into a bucket")]
    Forbidden {
        /// Where.
        place: String,
    },
    /// The host answers with something that is no content.
    #[error("{place} answered {status}; check the source")]
    Refused {
        /// Where.
        place: String,
        /// The HTTP status.
        status: u16,
    },
    /// More bytes than the caller takes.
    #[error("{place} has more than {limit} bytes; make it smaller or raise CONCEPT_MAX_SOURCE_BYTES")]
    TooLarge {
        /// Where.
        place: String,
        /// The most the caller takes.
        limit: u64,
    },
    /// The host cannot serve it now.
    #[error("{place} cannot be fetched now: it answered {status}")]
    Unavailable {
        /// Where.
        place: String,
        /// The HTTP status.
        status: u16,
    },
    /// The host cannot be reached, or the connection broke.
    #[error("{place} cannot be fetched now: {problem}")]
    Unreachable {
        /// Where.
        place: String,
        /// What happened.
        problem: &'static str,
    },
    /// It took too long.
    #[error(
        "{place} could not be fetched within {seconds} s; make it smaller or raise CONCEPT_DOWNLOAD_TIMEOUT_SECONDS"
    )]
    TimedOut {
        /// Where.
        place: String,
        /// The limit.
        seconds: u64,
    },
}

impl WebError {
    /// The class of a job that failed like this.
    pub const fn class(&self) -> Class {
        match self {
            Self::Unavailable { .. } | Self::Unreachable { .. } | Self::TimedOut { .. } => Class::SourceUnavailable,
            Self::Url(_) | Self::TooManyRedirects { .. } | Self::Refused { .. } => Class::BadSource,
            Self::HostNotAllowed { .. } | Self::NotPublic { .. } | Self::Forbidden { .. } => Class::SourceForbidden,
            Self::NotFound { .. } => Class::SourceNotFound,
            Self::TooLarge { .. } => Class::PictureTooLarge,
        }
    }
}

/// Fetches pictures over https. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct WebSources {
    client: reqwest::Client,
    hosts: Arc<[String]>,
    timeout: Duration,
    reach: Reach,
    /// A server of the operator's own choice, wherever it is: scheme, host and port.
    origin: Option<Arc<str>>,
}

/// What may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// https on port 443, public addresses.
    Public,
    /// http on any port of the loopback address: servers of tests.
    #[cfg(test)]
    Loopback,
}

impl Reach {
    fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Public => is_public(address),
            #[cfg(test)]
            Self::Loopback => address.is_loopback(),
        }
    }

    fn admits_scheme(self, url: &Url) -> Result<(), WebError> {
        #[cfg(test)]
        if self == Self::Loopback && url.scheme() == "http" {
            return Ok(());
        }
        if url.scheme() != "https" {
            return Err(WebError::Url("is not https://; use an https:// address or a bucket"));
        }
        // The standard port is left out of a URL when it is read.
        if url.port().is_some() {
            return Err(WebError::Url("names a port; only the standard port of https is used"));
        }
        Ok(())
    }
}

impl WebSources {
    /// Sources from these hosts, each of which may take `timeout` from the first connection to the last byte.
    ///
    /// # Errors
    /// A text, when the system has no root certificates.
    pub fn new(hosts: &Hosts, timeout: Duration) -> Result<Self, String> {
        Self::within(Reach::Public, hosts.items(), timeout, None)
    }

    /// As [`Self::new`], and also from the server at `trusted`, which the operator has named: under its own scheme, host and port
    /// it may be anywhere, in a network of one's own, too.
    ///
    /// # Errors
    /// A text, when the system has no root certificates.
    pub fn trusting(hosts: &Hosts, timeout: Duration, trusted: &Url) -> Result<Self, String> {
        Self::within(Reach::Public, hosts.items(), timeout, Some(trusted))
    }

    fn within(reach: Reach, hosts: &[String], timeout: Duration, trusted: Option<&Url>) -> Result<Self, String> {
        let exempt = trusted.and_then(Url::host_str).map(Arc::from);
        let client = reqwest::Client::builder()
            .dns_resolver(Resolver { reach, exempt })
            .redirect(redirect::Policy::none())
            // A proxy would resolve names itself, past the rule.
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no TLS client can be made: {error}; install the system's root certificates"))?;
        let origin = trusted.map(|url| url.origin().ascii_serialization().into());
        Ok(Self { client, hosts: hosts.into(), timeout, reach, origin })
    }

    /// Begins to fetch what is at `url`, at most `limit` bytes.
    ///
    /// # Errors
    /// [`WebError`]; [`WebError::TooLarge`] before any content is read where the host says its size.
    pub async fn open(&self, url: &str, limit: u64) -> Result<WebDownload, WebError> {
        if url.len() > MAX_URL_BYTES {
            return Err(WebError::Url("is longer than an address may be; shorten it"));
        }
        let deadline = Instant::now() + self.timeout;
        let first = Url::parse(url)
            .map_err(|_| WebError::Url("cannot be read as an address; write https://host/path or gs://bucket/name"))?;
        let mut at = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            self.check(&at)?;
            let place = shown(&at);
            let failed = |error: &reqwest::Error| self.failure(error, &at);
            let response = self
                .client
                .get(at.clone())
                // Whatever is unpacked here would not count towards the limit.
                .header(ACCEPT_ENCODING, "identity")
                .timeout(deadline.saturating_duration_since(Instant::now()))
                .send()
                .await
                .map_err(|error| failed(&error))?;
            match response.status() {
                StatusCode::OK => {
                    if response.content_length().is_some_and(|bytes| bytes > limit) {
                        return Err(WebError::TooLarge { place, limit });
                    }
                    return Ok(WebDownload { response, at, received: 0, limit, sources: self.clone() });
                }
                status if is_redirect(status) => at = self.next(&at, response.headers(), status)?,
                status => return Err(refusal(status, place)),
            }
        }
        Err(WebError::TooManyRedirects { place: shown(&first) })
    }

    /// Every rule that can be checked without a connection; the rest is the resolver's.
    fn check(&self, url: &Url) -> Result<(), WebError> {
        let trusted = self.origin.as_deref() == Some(&*url.origin().ascii_serialization());
        if !trusted {
            self.reach.admits_scheme(url)?;
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WebError::Url("holds a user name or a password; leave them out"));
        }
        if trusted {
            return Ok(());
        }
        let Some(host) = url.host() else { return Err(WebError::Url("names no host")) };
        let name = url.host_str().unwrap_or_default();
        if !self.hosts.iter().any(|rule| is_allowed(rule, name)) {
            return Err(WebError::HostNotAllowed { host: shortened(name) });
        }
        // Addresses are not resolved, so the resolver never sees them.
        let literal = match host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
        };
        if literal.is_some_and(|address| !self.reach.admits(address)) || self.is_exempt(name) {
            return Err(WebError::NotPublic { host: shortened(name) });
        }
        Ok(())
    }

    /// Whether the resolver would not look where a host is: such a one is used under its own scheme and port only.
    fn is_exempt(&self, host: &str) -> bool {
        let origin = self.origin.as_deref().and_then(|origin| Url::parse(origin).ok());
        origin.is_some_and(|origin| origin.host_str() == Some(host))
    }

    fn next(&self, at: &Url, headers: &HeaderMap, status: StatusCode) -> Result<Url, WebError> {
        let target = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        target
            .filter(|target| target.len() <= MAX_URL_BYTES)
            .and_then(|target| at.join(target).ok())
            .ok_or_else(|| WebError::Refused { place: shown(at), status: status.as_u16() })
    }

    fn failure(&self, error: &reqwest::Error, at: &Url) -> WebError {
        let place = shown(at);
        if error.is_timeout() {
            return WebError::TimedOut { place, seconds: self.timeout.as_secs() };
        }
        let mut cause = error.source();
        while let Some(inner) = cause {
            if inner.is::<NotPublic>() {
                return WebError::NotPublic { host: shortened(at.host_str().unwrap_or_default()) };
            }
            cause = inner.source();
        }
        let problem = if error.is_connect() { "no secure connection could be made" } else { "the connection broke" };
        WebError::Unreachable { place, problem }
    }
}

/// A picture on its way in.
#[derive(Debug)]
pub struct WebDownload {
    response: reqwest::Response,
    at: Url,
    received: u64,
    limit: u64,
    sources: WebSources,
}

impl WebDownload {
    /// The size the host announced, bytes. What arrives is this much or an error.
    pub fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The media type that the host names, without parameters and in lower case.
    pub fn content_type(&self) -> Option<String> {
        let named = self.response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
        Some(named.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// [`WebError`]; after one, nothing more comes.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, WebError> {
        let piece = self.response.chunk().await.map_err(|error| self.sources.failure(&error, &self.at))?;
        self.received += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if self.received > self.limit {
            return Err(WebError::TooLarge { place: shown(&self.at), limit: self.limit });
        }
        Ok(piece)
    }
}

/// Names are resolved by the system, and every address that may not be connected to is left out, but of the one host that is
/// exempt.
struct Resolver {
    reach: Reach,
    exempt: Option<Arc<str>>,
}

/// Why a name has no address here.
#[derive(Debug)]
struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host has no public address")
    }
}

impl Error for NotPublic {}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        let exempt = self.exempt.as_deref() == Some(name.as_str());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.take(MAX_ADDRESSES);
            let admitted: Vec<SocketAddr> = found.filter(|address| exempt || reach.admits(address.ip())).collect();
            if admitted.is_empty() {
                return Err(NotPublic.into());
            }
            let addresses: Addrs = Box::new(admitted.into_iter());
            Ok(addresses)
        })
    }
}

/// A rule that begins with a dot stands for every host below it.
fn is_allowed(rule: &str, host: &str) -> bool {
    if rule.starts_with('.') { host.strip_suffix(rule).is_some_and(|below| !below.is_empty()) } else { rule == host }
}

const fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn refusal(status: StatusCode, place: String) -> WebError {
    match status.as_u16() {
        404 | 410 => WebError::NotFound { place },
        401 | 403 => WebError::Forbidden { place },
        status @ (408 | 425 | 429 | 500..) => WebError::Unavailable { place, status },
        status => WebError::Refused { place, status },
    }
}

/// The address without query, fragment and port, shortened.
fn shown(url: &Url) -> String {
    shortened(&format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path()))
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 200;
    if text.chars().count() <= SHOWN { text.into() } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::Router;
    use axum::body::Body;
    use axum::extract::Path;
    use axum::http::Response;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn public(hosts: &str) -> WebSources {
        WebSources::new(&hosts.to_owned().try_into().unwrap(), LONG).unwrap()
    }

    fn local(timeout: Duration) -> WebSources {
        WebSources::within(Reach::Loopback, &["127.0.0.1".to_owned(), "10.0.0.1".to_owned()], timeout, None).unwrap()
    }

    /// A server of pictures and of trouble.
    async fn server() -> String {
        let redirect =
            |to: String| Response::builder().status(302).header("location", to).body(Body::from("elsewhere")).unwrap();
        let hops = get(move |Path(left): Path<u32>| async move {
            if left == 0 { redirect("/ok".into()) } else { redirect(format!("../hops/{}", left - 1)) }
        });
        let to = get(move |query: axum::extract::RawQuery| async move { redirect(query.0.unwrap_or_default()) });
        let status =
            get(|Path(code): Path<u16>| async move { Response::builder().status(code).body(Body::from("x")).unwrap() });
        let endless = get(|| async {
            Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[7; 1000]))))
        });
        let drip = get(|| async {
            Body::from_stream(stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b".")), ()))
            }))
        });
        let router = Router::new()
            .route("/ok", get(|| async { vec![7_u8; 1000] }))
            .route("/stay", get(|| async { Response::builder().status(302).body(Body::empty()).unwrap() }))
            .route("/hops/{left}", hops)
            .route("/to", to)
            .route("/status/{code}", status)
            .route("/endless", endless)
            .route("/drip", drip)
            .route("/never", get(std::future::pending::<()>));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    async fn fetched(sources: &WebSources, url: &str, limit: u64) -> Result<Vec<u8>, WebError> {
        let mut download = sources.open(url, limit).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = download.chunk().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_picture_is_fetched_up_to_the_limit_and_not_beyond() {
        let (sources, at) = (local(LONG), server().await);
        let url = format!("{at}/ok");
        assert_eq!(sources.open(&url, 1000).await.unwrap().content_length(), Some(1000));
        assert_eq!(fetched(&sources, &url, 1000).await.unwrap(), [7; 1000]);
        let refused = sources.open(&url, 999).await.unwrap_err();
        assert!(matches!(refused, WebError::TooLarge { limit: 999, .. }), "{refused}");

        // Nothing tells this one's size beforehand.
        let mut download = sources.open(&format!("{at}/endless"), 5500).await.unwrap();
        assert_eq!(download.content_length(), None);
        let mut received = 0;
        let error = loop {
            match download.chunk().await {
                Ok(piece) => received += piece.expect("it is endless").len(),
                Err(error) => break error,
            }
        };
        assert!(received <= 5500 && matches!(error, WebError::TooLarge { .. }), "{received} {error}");
    }

    #[tokio::test]
    async fn redirects_are_followed_five_times_each_under_the_same_rules() {
        let (sources, at) = (local(LONG), server().await);
        assert_eq!(fetched(&sources, &format!("{at}/hops/4"), 1000).await.unwrap().len(), 1000);
        let error = fetched(&sources, &format!("{at}/hops/5"), 1000).await.unwrap_err();
        assert!(matches!(error, WebError::TooManyRedirects { .. }), "{error}");
        let port = at.rsplit_once(':').unwrap().1;
        for (target, expected) in [
            ("http://169.254.169.254/computeMetadata/v1/", "169.254.169.254 is not allowed"),
            (&format!("http://localhost:{port}/ok"), "localhost is not allowed"),
            // On the list, but not within reach.
            ("http://10.0.0.1/", "10.0.0.1 has no public address"),
            ("http://[::ffff:10.0.0.1]/", "is not allowed"),
            ("//10.0.0.1/", "10.0.0.1 has no public address"),
            ("ftp://127.0.0.1/", "is not https://"),
            ("file:///etc/passwd", "is not https://"),
            (&format!("http://user@127.0.0.1:{port}/ok"), "user name"),
            ("", "redirects more than"),
        ] {
            let error = fetched(&sources, &format!("{at}/to?{target}"), 1000).await.unwrap_err();
            assert!(error.to_string().contains(expected) && error.class().is_permanent(), "{target}: {error}");
        }
        let error = fetched(&sources, &format!("{at}/stay"), 1000).await.unwrap_err();
        assert!(error.to_string().contains("answered 302"), "{error}");
    }

    #[tokio::test]
    async fn addresses_outside_the_rules_are_refused_before_anything_is_asked() {
        let sources = public("pictures.example.com,.cdn.example.com,127.0.0.1,10.0.0.1,8.8.8.8");
        for (url, expected) in [
            ("", "cannot be read as an address"),
            ("picture.png", "cannot be read as an address"),
            ("https://", "cannot be read as an address"),
            ("http://pictures.example.com/a.png", "is not https://"),
            ("ftp://pictures.example.com/a.png", "is not https://"),
            ("file:///etc/passwd", "is not https://"),
            ("data:image/png;base64,AAAA", "is not https://"),
            ("https://pictures.example.com:8443/a.png", "names a port"),
            ("https://user@pictures.example.com/a.png", "user name"),
            ("https://user:secret@pictures.example.com/a.png", "user name"),
            ("https://other.example.com/a.png", "other.example.com is not allowed"),
            ("https://pictures.example.com.evil.test/a.png", "is not allowed"),
            ("https://pictures.example.com@evil.test/a.png", "user name"),
            ("https://evil.test#pictures.example.com", "evil.test is not allowed"),
            ("https://cdn.example.com/a.png", "cdn.example.com is not allowed"),
            ("https://evilcdn.example.com/a.png", "is not allowed"),
            ("https://pictures.example.com./a.png", "is not allowed"),
            ("https://127.0.0.1/a.png", "127.0.0.1 has no public address"),
            // The same address in other clothes.
            ("https://2130706433/a.png", "127.0.0.1 has no public address"),
            ("https://0x7f.1/a.png", "127.0.0.1 has no public address"),
            ("https://0177.0.0.1/a.png", "127.0.0.1 has no public address"),
            ("https://10.0.0.1/a.png", "10.0.0.1 has no public address"),
            ("https://[::1]/a.png", "is not allowed"),
        ] {
            let error = sources.open(url, 1000).await.unwrap_err();
            assert!(error.to_string().contains(expected) && error.class().is_permanent(), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let long = format!("https://pictures.example.com/{}", "a".repeat(MAX_URL_BYTES));
        assert!(sources.open(&long, 1000).await.unwrap_err().to_string().contains("longer than"));
        for url in [
            "https://pictures.example.com/a.png",
            "HTTPS://Pictures.Example.COM:443/a.png?x=1#y",
            "https://a.cdn.example.com/",
            "https://a.b.cdn.example.com/",
            "https://8.8.8.8/",
        ] {
            assert_eq!(sources.check(&Url::parse(url).unwrap()), Ok(()), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_into_this_network_is_refused_after_it_is_resolved() {
        let sources = public("localhost");
        let error = sources.open("https://localhost/a.png", 1000).await.unwrap_err();
        assert_eq!(error, WebError::NotPublic { host: "localhost".into() });
    }

    #[tokio::test]
    async fn what_a_host_answers_tells_whether_to_try_again_and_no_text_shows_the_query() {
        let (sources, at) = (local(LONG), server().await);
        for (code, transient, expected) in [
            (404, false, "there is nothing at"),
            (410, false, "there is nothing at"),
            (401, false, "may not be read"),
            (403, false, "may not be read"),
            (400, false, "answered 400"),
            (204, false, "answered 204"),
            (206, false, "answered 206"),
            (300, false, "answered 300"),
            (304, false, "answered 304"),
            (408, true, "answered 408"),
            (429, true, "answered 429"),
            (500, true, "answered 500"),
            (503, true, "answered 503"),
        ] {
            let url = format!("{at}/status/{code}?X-Goog-Signature=secret#secret");
            let error = sources.open(&url, 1000).await.unwrap_err();
            assert_eq!(!error.class().is_permanent(), transient, "{error}");
            let said = error.to_string();
            assert!(said.contains(expected) && said.contains("/status/"), "{said}");
            assert!(!format!("{said} {error:?}").contains("secret"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_host_that_is_slow_silent_or_gone_ends_in_a_transient_error() {
        let at = server().await;
        let hasty = local(Duration::from_millis(200));
        for path in ["never", "drip"] {
            let error = fetched(&hasty, &format!("{at}/{path}?secret"), 1 << 20).await.unwrap_err();
            assert!(matches!(error, WebError::TimedOut { .. }), "{path}: {error}");
            assert!(!error.class().is_permanent() && !format!("{error:?}").contains("secret"), "{error:?}");
        }

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let cut = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await.unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf").await.unwrap();
            // Both ends: the connection is gone, the content is not complete, and nobody listens any more.
        });
        let error = fetched(&local(LONG), &at, 1000).await.unwrap_err();
        assert!(error.to_string().contains("the connection broke") && !error.class().is_permanent(), "{error}");
        cut.await.unwrap();
        let error = fetched(&local(LONG), &at, 1000).await.unwrap_err();
        assert!(error.to_string().contains("no secure connection") && !error.class().is_permanent(), "{error}");
    }
}
