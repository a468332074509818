//! A Python with packages of the tests' own, installed once into the target folder.

#![allow(dead_code, reason = "every test uses its own part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Python's ONNX Runtime.
pub struct OnnxRuntime {
    pub python: PathBuf,
    /// The shared library in the package.
    pub library: PathBuf,
}

/// Python with ONNX Runtime and what the comparisons need; none, visibly, where there is none.
pub fn onnxruntime() -> Option<&'static OnnxRuntime> {
    static FOUND: OnceLock<Option<OnnxRuntime>> = OnceLock::new();
    let find = || {
        let packages = ["-r", "tests/models/requirements.txt"];
        let python = with_packages("models-python", &packages, "import numpy, onnx, onnxruntime, PIL")?;
        let find = "import glob, os, onnxruntime as o; print(glob.glob(os.path.dirname(o.__file__) + '/capi/libonnxruntime.so.*')[0])";
        let library = run(Command::new(&python).args(["-c", find])).unwrap();
        Some(OnnxRuntime { python, library: library.trim().into() })
    };
    FOUND.get_or_init(find).as_ref()
}

/// A Python that has `packages` (arguments of `pip install`); `check` is a line of Python that proves it. None, and a visible
/// line that says why, where there is none.
pub fn with_packages(name: &str, packages: &[&str], check: &str) -> Option<PathBuf> {
    let found = find(name, packages, check);
    if let Err(problem) = &found {
        // Written, not printed: what a passing test prints is not shown.
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no Python with {}: {problem}", packages.join(" "));
    }
    found.ok()
}

/// Two tests that start at once must not both install.
fn alone(folder: &Path) -> std::fs::File {
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let lock = std::fs::File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    lock
}

fn find(name: &str, packages: &[&str], check: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let _alone = alone(&folder);
    let has_them = || run(Command::new(&python).args(["-c", check]));
    if has_them().is_ok() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages))?;
    has_them().map(|_| python)
}

/// Runs a command to its end; its output, or what it said where it failed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
