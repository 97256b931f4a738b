//! The lines of `galerne up`: one that lives while a phase runs and collapses into a tick with its duration.
//!
//! At a terminal the living line spins; elsewhere only the collapsed lines are written, one per phase.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize;

use crate::display;
use crate::output::terminal_width;
use crate::table::wrap;

/// Column at which durations end.
const DURATION_COLUMN: usize = 72;
/// A living line: cut at the end of the terminal, never wrapped.
const SPINNER: &str = "{spinner:.cyan} {wide_msg} {elapsed:.dim}";
/// A living line with bytes.
const BAR: &str =
    "{spinner:.cyan} {msg} {wide_bar:.cyan/dim} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
/// How often a living line is drawn.
const SPIN_INTERVAL: Duration = Duration::from_millis(100);

/// Where phases are written. Clones write to the same place.
#[derive(Clone)]
pub struct Phases {
    lines: Arc<Mutex<Lines>>,
}

struct Lines {
    /// The line now living, if a phase runs and somebody watches.
    living: Option<ProgressBar>,
    /// Where living lines are drawn; none where nobody watches.
    target: Option<fn() -> ProgressDrawTarget>,
    out: Box<dyn Write + Send>,
}

impl Phases {
    /// On the process's stdout.
    pub fn of_process() -> Self {
        let stdout = io::stdout();
        let target = stdout.is_terminal().then_some(ProgressDrawTarget::stdout as fn() -> ProgressDrawTarget);
        Self::to(Box::new(anstream::AutoStream::auto(stdout)), target)
    }

    /// On the process's stderr: for commands whose stdout holds data.
    pub(crate) fn on_stderr() -> Self {
        let stderr = io::stderr();
        let target = stderr.is_terminal().then_some(ProgressDrawTarget::stderr as fn() -> ProgressDrawTarget);
        Self::to(Box::new(anstream::AutoStream::auto(stderr)), target)
    }

    /// Nowhere: for `--quiet`.
    pub(crate) fn nowhere() -> Self {
        Self::to(Box::new(io::sink()), None)
    }

    /// To a writer of the caller's that nobody watches: what tests read back.
    pub fn written_to(out: Box<dyn Write + Send>) -> Self {
        Self::to(out, None)
    }

    fn to(out: Box<dyn Write + Send>, target: Option<fn() -> ProgressDrawTarget>) -> Self {
        Self { lines: Arc::new(Mutex::new(Lines { living: None, target, out })) }
    }

    /// Begins a phase: `doing` is what the living line says.
    pub fn begin(&self, doing: impl Into<String>) -> Phase {
        let mut lines = self.lock();
        if let Some(target) = lines.target {
            let bar = ProgressBar::with_draw_target(None, target());
            bar.set_style(style(SPINNER));
            bar.set_message(doing.into());
            bar.enable_steady_tick(SPIN_INTERVAL);
            lines.living = Some(bar);
        }
        Phase { phases: self.clone(), begun: Instant::now() }
    }

    /// Writes a line, above the living one if there is one.
    pub fn line(&self, text: impl AsRef<str>) {
        self.lock().write(text.as_ref());
    }

    /// Does something else with the terminal, the living line out of the way.
    pub fn beside<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.lock().living {
            Some(bar) => bar.suspend(act),
            None => act(),
        }
    }

    /// Writes a piece of text without ending the line; for answers that stream. No phase may be living.
    pub fn piece(&self, text: &str) {
        let mut lines = self.lock();
        // Nobody can be told that stdout is gone; the server goes on.
        drop(lines.out.write_all(text.as_bytes()).and_then(|()| lines.out.flush()));
    }

    /// Writes a text, indented and broken between words to fit the terminal.
    pub(super) fn text(&self, indent: usize, text: &str) {
        let room = self.is_watched().then(|| usize::from(terminal_width()).saturating_sub(indent));
        for line in wrap(text, room) {
            self.line(format!("{}{}", " ".repeat(indent), line.dimmed()));
        }
    }

    /// Whether somebody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.lock().target.is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().expect("no writer panics while it holds the lock")
    }
}

impl Lines {
    fn write(&mut self, text: &str) {
        let out = &mut self.out;
        let mut write = || drop(writeln!(out, "{text}").and_then(|()| out.flush()));
        match &self.living {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// One phase that runs. Dropped without an end, its line vanishes.
pub struct Phase {
    phases: Phases,
    begun: Instant,
}

impl Phase {
    /// Changes what the living line says.
    pub fn doing(&self, doing: impl Into<String>) {
        if let Some(bar) = &self.phases.lock().living {
            if bar.length().is_some() {
                bar.unset_length();
                bar.set_style(style(SPINNER));
            }
            bar.set_message(doing.into());
        }
    }

    /// Shows how many bytes of how many are there, as a bar.
    pub fn bytes(&self, done: u64, total: Option<u64>) {
        if let Some(bar) = &self.phases.lock().living {
            if let Some(total) = total.filter(|total| bar.length() != Some(*total)) {
                bar.set_length(total);
                bar.set_style(style(BAR));
            }
            bar.set_position(done);
        }
    }

    /// Collapses the line into a tick with what was reached and how long it took.
    pub fn done(self, text: impl AsRef<str>) {
        let took = display::elapsed(self.begun.elapsed());
        let text = text.as_ref();
        let gap = DURATION_COLUMN.saturating_sub(2 + text.chars().count() + took.chars().count()).max(2);
        self.end(&format!("{} {text}{}{}", "✓".green(), " ".repeat(gap), took.dimmed()));
    }

    /// Collapses the line into a cross.
    pub fn failed(self, text: impl AsRef<str>) {
        self.end(&format!("{} {}", "⨯".red(), text.as_ref()));
    }

    fn end(&self, line: &str) {
        let mut lines = self.phases.lock();
        if let Some(bar) = lines.living.take() {
            bar.finish_and_clear();
        }
        lines.write(line);
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        if let Some(bar) = self.phases.lock().living.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is a constant")
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
        .progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn away_from_a_terminal_a_phase_is_one_line() {
        let buffer = Buffer::default();
        let phases =
            Phases::written_to(Box::new(anstream::StripStream::new(Box::new(buffer.clone()) as Box<dyn Write + Send>)));
        let phase = phases.begin("Opening the state");
        phase.doing("Migrating the state");
        phase.bytes(1, Some(2));
        phase.done("State opened");
        phases.begin("Fetching").failed("Model not fetched");
        drop(phases.begin("Given up"));
        let text = String::from_utf8(buffer.0.lock().expect("no panic").clone()).expect("UTF-8");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("✓ State opened  ") && lines[0].ends_with("0.0 s"), "{text}");
        assert_eq!(lines[0].chars().count(), DURATION_COLUMN);
        assert_eq!(lines[1], "⨯ Model not fetched");
    }
}
