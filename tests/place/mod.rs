//! A folder of its own in which the real program runs, with no setting from outside.

#![allow(dead_code, reason = "every test uses its own part")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub struct Place {
    folder: tempfile::TempDir,
}

/// What the program said.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concept-worker"));
        command.args(args).current_dir(self.folder.path()).env_remove("COLUMNS").stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CONCEPT_") {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        self.run_with(args, &[], b"")
    }

    /// Runs with variables and bytes on standard input.
    pub fn run_with(&self, args: &[&str], vars: &[(&str, &str)], input: &[u8]) -> Said {
        let mut command = self.command(args);
        command.envs(vars.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The program may refuse before it reads.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        Said {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
