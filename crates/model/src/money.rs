//! Budgets and prices.
//!
//! A budget limits up to three commodities at once: money, energy, carbon. Money is never overspent; energy and carbon that
//! were used are booked whole, also above what was held for them (docs/decisions/0033).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BudgetId, KeyId, PriceBookId, ProjectId, TenantId};
use crate::resource::Resource;
use crate::units::{MicrogramsCo2e, Micros, Millijoules};

/// A limit on money, energy or carbon.
pub type Budget = Resource<BudgetId, BudgetSpec, BudgetStatus>;
/// One version of the price book; the newest is in force, older ones stay for the records made under them.
pub type PriceBook = Resource<PriceBookId, PriceBookSpec, crate::identity::Empty>;

/// Per cent of a limit at which a budget tells, unless it says otherwise.
pub const ALERT_AT: [u8; 3] = [50, 80, 95];

/// What a budget limits: at least one commodity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BudgetSpec {
    /// Whose spending counts.
    pub subject: BudgetSubject,
    /// The most that may be spent in a period, in millionths of a euro; absent: money is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_micros: Option<Micros>,
    /// The most energy that may be used in a period, in thousandths of a joule; absent: energy is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_millijoules: Option<Millijoules>,
    /// The most that may be emitted in a period, in millionths of a gram of CO₂ equivalent, location-based; absent: not
    /// limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_co2e_micrograms: Option<MicrogramsCo2e>,
    /// When counting starts again.
    pub period: BudgetPeriod,
    /// Per cent of each limit at which an event tells, once per period; none when empty.
    #[serde(default = "alert_at")]
    pub alert_at: Vec<u8>,
}

fn alert_at() -> Vec<u8> {
    ALERT_AT.to_vec()
}

impl BudgetSpec {
    /// A limit on money alone, with the usual alerts.
    pub fn money(subject: BudgetSubject, limit: Micros, period: BudgetPeriod) -> Self {
        let (limit_millijoules, limit_co2e_micrograms) = (None, None);
        let limit_micros = Some(limit);
        Self { subject, limit_micros, limit_millijoules, limit_co2e_micrograms, period, alert_at: alert_at() }
    }

    /// Its limits.
    pub const fn limits(&self) -> BudgetLimits {
        BudgetLimits {
            micros: self.limit_micros,
            millijoules: self.limit_millijoules,
            co2e_micrograms: self.limit_co2e_micrograms,
        }
    }
}

/// What budgets limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Commodity {
    /// Euros, in micros.
    Money,
    /// Energy, in millijoules.
    Energy,
    /// Carbon, location-based, in micrograms of CO₂ equivalent.
    Carbon,
}

impl Commodity {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 3] = [Self::Money, Self::Energy, Self::Carbon];

    /// An amount with its unit, as people read it.
    pub fn text(self, amount: i64) -> String {
        match self {
            Self::Money => format!("{} €", Micros(amount).euros()),
            Self::Energy => Millijoules(amount).readable(),
            Self::Carbon => format!("{} g CO₂e", MicrogramsCo2e(amount).grams()),
        }
    }

    /// The option of `galerne budget set` that limits it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Money => "--limit EUROS",
            Self::Energy => "--limit-kwh KWH",
            Self::Carbon => "--limit-gco2e GRAMS",
        }
    }
}

/// An amount of each commodity that budgets limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Amounts {
    /// Money.
    pub micros: Micros,
    /// Energy.
    pub millijoules: Millijoules,
    /// Carbon, location-based.
    pub co2e_micrograms: MicrogramsCo2e,
}

impl Amounts {
    /// Money alone.
    pub const fn money(micros: Micros) -> Self {
        Self { micros, millijoules: Millijoules::ZERO, co2e_micrograms: MicrogramsCo2e::ZERO }
    }

    /// The amount of one commodity, in its base unit.
    pub const fn of(&self, commodity: Commodity) -> i64 {
        match commodity {
            Commodity::Money => self.micros.0,
            Commodity::Energy => self.millijoules.0,
            Commodity::Carbon => self.co2e_micrograms.0,
        }
    }

    /// Sum held inside the range of `i64`.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self {
            micros: self.micros.saturating_add(other.micros),
            millijoules: self.millijoules.saturating_add(other.millijoules),
            co2e_micrograms: self.co2e_micrograms.saturating_add(other.co2e_micrograms),
        }
    }
}

