//! Talking to an endpoint: one question, or a conversation at a terminal.

use std::io::{IsTerminal, Read};

use clap::Args;
use galerne_api::client::Client;
use galerne_api::error::Code;
use galerne_api::openai::{ChatMessage, ModelList, Parameters};
use owo_colors::OwoColorize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use crate::answer::{self, Answer, ask, message};
use crate::failure::Failure;
use crate::session::Session;

/// Longest question read from a pipe: what the gateway takes.
const PROMPT_MAX_BYTES: u64 = galerne_model::limits::INFERENCE_BODY_MAX_BYTES as u64;

/// Options of `galerne chat`.
#[derive(Debug, Clone, Args)]
pub struct ChatArguments {
    /// The endpoint, and what to ask it; a text with spaces alone is a question to the usual endpoint
    #[arg(value_name = "ENDPOINT] [QUESTION", num_args = 0..=2, hide_possible_values = true)]
    words: Vec<String>,
    /// What the model is told beforehand
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_tokens: u32,
    /// 0 answers the same every time, 1 varies; low keeps small models to the point
    #[arg(long, value_name = "T", default_value_t = 0.2)]
    temperature: f64,
    /// Makes a varied answer repeatable
    #[arg(long, value_name = "N")]
    seed: Option<i64>,
}

impl ChatArguments {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let client = session.client()?;
        let (endpoint, question) = self.words();
        let endpoint = match endpoint {
            Some(endpoint) => endpoint,
            None => usual_endpoint(session, &client).await?,
        };
        let question = match question {
            Some(question) => Some(question),
            None if std::io::stdin().is_terminal() => None,
            None => Some(read_question()?),
        };
        let mut conversation = Conversation::new(client, endpoint, &self);
        match question {
            Some(question) => conversation.once(session, &question).await,
            None if session.is_json() => {
                Err(Failure::usage("a conversation has no JSON form").hint("give the question too"))
            }
            None => conversation.at_terminal(session).await,
        }
    }

    fn words(&self) -> (Option<String>, Option<String>) {
        match self.words.as_slice() {
            [] => (None, None),
            [question] if question.contains(char::is_whitespace) => (None, Some(question.clone())),
            [endpoint] => (Some(endpoint.clone()), None),
            [endpoint, rest @ ..] => (Some(endpoint.clone()), Some(rest.join(" "))),
        }
    }
}

/// The endpoint to talk to when none is named: that of the profile, else the only one there is.
async fn usual_endpoint(session: &Session, client: &Client) -> Result<String, Failure> {
    if let Some(endpoint) = &session.profile.endpoint {
        return Ok(endpoint.clone());
    }
    let models: ModelList = client.read("/v1/models", &[]).await?;
    let names: Vec<&str> = models.data.iter().map(|model| model.id.as_str()).collect();
    match names.as_slice() {
        [] => Err(Failure::new(Code::ModelNotFound, "no endpoint can be called with this key")
            .hint("make one: galerne endpoint create NAME --model MODEL")),
        [only] => Ok((*only).to_owned()),
        many => Err(Failure::usage("there are several endpoints, and none was named")
            .because(format!("there are {}", many.join(", ")))
            .hint(format!("galerne chat {}", many[0]))),
    }
}

fn read_question() -> Result<String, Failure> {
    let mut question = String::new();
    std::io::stdin()
        .take(PROMPT_MAX_BYTES)
        .read_to_string(&mut question)
        .map_err(|error| Failure::usage("the question on stdin is not text").because_of(&error))?;
    if question.trim().is_empty() {
        return Err(Failure::usage("nothing was asked").hint("galerne chat ENDPOINT \"a question\""));
    }
    Ok(question)
}

/// What was said so far, and to whom.
struct Conversation {
    client: Client,
    endpoint: String,
    parameters: Parameters,
    system: Option<ChatMessage>,
    messages: Vec<ChatMessage>,
}

