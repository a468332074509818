//! Imports go one way, kernel ← pipeline ← service ← command line, and the kernel is pure. Read from the source text.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, lowest first. A file may use its own room and those below it.
const ROOMS: [&str; 5] = ["kernel", "pipeline", "config", "service", "cli"];

/// Modules of the crate's root beside the rooms, by the room they stand in for: what they import and who may import
/// them.
const BESIDE: [(&str, usize); 3] = [("baseline", 2), ("main", 4), ("lib", 4)];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every file of `src` with its path below it as modules: `pipeline::decode::icc`.
fn modules() -> Vec<(Vec<String>, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found.sort();
    let module = |path: PathBuf| {
        let below = path.strip_prefix(&root).unwrap().with_extension("");
        let mut parts: Vec<String> = below.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if parts.len() > 1 && parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        (parts, code_of(&fs::read_to_string(path).unwrap()))
    };
    found.into_iter().map(module).collect()
}

/// The text without comments and without its tests, which may import what they like.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn room(module: &str) -> Option<usize> {
    let beside = BESIDE.iter().find(|(name, _)| *name == module).map(|(_, room)| *room);
    ROOMS.iter().position(|room| *room == module).or(beside)
}

/// The modules that a path written in `module` begins in, as the crate sees them: `super::x` and `crate::x` resolved.
fn imports(module: &[String], code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let ident = |c: char| c.is_alphanumeric() || c == '_';
    let names = |rest: &str| -> Vec<String> {
        // One level of braces is enough for the room: `crate::{kernel::x, pipeline::y}`.
        match rest.strip_prefix('{') {
            None => vec![rest.split(|c| !ident(c)).next().unwrap_or_default().to_owned()],
            Some(list) => {
                let (mut depth, mut parts, mut part) = (1, Vec::new(), String::new());
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || (depth == 1 && c == ',') {
                        parts.push(std::mem::take(&mut part));
                    } else {
                        part.push(c);
                    }
                    if depth == 0 {
                        break;
                    }
                }
                let first = |part: &String| part.trim().split(|c| !ident(c)).next().unwrap_or_default().to_owned();
                parts.iter().map(first).filter(|name| !name.is_empty()).collect()
            }
        }
    };
    for root in ["crate::", "concept_worker::"] {
        for (at, _) in code.match_indices(root).filter(|&(at, _)| !code[..at].ends_with(ident)) {
            found.extend(names(&code[at + root.len()..]).into_iter().map(|name| vec![name]));
        }
    }
    for (at, _) in code.match_indices("super::").filter(|&(at, _)| !code[..at].ends_with("super::")) {
        let (mut rest, mut ups) = (&code[at..], 0);
        while let Some(next) = rest.strip_prefix("super::") {
            (rest, ups) = (next, ups + 1);
        }
        let parent = &module[..module.len().saturating_sub(ups)];
        found.extend(names(rest).into_iter().map(|name| [parent, &[name]].concat()));
    }
    found
}

#[test]
fn imports_go_one_way() {
    let modules = modules();
    assert!(modules.len() > 50, "the sources were not found");
    let mut seen = 0;
    for (module, code) in &modules {
        let here =
            room(&module[0]).unwrap_or_else(|| panic!("{} belongs to no room; name one in this test", module[0]));
        for import in imports(module, code) {
            // Macros and items of the crate's root are nobody's room.
            let Some(there) = room(&import[0]) else { continue };
            seen += 1;
            assert!(there <= here, "{} imports {} from above", module.join("::"), import.join("::"));
        }
    }
    assert!(seen > 200, "only {seen} imports were understood");
}

#[test]
fn the_library_does_not_know_its_command_line() {
    for (module, code) in modules() {
        if !matches!(module[0].as_str(), "cli" | "main") {
            for foreign in ["clap::Parser", "indicatif", "anyhow", "std::process::exit", "println!", "eprintln!"] {
                assert!(!code.contains(foreign), "{} uses {foreign}", module.join("::"));
            }
        }
    }
}

#[test]
fn the_kernel_is_pure() {
    const FOREIGN: [&str; 14] = [
        "std::fs",
        "std::env",
        "std::time",
        "std::io",
        "std::net",
        "std::process",
        "std::thread",
        "std::path",
        "serde",
        "tracing",
        "tempfile",
        "println!",
        "thread_rng",
        "Instant::now",
    ];
    for (module, code) in modules() {
        if module[0] == "kernel" {
            for foreign in FOREIGN {
                assert!(!code.contains(foreign), "{} uses {foreign}", module.join("::"));
            }
        }
    }
}

#[test]
fn upward_imports_are_recognised_in_every_spelling() {
    let module = ["kernel".to_owned(), "quality".to_owned(), "fit".to_owned()];
    for text in [
        "use crate::pipeline::job::Mode;",
        "use crate::{kernel::color::Lab, pipeline::{job, run}};",
        "use super::super::super::pipeline::job;",
        "fn f() { crate::pipeline::run::run() }",
        "use super::super::super::{pipeline::job};",
    ] {
        let found = imports(&module, text);
        assert!(found.iter().any(|import| import[0] == "pipeline"), "{text}: {found:?}");
    }
    let down = imports(&module, "use super::sample::Sample; use super::super::color::Lab;");
    assert_eq!(down, [vec!["kernel", "quality", "sample"], vec!["kernel", "color"]]);
}
