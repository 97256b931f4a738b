//! Lines of a worker's standard error: kept in a bounded file, the last few in memory.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Longest line kept; engines print tensor tables, never prompts.
const LINE_MAX_BYTES: usize = 16 * 1024;
/// Size at which the file becomes `.1` and a new one begins: two of them per replica stay below 8 MiB.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Lines told when it dies.
const LAST_LINES: usize = 20;
/// Longest line told when it dies.
const LAST_LINE_MAX_CHARS: usize = 400;

/// Splits a byte stream into lines of bounded length.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    pending: Vec<u8>,
    is_cut: bool,
}

impl LineSplitter {
    /// Takes bytes as they come; `on_line` gets every finished line without its end.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..end]);
            on_line(&self.pending);
            self.pending.clear();
            self.is_cut = false;
            bytes = &bytes[end + 1..];
        }
        self.take(bytes);
    }

    /// The line that was never finished.
    pub(super) fn finish(self, mut on_line: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            on_line(&self.pending);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = LINE_MAX_BYTES - self.pending.len().min(LINE_MAX_BYTES);
        let kept = bytes.len().min(room);
        self.pending.extend_from_slice(&bytes[..kept]);
        if kept < bytes.len() && !self.is_cut {
            self.is_cut = true;
            self.pending.extend_from_slice("…".as_bytes());
        }
    }
}

/// A log file of bounded size, and its last lines.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    last_lines: VecDeque<String>,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, last_lines: VecDeque::new() })
    }

    /// Keeps a line. A log that cannot be written must not stop the engine: the line stays in memory only.
    pub(super) fn write(&mut self, line: &[u8]) {
        let text: String =
            String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).take(LAST_LINE_MAX_CHARS).collect();
        if !text.trim().is_empty() {
            self.last_lines.push_back(text);
        }
        if self.last_lines.len() > LAST_LINES {
            self.last_lines.pop_front();
        }
        if let Err(error) = self.append(line) {
            tracing::debug!(path = %self.path.display(), %error, "replica log not written");
        }
    }

    pub(super) fn last_lines(&self) -> Vec<String> {
        self.last_lines.iter().cloned().collect()
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes + line.len() as u64 >= FILE_MAX_BYTES {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, older)?;
            self.file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            self.bytes = 0;
        }
        let mut whole = line.to_vec();
        whole.push(b'\n');
        self.file.write_all(&whole)?;
        self.bytes += whole.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_pipe_cuts_them() {
        let mut splitter = LineSplitter::default();
        let mut lines: Vec<String> = Vec::new();
        for piece in ["he", "llo\nwor", "ld\n", "\nrest"] {
            splitter.push(piece.as_bytes(), |line| lines.push(String::from_utf8_lossy(line).into_owned()));
        }
        splitter.finish(|line| lines.push(String::from_utf8_lossy(line).into_owned()));
        assert_eq!(lines, ["hello", "world", "", "rest"]);
    }

    #[test]
    fn an_endless_line_takes_bounded_memory() {
        let mut splitter = LineSplitter::default();
        for _ in 0..1_000 {
            splitter.push(&[b'x'; 1_000], |_| panic!("no line has ended"));
        }
        let mut length = 0;
        splitter.push(b"\n", |line| length = line.len());
        assert_eq!(length, LINE_MAX_BYTES + "…".len());
    }

    #[test]
    fn the_file_turns_over_and_the_last_lines_stay() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("logs/replica.log");
        let mut log = LogFile::open(&path).expect("the directory is made");
        let line = vec![b'y'; 10_000];
        for _ in 0..1_000 {
            log.write(&line);
        }
        let size = |path: &Path| fs::metadata(path).expect("the file is there").len();
        assert!(size(&path) <= FILE_MAX_BYTES && size(&path.with_extension("log.1")) <= FILE_MAX_BYTES);
        assert_eq!(log.last_lines().len(), LAST_LINES);
        assert!(log.last_lines()[0].len() <= LAST_LINE_MAX_CHARS);
    }
}
