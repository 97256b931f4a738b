//! Checks of a request's fields by the surface's table.

use galerne_api::error::Code;
use galerne_api::surface::{Call, Dialect, Fate, Field, Unknown};
use galerne_model::identity::ServiceTier;
use serde_json::value::RawValue;

use super::{Fields, invalid};
use crate::refusal::Refusal;

/// Longest piece of a request that a refusal shows.
const SHOWN_MAX_CHARS: usize = 40;

/// What becomes of each field, in their order; or the first one that is refused.
pub(super) fn rows(dialect: Dialect, call: Call, fields: &Fields<'_>) -> Result<Vec<&'static Field>, Refusal> {
    let mut rows = Vec::with_capacity(fields.0.len());
    for (name, value) in &fields.0 {
        let row = call.field(dialect, name).map_err(|unknown| unknown_field(dialect, call, name, unknown))?;
        if value.get() != "null" {
            value_fits(dialect, row, value, fields)?;
        }
        rows.push(row);
    }
    Ok(rows)
}

fn value_fits(dialect: Dialect, row: &Field, value: &RawValue, fields: &Fields<'_>) -> Result<(), Refusal> {
    let (name, note) = (row.name, row.note);
    if row.fate == Fate::Refused {
        let text = format!("`{name}` is not served here: {note}");
        return Err(Refusal::new(Code::UnsupportedParameter, text).param(name));
    }
    if !row.takes.fits(value.get()) {
        return Err(invalid(
            name,
            format!("`{name}` cannot be `{}`: it takes {}", shown(value.get()), row.takes.name()),
        ));
    }
    match row.fate {
        Fate::Only(values) if !values.iter().any(|known| is_same(known, value.get())) => {
            let known: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            let text = format!("`{name}` can only be {} here: {note}", known.join(" or "));
            Err(Refusal::new(Code::UnsupportedValue, text).param(name))
        }
        Fate::Renamed(to) if fields.get(to).is_some_and(|other| other.get() != value.get()) => {
            Err(invalid(name, format!("`{to}` and `{name}` mean the same: send one of them")))
        }
        Fate::Engine if name == "tool_choice" && dialect == Dialect::OpenAi && value.get() == r#""any""# => {
            Err(invalid(name, "`tool_choice` cannot be `any` here: that is Mistral's word for `required`"))
        }
        Fate::Only(_) | Fate::Renamed(_) | Fate::Engine | Fate::Gateway | Fate::NoEffect | Fate::Refused => Ok(()),
    }
}

/// Whether two JSON values are written alike but for spaces between their parts.
fn is_same(known: &str, value: &str) -> bool {
    if value.starts_with('"') {
        return known == value;
    }
    known.bytes().eq(value.bytes().filter(|byte| !byte.is_ascii_whitespace()))
}

fn unknown_field(dialect: Dialect, call: Call, name: &str, unknown: Unknown) -> Refusal {
    let (prefix, shown) = (dialect.prefix(), shown(name));
    let text = match unknown {
        Unknown::Elsewhere(field) => {
            let twin = match twin(dialect, call, field) {
                Some(twin) => format!("send `{twin}`"),
                None => format!("send it to {}", Dialect::Union.prefix()),
            };
            format!("`{shown}` is {} and not taken under {prefix}; hint: {twin}", field.of.name())
        }
        Unknown::Nowhere(Some(near)) => format!("unknown parameter `{shown}`; did you mean `{near}`?"),
        Unknown::Nowhere(None) => format!("unknown parameter `{shown}`"),
    };
    Refusal::new(Code::UnknownParameter, text).param(shown)
}

/// The word of this surface for another's field.
fn twin(dialect: Dialect, call: Call, field: &Field) -> Option<&'static str> {
    let same = |other: &&Field| match (field.fate, other.fate) {
        (Fate::Renamed(to), _) if to == other.name => true,
        (_, Fate::Renamed(to)) => to == field.name,
        _ => false,
    };
    call.fields().iter().find(|other| dialect.has(other.of) && same(other)).map(|other| other.name)
}

/// Whether a tier was named, and which: `auto` leaves it to the key.
pub(super) fn tier(dialect: Dialect, fields: &Fields<'_>) -> Result<(bool, Option<ServiceTier>), Refusal> {
    let Some(tier) = fields.read::<String>("service_tier")? else { return Ok((false, None)) };
    let known: &[(&str, Option<ServiceTier>)] = match dialect {
        Dialect::Union => &[
            ("auto", None),
            ("default", Some(ServiceTier::Default)),
            ("flex", Some(ServiceTier::Flex)),
            ("priority", Some(ServiceTier::Priority)),
            ("standard_only", Some(ServiceTier::Default)),
        ],
        Dialect::OpenAi => &[
            ("auto", None),
            ("default", Some(ServiceTier::Default)),
            ("flex", Some(ServiceTier::Flex)),
            ("priority", Some(ServiceTier::Priority)),
        ],
        Dialect::Mistral => &[("auto", None), ("standard_only", Some(ServiceTier::Default))],
    };
    if let Some((_, asked)) = known.iter().find(|(name, _)| *name == tier) {
        return Ok((true, *asked));
    }
    let known: Vec<String> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
    let text = format!("`service_tier` can only be {} here, not `{}`", known.join(" or "), shown(&tier));
    Err(Refusal::new(Code::UnsupportedValue, text).param("service_tier"))
}

/// Whether embeddings are wanted as base64.
pub(super) fn base64(fields: &Fields<'_>) -> Result<bool, Refusal> {
    match fields.read::<String>("encoding_format")?.as_deref() {
        None | Some("float") => Ok(false),
        Some("base64") => Ok(true),
        Some(other) => {
            let text = format!("`encoding_format` is `{}` and must be `float` or `base64`", shown(other));
            Err(invalid("encoding_format", text))
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX_CHARS).collect()
}
