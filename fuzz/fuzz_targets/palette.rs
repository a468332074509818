//! No bytes make the palette reader panic, and whatever it accepts is within the limits.
#![no_main]

use concept_worker::kernel::palette::MAX_COLORS;
use concept_worker::pipeline::palette_file::{MAX_PALETTES, labels, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes, "fuzz") {
        Ok(palettes) => {
            assert!((1..=MAX_PALETTES).contains(&palettes.len()));
            for palette in &palettes {
                assert!((1..=MAX_COLORS).contains(&palette.colors().len()));
                assert!(!palette.name().trim().is_empty());
                assert_eq!(labels(palette).len(), palette.colors().len());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
