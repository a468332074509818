//! Webhooks that go out when predictions end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Shared;

/// The secret that webhooks are signed with.
pub const SECRET: &str = "whsec_dGhlIHNlY3JldCBvZiB0aGUgdGVzdCBzZXJ2ZXI=";

/// How often a webhook is sent until somebody takes it.
const MOST_ATTEMPTS: u32 = 3;

/// How a model's webhooks are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// As they should be.
    Signed,
    /// With a signature of another secret.
    WrongSignature,
    /// Signed ten minutes ago.
    Old,
    /// Not at all.
    Lost,
}

/// A webhook that went out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The prediction.
    pub id: String,
    /// Where it went.
    pub url: String,
    /// What was answered; none when nobody did.
    pub status: Option<u16>,
}

/// The header webhook-signature.
pub fn signature(secret: &str, id: &str, timestamp: u64, body: &[u8]) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// Waits until a prediction has ended and tells whom it concerns.
pub(super) async fn deliver(shared: Arc<Shared>, id: String, url: String, hook: Hook) {
    if hook == Hook::Lost {
        return;
    }
    let body = loop {
        let ended = shared.state().find(&id).filter(|made| made.is_final()).map(|made| made.json(&shared.url));
        match ended {
            Some(json) => break json.to_string(),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    for attempt in 1..=MOST_ATTEMPTS {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let timestamp = if hook == Hook::Old { now - 600 } else { now };
        let secret = if hook == Hook::WrongSignature { "whsec_b2Ygc29tZWJvZHkgZWxzZSBlbnRpcmVseQ==" } else { SECRET };
        let message = format!("msg_{id}");
        let head = [
            ("Content-Type", "application/json".to_owned()),
            ("webhook-id", message.clone()),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", signature(secret, &message, timestamp, body.as_bytes())),
        ];
        let status = tokio::time::timeout(Duration::from_secs(5), post(&url, &head, &body)).await;
        let status = status.ok().and_then(Result::ok);
        shared.state().delivered.push(Delivered { id: id.clone(), url: url.clone(), status });
        if status.is_some_and(|status| (200..300).contains(&status)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
    }
}

/// Posts over a connection of its own, to http addresses only.
async fn post(url: &str, headers: &[(&str, String)], body: &str) -> io::Result<u16> {
    let rest = url.strip_prefix("http://").ok_or(io::ErrorKind::Unsupported)?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut stream = TcpStream::connect(host).await?;
    let path = if path.is_empty() { "/" } else { path };
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    (&mut stream).take(64 << 10).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
