//! No bytes make the job reader panic, and a job that is accepted can be written and read again.
#![no_main]

use concept_worker::pipeline::job::{Job, PaletteRequest};
use concept_worker::pipeline::palette_file::from_specs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Job::from_json(bytes) {
        Ok(job) => {
            if let PaletteRequest::List(specs) = &job.palettes {
                let _ = from_specs(specs);
            }
            if let Ok(text) = serde_json::to_vec(&job) {
                assert!(Job::from_json(&text).is_ok());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