impl Conversation {
    fn new(client: Client, endpoint: String, arguments: &ChatArguments) -> Self {
        let parameters = Parameters {
            max_tokens: Some(arguments.max_tokens),
            temperature: Some(arguments.temperature),
            seed: arguments.seed,
            ..Parameters::default()
        };
        let system = arguments.system.as_deref().map(|text| message("system", text));
        Self { client, endpoint, parameters, system, messages: Vec::new() }
    }

    async fn once(&mut self, session: &mut Session, question: &str) -> Result<(), Failure> {
        let mut answer = self.ask(session, question).await?;
        answer.settle(&self.client).await;
        if session.is_json() {
            return session.output.json(&answer.json(&self.endpoint));
        }
        session.output.line("")?;
        say_figures(session, &answer, true);
        Ok(())
    }

    async fn ask(&mut self, session: &mut Session, question: &str) -> Result<Answer, Failure> {
        let mut messages: Vec<ChatMessage> = self.system.iter().chain(&self.messages).cloned().collect();
        messages.push(message("user", question));
        let (json, terminal) = (session.is_json(), session.output.width().is_some());
        let output = &mut session.output;
        let answer =
            ask(&self.client, &self.endpoint, messages, self.parameters.clone(), |piece| match (json, terminal) {
                (true, _) => Ok(()),
                (false, true) => output.piece(&answer::printable(piece)),
                (false, false) => output.piece(piece),
            })
            .await?;
        self.messages.push(message("user", question));
        self.messages.push(message("assistant", &answer.text));
        Ok(answer)
    }

    async fn at_terminal(&mut self, session: &mut Session) -> Result<(), Failure> {
        session.output.note(format!(
            "{} at {} · /reset forgets, /exit or Ctrl-D ends",
            self.endpoint.bold(),
            session.profile.url()
        ));
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(question) = next_question(session, &mut lines).await? {
            match question.trim() {
                "" => {}
                "/exit" | "/quit" => break,
                "/reset" => {
                    self.messages.clear();
                    session.output.note("forgotten");
                }
                command if command.starts_with('/') => {
                    session.output.say(format!("there is no {command}; there are /reset and /exit"))
                }
                question => self.turn(session, question).await?,
            }
        }
        Ok(())
    }

    /// One question and its answer; Ctrl-C stops the answer, a refusal does not end the conversation.
    async fn turn(&mut self, session: &mut Session, question: &str) -> Result<(), Failure> {
        let outcome = tokio::select! {
            outcome = self.ask(session, question) => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
        };
        match outcome {
            None => {
                session.output.line("")?;
                session.output.note("stopped; what was written until then counts".dimmed().to_string());
            }
            Some(Ok(mut answer)) => {
                session.output.line("")?;
                answer.settle(&self.client).await;
                say_figures(session, &answer, false);
            }
            Some(Err(failure)) if failure.code() == Code::ServerUnreachable => return Err(failure),
            Some(Err(failure)) => session.output.say(failure.render()),
        }
        Ok(())
    }
}

async fn next_question(session: &mut Session, lines: &mut Lines<BufReader<Stdin>>) -> Result<Option<String>, Failure> {
    session.output.prompt(&format!("{} ", ">".cyan().bold()));
    let line = tokio::select! {
        line = lines.next_line() => line.map_err(|error| Failure::usage("the question is not text").because_of(&error))?,
        _ = tokio::signal::ctrl_c() => None,
    };
    if line.is_none() {
        // The shell's own prompt begins a line.
        session.output.say("");
    }
    Ok(line)
}

fn say_figures(session: &mut Session, answer: &Answer, with_request: bool) {
    session.output.note(answer.figures().dimmed().to_string());
    if let (true, Some(id)) = (with_request, &answer.request_id) {
        session.output.note(format!("why it was so: galerne why {id}").dimmed().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> (Option<String>, Option<String>) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        ChatArguments { words, system: None, max_tokens: 512, temperature: 0.2, seed: None }.words()
    }

    #[test]
    fn a_text_with_spaces_alone_is_a_question() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(words(&["smol"]), (some("smol"), None));
        assert_eq!(words(&["who are you?"]), (None, some("who are you?")));
        assert_eq!(words(&["smol", "hello"]), (some("smol"), some("hello")));
    }
}
