//! The ledger: what every owner received and gave, and whether all sums are equal.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use galerne_api::client::{Call, DryRun, ListOptions};
use galerne_api::error::Code;
use galerne_api::v1::Page;
use galerne_api::v1::ledger::{Forsake, Forsaken, LedgerCheck, Reverse, Reversed, Transfer};
use galerne_model::identity::Project;
use galerne_model::ids::TransferId;
use galerne_model::ledger::{Balance, Owner, Quantities};
use galerne_model::units::Tokens;
use owo_colors::OwoColorize;
use reqwest::Method;
use serde_json::json;

use crate::display;
use crate::failure::Failure;
use crate::resources::RemovalArguments;
use crate::session::{Names, Session};
use crate::table::{Column, Table};

/// Verbs of `galerne ledger`.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Prove that usage, transfers, balances and meter readings add up to the last unit
    Check,
    /// Show what every owner has
    Balances,
    /// List transfers, in the order of their ids
    Transfers {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// Write all records, for other programs
    Export(ExportArguments),
    /// Cancel a transfer by its opposite; both stay in the ledger
    Reverse {
        /// The transfer's id
        transfer: TransferId,
        /// Why; kept in the event
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        removal: RemovalArguments,
    },
    /// Give up a gateway's spool that is lost: its shares of budgets are free again, and it is never let in
    Forsake {
        /// The spool's number, as `galerne why budget/NAME` shows it
        spool: i64,
        /// Why; kept in the event
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        removal: RemovalArguments,
    },
}

/// Options of `galerne ledger export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Which records
    #[arg(long, value_enum, default_value_t = OfArgument::Usage, value_name = "RECORDS")]
    of: OfArgument,
    /// How they are written
    #[arg(long, value_enum, default_value_t = FormatArgument::Csv, value_name = "FORMAT")]
    format: FormatArgument,
    /// File to write [default: stdout]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Which records are exported.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OfArgument {
    /// One per request
    Usage,
    /// Entries of the ledger
    Transfers,
    /// Energy readings
    Readings,
}

/// How an export is written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FormatArgument {
    /// A heading, then one line per record
    Csv,
    /// One JSON object per line
    Json,
}

impl LedgerCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Check => check(session).await,
            Self::Balances => balances(session).await,
            Self::Transfers { limit } => transfers(session, limit).await,
            Self::Export(arguments) => export(session, arguments).await,
            Self::Forsake { spool, reason, removal } => forsake(session, spool, reason, removal).await,
            Self::Reverse { transfer, reason, removal } => reverse(session, transfer, reason, removal).await,
        }
    }
}

async fn check(session: &mut Session) -> Result<(), Failure> {
    let check: LedgerCheck =
        session.client()?.write(Method::POST, "/api/v1/ledger/check", DryRun::No, None::<&()>).await?;
    if session.is_json() {
        session.output.json(&check)?;
    } else {
        write_check(session, &check)?;
    }
    if check.closes {
        return Ok(());
    }
    Err(Failure::new(Code::LedgerOpen, "the ledger does not close")
        .hint("make a backup before anything else: galerne backup create")
        .hint("what it means: galerne explain ledger_open"))
}

fn write_check(session: &mut Session, check: &LedgerCheck) -> Result<(), Failure> {
    let (usage, metered) = (check.usage, check.metered);
    let energy = |quantities: Quantities| display::energy(quantities.millijoules);
    let tokens = display::tokens(all_tokens(usage));
    let cost = display::euros(usage.micros, usage.picos);
    session.output.line(format!(
        "used by {}  {tokens} tokens, {cost} €, {}, {}",
        display::counted(check.projects, "project"),
        energy(usage),
        display::carbon(usage.co2e_micrograms)
    ))?;
    session.output.line(format!(
        "given by the meter  {}, {}",
        energy(metered),
        display::carbon(metered.co2e_micrograms)
    ))?;
    for finding in &check.findings {
        session.output.line(format!("{} {} {}", "⨯".red(), finding.text, format!("[{}]", finding.code).dimmed()))?;
    }
    let counts = [(check.usage_records, "usage record"), (check.transfers, "transfer"), (check.readings, "reading")]
        .map(|(number, noun)| display::counted(number, noun))
        .join(", ");
    let took = format!("{}.{:03} s", check.took_ms / 1000, check.took_ms % 1000);
    let verdict = if check.closes {
        format!("{} the ledger closes", "✓".green())
    } else {
        format!("{} the ledger does not close", "⨯".red())
    };
    session.output.line(format!("{verdict}: {counts} compared in {took}"))
}

fn all_tokens(quantities: Quantities) -> Tokens {
    quantities.prompt_tokens + quantities.cached_tokens + quantities.completion_tokens
}

async fn balances(session: &mut Session) -> Result<(), Failure> {
    let balances: Vec<Balance> =
        session.client()?.read_all("/api/v1/ledger/balances", &session.reach().await?.pairs()).await?;
    if session.is_json() {
        return session.output.json(&json!({ "items": balances }));
    }
    let mut names = Names::default();
    session.names::<Project>(&mut names).await?;
    let mut table = Table::new(&[
        Column::Word("owner"),
        Column::Number("tokens"),
        Column::Number("€"),
        Column::Number("J"),
        Column::Number("g CO₂e"),
    ]);
    for balance in balances {
        let has = balance.quantities;
        table.row([
            owner(balance.owner, &names),
            display::tokens(all_tokens(has)),
            display::euros(has.micros, has.picos),
            has.millijoules.joules(),
            has.co2e_micrograms.grams(),
        ]);
    }
    table.write(&mut session.output, "the ledger is empty")
}

