//! Budgets: limits on money. A request that a budget does not cover is refused before it costs anything.

use clap::{Args, Subcommand, ValueEnum};
use galerne_model::identity::{ApiKey, Project, Tenant};
use galerne_model::money::{Budget, BudgetPeriod, BudgetSpec, BudgetSubject};
use galerne_model::units::Micros;

use crate::commands::values::{self, split_reference};
use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, DeleteArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne budget`.
#[derive(Debug, Subcommand)]
pub enum BudgetCommand {
    /// List budgets and what is spent of them
    List,
    /// Show one
    Show(ShowArguments),
    /// Make one, or change its limit
    Set(SetArguments),
    /// Delete one: nothing is limited by it any more
    Delete(DeleteArguments),
}

/// Options of `galerne budget set`.
#[derive(Debug, Args)]
pub struct SetArguments {
    /// Its name
    name: String,
    /// Most that may be spent in a period, in euros, such as 12.50
    #[arg(long, value_name = "EUROS", value_parser = values::euros, allow_negative_numbers = true)]
    limit: Micros,
    /// Whose spending counts: tenant/NAME, project/NAME or key/NAME; needed to make one
    #[arg(long, value_name = "WHOSE")]
    on: Option<String>,
    /// When counting starts again; it stays as it was made [default: month]
    #[arg(long, value_enum, value_name = "PERIOD")]
    period: Option<PeriodArgument>,
    #[command(flatten)]
    change: ChangeArguments,
}

/// When counting starts again.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PeriodArgument {
    /// Never
    Total,
    /// With each calendar month, in UTC
    Month,
}

impl PeriodArgument {
    fn period(self) -> BudgetPeriod {
        match self {
            Self::Total => BudgetPeriod::Total,
            Self::Month => BudgetPeriod::Month,
        }
    }
}

impl BudgetCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => {
                let empty =
                    "no budget: spending is not limited; set one: galerne budget set NAME --on project/NAME --limit 10";
                resources::list::<Budget>(session, empty).await
            }
            Self::Show(show) => resources::show::<Budget>(session, &show.name).await,
            Self::Set(arguments) => set(session, arguments).await,
            Self::Delete(delete) => {
                resources::delete::<Budget>(session, &delete, |budget| {
                    format!(
                        "budget `{}` goes: spending is no longer limited to {} €",
                        budget.name,
                        budget.spec.limit_micros.euros()
                    )
                })
                .await
            }
        }
    }
}

async fn set(session: &mut Session, arguments: SetArguments) -> Result<(), Failure> {
    let subject = match &arguments.on {
        Some(on) => Some(resolve(session, on).await?),
        None => None,
    };
    let mut namesakes = session.client()?.list_all::<Budget>(&session.reach().await?).await?;
    namesakes.retain(|budget| budget.name == arguments.name);
    if let (Some(subject), true) = (subject, namesakes.len() > 1) {
        namesakes.retain(|budget| budget.spec.subject == subject);
    }
    if namesakes.len() > 1 {
        let text = format!("several budgets are named `{}`", arguments.name);
        return Err(Failure::usage(text).hint("say which by whose spending it counts: --on project/NAME"));
    }
    let Some(seen) = namesakes.pop() else {
        let Some(subject) = subject else {
            let text = format!(
                "there is no budget `{}`, and to make one it must be said whose spending counts",
                arguments.name
            );
            return Err(Failure::usage(text).hint("add --on tenant/NAME, --on project/NAME or --on key/NAME"));
        };
        let period = arguments.period.map_or(BudgetPeriod::Month, PeriodArgument::period);
        let spec = BudgetSpec { subject, limit_micros: arguments.limit, period };
        resources::create::<Budget>(session, &arguments.name, spec, arguments.change).await?;
        return Ok(());
    };
    if subject.is_some_and(|subject| subject != seen.spec.subject) {
        let text = format!("budget `{}` counts the spending of something else", seen.name);
        return Err(Failure::usage(text).hint(format!("delete it first: galerne budget delete {}", seen.name)));
    }
    let period = arguments.period.map_or(seen.spec.period, PeriodArgument::period);
    let spec = BudgetSpec { subject: seen.spec.subject, limit_micros: arguments.limit, period };
    resources::update(session, &seen, spec, arguments.change, "set").await
}

async fn resolve(session: &Session, on: &str) -> Result<BudgetSubject, Failure> {
    Ok(match split_reference(on) {
        Some(("tenant", name)) => {
            BudgetSubject::Tenant { tenant_id: resources::find::<Tenant>(session, name).await?.id }
        }
        Some(("project", name)) => {
            BudgetSubject::Project { project_id: resources::find::<Project>(session, name).await?.id }
        }
        Some(("key", name)) => BudgetSubject::Key { key_id: resources::find::<ApiKey>(session, name).await?.id },
        None | Some(_) => {
            let text = format!("`{on}` does not say whose spending counts");
            return Err(Failure::usage(text).hint("write --on tenant/NAME, --on project/NAME or --on key/NAME"));
        }
    })
}

impl Shown for Budget {
    const LEVEL: Level = Level::Tenant;
    const COLUMNS: &'static [Column] = &[
        Column::Word("name"),
        Column::Word("on"),
        Column::Word("period"),
        Column::Number("limit €"),
        Column::Number("spent €"),
        Column::Number("left €"),
        Column::Number("used"),
    ];

    fn cells(&self, names: &Names) -> Vec<String> {
        let (limit, spent) = (self.spec.limit_micros, self.status.spent_micros);
        vec![
            self.name.clone(),
            whose(self.spec.subject, names),
            display::word(&self.spec.period),
            limit.euros(),
            spent.euros(),
            limit.saturating_sub(spent).euros(),
            used(limit, spent),
        ]
    }

    fn facts(&self, names: &Names) -> Facts {
        let (limit, spent) = (self.spec.limit_micros, self.status.spent_micros);
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("counts", whose(self.spec.subject, names));
        facts.add("period", display::word(&self.spec.period)).add("limit", format!("{} €", limit.euros()));
        facts.add("spent", format!("{} € ({})", spent.euros(), used(limit, spent)));
        facts.add("left", format!("{} €", limit.saturating_sub(spent).euros()));
        facts
    }

    async fn look_up(session: &Session, names: &mut Names) -> Result<(), Failure> {
        session.names::<Tenant>(names).await?;
        session.names::<Project>(names).await?;
        session.names::<ApiKey>(names).await
    }
}

fn whose(subject: BudgetSubject, names: &Names) -> String {
    match subject {
        BudgetSubject::Tenant { tenant_id } => format!("tenant/{}", names.of(&tenant_id)),
        BudgetSubject::Project { project_id } => format!("project/{}", names.of(&project_id)),
        BudgetSubject::Key { key_id } => format!("key/{}", names.of(&key_id)),
    }
}

/// Per cent used, rounded down; full only when nothing is left.
fn used(limit: Micros, spent: Micros) -> String {
    match limit.0 {
        ..=0 => "100 %".to_owned(),
        limit => format!("{} %", i128::from(spent.0) * 100 / i128::from(limit)),
    }
}
