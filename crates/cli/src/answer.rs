//! One answer of a model: streamed, timed, and priced from the ledger.

use std::time::{Duration, Instant};

use galerne_api::client::Client;
use galerne_api::openai::{ChatMessage, ChatRequest, FinishReason, MessageContent, Parameters, StreamOptions, Usage};
use galerne_api::v1::Page;
use galerne_model::ledger::UsageRecord;
use galerne_model::units::Millijoules;
use serde_json::{Map, Value, json};

use crate::display;
use crate::failure::Failure;

/// How often the ledger is asked for a request that just ended.
const SETTLED_POLL: Duration = Duration::from_millis(50);
/// How long it is waited for: records are shipped every 200 ms and settled in batches.
const SETTLED_DEADLINE: Duration = Duration::from_secs(3);

/// One answer.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) finish: Option<FinishReason>,
    pub(crate) usage: Option<Usage>,
    pub(crate) request_id: Option<String>,
    /// From the request to the first piece of text.
    first_piece: Option<Duration>,
    /// From the first piece of text to the last.
    writing: Duration,
    /// What the ledger settled; absent when it had not done so in time.
    record: Option<UsageRecord>,
}

/// A message of a conversation.
pub(crate) fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: Some(MessageContent::Text(content.to_owned())), other: Map::new() }
}

/// Asks `endpoint` and hands every piece of the answer to `on_piece` as it arrives.
pub(crate) async fn ask(
    client: &Client,
    endpoint: &str,
    messages: Vec<ChatMessage>,
    parameters: Parameters,
    mut on_piece: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<Answer, Failure> {
    let stream_options = Some(StreamOptions { include_usage: Some(true), include_obfuscation: None });
    let parameters = Parameters { stream: Some(true), stream_options, ..parameters };
    let request = ChatRequest { model: endpoint.to_owned(), messages, parameters };
    let begun = Instant::now();
    let mut events = client.chat(&request).await?;
    let mut answer = Answer {
        text: String::new(),
        finish: None,
        usage: None,
        request_id: events.request_id.clone(),
        first_piece: None,
        writing: Duration::ZERO,
        record: None,
    };
    while let Some(chunk) = events.next().await? {
        if let Some(choice) = chunk.choices.first() {
            answer.finish = choice.finish_reason.or(answer.finish);
            if let Some(piece) = choice.delta.content.as_deref().filter(|piece| !piece.is_empty()) {
                let at = begun.elapsed();
                let first = *answer.first_piece.get_or_insert(at);
                answer.writing = at.saturating_sub(first);
                answer.text.push_str(piece);
                on_piece(piece)?;
            }
        }
        answer.usage = chunk.usage.or(answer.usage);
    }
    Ok(answer)
}

impl Answer {
    /// Waits, not for long, until the ledger has settled the request.
    ///
    /// The answer is there, whatever comes of this: a key may only call models, a server may be about to stop. What the
    /// reply itself says is then shown.
    pub(crate) async fn settle(&mut self, client: &Client) {
        let Some(id) = self.request_id.clone() else { return };
        let query = [("request".to_owned(), id)];
        let begun = Instant::now();
        while begun.elapsed() < SETTLED_DEADLINE {
            let Ok(page) = client.read::<Page<UsageRecord>>("/api/v1/usage", &query).await else { return };
            if let Some(record) = page.items.into_iter().next() {
                self.record = Some(record);
                return;
            }
            tokio::time::sleep(SETTLED_POLL).await;
        }
    }

    /// Tokens written per second, after the first; nothing where there is nothing to measure.
    fn tokens_per_second(&self) -> Option<f64> {
        let after_first = self.usage.as_ref()?.completion_tokens.checked_sub(1).filter(|tokens| *tokens > 0)?;
        let seconds = self.writing.as_secs_f64();
        let tokens = f64::from(u32::try_from(after_first).ok()?);
        (seconds > 0.0).then(|| tokens / seconds)
    }

    /// One line: tokens, speed, joules with their method, euros, grams.
    pub(crate) fn figures(&self) -> String {
        let mut parts = Vec::new();
        if let Some(usage) = &self.usage {
            let cached = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
            let reused = if cached > 0 { format!(" ({cached} cached)") } else { String::new() };
            parts.push(format!("{} tokens in{reused}, {} out", usage.prompt_tokens, usage.completion_tokens));
        }
        if let Some(speed) = self.tokens_per_second() {
            parts.push(format!("{speed:.1} tok/s"));
        }
        if let Some(first) = self.first_piece {
            parts.push(format!("first after {} ms", first.as_millis()));
        }
        parts.extend(self.costs());
        if self.finish == Some(FinishReason::Length) {
            parts.push("cut at its length limit".to_owned());
        }
        parts.join(" · ")
    }

    /// Energy with its method, money, carbon: from the ledger, else from the reply.
    fn costs(&self) -> Vec<String> {
        if let Some(record) = &self.record {
            let used = record.quantities;
            let energy = match used.millijoules {
                Millijoules(0) => format!("energy {}", display::word(&record.energy_method)),
                energy => format!("{} {}", display::energy(energy), display::word(&record.energy_method)),
            };
            return vec![
                energy,
                format!("{} €", display::euros(used.micros, used.picos)),
                display::carbon(used.co2e_micrograms),
            ];
        }
        let Some(usage) = &self.usage else { return Vec::new() };
        let method = usage.energy_method.as_deref().unwrap_or("");
        let energy = usage.energy_joules.map(|joules| format!("{joules:.3} J {method}").trim_end().to_owned());
        let carbon = usage.co2e_grams.map(|grams| format!("{grams:.6} g CO₂e"));
        energy.into_iter().chain(carbon).collect()
    }

    /// The same for programs.
    pub(crate) fn json(&self, endpoint: &str) -> Value {
        let cost = self.record.as_ref().map(|record| {
            let used = record.quantities;
            json!({ "amount": display::euros(used.micros, used.picos), "currency": "EUR" })
        });
        json!({
            "endpoint": endpoint,
            "text": self.text,
            "finish_reason": self.finish,
            "usage": self.usage,
            "cost": cost,
            "tokens_per_second": self.tokens_per_second(),
            "first_token_ms": self.first_piece.and_then(|first| u64::try_from(first.as_millis()).ok()),
            "request_id": self.request_id,
        })
    }
}

/// Text of a model without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|&c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use galerne_api::openai::PromptTokensDetails;

    fn answer() -> Answer {
        Answer {
            text: "Paris.".into(),
            finish: Some(FinishReason::Stop),
            usage: Some(Usage {
                prompt_tokens: 31,
                completion_tokens: 11,
                total_tokens: 42,
                prompt_tokens_details: Some(PromptTokensDetails { cached_tokens: 20 }),
                energy_joules: Some(4.25),
                co2e_grams: Some(0.000_066),
                energy_method: Some("estimated".into()),
                ..Usage::default()
            }),
            request_id: None,
            first_piece: Some(Duration::from_millis(80)),
            writing: Duration::from_millis(100),
            record: None,
        }
    }

    #[test]
    fn the_figures_of_an_answer_stand_on_one_line() {
        assert_eq!(
            answer().figures(),
            "31 tokens in (20 cached), 11 out · 100.0 tok/s · first after 80 ms · 4.250 J estimated · 0.000066 g CO₂e"
        );
    }

    #[test]
    fn a_model_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r\n\tc\u{7}"), "a[2Jb\n\tc");
    }
}
