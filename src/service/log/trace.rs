//! The trace a request belongs to: read from its headers, carried by a span, written into every line inside.

use std::hash::{BuildHasher, Hasher, RandomState};

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span that this work belongs under; never 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
    /// Whether a caller began it.
    remote: bool,
}

impl TraceContext {
    /// The caller's trace: from `traceparent`, else from `X-Cloud-Trace-Context`; none where neither is there and valid.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let only = |name: &str| {
            let mut values = headers.get_all(name).iter();
            // Two of them contradict each other; the W3C says to believe neither.
            values.next().filter(|_| values.next().is_none())?.to_str().ok()
        };
        only("traceparent")
            .and_then(Self::from_traceparent)
            .or_else(|| only("x-cloud-trace-context").and_then(Self::from_cloud_header))
    }

    /// From the text of a `traceparent` header or attribute, by <https://www.w3.org/TR/trace-context/>.
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let (version, rest) = text.split_once('-')?;
        let (trace, rest) = rest.split_once('-')?;
        let (span, rest) = rest.split_once('-')?;
        let (flags, more) = rest.split_once('-').map_or((rest, None), |(flags, more)| (flags, Some(more)));
        let version = hex(version, 2)?;
        // Later versions may say more; this one says this much, and ff is none.
        if version == 0xff || (version == 0 && more.is_some()) {
            return None;
        }
        Self::remote(hex(trace, 32)?, u64::try_from(hex(span, 16)?).ok()?, hex(flags, 2)? & 1 == 1)
    }

    /// From the text of Google's own header: `TRACE/SPAN;o=OPTIONS`, the span in decimal.
    fn from_cloud_header(text: &str) -> Option<Self> {
        let (ids, options) = text.split_once(';').map_or((text, None), |(ids, options)| (ids, Some(options)));
        let (trace, span) = ids.split_once('/').map_or((ids, None), |(trace, span)| (trace, Some(span)));
        let sampled = match options {
            None => false,
            Some(options) => options.strip_prefix("o=")?.parse::<u8>().ok()? & 1 == 1,
        };
        let span = match span {
            None | Some("" | "0") => random(),
            Some(span) => span.parse().ok()?,
        };
        Self::remote(hex(&trace.to_ascii_lowercase(), 32)?, span, sampled)
    }

    fn remote(trace_id: u128, span_id: u64, sampled: bool) -> Option<Self> {
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled, remote: true })
    }

    /// A trace of its own, for work that nobody's trace began. It is recorded only if OpenTelemetry decides so.
    pub fn new_root() -> Self {
        let trace_id = u128::from(random()) << 64 | u128::from(random());
        Self { trace_id, span_id: random(), sampled: false, remote: false }
    }

    /// The trace, 32 hexadecimal digits.
    pub fn trace_hex(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The span, 16 hexadecimal digits.
    pub fn span_hex(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// As the header `traceparent` passes it on.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }

    /// A span that carries this trace: every line logged inside names it, and where spans are exported it is exported as
    /// `name` under the caller's. The fields `job_id`, `user_id` and `message_id` can be recorded on it once they are known.
    pub fn span(&self, name: &str) -> Span {
        // At the highest level: a trace must be in the lines that are left when only errors are logged.
        let span = tracing::error_span!(
            "request",
            otel.name = name,
            trace_id = Empty,
            span_id = Empty,
            trace_sampled = Empty,
            job_id = Empty,
            user_id = Empty,
            message_id = Empty,
        );
        if self.remote {
            let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
            let (trace, parent) = (TraceId::from(self.trace_id), SpanId::from(self.span_id));
            let caller = SpanContext::new(trace, parent, flags, true, TraceState::NONE);
            // Refused where no spans are exported.
            let _ = span.set_parent(Context::new().with_remote_span_context(caller));
        }
        // Lines name the exported span, so that they are shown beside it.
        let context = span.context();
        let exported = context.span().span_context().clone();
        let shown = if exported.is_valid() {
            Self {
                trace_id: u128::from_be_bytes(exported.trace_id().to_bytes()),
                span_id: u64::from_be_bytes(exported.span_id().to_bytes()),
                sampled: exported.is_sampled(),
                remote: self.remote,
            }
        } else {
            *self
        };
        span.record("trace_id", shown.trace_hex());
        span.record("span_id", shown.span_hex());
        span.record("trace_sampled", shown.sampled);
        span
    }
}

/// A number of exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// A number that is not 0 and differs from call to call and from process to process. Not for secrets.
fn random() -> u64 {
    // The standard library seeds its hashers from the system's randomness.
    RandomState::new().build_hasher().finish().max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

    fn of(headers: &[(&'static str, &str)]) -> Option<TraceContext> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        TraceContext::from_headers(&map)
    }

    #[test]
    fn a_traceparent_is_read() {
        let found = of(&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]).unwrap();
        assert_eq!((found.trace_id, found.span_id, found.sampled), (TRACE, 0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(found.traceparent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more-to-come";
        assert!(!TraceContext::from_traceparent(later).unwrap().sampled);
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-+0f067aa0ba902b7-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::from_traceparent(text), None, "{text:?}");
        }
    }

    #[test]
    fn googles_header_is_read_where_there_is_no_valid_traceparent() {
        let google = ("x-cloud-trace-context", "4bf92f3577b34da6a3ce929d0e0e4736/67667974448284343;o=1");
        let found = of(&[google, ("traceparent", "nonsense")]).unwrap();
        assert_eq!((found.trace_id, found.span_hex().as_str(), found.sampled), (TRACE, "00f067aa0ba902b7", true));
        let both = of(&[google, ("traceparent", "00-000000000000000000000000000000ff-00000000000000aa-00")]).unwrap();
        assert_eq!((both.trace_id, both.span_id, both.sampled), (0xff, 0xaa, false));
    }

    #[test]
    fn googles_header_may_leave_out_span_and_options() {
        let bare = of(&[("x-cloud-trace-context", "4BF92F3577B34DA6A3CE929D0E0E4736")]).unwrap();
        assert!(bare.trace_id == TRACE && bare.span_id != 0 && !bare.sampled);
        for text in ["", "x/1;o=1", "4bf92f3577b34da6a3ce929d0e0e4736/x", "4bf92f3577b34da6a3ce929d0e0e4736/1;q=1"] {
            assert_eq!(of(&[("x-cloud-trace-context", text)]), None, "{text:?}");
        }
    }

    #[test]
    fn two_traceparents_are_none() {
        let one = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(of(&[one, one]), None);
    }

    #[test]
    fn roots_differ() {
        let ids: BTreeSet<u128> = (0..1000).map(|_| TraceContext::new_root().trace_id).collect();
        assert_eq!(ids.len(), 1000);
    }
}
