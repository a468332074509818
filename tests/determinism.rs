//! The same job gives the same bytes: for any number of threads, from run to run, whatever lies under alpha 0.

mod studio;

use std::collections::BTreeMap;

use concept_worker::pipeline::job::Mode;
use concept_worker::pipeline::manifest::Manifest;
use studio::{COOL, EVERY_FORMAT, MODES, Studio, WARM, files, fixture, job, png};

/// What a run stored, without what it measured of itself: timings and memory, in the manifest and on the page.
fn stored(threads: usize, mode: Mode, source: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut studio = Studio::new();
    studio.options.max_dimension = 360;
    let job = job(&format!("[{WARM}, {COOL}]"), mode, EVERY_FORMAT);
    let manifest = pool.install(|| studio.run(&job, source));
    assert!(manifest.variations.iter().all(|entry| entry.error.is_none()), "{mode:?}");
    let mut files = files(&studio.out());
    let page = String::from_utf8(files.remove("gallery.html").unwrap()).unwrap();
    let (_, cards) = page.split_once("<div class=\"tools\" id=\"variations\"").unwrap();
    files.insert("the gallery's cards".into(), cards.into());
    let manifest = Manifest { timings_ms: BTreeMap::new(), peak_bytes: 0, ..manifest };
    files.insert("manifest.json".into(), serde_json::to_vec(&manifest).unwrap());
    files
}

fn assert_same(found: &BTreeMap<String, Vec<u8>>, wanted: &BTreeMap<String, Vec<u8>>, what: &str) {
    assert!(found.keys().eq(wanted.keys()), "{what}: {:?} {:?}", found.keys(), wanted.keys());
    for (name, bytes) in wanted {
        assert!(found[name] == *bytes, "{what}: {name} differs");
    }
}

fn any_number_of_threads_gives_the_same_bytes(name: &str) {
    let source = fixture(name);
    for mode in MODES {
        let wanted = stored(1, mode, &source);
        assert_eq!(wanted.len(), 2 * 6 + 3, "files, the contact sheet, the cards, the manifest");
        for threads in [2, 3, 5, 3] {
            assert_same(&stored(threads, mode, &source), &wanted, &format!("{mode:?}, {threads} threads"));
        }
    }
}

#[test]
fn a_photograph_gives_the_same_bytes_for_any_number_of_threads_and_from_run_to_run() {
    any_number_of_threads_gives_the_same_bytes("photo.jpg");
}

#[test]
fn a_transparent_logo_gives_the_same_bytes_for_any_number_of_threads_and_from_run_to_run() {
    any_number_of_threads_gives_the_same_bytes("logo_transparent_garbage.png");
}

#[test]
fn bytes_under_alpha_0_change_nothing() {
    let logo = image::load_from_memory(&fixture("logo_transparent_garbage.png")).unwrap().to_rgba8();
    assert!(logo.pixels().any(|p| p.0[3] == 0) && logo.pixels().any(|p| !matches!(p.0[3], 0 | 255)));
    let with_garbage = |garbage: fn(u32, u32) -> [u8; 3]| {
        png(logo.width(), logo.height(), |x, y| match logo.get_pixel(x, y).0 {
            [_, _, _, 0] => {
                let [r, g, b] = garbage(x, y);
                [r, g, b, 0]
            }
            visible => visible,
        })
    };
    let black = with_garbage(|_, _| [0, 0, 0]);
    let loud = with_garbage(|x, y| [((x * 41) ^ (y * 7)) as u8, 255 - (x * y) as u8, (y * 29) as u8]);
    assert_ne!(black, loud);
    for mode in MODES {
        let (mut a, mut b) = (stored(2, mode, &black), stored(2, mode, &loud));
        // The manifest names the hash of the source, and what hangs on it.
        assert_ne!(a.remove("manifest.json"), b.remove("manifest.json"));
        assert_same(&a, &b, &format!("{mode:?}"));
    }
}
