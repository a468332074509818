//! A redis-server of a test's own, on a free port of this machine, which it may kill, stop and start again.

// Every test binary that uses it is a crate of its own and needs only some of it.
#![allow(dead_code, clippy::missing_panics_doc)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start.
const START_TIME: Duration = Duration::from_secs(10);

/// How many ports are tried: another process may take one just before the server does.
const TRIES: usize = 5;

/// A redis-server that ends with this.
pub struct RedisServer {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    dir: TempDir,
}

impl RedisServer {
    /// Starts one that keeps nothing on disk; `None`, said on standard error, where redis-server is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with further arguments, such as `--requirepass` and a password.
    pub fn start_with(arguments: &[&str]) -> Option<Self> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let dir = TempDir::new().unwrap();
        for _ in 0..TRIES {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = match spawn(port, &dir, &arguments) {
                Ok(child) => child,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // Not through eprintln, which cargo test keeps to itself.
                    let _ = writeln!(
                        std::io::stderr(),
                        "SKIPPED: redis-server is not installed (apt-get install redis-server)"
                    );
                    return None;
                }
                Err(error) => panic!("redis-server cannot be started: {error}"),
            };
            if answers(&mut child, port) {
                return Some(Self { child, port, arguments, dir });
            }
        }
        panic!("redis-server did not start on any of {TRIES} ports");
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL, without user and password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Ends it at once, as SIGKILL does. What it held is lost.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port, after [`Self::kill`].
    pub fn restart(&mut self) {
        self.kill();
        let began = Instant::now();
        // The port may stay taken for a moment.
        while began.elapsed() < START_TIME {
            self.child = spawn(self.port, &self.dir, &self.arguments).unwrap();
            if answers(&mut self.child, self.port) {
                return;
            }
        }
        panic!("redis-server did not start again on port {}", self.port);
    }

    /// Stops it with SIGSTOP: connections stay, and nothing answers.
    pub fn hang(&self) {
        self.signal("STOP");
    }

    /// Lets it go on after [`Self::hang`].
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, dir: &TempDir, arguments: &[String]) -> std::io::Result<Child> {
    let port = port.to_string();
    Command::new("redis-server")
        .args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", &port, "--dir"])
        .arg(dir.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Waits until it answers; false when it has ended, because its port was taken.
fn answers(child: &mut Child, port: u16) -> bool {
    let began = Instant::now();
    while began.elapsed() < START_TIME {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if ping(port).is_ok_and(|first| matches!(first, b'+' | b'-')) {
            return child.try_wait().unwrap().is_none();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// The first byte that it answers; `-` when it wants a password.
fn ping(port: u16) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    Ok(first[0])
}
