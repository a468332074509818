//! Any headers and any body: a delivery with a usable record name comes out, and the job in it is read or refused.
#![no_main]

use bytes::Bytes;
use concept_worker::pipeline::job::Job;
use concept_worker::service::envelope::{Payload, read};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

/// Lines of `name: value` up to an empty line, then the body.
fn request(bytes: &[u8]) -> (HeaderMap, &[u8]) {
    let (mut headers, mut rest) = (HeaderMap::new(), bytes);
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, below) = (&rest[..end], &rest[end + 1..]);
        rest = below;
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let value = line[colon + 1..].trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    (headers, rest)
}

fuzz_target!(|bytes: &[u8]| {
    let (headers, body) = request(bytes);
    let delivery = read(&headers, Bytes::copy_from_slice(body));
    let record = delivery.record_id();
    assert!(!record.is_empty() && record.len() <= 120);
    assert!(record.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{record}");
    assert_ne!(delivery.delivery_attempt, Some(0));
    match delivery.payload {
        Payload::Job(job) => {
            if let Err(error) = Job::from_json(&job) {
                assert!(!error.to_string().is_empty());
            }
        }
        Payload::Object(event) => assert!(!event.bucket.is_empty() && !event.name.is_empty()),
        Payload::Nothing(reason) => assert!(!reason.is_empty()),
        Payload::Unreadable { problem, body: kept } => {
            assert!(!problem.is_empty() && problem.len() < 1000);
            assert_eq!(kept, body);
        }
    }
});
