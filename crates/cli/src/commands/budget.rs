//! Budgets: limits on money, energy and carbon. A request that a budget does not cover is refused before it costs anything.

use clap::{Args, Subcommand, ValueEnum};
use galerne_model::identity::{ApiKey, Project, Tenant};
use galerne_model::money::{Budget, BudgetPeriod, BudgetSpec, BudgetSubject, Commodity};
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules};

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
    /// Most that may be spent in a period, in euros, such as 12.50; `none` takes the limit away
    #[arg(long, value_name = "EUROS", value_parser = euros, allow_negative_numbers = true)]
    limit: Option<Limit>,
    /// Most energy that may be used in a period, in kilowatt-hours; `none` takes the limit away
    #[arg(long, value_name = "KWH", value_parser = kilowatt_hours, allow_negative_numbers = true)]
    limit_kwh: Option<Limit>,
    /// Most that may be emitted in a period, in grams of CO₂e; `none` takes the limit away
    #[arg(long, value_name = "GRAMS", value_parser = grams, allow_negative_numbers = true)]
    limit_gco2e: Option<Limit>,
    /// Per cent of each limit at which an event tells, such as 50,80,95; `none` for no events [default: 50,80,95]
    #[arg(long, value_name = "PERCENTS", value_parser = thresholds)]
    alert_at: Option<Thresholds>,
    /// Whose spending counts: tenant/NAME, project/NAME or key/NAME; needed to make one
    #[arg(long, value_name = "WHOSE")]
    on: Option<String>,
    /// When counting starts again; it stays as it was made [default: month]
    #[arg(long, value_enum, value_name = "PERIOD")]
    period: Option<PeriodArgument>,
    #[command(flatten)]
    change: ChangeArguments,
}

/// A limit that was typed: an amount in its base unit, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(Option<i64>);

/// Thresholds of alerts that were typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thresholds(Vec<u8>);

const NO_LIMIT: &str = "none";

fn limit(text: &str, read: impl Fn(&str) -> Result<i64, String>) -> Result<Limit, String> {
    if text == NO_LIMIT {
        return Ok(Limit(None));
    }
    let amount = read(text)?;
    if amount < 0 { Err(format!("`{text}` is below zero")) } else { Ok(Limit(Some(amount))) }
}

fn euros(text: &str) -> Result<Limit, String> {
    limit(text, |text| values::euros(text).map(|micros| micros.0))
}

fn kilowatt_hours(text: &str) -> Result<Limit, String> {
    limit(text, |text| Millijoules::from_kwh(text).map(|energy| energy.0).map_err(|error| error.to_string()))
}

fn grams(text: &str) -> Result<Limit, String> {
    limit(text, |text| MicrogramsCo2e::from_grams(text).map(|carbon| carbon.0).map_err(|error| error.to_string()))
}

fn thresholds(text: &str) -> Result<Thresholds, String> {
    if text == NO_LIMIT {
        return Ok(Thresholds(Vec::new()));
    }
    let percents: Result<Vec<u8>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    let mut percents = percents.map_err(|_| format!("`{text}` is no list of whole per cents such as 50,80,95"))?;
    percents.sort_unstable();
    percents.dedup();
    Ok(Thresholds(percents))
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
                    format!("budget `{}` goes: spending is no longer limited to {}", budget.name, limits_text(budget))
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
        let none = BudgetSpec { limit_micros: None, ..BudgetSpec::money(subject, Micros::ZERO, period) };
        let spec = arguments.over(none);
        if spec.limits().iter().next().is_none() {
            let text = format!("to make budget `{}`, it must be said what it limits", arguments.name);
            return Err(Failure::usage(text).hint("add --limit EUROS, --limit-kwh KWH or --limit-gco2e GRAMS"));
        }
        resources::create::<Budget>(session, &arguments.name, spec, arguments.change).await?;
        return Ok(());
    };
    if subject.is_some_and(|subject| subject != seen.spec.subject) {
        let text = format!("budget `{}` counts the spending of something else", seen.name);
        return Err(Failure::usage(text).hint(format!("delete it first: galerne budget delete {}", seen.name)));
    }
    let period = arguments.period.map_or(seen.spec.period, PeriodArgument::period);
    let spec = arguments.over(BudgetSpec { period, ..seen.spec.clone() });
    resources::update(session, &seen, spec, arguments.change, "set").await
}

impl SetArguments {
    /// What was typed, over what a budget says already.
    fn over(&self, spec: BudgetSpec) -> BudgetSpec {
        let amount = |typed: Option<Limit>, before: Option<i64>| typed.map_or(before, |Limit(amount)| amount);
        BudgetSpec {
            limit_micros: amount(self.limit, spec.limit_micros.map(|limit| limit.0)).map(Micros),
            limit_millijoules: amount(self.limit_kwh, spec.limit_millijoules.map(|limit| limit.0)).map(Millijoules),
            limit_co2e_micrograms: amount(self.limit_gco2e, spec.limit_co2e_micrograms.map(|limit| limit.0))
                .map(MicrogramsCo2e),
            alert_at: self.alert_at.as_ref().map_or(spec.alert_at, |Thresholds(percents)| percents.clone()),
            ..spec
        }
    }
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
        Column::Number("limit"),
        Column::Number("spent"),
        Column::Number("left"),
        Column::Number("used"),
    ];

    /// A line for each commodity would repeat the budget: the cells hold what is limited, in the same order.
    fn cells(&self, names: &Names) -> Vec<String> {
        let each = |text: &dyn Fn(Commodity, i64, i64) -> String| {
            let limits = self.spec.limits();
            let texts: Vec<String> =
                limits.iter().map(|(of, limit)| text(of, limit, self.status.spent().of(of))).collect();
            texts.join(", ")
        };
        vec![
            self.name.clone(),
            whose(self.spec.subject, names),
            display::word(&self.spec.period),
            each(&|of, limit, _| of.text(limit)),
            each(&|of, _, spent| of.text(spent)),
            each(&|of, limit, spent| of.text(limit.saturating_sub(spent).max(0))),
            each(&|_, limit, spent| used(limit, spent)),
        ]
    }

    fn facts(&self, names: &Names) -> Facts {
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("counts", whose(self.spec.subject, names));
        facts.add("period", display::word(&self.spec.period));
        for (of, limit) in self.spec.limits().iter() {
            let spent = self.status.spent().of(of);
            facts.add("limit", of.text(limit));
            facts.add("spent", format!("{} ({})", of.text(spent), used(limit, spent)));
            facts.add("left", of.text(limit.saturating_sub(spent).max(0)));
        }
        let percents: Vec<String> = self.spec.alert_at.iter().map(|percent| format!("{percent} %")).collect();
        facts.add("alerts at", if percents.is_empty() { "none".to_owned() } else { percents.join(", ") });
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

fn limits_text(budget: &Budget) -> String {
    let texts: Vec<String> = budget.spec.limits().iter().map(|(of, limit)| of.text(limit)).collect();
    texts.join(", ")
}

/// Per cent used, rounded down; full only when nothing is left.
fn used(limit: i64, spent: i64) -> String {
    match limit {
        ..=0 => "100 %".to_owned(),
        limit => format!("{} %", i128::from(spent) * 100 / i128::from(limit)),
    }
}
