//! Usage as a cost report that programs of others read: FOCUS 1.2, as CSV (docs/decisions/0044).
//!
//! Each kind of token is a row of its own, for each has its price: quantity × price is the list cost, exactly. What is billed
//! is less where a request used more than its hold, which is the provider's loss.
//! INVARIANT: over the rows of a group, billed cost, tokens, joules and grams are those of the ledger, to the last digit.
//! INVARIANT: nothing is rounded but kilowatt-hours, whose sum over a report is the rounded sum.
//! Deliberately absent: invoices. The ledger has none yet, so `InvoiceId` is empty.

use galerne_model::ledger::{EnergyMethod, Quantities, UsageTerms};
use galerne_model::units::{MILLIJOULES_PER_KWH, Micros, PICOS_PER_MICRO};
use jiff::civil::Date;

/// Billing currency of everything.
const CURRENCY: &str = "EUR";
/// Who sells, publishes and bills: a site has no other name yet.
const PROVIDER: &str = "Galerne";
/// What a price is the price of.
const PRICING_UNIT: &str = "1000000 Tokens";
/// Kilowatt-hours are told in parts of this: 3.6 µJ each.
const PARTS_OF_KWH: i128 = 1_000_000_000_000;

/// The columns, FOCUS's own in the order of its document, then ours.
const COLUMNS: [&str; 54] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "CommitmentDiscountStatus",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "x_BatchPricePercent",
    "x_EnergyJoules",
    "x_EnergyKwh",
    "x_EnergyMethod",
    "x_Gco2e",
    "x_KeyId",
    "x_KeyName",
    "x_Residency",
    "x_ServiceTier",
];

/// Who or what, by the id that stays and the name that people know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its name; the id where it has none.
    pub name: String,
}

/// What was used on one day under the same terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The UTC day on which the requests were admitted.
    pub day: Date,
    /// Who pays.
    pub tenant: Named,
    /// For which project.
    pub project: Named,
    /// With which key.
    pub key: Named,
    /// What was called.
    pub endpoint: Named,
    /// What answered there.
    pub model: String,
    /// On what terms; absent in records of before they were kept.
    pub terms: Option<UsageTerms>,
    /// The share of the price that a batch pays.
    pub batch_percent: Option<u8>,
    /// How the energy was obtained.
    pub energy_method: EnergyMethod,
    /// What was used and charged.
    pub quantities: Quantities,
}

/// A report being written, a line for each row.
#[derive(Debug, Default)]
pub struct Report {
    /// Energy of all rows so far: what is told of each is its part of the rounded sum.
    millijoules: i128,
}

/// A kind of token, with what is billed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// What identifies it beside the model: `output`, `input`, `cached-input`; `tokens` where they are not told apart.
    pub sku: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// How many.
    pub tokens: i64,
    /// Micros for a million of them; absent where the price was not kept.
    pub price: Option<i64>,
    /// Picos of euros billed.
    pub billed: i128,
}

impl Report {
    /// The first line.
    pub fn header() -> String {
        COLUMNS.join(",") + "\n"
    }

    /// Writes the rows of a group.
    pub fn write(&mut self, group: &Group, out: &mut String) {
        let mut energy = Some((group.quantities.millijoules.0, group.quantities.co2e_micrograms.0));
        for meter in meters(&group.quantities, group.terms) {
            // The energy of a request is one for all its tokens: it is told once.
            let (millijoules, co2e) = energy.take().unwrap_or((0, 0));
            let kwh = self.kwh(millijoules);
            let row = row(group, &meter, &Energy { millijoules, kwh, co2e });
            out.push_str(&row.map(|cell| escaped(&cell)).join(","));
            out.push('\n');
        }
    }

    /// What this much energy adds to the rounded sum, in parts of a kilowatt-hour.
    fn kwh(&mut self, millijoules: i64) -> i128 {
        let before = rounded_kwh(self.millijoules);
        self.millijoules += i128::from(millijoules);
        rounded_kwh(self.millijoules) - before
    }
}

struct Energy {
    millijoules: i64,
    kwh: i128,
    co2e: i64,
}

/// To the nearest part.
fn rounded_kwh(millijoules: i128) -> i128 {
    let unit = i128::from(MILLIJOULES_PER_KWH);
    (millijoules * PARTS_OF_KWH + unit / 2).div_euclid(unit)
}

