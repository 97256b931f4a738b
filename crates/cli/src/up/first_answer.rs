//! The first answer, its price, and what to type next.

use std::path::Path;

use galerne_api::openai::Parameters;
use owo_colors::OwoColorize;

use super::{Site, Steps};
use crate::answer::{ask, message, printable};
use crate::failure::Failure;
use crate::profile::Profile;

/// What a first start asks: a question with one right answer, which a small model knows.
const QUESTION: &str = "What is the capital of France?";
/// Longest first answer, in tokens: a few seconds on a slow machine.
const ANSWER_MAX_TOKENS: u32 = 48;

impl Steps<'_> {
    /// Asks the first question and prints the answer as it arrives, then what it took.
    pub(super) async fn first_answer(&self, endpoint: &str) -> Result<(), Failure> {
        let phases = self.phases;
        phases.line("");
        phases.line(format!("  {} {QUESTION}", ">".cyan().bold()));
        phases.piece("  ");
        let parameters =
            Parameters { temperature: Some(0.0), max_tokens: Some(ANSWER_MAX_TOKENS), ..Parameters::default() };
        let asked = ask(&self.client, endpoint, vec![message("user", QUESTION)], parameters, |piece| {
            phases.piece(&printable(piece).replace('\n', "\n  "));
            Ok(())
        })
        .await;
        phases.line("");
        let mut answer = asked?;
        answer.settle(&self.client).await;
        phases.text(2, &answer.figures());
        Ok(())
    }

    /// The last lines: where it is, the key if it is new, and three commands.
    pub(super) fn say_next(&self, config: &Path, site: &Site, endpoint: Option<&str>) {
        let phases = self.phases;
        let kept_in = self.arguments.ready_file.clone().unwrap_or_else(|| Profile::path(config));
        phases.line("");
        phases.line(format!("{} {}", "Galerne runs at".bold(), site.url.bold().underline()));
        if let Some(key) = &site.first_key {
            if phases.is_watched() {
                phases.line(format!("Your API key, shown once: {}", key.bold()));
                phases.line(format!("It is kept in {}", kept_in.display()));
            } else {
                // What nobody watches is usually kept in a log.
                phases.line(format!("Your API key is in {}", kept_in.display()));
            }
        }
        if let Some(endpoint) = endpoint {
            self.say_commands(site, endpoint);
        } else {
            phases.line("Next:");
            phases.line("  galerne model catalogue");
            phases.line("  galerne model pull NAME");
            phases.line("  galerne endpoint create NAME --model NAME");
        }
        phases.line("");
        phases.line("Ctrl-C stops it.".dimmed().to_string());
    }

    fn say_commands(&self, site: &Site, endpoint: &str) {
        let phases = self.phases;
        // Without a limit a small model at the usual temperature of 1 goes on until its context is full.
        let python = format!(
            "import openai; print(openai.OpenAI().chat.completions.create(model=\"{endpoint}\", max_tokens=64, \
             temperature=0.2, messages=[{{\"role\": \"user\", \"content\": \"Hello\"}}]).choices[0].message.content)"
        );
        phases.line("Next, in another terminal:");
        phases.line(format!("  {}", "galerne chat".bold()));
        phases.line(format!("  {}", "eval \"$(galerne env --openai)\"".bold()));
        phases.line(format!("  python3 -c '{python}'"));
        phases.line(format!("  curl {}/v1/chat/completions -H \"Authorization: Bearer $OPENAI_API_KEY\" \\", site.url));
        phases.line(format!(
            "    -H 'Content-Type: application/json' -d '{{\"model\":\"{endpoint}\",\"max_tokens\":64,\"temperature\":0.2,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'"
        ));
    }
}
