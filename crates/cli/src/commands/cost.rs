//! What was used and what it cost: euros, tokens, energy, carbon, with a total that the rows add up to.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use galerne_api::client::{Call, ListOptions};
use galerne_api::v1::Page;
use galerne_api::v1::usage::{CostFormat, CostRow, Costs, GroupBy};
use galerne_model::inference::Endpoint;
use galerne_model::ledger::{Quantities, UsageRecord};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use reqwest::Method;
use serde_json::json;

use crate::commands::ledger;
use crate::commands::values::Instant;
use crate::display::{self, EnergyUnit};
use crate::failure::Failure;
use crate::session::{Names, Session};
use crate::table::{Column, Table};

/// Options of `galerne cost`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CostArguments {
    #[command(subcommand)]
    command: Option<CostCommand>,
    /// What the rows are
    #[arg(long, value_enum, default_value_t = GroupArgument::Project, value_name = "GROUP")]
    by: GroupArgument,
    #[command(flatten)]
    days: DayArguments,
}

/// Verbs of `galerne cost`.
#[derive(Debug, Subcommand)]
pub(crate) enum CostCommand {
    /// Write costs as a report that other programs read, a row for each day, key and price
    Export(ExportArguments),
}

/// Options of `galerne cost export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// How it is written
    #[arg(long, value_enum, default_value_t = FormatArgument::Focus, value_name = "FORMAT")]
    format: FormatArgument,
    /// From this day on, in UTC: a date, or a length before now such as 7d [default: the first of this month]
    #[arg(long, alias = "from", value_name = "WHEN")]
    since: Option<Instant>,
    /// Until and with this day, in UTC [default: today]
    #[arg(long, value_name = "WHEN")]
    until: Option<Instant>,
    /// File to write [default: stdout]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// How a cost report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArgument {
    /// FOCUS 1.2 as CSV, with energy, carbon and residency
    Focus,
}

impl ExportArguments {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let format = match self.format {
            FormatArgument::Focus => CostFormat::Focus,
        };
        let mut call = Call::new(Method::GET, "/api/v1/costs/export").query("format", format.as_str());
        let days = DayArguments { since: self.since, until: self.until };
        for (name, value) in days.pairs(Timestamp::now()) {
            call = call.query(&name, value);
        }
        ledger::download(session, call, self.to, "costs").await
    }
}

/// What the rows of a cost table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GroupArgument {
    Project,
    Endpoint,
    Model,
    Key,
    Principal,
    Day,
}

impl GroupArgument {
    fn group(self) -> GroupBy {
        match self {
            Self::Project => GroupBy::Project,
            Self::Endpoint => GroupBy::Endpoint,
            Self::Model => GroupBy::Model,
            Self::Key => GroupBy::Key,
            Self::Principal => GroupBy::Principal,
            Self::Day => GroupBy::Day,
        }
    }
}

/// From which day to which.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DayArguments {
    /// From this day on, in UTC: a date, or a length before now such as 7d
    #[arg(long, value_name = "WHEN")]
    since: Option<Instant>,
    /// Until and with this day, in UTC
    #[arg(long, value_name = "WHEN")]
    until: Option<Instant>,
}

impl DayArguments {
    fn pairs(self, now: Timestamp) -> Vec<(String, String)> {
        let day = |instant: Instant| instant.before(now).to_zoned(TimeZone::UTC).date();
        // The API's `until` is the day after the last.
        let until = self.until.map(day).map(|last| last.tomorrow().unwrap_or(last));
        [("from", self.since.map(day)), ("until", until)]
            .into_iter()
            .filter_map(|(name, day)| Some((name.to_owned(), day?.to_string())))
            .collect()
    }
}

/// Options of `galerne usage`.
#[derive(Debug, Args)]
pub struct UsageArguments {
    /// How many, newest first
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    days: DayArguments,
}

impl CostArguments {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        if let Some(CostCommand::Export(arguments)) = self.command {
            return arguments.run(session).await;
        }
        let mut query = vec![("group_by".to_owned(), self.by.group().as_str().to_owned())];
        query.extend(self.days.pairs(Timestamp::now()));
        query.extend(session.reach().await?.pairs());
        let costs: Costs = session.client()?.read("/api/v1/costs", &query).await?;
        if session.is_json() {
            return session.output.json(&costs);
        }
        let empty = "nothing was used in this time";
        cost_table(&costs, self.by).write(&mut session.output, empty)?;
        if !costs.items.is_empty() {
            session.output.note("is every sum equal to the meter? galerne ledger check");
        }
        Ok(())
    }
}

