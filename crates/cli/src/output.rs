//! Where words go: data on stdout, everything else on stderr.
//!
//! INVARIANT: nothing but the answer to what was asked reaches stdout, so that it can be piped.
//! A reader that stops reading (`galerne events | head -1`) ends the command silently.
//! Colours are stripped by `anstream` where the stream is no terminal or `NO_COLOR` is set; none carries meaning alone.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::failure::Failure;

/// How data is written to stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: aligned columns, units.
    #[default]
    Table,
    /// For programs: the API's own words, one document.
    Json,
}

/// Columns assumed where the stream is a terminal that does not say.
const WIDTH_DEFAULT: u16 = 80;
/// Columns below which a table is not squeezed further.
const WIDTH_MIN: u16 = 40;

/// The two streams and how to write to them.
pub struct Output {
    format: Format,
    quiet: bool,
    width: Option<u16>,
    interactive: bool,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
}

impl Output {
    /// The process's own stdout and stderr.
    pub fn of_process(format: Format, quiet: bool) -> Self {
        let stdout = io::stdout();
        let width = stdout.is_terminal().then(terminal_width);
        Self {
            format,
            quiet,
            width,
            interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
            out: Box::new(anstream::AutoStream::auto(stdout)),
            err: Box::new(anstream::AutoStream::auto(io::stderr())),
        }
    }

    /// Two writers of the caller's: what tests read back. `width` as a terminal of that many columns.
    pub fn to(format: Format, width: Option<u16>, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { format, quiet: false, width, interactive: false, out, err }
    }

    /// How data is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether nothing is said beside the data.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether a person sits at a terminal and can be asked.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Columns of the terminal on stdout; absent when stdout is no terminal.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    /// Writes one line of data.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        writeln!(self.out, "{}", text.as_ref()).map_err(|error| Failure::stdout(&error))
    }

    /// Writes a piece of data at once: a token of a stream.
    pub fn piece(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(|error| Failure::stdout(&error))
    }

    /// Writes one JSON document.
    pub fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Failure::internal("the answer is not JSON", &error))?;
        self.line(text)
    }

    /// Writes one JSON document on one line, for streams of documents.
    pub fn json_line<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::internal("the answer is not JSON", &error))?;
        self.line(text)
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(|error| Failure::stdout(&error))
    }

    /// Writes bytes as they are, with what the system says: for copies that end at the first failure.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Says something and stays on the line, for an answer.
    pub(crate) fn prompt(&mut self, text: &str) {
        // Nobody can be told that stderr is gone.
        drop(write!(self.err, "{text}").and_then(|()| self.err.flush()));
    }

    /// Says something beside the data: progress, a count, what comes next. Silent under `--quiet`.
    pub fn note(&mut self, text: impl AsRef<str>) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Says something that also `--quiet` does not silence: a warning, a question.
    pub fn say(&mut self, text: impl AsRef<str>) {
        // Nobody can be told that stderr is gone.
        drop(writeln!(self.err, "{}", text.as_ref()));
    }

    /// Says that something was done.
    pub fn done(&mut self, text: impl AsRef<str>) {
        self.note(format!("{} {}", "✓".green(), text.as_ref()));
    }

    /// Asks a question and waits for `y`; only for a person at a terminal.
    pub fn confirm(&mut self, question: &str) -> Result<bool, Failure> {
        self.prompt(&format!("{question} [y/N] "));
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Failure::internal("the answer could not be read", &error))?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Asks before something is lost. Without a person to ask, `--yes` is needed.
    pub fn may_go_on(&mut self, effect: &str, yes: bool) -> Result<bool, Failure> {
        if yes {
            return Ok(true);
        }
        self.say(effect);
        if !self.is_interactive() {
            return Err(Failure::usage("nobody can be asked whether to go on").hint("say it beforehand: --yes"));
        }
        let go_on = self.confirm("Go on?")?;
        if !go_on {
            self.say("nothing was changed");
        }
        Ok(go_on)
    }

    /// Writes a failure and says how the process ends.
    pub fn failure(&mut self, failure: &Failure) -> u8 {
        if !failure.is_silent() {
            let text = match self.format {
                Format::Table => failure.render(),
                Format::Json => failure.render_json(),
            };
            self.say(text);
        }
        failure.exit()
    }

    /// Sends what is buffered on its way.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::stdout(&error))
    }
}

/// Columns of the terminal on stdout.
pub(crate) fn terminal_width() -> u16 {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    let columns = size.map_or(WIDTH_DEFAULT, |size| size.ws_col);
    if columns == 0 { WIDTH_DEFAULT } else { columns.max(WIDTH_MIN) }
}