/// The kinds of tokens that were used, with what is billed for each: together what was charged, to the last digit.
pub fn meters(used: &Quantities, terms: Option<UsageTerms>) -> Vec<Meter> {
    let charged = i128::from(used.micros.0) * i128::from(PICOS_PER_MICRO) + i128::from(used.picos.0);
    let (prompt, cached, completion) = (used.prompt_tokens.0, used.cached_tokens.0, used.completion_tokens.0);
    let Some(terms) = terms else {
        let tokens = prompt + cached + completion;
        let meter = Meter { sku: "tokens", name: "Tokens", tokens, price: None, billed: charged };
        return if *used == Quantities::default() { Vec::new() } else { vec![meter] };
    };
    let of = |sku, name, tokens: i64, price: Micros| {
        // A price is micros for a million tokens: one token at price 1 costs one pico.
        let billed = i128::from(tokens) * i128::from(price.0);
        Meter { sku, name, tokens, price: Some(price.0), billed }
    };
    let all = [
        of("output", "Output Tokens", completion, terms.price.completion),
        of("input", "Input Tokens", prompt, terms.price.prompt),
        of("cached-input", "Cached Input Tokens", cached, terms.price.cached),
    ];
    let mut rest = charged - all.iter().map(|meter| meter.billed).sum::<i128>();
    let nothing = *used == Quantities::default();
    let mut meters: Vec<Meter> = all.into_iter().filter(|meter| meter.tokens != 0).collect();
    if meters.is_empty() && !nothing {
        meters.push(of("output", "Output Tokens", 0, terms.price.completion));
    }
    // What the ledger charged otherwise than by tokens: less where the hold was less, and then the dearest row bears it first.
    for meter in &mut meters {
        let part = if rest < 0 { rest.max(-meter.billed) } else { rest };
        meter.billed += part;
        rest -= part;
    }
    meters
}

fn row(group: &Group, meter: &Meter, energy: &Energy) -> [String; 54] {
    let text = str::to_owned;
    let empty = String::new;
    let month = group.day.first_of_month();
    let next_month = group.day.last_of_month().tomorrow().unwrap_or(Date::MAX);
    let list = meter.price.map_or(meter.billed, |price| i128::from(meter.tokens) * i128::from(price));
    let (billed, list) = (euros(meter.billed), euros(list));
    let price = meter.price.map_or_else(empty, |price| Micros(price).euros());
    let sku = format!("{}/{}", group.model, meter.sku);
    let country = group.terms.and_then(|terms| terms.country).map_or_else(empty, String::from);
    let is_known = group.energy_method != EnergyMethod::Unknown;
    [
        billed.clone(),
        group.tenant.id.clone(),
        group.tenant.name.clone(),
        text(CURRENCY),
        instant(next_month),
        instant(month),
        text("Usage"),
        empty(),
        format!("{} of {}", meter.name, group.model),
        text("Usage-Based"),
        instant(group.day.tomorrow().unwrap_or(Date::MAX)),
        instant(group.day),
        empty(),
        // With a point: programs that read types from texts must see a decimal.
        format!("{}.0", meter.tokens),
        text("Tokens"),
        list.clone(),
        price.clone(),
        billed.clone(),
        empty(),
        text(PROVIDER),
        list,
        price.clone(),
        text("Standard"),
        text(CURRENCY),
        price.clone(),
        billed,
        price.clone(),
        Micros(meter.tokens).euros(),
        text(PRICING_UNIT),
        text(PROVIDER),
        text(PROVIDER),
        country.clone(),
        country.clone(),
        group.endpoint.id.clone(),
        group.endpoint.name.clone(),
        text("Endpoint"),
        text("AI and Machine Learning"),
        text("Inference"),
        text("Generative AI"),
        sku.clone(),
        text(meter.name),
        empty(),
        if meter.price.is_some() { format!("{sku}@{price}") } else { empty() },
        group.project.id.clone(),
        group.project.name.clone(),
        group.batch_percent.map_or_else(empty, |percent| percent.to_string()),
        if is_known { galerne_model::units::Millijoules(energy.millijoules).joules() } else { empty() },
        if is_known { decimal(energy.kwh, 12) } else { empty() },
        text(method(group.energy_method)),
        if is_known { Micros(energy.co2e).euros() } else { empty() },
        group.key.id.clone(),
        group.key.name.clone(),
        country,
        group.terms.map_or_else(empty, |terms| text(terms.service_tier.as_str())),
    ]
}

const fn method(method: EnergyMethod) -> &'static str {
    match method {
        EnergyMethod::Measured => "measured",
        EnergyMethod::Apportioned => "apportioned",
        EnergyMethod::Estimated => "estimated",
        EnergyMethod::Unknown => "unknown",
    }
}

fn instant(day: Date) -> String {
    format!("{day}T00:00:00Z")
}

/// Euros of an amount in picos, all twelve decimals.
pub fn euros(picos: i128) -> String {
    decimal(picos, 12)
}

/// A whole number of parts as a decimal with so many places.
fn decimal(parts: i128, places: u32) -> String {
    let unit = 10_u128.pow(places);
    let sign = if parts < 0 { "-" } else { "" };
    let magnitude = parts.unsigned_abs();
    let width = usize::try_from(places).expect("a few");
    format!("{sign}{}.{:0width$}", magnitude / unit, magnitude % unit)
}

/// A cell of a CSV line, as RFC 4180 has it.
fn escaped(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

#[cfg(test)]
mod tests;