fn cost_table(costs: &Costs, by: GroupArgument) -> Table {
    let unit = EnergyUnit::for_largest(costs.total.quantities.millijoules);
    let head = match by {
        GroupArgument::Project => "project",
        GroupArgument::Endpoint => "endpoint",
        GroupArgument::Model => "model",
        GroupArgument::Key => "key",
        GroupArgument::Principal => "principal",
        GroupArgument::Day => "day",
    };
    let mut table = Table::new(&[
        Column::Word(head),
        Column::Number("requests"),
        Column::Number("tokens in"),
        Column::Number("cached"),
        Column::Number("tokens out"),
        Column::Number("€"),
        Column::Number(unit.head()),
        Column::Number("g CO₂e"),
    ]);
    for row in &costs.items {
        let label = if row.name.is_empty() { &row.group } else { &row.name };
        table.row(cells(label, row, unit));
    }
    table.total(cells("total", &costs.total, unit));
    table
}

fn cells(label: &str, row: &CostRow, unit: EnergyUnit) -> Vec<String> {
    let Quantities { prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms } =
        row.quantities;
    vec![
        label.to_owned(),
        display::count(row.requests),
        display::tokens(prompt_tokens),
        display::tokens(cached_tokens),
        display::tokens(completion_tokens),
        display::euros(micros, picos),
        unit.show(millijoules),
        co2e_micrograms.grams(),
    ]
}

impl UsageArguments {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut query = self.days.pairs(Timestamp::now());
        query.extend(ListOptions { limit: Some(self.limit), ..session.reach().await? }.pairs());
        let page: Page<UsageRecord> = session.client()?.read("/api/v1/usage", &query).await?;
        if session.is_json() {
            return session.output.json(&json!({ "items": page.items }));
        }
        let mut names = Names::default();
        if !page.items.is_empty() {
            session.names::<Endpoint>(&mut names).await?;
        }
        usage_table(&page.items, &names).write(&mut session.output, "nothing was used in this time")?;
        if page.next_cursor.is_some() {
            session.output.note("there is more; all of it: galerne ledger export");
        }
        Ok(())
    }
}

fn usage_table(records: &[UsageRecord], names: &Names) -> Table {
    let mut table = Table::new(&[
        Column::Word("ended"),
        Column::Word("endpoint"),
        Column::Word("outcome"),
        Column::Number("in"),
        Column::Number("out"),
        Column::Number("€"),
        Column::Number("J"),
        Column::Word("request"),
    ]);
    for record in records {
        let used = record.quantities;
        let prompt = galerne_model::units::Tokens(used.prompt_tokens.0 + used.cached_tokens.0);
        table.row([
            display::instant(record.ended_at),
            names.of(&record.endpoint_id),
            display::word(&record.outcome),
            display::tokens(prompt),
            display::tokens(used.completion_tokens),
            display::euros(used.micros, used.picos),
            used.millijoules.joules(),
            record.request_id.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Money, Picos, Tokens};

    fn row(name: &str, scale: i64) -> CostRow {
        let quantities = Quantities {
            prompt_tokens: Tokens(1_200 * scale),
            cached_tokens: Tokens(300 * scale),
            completion_tokens: Tokens(4_567 * scale),
            micros: Micros(1_234 * scale),
            picos: Picos(0),
            millijoules: Millijoules(98_765 * scale),
            co2e_micrograms: MicrogramsCo2e(617 * scale),
        };
        CostRow {
            group: format!("project_{scale}"),
            name: name.to_owned(),
            requests: 12 * scale,
            charged: Money::eur(quantities.micros),
            quantities,
        }
    }

    #[test]
    fn a_cost_table_fits_eighty_columns_and_ends_with_its_total() {
        let costs =
            Costs { group_by: GroupBy::Project, items: vec![row("risk", 1), row("voice", 3)], total: row("", 4) };
        let lines = cost_table(&costs, GroupArgument::Project).lines(Some(80));
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        insta::assert_snapshot!(lines.join("\n"));
    }
}
