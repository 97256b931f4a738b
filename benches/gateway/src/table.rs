//! What was measured, against the bars: one row for each figure, one column for each gateway.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::figure::{Bar, Better, Figure};
use crate::peers::{self, Peer};
use crate::stats::median;

/// Values of every round, by figure and gateway; text is told instead of a value where there is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Results {
    values: BTreeMap<(Figure, Peer), Vec<f64>>,
    pub(crate) notes: Vec<String>,
}

/// What a bar says of Galerne's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Held,
    Missed,
}

impl Results {
    pub(crate) fn push(&mut self, figure: Figure, peer: Peer, value: f64) {
        self.values.entry((figure, peer)).or_default().push(value);
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The median of all rounds. Infinity (it never happened) is a value; nothing is no measurement.
    pub(crate) fn value(&self, figure: Figure, peer: Peer) -> Option<f64> {
        let values = self.values.get(&(figure, peer))?;
        let never = values.iter().filter(|value| value.is_infinite()).count();
        if never * 2 > values.len() { Some(f64::INFINITY) } else { median(values) }
    }

    /// How many times better Galerne is than `peer`; below one it is worse.
    pub(crate) fn times_better(&self, figure: Figure, peer: Peer) -> Option<f64> {
        let (ours, theirs) = (self.value(figure, Peer::Galerne)?, self.value(figure, peer)?);
        let ratio = match figure.better() {
            Better::Higher => ours / theirs,
            Better::Lower => theirs / ours,
        };
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }

    pub(crate) fn verdict(&self, figure: Figure) -> Option<Verdict> {
        let (ours, bar) = (self.value(figure, Peer::Galerne)?, figure.bar()?);
        let is_held = match bar {
            Bar::AtMost(most) => ours <= most,
            Bar::AtLeast(least) => ours >= least,
            Bar::Throughput { least, of_smg, of_nginx } => {
                let beats = |peer, times| self.times_better(figure, peer).is_some_and(|ratio| ratio >= times);
                ours >= least || (beats(Peer::Smg, of_smg) && beats(Peer::Nginx, of_nginx))
            }
        };
        Some(if is_held { Verdict::Held } else { Verdict::Missed })
    }

    /// Every missed bar, in words.
    pub(crate) fn missed(&self) -> Vec<String> {
        let words = |figure: Figure| {
            let value = self.value(figure, Peer::Galerne)?;
            let bar = figure.bar()?;
            let (what, value) = (figure.what(), figure.text(value));
            (self.verdict(figure)? == Verdict::Missed).then(|| format!("{what}: {value}, promised {bar}"))
        };
        Figure::ALL.into_iter().filter_map(words).collect()
    }

    fn figures(&self) -> impl Iterator<Item = Figure> {
        Figure::ALL.into_iter().filter(|figure| self.values.keys().any(|(its, _)| its == figure))
    }

    /// Who was measured, Galerne first.
    fn columns(&self) -> Vec<Peer> {
        let mut columns = vec![Peer::Galerne];
        let rest = peers::ALL.into_iter().filter(|peer| *peer != Peer::Galerne);
        columns.extend(rest.filter(|peer| self.values.keys().any(|(_, its)| its == peer)));
        columns
    }

    /// The table as aligned text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let rows = self.cells();
        let count = rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> =
            (0..count).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
        for row in &rows {
            let mut line = String::new();
            for (column, (width, cell)) in widths.iter().zip(row).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                let (before, after) = if column == 0 { ("", pad.as_str()) } else { (pad.as_str(), "") };
                line.push_str(&format!("{before}{cell}{after}  "));
            }
            writeln!(text, "{}", line.trim_end()).expect("a string takes every line");
        }
        for note in &self.notes {
            writeln!(text, "  {note}").expect("a string takes every line");
        }
        text
    }

    /// The same as Markdown, for a page.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for (place, row) in self.cells().iter().enumerate() {
            writeln!(text, "| {} |", row.join(" | ")).expect("a string takes every line");
            if place == 0 {
                writeln!(text, "|{}", "---|".repeat(row.len())).expect("a string takes every line");
            }
        }
        text
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let columns = self.columns();
        let mut header = vec![String::new()];
        header.extend(columns.iter().map(|peer| peer.name().to_owned()));
        header.extend(["x smg", "x nginx", "bar", ""].map(str::to_owned));
        let mut rows = vec![header];
        for figure in self.figures() {
            let mut row = vec![figure.what().to_owned()];
            let cell =
                |peer: &Peer| self.value(figure, *peer).map_or_else(|| "-".to_owned(), |value| figure.text(value));
            row.extend(columns.iter().map(cell));
            for peer in [Peer::Smg, Peer::Nginx] {
                let ratio = self.times_better(figure, peer);
                row.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
            }
            row.push(figure.bar().map_or_else(String::new, |bar| bar.to_string()));
            row.push(match self.verdict(figure) {
                Some(Verdict::Held) => "held".to_owned(),
                Some(Verdict::Missed) => "MISSED".to_owned(),
                None => String::new(),
            });
            rows.push(row);
        }
        rows
    }

    /// Every round's value, for who wants to look closer.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::from("figure,gateway,round,value\n");
        for ((figure, peer), values) in &self.values {
            for (round, value) in values.iter().enumerate() {
                writeln!(text, "\"{}\",{},{round},{value}", figure.what(), peer.name())
                    .expect("a string takes every line");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Results, Verdict};
    use crate::figure::Figure;
    use crate::peers::Peer;

    fn results(figure: Figure, values: &[(Peer, f64)]) -> Results {
        let mut results = Results::default();
        values.iter().for_each(|(peer, value)| results.push(figure, *peer, *value));
        results
    }

    #[test]
    fn a_bar_is_held_up_to_itself_and_missed_past_it() {
        for (value, verdict) in [(45.0, Verdict::Held), (45.1, Verdict::Missed), (f64::INFINITY, Verdict::Missed)] {
            let results = results(Figure::PlainCpuLedger, &[(Peer::Galerne, value)]);
            assert_eq!(results.verdict(Figure::PlainCpuLedger), Some(verdict), "{value}");
            assert_eq!(results.missed().len(), usize::from(verdict == Verdict::Missed));
        }
    }

    #[test]
    fn what_was_not_measured_is_neither_held_nor_missed() {
        let results = results(Figure::PlainCpuLedger, &[(Peer::Smg, 190.0)]);
        assert_eq!(results.verdict(Figure::PlainCpuLedger), None);
        assert!(results.missed().is_empty() && results.text().contains("190"));
    }

    #[test]
    fn a_slow_machine_is_measured_by_its_peers() {
        let rates = |ours| [(Peer::Galerne, ours), (Peer::Smg, 3_000.0), (Peer::Nginx, 18_000.0)];
        let verdict = |ours| results(Figure::PlainRate, &rates(ours)).verdict(Figure::PlainRate);
        assert_eq!(verdict(25_000.0), Some(Verdict::Held));
        assert_eq!(verdict(9_000.0), Some(Verdict::Held));
        assert_eq!(verdict(8_900.0), Some(Verdict::Missed));
        let alone = results(Figure::PlainRate, &[(Peer::Galerne, 9_000.0)]);
        assert_eq!(alone.verdict(Figure::PlainRate), Some(Verdict::Missed), "without peers there is only the number");
    }

    #[test]
    fn a_ratio_above_one_is_always_ours() {
        let rate = results(Figure::PlainRate, &[(Peer::Galerne, 20.0), (Peer::Smg, 10.0)]);
        let cost = results(Figure::PlainCpuLedger, &[(Peer::Galerne, 10.0), (Peer::Smg, 20.0)]);
        assert_eq!(rate.times_better(Figure::PlainRate, Peer::Smg), Some(2.0));
        assert_eq!(cost.times_better(Figure::PlainCpuLedger, Peer::Smg), Some(2.0));
        assert_eq!(cost.times_better(Figure::PlainCpuLedger, Peer::Nginx), None);
    }

    #[test]
    fn what_never_happened_is_told_so_and_rounds_are_all_in_the_csv() {
        let mut results = results(Figure::CancelPlain, &[(Peer::Galerne, 3.0), (Peer::Galerne, 5.0)]);
        results.push(Figure::CancelPlain, Peer::LiteLlm, f64::INFINITY);
        assert!(results.text().contains("never"), "{}", results.text());
        assert_eq!(results.value(Figure::CancelPlain, Peer::Galerne), Some(4.0));
        assert_eq!(results.csv().lines().count(), 4);
    }
}
