//! Anything that a remote model may have put out: outputs come out that are bounded, or a reason why not.
#![no_main]

use concept_worker::service::remote::{Content, MAX_INLINE_BYTES, MAX_OUTPUTS, extension, read_outputs, sniff};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    if let Some(found) = sniff(bytes) {
        assert!(extension(found).is_some(), "{found}");
    }
    let Ok(output) = serde_json::from_slice::<Value>(bytes) else { return };
    match read_outputs(&output) {
        Ok(outputs) => {
            assert!(!outputs.is_empty() && outputs.len() <= MAX_OUTPUTS);
            let mut inline = 0;
            for output in outputs {
                match output.content {
                    Content::Url(url) => assert!(matches!(url.scheme(), "http" | "https")),
                    Content::Inline(bytes) => inline += bytes.len(),
                    Content::Text(text) => assert!(!text.is_empty()),
                    Content::Json(value) => assert!(!value.is_null()),
                }
            }
            assert!(inline <= MAX_INLINE_BYTES);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
