//! Trained models through the real ONNX Runtime: exact against Python, refused when wrong, and said what runs them.
//!
//! ONNX Runtime and what the comparisons need are installed once into the target folder. Without Python the tests say so and
//! pass.

mod place;
mod python;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier, Mutex};

use concept_worker::kernel::image::BaseImage;
use concept_worker::pipeline::decode::{self, Limits};
use concept_worker::pipeline::segment::contract::Contract;
use concept_worker::pipeline::segment::registry::{ModelEntry, ModelSpec, Registry};
use concept_worker::pipeline::segment::runtime::{Library, Provider, RuntimeOptions};
use concept_worker::pipeline::segment::{ModelError, NoRoom, Segmenter, Standing, tensor};
use place::{Place, Said};
use python::OnnxRuntime;
use serde_json::Value;

fn tools() -> Option<&'static OnnxRuntime> {
    python::onnxruntime()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models").join(name)
}

fn options() -> Option<RuntimeOptions> {
    let library = Library::Named(tools()?.library.clone());
    // The others are tried where they can be had; here it is the processor's arithmetic that counts.
    Some(RuntimeOptions { library, providers: vec![Provider::Cpu], threads: 1, ..RuntimeOptions::default() })
}

fn entry(preset: &str, path: &Path) -> ModelEntry {
    let path = path.to_str().unwrap().to_owned();
    ModelEntry { name: "m".into(), preset: Some(preset.into()), path, ..ModelEntry::default() }
}

fn segmenter(entry: ModelEntry, options: RuntimeOptions) -> Segmenter {
    Segmenter::new(Registry::new(vec![entry], None).unwrap(), options)
}

/// A disc on a plain ground, with a little texture so that nothing is degenerate.
fn picture(width: u32, height: u32) -> BaseImage {
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let (dx, dy) = (f64::from(x) / f64::from(width) - 0.5, f64::from(y) / f64::from(height) - 0.45);
            let grain = ((x * 7 + y * 13) % 11) as u8;
            rgb.extend(match dx * dx + dy * dy < 0.06 {
                true => [200 + grain, 60 + grain, 30 + (x % 40) as u8],
                false => [226 + grain, 228 + grain, 232],
            });
        }
    }
    BaseImage::new(width, height, rgb, None).unwrap()
}

