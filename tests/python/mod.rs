//! A Python with packages of the tests' own, installed once into the target folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

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

fn find(name: &str, packages: &[&str], check: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
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
