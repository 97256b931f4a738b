//! Counting: what an engine's `usage` says, and what the client is shown of it.
//!
//! INVARIANT: counts are never negative, and cached tokens are part of the prompt, whatever an engine reports.
//! INVARIANT: the counts that a client is shown are those that its record has, whether an engine reported them or not.

use galerne_core::rating::Charge;
use galerne_model::ledger::{EnergyMethod, Operation};
use serde::Deserialize;

use crate::request::{Fields, ObjectWriter};
use crate::ticket::Energy;

/// Larger counts are lies: no context has a trillion tokens. Keeps sums far inside `i64`.
const COUNT_MAX: u64 = 1 << 40;

/// Tokens of a request, and the CPU time the worker spent on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// All prompt tokens, cached ones included.
    pub(crate) prompt: i64,
    pub(crate) cached: i64,
    pub(crate) completion: i64,
    pub(crate) cpu_micros: Option<i64>,
}

impl Counted {
    /// What a limit of tokens counts.
    pub(crate) fn rated(&self) -> u32 {
        u32::try_from(self.prompt.saturating_add(self.completion)).unwrap_or(u32::MAX)
    }
}

#[derive(Deserialize)]
struct Reported {
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    galerne: Option<Worker>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Worker {
    #[serde(default)]
    cpu_micros: Option<u64>,
    #[serde(default)]
    cached_tokens: Option<u64>,
}

/// Reads a `usage` object; nothing when it is not one.
pub(crate) fn read_usage(json: &str) -> Option<Counted> {
    if !json.starts_with('{') {
        return None;
    }
    let reported: Reported = serde_json::from_str(json).ok()?;
    let count = |n: u64| i64::try_from(n.min(COUNT_MAX)).expect("at most COUNT_MAX");
    let worker = reported.galerne.as_ref();
    let details = reported.prompt_tokens_details.and_then(|details| details.cached_tokens);
    let cached = details.or_else(|| worker.and_then(|worker| worker.cached_tokens)).unwrap_or(0);
    let prompt = count(reported.prompt_tokens);
    Some(Counted {
        prompt,
        cached: count(cached).min(prompt),
        completion: count(reported.completion_tokens.unwrap_or(0)),
        cpu_micros: worker.and_then(|worker| worker.cpu_micros).map(count),
    })
}

/// The `usage` object for the client: what was counted, with whatever details the engine reported beside it, without our
/// internals, with energy where it is final.
pub(crate) fn shown_usage(
    reported: Option<&str>,
    counted: Counted,
    operation: Operation,
    energy: Option<Energy>,
) -> String {
    let fields = reported.and_then(|json| serde_json::from_str::<Fields<'_>>(json).ok());
    let fields = fields.as_ref().map_or(&[][..], |fields| &fields.0);
    let mut out = ObjectWriter::with_capacity(reported.map_or(0, str::len) + 128);
    let counts = [
        ("prompt_tokens", counted.prompt),
        ("completion_tokens", counted.completion),
        ("total_tokens", counted.prompt.saturating_add(counted.completion)),
    ];
    for (name, value) in fields {
        let ours = matches!(name.as_ref(), "galerne" | "energy_joules" | "co2e_grams" | "energy_method");
        // Details that an engine does not know are left out: OpenAI's are objects or absent.
        if ours || value.get() == "null" {
            continue;
        }
        match counts.iter().find(|(count, _)| count == name) {
            Some((_, count)) => out.raw(name, &count.to_string()),
            None => out.raw(name, value.get()),
        }
    }
    for (name, count) in counts {
        let is_said = fields.iter().any(|(said, value)| said == name && value.get() != "null");
        // Nothing is completed by an embedding, and OpenAI's clients know no such field of it.
        if !is_said && (name != "completion_tokens" || operation != Operation::Embedding) {
            out.raw(name, &count.to_string());
        }
    }
    if let Some(energy) = energy {
        let (joules, grams) = amounts(energy);
        out.raw("energy_joules", &joules);
        out.raw("co2e_grams", &grams);
        out.text("energy_method", method_word(energy.method));
    }
    String::from_utf8(out.finish()).expect("made of texts")
}

/// The SSE comment that carries energy and cost to clients that did not ask for usage. Both clients ignore comments.
pub(crate) fn energy_comment(energy: Energy, charge: Charge) -> String {
    let (joules, grams) = amounts(energy);
    let (method, cost) = (method_word(energy.method), cost_text(charge));
    format!(
        ": energy {{\"joules\":{joules},\"co2e_grams\":{grams},\"method\":\"{method}\",\"cost_eur\":\"{cost}\"}}\n\n"
    )
}

/// Joules and grams as JSON: decimals made from integers, or `null` where nothing is known.
pub(crate) fn amounts(energy: Energy) -> (String, String) {
    match energy.method {
        EnergyMethod::Unknown => ("null".to_owned(), "null".to_owned()),
        EnergyMethod::Measured | EnergyMethod::Apportioned | EnergyMethod::Estimated => {
            (energy.energy.joules(), energy.carbon.grams())
        }
    }
}

/// The method as replies name it.
pub(crate) fn method_word(method: EnergyMethod) -> &'static str {
    match method {
        EnergyMethod::Measured => "measured",
        EnergyMethod::Apportioned => "apportioned",
        EnergyMethod::Estimated => "estimated",
        EnergyMethod::Unknown => "unknown",
    }
}

/// Euros with all twelve decimals.
pub(crate) fn cost_text(charge: Charge) -> String {
    format!("{}{:06}", charge.micros.euros(), charge.picos.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Picos};

    #[test]
    fn the_workers_own_numbers_are_metered_and_hidden() {
        let usage = r#"{"prompt_tokens":31,"completion_tokens":9,"total_tokens":40,"galerne":{"cpu_micros":5100,"cached_tokens":16}}"#;
        let counted = read_usage(usage).expect("a usage object");
        assert_eq!(counted, Counted { prompt: 31, cached: 16, completion: 9, cpu_micros: Some(5100) });
        let energy = Energy { energy: Millijoules(1250), carbon: MicrogramsCo2e(42), method: EnergyMethod::Estimated };
        let shown = shown_usage(Some(usage), counted, Operation::Chat, Some(energy));
        assert_eq!(
            shown,
            r#"{"prompt_tokens":31,"completion_tokens":9,"total_tokens":40,"energy_joules":1.250,"co2e_grams":0.000042,"energy_method":"estimated"}"#
        );
    }

    #[test]
    fn unknown_energy_is_null_and_not_zero() {
        let energy = Energy { energy: Millijoules(0), carbon: MicrogramsCo2e(0), method: EnergyMethod::Unknown };
        let shown = shown_usage(None, Counted::default(), Operation::Embedding, Some(energy));
        let said =
            r#"{"prompt_tokens":0,"total_tokens":0,"energy_joules":null,"co2e_grams":null,"energy_method":"unknown"}"#;
        assert_eq!(shown, said);
    }

    #[test]
    fn what_an_engine_leaves_out_is_shown_as_it_was_counted() {
        let counted = Counted { prompt: 7, completion: 3, ..Counted::default() };
        let shown = |reported| shown_usage(reported, counted, Operation::Chat, None);
        assert_eq!(shown(None), r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}"#);
        let partly = r#"{"completion_tokens":null,"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}"#;
        let said = r#"{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":2},"completion_tokens":3,"total_tokens":10}"#;
        assert_eq!(shown(Some(partly)), said);
        // Nobody is shown other counts than those that are charged.
        let lies = r#"{"prompt_tokens":7,"completion_tokens":99999999999999999,"total_tokens":1}"#;
        assert_eq!(shown(Some(lies)), r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}"#);
    }

    #[test]
    fn lies_are_held_in_bounds() {
        let lie = read_usage(
            r#"{"prompt_tokens":3,"completion_tokens":18446744073709551615,"prompt_tokens_details":{"cached_tokens":99}}"#,
        );
        let counted = lie.expect("still a usage object");
        assert_eq!((counted.cached, counted.completion), (3, 1 << 40));
        assert_eq!(read_usage(r#"{"prompt_tokens":-1}"#), None);
        assert_eq!(read_usage("[]"), None);
    }

    #[test]
    fn a_cost_has_twelve_decimals() {
        assert_eq!(cost_text(Charge { micros: Micros(10), picos: Picos(50_000) }), "0.000010050000");
    }
}