/// The same as a PNG, which every decoder reads alike.
fn png(image: &BaseImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(::png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(image.rgb()).unwrap();
    bytes
}

fn floats(path: PathBuf) -> Vec<f32> {
    std::fs::read(path).unwrap().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn most(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn pictures_go_in_and_masks_come_out_as_in_the_packages_that_people_use() {
    let (Some(tools), Some(options)) = (tools(), options()) else { return };
    let folder = tempfile::tempdir().unwrap();
    // Reduced, enlarged, turned, and far from square.
    let sizes = [(768, 576), (200, 300), (1000, 61), (33, 40)];
    let pictures: Vec<(PathBuf, BaseImage)> = sizes
        .iter()
        .map(|&(width, height)| {
            let image = picture(width, height);
            let path = folder.path().join(format!("{width}x{height}.png"));
            std::fs::write(&path, png(&image)).unwrap();
            (path, image)
        })
        .collect();
    for (preset, golden, file) in [
        ("inspyrenet-fast", "inspyrenet", "inspyrenet.onnx"),
        ("u2netp", "rembg-u2net", "u2netp.onnx"),
        ("isnet", "rembg-isnet", "isnet.onnx"),
        ("birefnet", "birefnet-inference", "birefnet.onnx"),
    ] {
        let out = folder.path().join(golden);
        let mut command = Command::new(&tools.python);
        command.arg("tests/models/goldens.py").arg(golden).arg(fixture(file)).arg(&out);
        python::run(command.args(pictures.iter().map(|(path, _)| path))).unwrap();
        let contract = Contract::preset(preset).unwrap();
        let models = segmenter(entry(preset, &fixture(file)), options.clone());
        let size = models.load(None).unwrap().input;
        for (path, image) in &pictures {
            let golden = out.join(path.file_stem().unwrap());
            let case = format!("{preset}, {}", path.display());
            let bytes = tensor::resized(image, contract.filter, size);
            let theirs = std::fs::read(golden.join("input_u8.bin")).unwrap();
            let codes = bytes.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(bytes.len() == theirs.len() && codes == Some(0), "{case}: {codes:?} codes apart");
            let input = tensor::normalized(&theirs, &contract);
            assert!(most(&input, &floats(golden.join("input_f32.bin"))) < 1e-5, "{case}");
            let mask_of = |map| tensor::full_size(&map, contract.back, image.width(), image.height());
            // Lanczos overshoots; the packages cut that off when they make bytes.
            let theirs: Vec<f32> = floats(golden.join("mask_f32.bin")).iter().map(|p| p.clamp(0.0, 1.0)).collect();
            let mask = mask_of(models.run(None, &input).unwrap());
            let apart = most(&mask, &theirs);
            assert!(apart < 1e-3, "{case}: masks are {apart} apart");
            let own = mask_of(models.segment(None, image).unwrap().map);
            assert_eq!(own, mask, "{case}");
            let subject = mask.iter().filter(|p| **p > 0.5).count() as f64 / mask.len() as f64;
            assert!((0.1..0.35).contains(&subject), "{case}: {subject} is subject");
        }
    }
}

#[test]
fn the_committed_models_are_what_their_script_makes() {
    let Some(tools) = tools() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models");
    let said = python::run(Command::new(&tools.python).args(["tests/models/make_fixtures.py", "--check"]));
    assert!(said.is_ok(), "{}", said.unwrap_err());
    let sizes = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= 100_000);
}

#[test]
fn what_is_no_model_for_mattes_is_refused_when_it_is_loaded_with_what_is_wrong() {
    let Some(options) = options() else { return };
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.onnx");
    std::fs::write(&garbage, b"this is no model").unwrap();
    let cut = folder.path().join("cut.onnx");
    let whole = std::fs::read(fixture("u2netp.onnx")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    for (path, parts) in [
        (fixture("rank3.onnx"), ["\"input\"", "3×64×64"]),
        (fixture("wrong_channels.onnx"), ["\"input\"", "1×1×64×64"]),
        (fixture("int_input.onnx"), ["u8", "32-bit floats"]),
        (fixture("float16.onnx"), ["f16", "32-bit floats"]),
        (fixture("classifier.onnx"), ["\"scores\"", "1×3"]),
        (garbage, ["garbage.onnx", "whole ONNX file"]),
        (cut, ["cut.onnx", "whole ONNX file"]),
        (fixture("none.onnx"), ["no file at", "check its path"]),
    ] {
        let models = segmenter(entry("u2netp", &path), options.clone());
        let error = models.load(None).unwrap_err();
        assert!(matches!(error, ModelError::Unavailable(_)), "{error:?}");
        let text = error.to_string().to_lowercase();
        assert!(parts.iter().all(|part| text.contains(&part.to_lowercase())), "{}: {text}", path.display());
        assert_eq!(models.standing(None), Standing::Failed(error));
    }
    let wrong = ModelEntry { sha256: Some("0".repeat(64)), ..entry("u2netp", &fixture("u2netp.onnx")) };
    let error = segmenter(wrong, options).load(None).unwrap_err().to_string();
    assert!(error.contains("SHA-256") && error.contains("registered"), "{error}");
}

#[test]
fn a_model_whose_size_is_left_open_takes_that_of_its_contract() {
    let Some(options) = options() else { return };
    let models = segmenter(ModelEntry { size: Some(160), ..entry("birefnet", &fixture("dynamic.onnx")) }, options);
    let found = models.segment(None, &picture(300, 200)).unwrap();
    assert_eq!((found.by.input, found.map.width, found.map.height), ((160, 160), 160, 160));
    assert!(found.map.confidence > 0.9, "{}", found.map.confidence);
}

#[test]
fn outputs_that_are_no_numbers_and_memory_that_runs_out_are_errors_of_their_own_and_the_model_goes_on() {
    let Some(options) = options() else { return };
    let models = segmenter(entry("u2netp", &fixture("nan.onnx")), options.clone());
    let error = models.segment(None, &picture(64, 64)).unwrap_err();
    assert!(matches!(&error, ModelError::Output(text) if text.contains("no numbers")), "{error}");
    assert!(!error.is_passing());
    let models = segmenter(entry("u2netp", &fixture("hungry.onnx")), options);
    for _ in 0..3 {
        let error = models.segment(None, &picture(64, 64)).unwrap_err();
        assert!(matches!(&error, ModelError::Failed(text) if text.contains("twice")), "{error}");
        assert!(error.is_passing());
    }
}

#[test]
fn memory_is_set_aside_for_every_session_and_a_file_that_was_replaced_is_not_run() {
    let Some(options) = options() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    std::fs::copy(fixture("hungry.onnx"), &path).unwrap();
    let registry = || {
        let entry = ModelEntry { memory_mb: Some(10), ..entry("u2netp", &path) };
        Registry::new(vec![entry], None).unwrap()
    };
    let asked = Arc::new(Mutex::new(Vec::new()));
    let reserve = {
        let asked = asked.clone();
        move |_: &str, bytes: u64| -> Result<Box<dyn Send + Sync>, NoRoom> {
            asked.lock().unwrap().push(bytes);
            Ok(Box::new(()))
        }
    };
    let fetch = |spec: &ModelSpec| Ok(PathBuf::from(&spec.location));
    let three = RuntimeOptions { sessions: 3, ..options.clone() };
    let models = Segmenter::with(registry(), three, Box::new(fetch), Box::new(reserve));
    models.load(None).unwrap();
    assert_eq!(*asked.lock().unwrap(), [30 << 20]);
    // A session breaks; the file that a new one would be opened on is another one by now.
    std::fs::copy(fixture("nan.onnx"), &path).unwrap();
    let error = models.segment(None, &picture(64, 64)).unwrap_err();
    assert!(matches!(&error, ModelError::Failed(text) if text.contains("another one")), "{error}");
    // Jobs hold the memory: that passes.
    let full = |_: &str, _: u64| -> Result<Box<dyn Send + Sync>, NoRoom> { Err(NoRoom::Now("not yet".into())) };
    let models = Segmenter::with(registry(), options, Box::new(fetch), Box::new(full));
    assert!(models.load(None).unwrap_err().is_passing());
}

#[test]
fn providers_are_tried_in_order_and_why_one_is_not_taken_is_kept() {
    let Some(options) = options() else { return };
    let options = RuntimeOptions { providers: Provider::ALL.to_vec(), ..options };
    let models = segmenter(entry("u2netp", &fixture("u2netp.onnx")), options.clone());
    let choice = models.load(None).unwrap().choice;
    if choice.provider.is_gpu() {
        // A machine with a GPU and its library: what lies before it in the list still has its reason.
        assert_eq!(choice.refused.iter().map(|(p, _)| *p).collect::<Vec<_>>(), [Provider::TensorRt]);
        return;
    }
    let tried: Vec<Provider> = choice.refused.iter().map(|(provider, _)| *provider).collect();
    assert_eq!(tried, [Provider::TensorRt, Provider::Cuda]);
    assert!(choice.refused.iter().all(|(_, why)| why.len() > 10), "{choice:?}");
    assert!(choice.reason().starts_with("tensorrt: it needs engines built before"), "{}", choice.reason());
    // And with the GPU required there is no model at all.
    let models = segmenter(entry("u2netp", &fixture("u2netp.onnx")), RuntimeOptions { require_gpu: true, ..options });
    let error = models.load(None).unwrap_err().to_string();
    for part in ["CONCEPT_REQUIRE_GPU", "tensorrt:", "cuda:", "cpu:"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn more_pictures_than_may_wait_are_refused_and_the_others_are_all_served() {
    let Some(options) = options() else { return };
    let models =
        segmenter(entry("inspyrenet-fast", &fixture("inspyrenet.onnx")), RuntimeOptions { queue: 1, ..options });
    let image = picture(400, 300);
    let alone = models.segment(None, &image).unwrap().map;
    let together = Barrier::new(8);
    let results: Vec<Result<_, ModelError>> = std::thread::scope(|scope| {
        let one = || {
            together.wait();
            // Each several times: whoever comes while one runs and one waits is refused.
            (0..6).map(|_| models.segment(None, &image)).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let refused = results.iter().filter(|result| matches!(result, Err(ModelError::Busy { waiting: 1, .. }))).count();
    let served: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(refused + served.len(), 48);
    // One runs and one waits, whatever becomes of the others.
    assert!(refused > 0 && served.len() >= 2, "{refused} refused");
    assert!(served.iter().all(|found| found.map == alone), "the same picture has the same map");
    assert!(models.segment(None, &image).is_ok(), "nothing is held for ever");
}

#[test]
fn what_build_makes_is_used_and_gives_the_same_map() {
    let Some(tools) = tools() else { return };
    let place = Place::new();
    let cache = place.path("cache");
    let vars = |more: &[(&'static str, String)]| -> Vec<(&'static str, String)> {
        let all = [
            ("CONCEPT_ONNXRUNTIME", tools.library.display().to_string()),
            ("CONCEPT_MODEL", "inspyrenet-fast".into()),
            ("CONCEPT_MODEL_PATH", fixture("inspyrenet.onnx").display().to_string()),
            ("CONCEPT_EXECUTION_PROVIDERS", "cpu".into()),
        ];
        all.into_iter().chain(more.iter().cloned()).collect()
    };
    let run = |args: &[&str], more: &[(&'static str, String)]| -> Said {
        let vars = vars(more);
        let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
        place.run_with(args, &vars, b"")
    };
    let said = run(&["model", "build"], &[]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("CONCEPT_MODEL_CACHE"), "{}", said.err);
    let cached = [("CONCEPT_MODEL_CACHE", cache.display().to_string())];
    let said = run(&["model", "build"], &cached);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    place.write("picture.png", png(&picture(300, 200)));
    let mut mattes = Vec::new();
    for more in [&[][..], &cached] {
        let args = ["render", "picture.png", "--matte", "--method", "model", "--out", "out", "--no-gallery"];
        let said = run(&args, more);
        assert_eq!(said.code, Some(0), "{}", said.err);
        mattes.push(std::fs::read(place.path("out/effect_matte.png")).unwrap());
    }
    assert_eq!(mattes[0], mattes[1]);
    // The copy is really what is loaded: broken, it is missed, and the model itself does.
    std::fs::write(&files[0], b"broken").unwrap();
    let said = run(&["model", "check"], &cached);
    assert_eq!(said.code, Some(0), "{}", said.out);
    assert!(said.err.contains("optimised copy is not used"), "{}", said.err);
}

/// The program's own words where the library is missing, is none, or is too old, and where a GPU is required.
#[test]
fn a_library_that_cannot_be_used_and_a_gpu_that_is_not_there_are_said_and_end_the_command() {
    let place = Place::new();
    let model = fixture("u2netp.onnx").display().to_string();
    let check = |library: &str, more: &[(&str, &str)]| -> Said {
        let vars = [("CONCEPT_ONNXRUNTIME", library), ("CONCEPT_MODEL", "u2netp"), ("CONCEPT_MODEL_PATH", &model)];
        place.run_with(&["model", "check"], &[&vars[..], more].concat(), b"")
    };
    place.write("no-library.so", b"this is no library");
    for (library, parts) in [
        ("/nowhere/libonnxruntime.so", ["no ONNX Runtime at", "CONCEPT_ONNXRUNTIME"]),
        (place.path("no-library.so").to_str().unwrap(), ["no-library.so", "cannot be loaded"]),
        ("", ["no ONNX Runtime library", "CONCEPT_ONNXRUNTIME"]),
    ] {
        let said = check(library, &[]);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
        assert!(parts.iter().all(|part| said.err.contains(part)), "{library}: {}", said.err);
    }
    if let Some(old) = old_library(&place) {
        let said = check(&old, &[]);
        assert_eq!(said.code, Some(1));
        assert!(said.err.contains("version 1.15.1; 1.22 or later is needed"), "{}", said.err);
    }
    let Some(tools) = tools() else { return };
    let library = tools.library.to_str().unwrap();
    let said = check(library, &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("u2netp: ") && said.out.contains("320×320"), "{}", said.out);
    if said.out.contains("u2netp: cpu") {
        let said = check(library, &[("CONCEPT_REQUIRE_GPU", "true")]);
        assert_eq!(said.code, Some(1));
        assert!(said.err.contains("there is no GPU that can be used"), "{}", said.err);
        let vars = [
            ("CONCEPT_ONNXRUNTIME", library),
            ("CONCEPT_MODEL", "u2netp"),
            ("CONCEPT_MODEL_PATH", model.as_str()),
            ("CONCEPT_REQUIRE_GPU", "true"),
            ("CONCEPT_STORAGE", "memory"),
            ("PORT", "0"),
        ];
        let said = place.run_with(&["serve"], &vars, b"");
        assert_eq!(said.code, Some(1), "the server ends by itself: {}", said.err);
        assert!(said.err.contains("there is no GPU that can be used"), "{}", said.err);
    }
}

/// A library that says it is ONNX Runtime 1.15.1, made by the C compiler that the build needs anyway.
fn old_library(place: &Place) -> Option<String> {
    place.write(
        "old.c",
        "static const void *api(unsigned v) { (void)v; return 0; }\n\
         static const char *version(void) { return \"1.15.1\"; }\n\
         static const struct { const void *(*get)(unsigned); const char *(*name)(void); } base = { api, version };\n\
         const void *OrtGetApiBase(void) { return &base; }\n",
    );
    let (source, library) = (place.path("old.c"), place.path("libold.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    built.is_ok_and(|status| status.success()).then(|| library.display().to_string())
}

#[test]
fn a_render_says_which_model_ran_where_and_auto_records_why_it_fell_back() {
    let Some(tools) = tools() else { return };
    let place = Place::new();
    // No plain ground: stripes and noise to the edge.
    let (width, height) = (320u32, 240u32);
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        let noise = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519) >> 24;
        [(noise * 3 % 256) as u8, (x * 5 % 256) as u8, (y * 9 % 256) as u8]
    };
    let busy = BaseImage::new(width, height, (0..width * height).flat_map(pixel).collect(), None).unwrap();
    place.write("busy.png", png(&busy));
    place.write("plain.png", png(&picture(320, 240)));
    let good = fixture("inspyrenet.onnx").display().to_string();
    let rank3 = fixture("rank3.onnx").display().to_string();
    let render = |picture: &str, flags: &[&str], path: &str, library: &str| -> (Said, Value) {
        let vars = [
            ("CONCEPT_ONNXRUNTIME", library),
            ("CONCEPT_MODEL", "inspyrenet-fast"),
            ("CONCEPT_MODEL_PATH", path),
            ("CONCEPT_EXECUTION_PROVIDERS", "cuda,cpu"),
        ];
        let base = ["render", picture, "--remove-background", "--out", "out", "--no-gallery"];
        let said = place.run_with(&[&base[..], flags].concat(), &vars, b"");
        let manifest = std::fs::read(place.path("out/manifest.json")).unwrap();
        (said, serde_json::from_slice(&manifest).unwrap())
    };
    let library = tools.library.to_str().unwrap();

    let (said, manifest) = render("plain.png", &["--method", "model"], &good, library);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let background = &manifest["background"];
    assert_eq!((&background["method"], &background["removed"]), (&"model".into(), &true.into()), "{background:#}");
    assert_eq!(background["model"], "inspyrenet-fast");
    assert_eq!(background["model_sha256"].as_str().unwrap().len(), 64);
    let provider = background["provider"].as_str().unwrap();
    assert!(
        provider == "cuda" || background["provider_reason"].as_str().unwrap().starts_with("cuda: "),
        "{background:#}"
    );
    assert_eq!(background["matte"], "effect_matte.png");
    let cutout =
        decode::decode(&std::fs::read(place.path("out/effect_cutout.png")).unwrap(), &Limits::default()).unwrap();
    let clear = cutout.alpha().unwrap().iter().filter(|a| **a == 0).count() as f64 / f64::from(width * height);
    assert!((0.6..0.9).contains(&clear), "{clear} is transparent");

    for (path, library, part) in
        [(good.as_str(), "/nowhere/libonnxruntime.so", "no ONNX Runtime at"), (rank3.as_str(), library, "3×64×64")]
    {
        // Automatic: the picture passes as it is, and the reason stands in the manifest.
        let (said, manifest) = render("busy.png", &[], path, library);
        assert_eq!(said.code, Some(0), "{}", said.err);
        let background = &manifest["background"];
        assert_eq!(
            (&background["method"], &background["removed"], &background["flagged"]),
            (&"none".into(), &false.into(), &true.into())
        );
        assert!(background["notes"].to_string().contains(part), "{background:#}");
        assert!(said.err.contains(part), "a person sees it: {}", said.err);
        // Asked for by name: an error, and nothing half-made.
        let (said, manifest) = render("busy.png", &["--method", "model"], path, library);
        assert_eq!(said.code, Some(1));
        assert_eq!((&manifest["state"], &manifest["error"]["class"]), (&"failed".into(), &"model-unavailable".into()));
        assert!(manifest["error"]["message"].as_str().unwrap().contains(part), "{manifest:#}");
    }
}
