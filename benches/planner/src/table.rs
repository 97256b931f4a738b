//! Results on the terminal, as aligned tables, and the same figures as CSV files.
//!
//! Each benchmark returns one `Table`; `main` prints it and names at the end every bound that was missed.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What one benchmark found.
#[derive(Debug, Default)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// One figure of ours beside that of a peer. Texts are shown as they are; what does not apply stays empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    /// What was measured, with its unit.
    pub(crate) what: String,
    /// The best peer's figure.
    pub(crate) peer: String,
    pub(crate) ours: String,
    /// Ours against the peer's.
    pub(crate) difference: String,
    /// What was promised, where something was.
    pub(crate) bound: Option<Bound>,
    /// Wall time of this measurement.
    pub(crate) seconds: Option<f64>,
}

/// A promise, and whether this run kept it.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// Such as `<= 10 ms`.
    pub(crate) text: String,
    pub(crate) is_held: bool,
}

impl Bound {
    pub(crate) fn new(text: impl Into<String>, is_held: bool) -> Self {
        Self { text: text.into(), is_held }
    }
}

const HEADER: [&str; 7] = ["", "peer", "ours", "difference", "bound", "", "seconds"];

impl Table {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// A line below the table: what the figures mean, what bounds one that was not reached.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Every missed bound, in words.
    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = |row: &Row| {
            let bound = row.bound.as_ref().filter(|bound| !bound.is_held)?;
            Some(format!("{}: {}, promised {}", row.what, row.ours, bound.text))
        };
        self.rows.iter().filter_map(missed).collect()
    }

    /// The table as aligned text; numbers to the right, names to the left.
    pub(crate) fn text(&self) -> String {
        let cells: Vec<[String; 7]> = self.rows.iter().map(cells).collect();
        let mut widths = HEADER.map(|cell| cell.chars().count());
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = format!("{}\n", self.title);
        for row in std::iter::once(&HEADER.map(str::to_owned)).chain(&cells) {
            let mut line = String::from(" ");
            for (column, (width, cell)) in widths.iter().zip(row).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                let (before, after) = if column == 0 || column == 4 { ("", pad.as_str()) } else { (pad.as_str(), "") };
                line.push_str(&format!(" {before}{cell}{after} "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        for note in &self.notes {
            text.push_str(&format!("  {note}\n"));
        }
        text
    }
}

fn cells(row: &Row) -> [String; 7] {
    let (bound, verdict) = match &row.bound {
        Some(bound) => (bound.text.clone(), if bound.is_held { "held" } else { "MISSED" }),
        None => (String::new(), ""),
    };
    let seconds = row.seconds.map_or_else(String::new, |seconds| format!("{seconds:.2}"));
    let texts = [&row.what, &row.peer, &row.ours, &row.difference].map(Clone::clone);
    let [what, peer, ours, difference] = texts;
    [what, peer, ours, difference, bound, verdict.to_owned(), seconds]
}

/// A CSV file that is being written.
#[derive(Debug)]
pub(crate) struct Csv {
    path: PathBuf,
    text: String,
    columns: usize,
}

impl Csv {
    /// `header` is the first line, names separated by commas.
    pub(crate) fn new(path: PathBuf, header: &str) -> Self {
        Self { path, text: format!("{header}\n"), columns: header.split(',').count() }
    }

    /// One line; as many values as the header has names.
    pub(crate) fn line(&mut self, values: &[&dyn std::fmt::Display]) {
        debug_assert_eq!(
            values.len(),
            self.columns,
            "a line of {} has the wrong number of values",
            self.path.display()
        );
        for (column, value) in values.iter().enumerate() {
            let separator = if column == 0 { "" } else { "," };
            let value = value.to_string();
            let quoted =
                if value.contains([',', '"', '\n']) { format!("\"{}\"", value.replace('"', "\"\"")) } else { value };
            self.text.push_str(separator);
            self.text.push_str(&quoted);
        }
        self.text.push('\n');
    }

    /// Writes the file.
    pub(crate) fn finish(self) -> Result<()> {
        write(&self.path, &self.text)
    }
}

/// Writes a whole file, naming it when that fails.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests;
