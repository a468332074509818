//! Any bytes: `probe` and `decode` answer with a picture or an error, agree with each other, and never panic.
#![no_main]

use concept_worker::pipeline::decode::{Limits, decode, probe};
use libfuzzer_sys::fuzz_target;

/// Small, so that an iteration is quick and a raster beyond them shows up as a failure.
const LIMITS: Limits = Limits { max_pixels: 1 << 18, max_side: 4096, max_source_bytes: 1 << 20 };

fuzz_target!(
    // The library turns panics of third-party decoders into errors; the fuzzer's own hook would abort before it can.
    // A panic that leaves the library still ends the run.
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| {
        let header = probe(bytes, &LIMITS);
        match decode(bytes, &LIMITS) {
            Ok(image) => {
                let header = header.expect("a picture whose header is refused");
                assert_eq!(header.oriented_size(), (image.width(), image.height()));
                assert!(u64::from(image.width()) * u64::from(image.height()) <= LIMITS.max_pixels);
            }
            Err(error) => assert!(!error.to_string().is_empty() && !error.class().is_empty()),
        }
    }
);