async fn transfers(session: &mut Session, limit: u32) -> Result<(), Failure> {
    let options = ListOptions { limit: Some(limit), ..session.reach().await? };
    let page: Page<Transfer> = session.client()?.read("/api/v1/ledger/transfers", &options.pairs()).await?;
    if session.is_json() {
        return session.output.json(&json!({ "items": page.items }));
    }
    let mut names = Names::default();
    session.names::<Project>(&mut names).await?;
    let mut table = Table::new(&[
        Column::Word("kind"),
        Column::Word("from"),
        Column::Word("to"),
        Column::Number("€"),
        Column::Number("J"),
        Column::Word("id"),
    ]);
    for transfer in page.items {
        let moved = transfer.quantities;
        table.row([
            display::word(&transfer.kind),
            owner(transfer.from, &names),
            owner(transfer.to, &names),
            display::euros(moved.micros, moved.picos),
            moved.millijoules.joules(),
            transfer.id.to_string(),
        ]);
    }
    table.write(&mut session.output, "the ledger is empty")?;
    if page.next_cursor.is_some() {
        session.output.note("there is more; all of it: galerne ledger export --of transfers");
    }
    Ok(())
}

async fn export(session: &mut Session, arguments: ExportArguments) -> Result<(), Failure> {
    let of = match arguments.of {
        OfArgument::Usage => "usage",
        OfArgument::Transfers => "transfers",
        OfArgument::Readings => "readings",
    };
    let format = match arguments.format {
        FormatArgument::Csv => "csv",
        FormatArgument::Json => "json",
    };
    let call = Call::new(Method::GET, "/api/v1/ledger/export").query("of", of).query("format", format);
    download(session, call, arguments.to, of).await
}

/// Writes what the server streams to a file, or to stdout.
pub(super) async fn download(
    session: &mut Session,
    mut call: Call,
    to: Option<PathBuf>,
    what: &str,
) -> Result<(), Failure> {
    let client = session.client()?;
    for (name, value) in session.reach().await?.pairs() {
        call = call.query(&name, value);
    }
    let Some(path) = to else {
        client.download(call, &mut |bytes| session.output.raw(bytes)).await?;
        return session.output.flush();
    };
    let cannot = |error: std::io::Error| {
        Failure::new(Code::Internal, format!("`{}` cannot be written", path.display())).because_of(&error)
    };
    let mut file = std::fs::File::create(&path).map_err(cannot)?;
    let written = client.download(call, &mut |bytes| std::io::Write::write_all(&mut file, bytes)).await?;
    file.sync_all().map_err(cannot)?;
    let size = display::bytes(galerne_model::units::Bytes(i64::try_from(written).unwrap_or(i64::MAX)));
    session.output.done(format!("{what} written to {} ({size})", path.display()));
    Ok(())
}

async fn reverse(
    session: &mut Session,
    transfer: TransferId,
    reason: String,
    removal: RemovalArguments,
) -> Result<(), Failure> {
    let effect = format!("transfer `{transfer}` is cancelled by its opposite; budgets get back what it took");
    if !removal.may_go_on(session, &effect)? {
        return Ok(());
    }
    let change = removal.change;
    let path = format!("/api/v1/ledger/transfers/{transfer}/reverse");
    let made: Reversed =
        session.client()?.write(Method::POST, &path, change.dry_run(), Some(&Reverse { reason })).await?;
    let by = made.by.map_or_else(String::new, |id| format!(" by `{id}`"));
    session.output.done(format!("transfer `{transfer}` {}{by}", change.participle("reversed")));
    if session.is_json() { session.output.json(&made) } else { Ok(()) }
}

async fn forsake(session: &mut Session, spool: i64, reason: String, removal: RemovalArguments) -> Result<(), Failure> {
    let effect = format!("what the gateway of spool {spool} has not shipped is never charged to anybody");
    if !removal.may_go_on(session, &effect)? {
        return Ok(());
    }
    let change = removal.change;
    let path = format!("/api/v1/spools/{spool}/forsake");
    let done: Forsaken =
        session.client()?.write(Method::POST, &path, change.dry_run(), Some(&Forsake { reason })).await?;
    let of = done.freed.len();
    session
        .output
        .done(format!("spool {spool} {}; shares of {of} budgets are free again", change.participle("forsaken")));
    if session.is_json() { session.output.json(&done) } else { Ok(()) }
}

fn owner(owner: Owner, names: &Names) -> String {
    match owner {
        Owner::Project { project_id } => format!("project/{}", names.of(&project_id)),
        Owner::Meter => "meter".to_owned(),
        Owner::Idle => "idle".to_owned(),
        Owner::Overhead => "overhead".to_owned(),
        Owner::Apportionment => "apportionment".to_owned(),
        Owner::Overrun => "overrun".to_owned(),
    }
}
