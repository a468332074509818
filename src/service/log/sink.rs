//! Lines on their way out: a bounded queue and one thread that writes.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::layer::Format;

/// Most bytes that wait to be written.
const QUEUE_BYTES: usize = 4 << 20;

/// Where lines go. Cheap to clone; every clone is the same queue.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something waits, or the end has come.
    work: Condvar,
    /// Everything is written.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines, one after the other.
    waiting: Vec<u8>,
    /// Lines for which there was no room.
    lost: u64,
    writing: bool,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// Starts the thread that writes.
    pub fn start(writer: Box<dyn Write + Send>, format: Format) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::new(State::default()), work: Condvar::new(), idle: Condvar::new() });
        let at_work = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || at_work.write(writer, format))?;
        Ok(Self { shared })
    }

    /// Queues a line, line break included; drops and counts it when there is no room.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.shared.state();
        if state.closed {
            return;
        }
        if state.waiting.len() + line.len() > QUEUE_BYTES {
            state.lost += 1;
            return;
        }
        state.waiting.extend_from_slice(line);
        drop(state);
        self.shared.work.notify_one();
    }

    /// Takes no more lines and waits until everything is written, or until `end`.
    pub fn close(&self, end: Instant) {
        let mut state = self.shared.state();
        state.closed = true;
        self.shared.work.notify_one();
        while state.writing || !state.waiting.is_empty() || state.lost > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.shared.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn write(&self, mut writer: Box<dyn Write + Send>, format: Format) {
        let mut batch = Vec::new();
        let mut state = self.state();
        loop {
            while state.waiting.is_empty() && state.lost == 0 {
                if state.closed {
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut batch, &mut state.waiting);
            let lost = std::mem::take(&mut state.lost);
            state.writing = true;
            drop(state);
            if lost > 0 {
                batch.extend_from_slice(&format.lost(lost));
            }
            // Nobody reads any more: the work goes on without a log.
            let _ = writer.write_all(&batch).and_then(|()| writer.flush());
            batch.clear();
            // A burst must not be held for ever.
            batch.shrink_to(64 << 10);
            state = self.state();
            state.writing = false;
            self.idle.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Writes nothing until it is told to.
    struct Stuck(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A closed pipe.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_reader_that_stops_stalls_nobody_and_learns_how_much_it_missed() {
        let (go, wait) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink::start(Box::new(Stuck(wait, Arc::clone(&written))), Format::Cloud).unwrap();
        let line = [vec![b'x'; 1 << 20], b"\n".to_vec()].concat();
        // Returns, although nothing is written: the writer holds at most one batch, the queue four more lines.
        for _ in 0..20 {
            sink.push(&line);
        }
        assert!(sink.shared.state().waiting.len() <= QUEUE_BYTES);
        sink.close(Instant::now() + Duration::from_millis(1));
        drop(go);
        sink.close(Instant::now() + Duration::from_secs(60));
        let written = written.lock().unwrap();
        let text = String::from_utf8_lossy(&written);
        let whole = text.lines().filter(|line| line.len() == 1 << 20).count();
        assert!((3..10).contains(&whole), "{whole} lines");
        let missed = format!("{} log lines were dropped", 20 - whole);
        assert!(text.lines().last().unwrap().contains(&missed), "{missed}: {}", text.lines().last().unwrap());
    }

    #[test]
    fn a_closed_pipe_ends_nothing() {
        let sink = Sink::start(Box::new(Closed), Format::Cloud).unwrap();
        for _ in 0..10 {
            sink.push(b"a line\n");
        }
        sink.close(Instant::now() + Duration::from_secs(60));
        assert!(sink.shared.state().waiting.is_empty());
        sink.push(b"too late\n");
        assert!(sink.shared.state().waiting.is_empty());
    }
}
