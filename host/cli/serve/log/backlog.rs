//! Buffer of log lines. A thread writes them, so that a slow reader (a paused terminal, a full
//! pipe) blocks no other thread. Lines that do not fit into the buffer are dropped and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Size of the buffer: some ten thousand lines.
const BYTES_MAX: usize = 4 << 20;

/// A log buffer, shared by the writers and the thread that empties it.
#[derive(Clone, Default)]
pub struct Backlog(Arc<SharedBacklog>);

#[derive(Default)]
struct SharedBacklog {
    state: Mutex<BacklogState>,
    /// Signals that there are lines to write.
    filled: Condvar,
    /// Signals that all lines are written.
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct BacklogState {
    lines: Vec<u8>,
    /// True while the thread writes lines that it removed from the buffer.
    is_writing: bool,
    /// Lines dropped since the last report to the reader.
    untold: u64,
}

impl Backlog {
    /// Adds one line, or drops it if the buffer is full.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() + line.len() > BYTES_MAX {
            state.untold += 1;
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.lines.extend_from_slice(line);
        self.0.filled.notify_one();
    }

    /// Returns the number of lines dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Writes to `sink` for ever. Calls `tell` with the number of dropped lines when it can write
    /// again.
    pub fn write_to(&self, mut sink: impl Write, tell: impl Fn(u64)) {
        loop {
            let lines = {
                let mut state = self.lock();
                state.is_writing = false;
                while state.lines.is_empty() {
                    self.0.emptied.notify_all();
                    state = self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.is_writing = true;
                std::mem::take(&mut state.lines)
            };
            // Lines that cannot be written, for example because a terminal is gone, count as
            // dropped.
            if sink.write_all(&lines).and_then(|()| sink.flush()).is_err() {
                let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.0.dropped.fetch_add(count, Ordering::Relaxed);
                continue;
            }
            let untold = {
                let mut state = self.lock();
                let has_room = state.lines.len() < BYTES_MAX / 2;
                if has_room { std::mem::take(&mut state.untold) } else { 0 }
            };
            if untold > 0 {
                tell(untold);
            }
        }
    }

    /// Waits until all lines are written, for `time` at most.
    pub fn finish(&self, time: Duration) {
        let state = self.lock();
        let is_busy = |state: &mut BacklogState| state.is_writing || !state.lines.is_empty();
        drop(self.0.emptied.wait_timeout_while(state, time, is_busy));
    }

    fn lock(&self) -> MutexGuard<'_, BacklogState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each write is one line.
impl Write for Backlog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that accepts one write for each message in `goes_on`.
    struct Reader {
        goes_on: mpsc::Receiver<()>,
        read: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.goes_on.recv().map_err(io::Error::other)?;
            self.read.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_nobody_and_is_told_what_it_missed() {
        let (backlog, (go_on, goes_on), (read, reads)) = (Backlog::default(), mpsc::channel(), mpsc::channel());
        let (writer, noted) = (backlog.clone(), backlog.clone());
        std::thread::spawn(move || {
            writer.write_to(Reader { goes_on, read }, |dropped| noted.push(format!("{dropped} dropped\n").as_bytes()));
        });
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let fitting = BYTES_MAX / line.len();
        // The thread is writing the first batch, which holds an unknown number of the next lines.
        (0..3 * fitting).for_each(|_| backlog.push(&line));
        let dropped = backlog.dropped();
        assert!((fitting as u64..=2 * fitting as u64).contains(&dropped), "{dropped}");
        backlog.finish(Duration::ZERO);
        (0..3).for_each(|_| go_on.send(()).unwrap());
        backlog.finish(Duration::from_secs(60));
        let read: Vec<u8> = reads.try_iter().flatten().collect();
        let text = String::from_utf8(read).unwrap();
        let kept = text.lines().filter(|line| line.starts_with('x')).count();
        assert_eq!(kept as u64 + dropped, 3 * fitting as u64);
        assert!(text.ends_with(&format!("\n{dropped} dropped\n")), "{} bytes", text.len());
        assert_eq!(backlog.dropped(), dropped);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (backlog, (go_on, goes_on), (read, _)) = (Backlog::default(), mpsc::channel(), mpsc::channel());
        let writer = backlog.clone();
        drop(go_on);
        std::thread::spawn(move || writer.write_to(Reader { goes_on, read }, |_| {}));
        backlog.push(b"one\n");
        backlog.push(b"two\n");
        backlog.finish(Duration::from_secs(60));
        assert_eq!(backlog.dropped(), 2);
    }
}