/// The most of each commodity; absent means not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLimits {
    /// Money.
    pub micros: Option<Micros>,
    /// Energy.
    pub millijoules: Option<Millijoules>,
    /// Carbon.
    pub co2e_micrograms: Option<MicrogramsCo2e>,
}

impl BudgetLimits {
    /// A limit on money alone.
    pub const fn money(micros: Micros) -> Self {
        Self { micros: Some(micros), millijoules: None, co2e_micrograms: None }
    }

    /// The limit of one commodity, in its base unit.
    pub fn of(&self, commodity: Commodity) -> Option<i64> {
        match commodity {
            Commodity::Money => self.micros.map(|limit| limit.0),
            Commodity::Energy => self.millijoules.map(|limit| limit.0),
            Commodity::Carbon => self.co2e_micrograms.map(|limit| limit.0),
        }
    }

    /// The commodities that are limited, with their limits.
    pub fn iter(&self) -> impl Iterator<Item = (Commodity, i64)> + use<> {
        let limits = *self;
        Commodity::ALL.into_iter().filter_map(move |commodity| Some((commodity, limits.of(commodity)?)))
    }
}

/// Whose spending a budget counts. Every budget above a request applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum BudgetSubject {
    /// All projects of a tenant.
    Tenant {
        /// The tenant.
        tenant_id: TenantId,
    },
    /// One project.
    Project {
        /// The project.
        project_id: ProjectId,
    },
    /// One API key together with the keys that follow it by rotation, and those it follows.
    Key {
        /// Any key of the line.
        key_id: KeyId,
    },
}

/// When a budget starts counting again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BudgetPeriod {
    /// Never.
    Total,
    /// At the start of each calendar month in UTC.
    Month,
}

/// What is seen of a budget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BudgetStatus {
    /// Settled in this period, in millionths of a euro.
    pub spent_micros: Micros,
    /// Energy settled in this period, in thousandths of a joule.
    #[serde(default)]
    pub spent_millijoules: Millijoules,
    /// Carbon settled in this period, in millionths of a gram.
    #[serde(default)]
    pub spent_co2e_micrograms: MicrogramsCo2e,
    /// The alerts that were told in the running period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerted: Option<Alerted>,
}

impl BudgetStatus {
    /// What was settled in this period.
    pub const fn spent(&self) -> Amounts {
        Amounts {
            micros: self.spent_micros,
            millijoules: self.spent_millijoules,
            co2e_micrograms: self.spent_co2e_micrograms,
        }
    }
}

/// The alerts of one period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Alerted {
    /// When the period began.
    pub period_start: Timestamp,
    /// What was told in it.
    pub told: Vec<Told>,
}

/// One alert that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Told {
    /// Of what.
    pub commodity: Commodity,
    /// At how many per cent of the limit.
    pub percent: u8,
    /// The limit, in the commodity's base unit.
    pub limit: i64,
}

/// Prices in euro micros per million tokens (so `150000` is 0.15 € per million).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenPrice {
    /// Prompt tokens that had to be computed.
    pub prompt: Micros,
    /// Prompt tokens reused from the cache.
    pub cached: Micros,
    /// Generated tokens.
    pub completion: Micros,
}

impl TokenPrice {
    /// The price of what nobody has priced: what small open models cost to rent in 2026. The first price book has it as
    /// its default.
    pub const STANDARD: Self = Self { prompt: Micros(100_000), cached: Micros(50_000), completion: Micros(300_000) };
}

/// What a price book writes before the SHA-256 of weights.
pub const DIGEST_PREFIX: &str = "sha256:";

/// What a version of the price book says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PriceBookSpec {
    /// Price of any model without an entry.
    pub default: TokenPrice,
    /// Prices of models.
    #[serde(default)]
    pub models: Vec<ModelPrice>,
    /// What a token of a batch costs, in per cent of its price: batches wait for room.
    #[serde(default = "batch_percent")]
    pub batch_percent: u8,
}

const fn batch_percent() -> u8 {
    50
}

impl Default for PriceBookSpec {
    fn default() -> Self {
        Self { default: TokenPrice::STANDARD, models: Vec::new(), batch_percent: batch_percent() }
    }
}

/// The price of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// Which model: `sha256:` and the digest of its weights (as served, or as fetched), the name of the catalogue entry
    /// whose weights they are, or the name that an external server knows it by. Not the name somebody pulled it under.
    pub model: String,
    /// Its price.
    pub price: TokenPrice,
}
