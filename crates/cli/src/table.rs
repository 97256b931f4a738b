//! Tables for people: no borders, numbers to the right, long text wrapped to the terminal.
//!
//! Where stdout is no terminal a row is one line, whatever its length, so that line tools work on it.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table as Grid, Width, presets};
use owo_colors::OwoColorize;

use crate::failure::Failure;
use crate::output::Output;

/// Narrowest a text column is made.
const TEXT_MIN: u16 = 12;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Text that is not broken: names, ids, states.
    Word(&'static str),
    /// Text that may wrap.
    Text(&'static str),
    /// A number with its unit in the head, set to the right.
    Number(&'static str),
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            Self::Word(head) | Self::Text(head) | Self::Number(head) => head,
        }
    }
}

/// Rows under heads.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    total: Option<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), total: None }
    }

    pub(crate) fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// The last line, under a rule.
    pub(crate) fn total(&mut self, cells: impl Into<Vec<String>>) {
        self.total = Some(cells.into());
    }

    /// Writes the table to stdout; without rows says `empty` on stderr.
    pub(crate) fn write(&self, output: &mut Output, empty: &str) -> Result<(), Failure> {
        if self.rows.is_empty() {
            output.note(empty);
            return Ok(());
        }
        let lines = self.lines(output.width());
        for (index, line) in lines.iter().enumerate() {
            if index == 0 {
                output.line(line.dimmed().to_string())?;
            } else {
                output.line(line)?;
            }
        }
        Ok(())
    }

    /// Width with every text column as narrow as it may be.
    fn narrowest(&self) -> usize {
        let cell = |row: &Vec<String>, index: usize| row.get(index).map_or(0, |cell| cell.chars().count());
        let natural = |index: usize, column: &Column| {
            let rows = self.rows.iter().chain(&self.total).map(|row| cell(row, index));
            let widest = rows.chain([column.head().chars().count()]).max().unwrap_or(0);
            if matches!(column, Column::Text(_)) { widest.min(usize::from(TEXT_MIN)) } else { widest }
        };
        let columns = self.columns.iter().enumerate().map(|(index, column)| natural(index, column) + 2);
        columns.sum::<usize>().saturating_sub(2)
    }

    pub(crate) fn lines(&self, width: Option<u16>) -> Vec<String> {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        // A row that cannot fit is left to the terminal to break: what is copied from it is then whole.
        match width.filter(|width| self.narrowest() <= usize::from(*width)) {
            Some(width) => grid.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => grid.set_content_arrangement(ContentArrangement::Disabled),
        };
        grid.set_header(self.columns.iter().map(|column| Cell::new(column.head())));
        for row in self.rows.iter().chain(&self.total) {
            grid.add_row(row.iter().map(Cell::new));
        }
        let last = self.columns.len().saturating_sub(1);
        for (index, column) in self.columns.iter().enumerate() {
            let cells = grid.column_mut(index).expect("a column for each head");
            cells.set_padding(if index == last { (0, 0) } else { (0, 2) });
            match column {
                Column::Number(_) => {
                    cells.set_cell_alignment(CellAlignment::Right);
                    cells.set_constraint(ColumnConstraint::ContentWidth);
                }
                Column::Word(_) => {
                    cells.set_constraint(ColumnConstraint::ContentWidth);
                }
                Column::Text(_) => {
                    cells.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(TEXT_MIN)));
                }
            }
        }
        let mut lines: Vec<String> = grid.lines().map(|line| line.trim_end().to_owned()).collect();
        if self.total.is_some() {
            let widest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
            lines.insert(lines.len() - 1, "─".repeat(widest));
        }
        lines
    }
}

/// A list of `name  value` lines, names padded to the longest.
pub(crate) struct Facts {
    facts: Vec<(&'static str, String)>,
}

impl Facts {
    pub(crate) fn new() -> Self {
        Self { facts: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<String>) -> &mut Self {
        self.facts.push((name, value.into()));
        self
    }

    /// Adds a fact that may be absent.
    pub(crate) fn maybe(&mut self, name: &'static str, value: Option<impl Into<String>>) -> &mut Self {
        if let Some(value) = value {
            self.add(name, value);
        }
        self
    }

    pub(crate) fn write(&self, output: &mut Output) -> Result<(), Failure> {
        let widest = self.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let room = output.width().map(|width| usize::from(width).saturating_sub(widest + 2).max(20));
        for (name, value) in &self.facts {
            let mut head = format!("{name:<widest$}");
            for line in value.lines().flat_map(|line| wrap(line, room)) {
                output.line(format!("{}  {line}", head.dimmed()).trim_end())?;
                head = " ".repeat(widest);
            }
        }
        Ok(())
    }
}

/// Breaks `text` between words so that no line is longer than `room`, where a word fits.
pub(crate) fn wrap(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else { return vec![text.to_owned()] };
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let fits = line.chars().count() + 1 + word.chars().count() <= room;
        if !line.is_empty() && !fits {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[Column::Word("name"), Column::Text("about"), Column::Number("tokens")]);
        table.row([
            "smol".into(),
            "a small model for a first answer, long enough to wrap at this width".into(),
            "7".into(),
        ]);
        table.row(["mistral-small".into(), "short".into(), "12,540".into()]);
        table.total(["total".into(), String::new(), "12,547".into()]);
        table
    }

    #[test]
    fn a_table_keeps_to_the_terminal() {
        let lines = sample().lines(Some(60));
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{lines:#?}");
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_row_that_cannot_fit_is_not_broken() {
        assert!(sample().lines(Some(40)).iter().any(|line| line.contains("mistral-small  short")));
        let mut ids = Table::new(&[Column::Word("request")]);
        ids.row(["request_01972000000070008000000000000005".to_owned()]);
        assert_eq!(ids.lines(Some(40))[1], "request_01972000000070008000000000000005");
        assert_eq!(ids.lines(Some(20)).len(), 2, "an id stays whole");
    }

    #[test]
    fn a_row_is_one_line_where_nobody_looks() {
        assert_eq!(sample().lines(None).len(), 5);
    }

    #[test]
    fn words_are_not_broken_and_lines_not_too_long() {
        assert_eq!(wrap("one two three", Some(7)), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", Some(4)), ["unbreakable"]);
    }
}
