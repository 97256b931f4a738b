//! Chat completions, text completions, and counting their tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use galerne_api::openai::{ChatMessage, ChatRequest, CompletionRequest, Prompt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::problem::Problem;
use super::read::Terms;
use super::write::{Answer, Shape};
use super::{App, read};
use crate::job::{self, Event, Generate, Job};
use crate::limits;
use crate::loaded::{Loaded, Task};
use crate::markup::{self, Markup};
use crate::request::{self, Refused, Wish};
use crate::vocabulary::{self, Frame};

pub(super) async fn chat(State(app): State<Arc<App>>, http: Request) -> Result<Response, Problem> {
    app.ready_for(Task::Generate)?;
    let terms = read::terms(http.headers())?;
    let request: ChatRequest = read::json(http).await?;
    app.check_model(&request.model)?;
    let wish = request::wish(&request.parameters, app.seed())?;
    let prompt = chat_tokens(&app, request.messages).await?;
    answer(&app, Shape::Chat, prompt, wish, terms).await
}

pub(super) async fn text(State(app): State<Arc<App>>, http: Request) -> Result<Response, Problem> {
    app.ready_for(Task::Generate)?;
    let terms = read::terms(http.headers())?;
    let request: CompletionRequest = read::json(http).await?;
    app.check_model(&request.model)?;
    refuse_unsupported(&request)?;
    let mut wish = request::wish(&request.parameters, app.seed())?;
    // OpenAI's default for this route; chats run to the end of the context.
    wish.max_tokens = wish.max_tokens.or(Some(16));
    let prompt = text_tokens(&app, request.prompt).await?;
    answer(&app, Shape::Text, prompt, wish, terms).await
}

/// Tokens of a prompt or of a conversation, as its completion would count them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenizeRequest {
    #[serde(default)]
    model: String,
    #[serde(alias = "prompt")]
    content: Option<Prompt>,
    messages: Option<Vec<ChatMessage>>,
}

#[derive(Debug, Serialize)]
pub(super) struct Tokens {
    tokens: Vec<i32>,
    count: usize,
}

pub(super) async fn tokenize(State(app): State<Arc<App>>, http: Request) -> Result<Json<Tokens>, Problem> {
    app.ready()?;
    let request: TokenizeRequest = read::json(http).await?;
    app.check_model(&request.model)?;
    let tokens = match (request.content, request.messages) {
        (Some(content), None) => text_tokens(&app, content).await?,
        (None, Some(messages)) => chat_tokens(&app, messages).await?,
        _ => return Err(Problem::bad_request("give either `content` or `messages`").param("content")),
    };
    Ok(Json(Tokens { count: tokens.len(), tokens }))
}

async fn answer(app: &Arc<App>, shape: Shape, prompt: Vec<i32>, wish: Wish, terms: Terms) -> Result<Response, Problem> {
    let loaded = app.ready_for(Task::Generate)?;
    let field = if shape == Shape::Chat { "messages" } else { "prompt" };
    if prompt.is_empty() {
        return Err(Problem::bad_request(format!("`{field}` has no tokens")).param(field));
    }
    let size = loaded.vocabulary.size();
    let known = |token: i32| usize::try_from(token).is_ok_and(|token| token < size);
    if let Some((token, _)) = wish.sampling.bias.iter().find(|(token, _)| !known(*token)) {
        let text = format!("`logit_bias` names the token {token}; this model has {size}");
        return Err(Problem::bad_request(text).param("logit_bias"));
    }
    let max_tokens = request::fit(prompt.len(), wish.max_tokens, loaded.context, field)?;
    let prefix = if shape == Shape::Chat { "chatcmpl-" } else { "cmpl-" };
    let id = format!("{prefix}{}", uuid::Uuid::now_v7().simple());
    let (sender, events) = mpsc::channel::<Event>(job::events_of(max_tokens));
    app.queue.submit(Job::Generate(Generate {
        id: id.clone(),
        prompt,
        max_tokens,
        sampling: wish.sampling,
        stops: wish.stops,
        ignore_end: wish.ignore_end,
        deadline: terms.deadline,
        account: app.accounts.open(terms.request_id),
        cache_scope: terms.cache_scope,
        events: sender,
    }))?;
    let created = jiff::Timestamp::now().as_second();
    let answer = Answer { id, created, model: app.name.clone(), shape, include_usage: wish.include_usage };
    if wish.stream { answer.streamed(events).await } else { answer.plain(events).await }
}

async fn chat_tokens(app: &Arc<App>, messages: Vec<ChatMessage>) -> Result<Vec<i32>, Problem> {
    let mut messages = request::template_messages(&messages)?;
    can_fit(app, "messages", messages.iter().map(|message| message["content"].as_str().map_or(0, str::len)).sum())?;
    // Templates may leave out names and tool calls, but they are all gone through.
    let bytes = messages.iter().map(markup::text_bytes).sum();
    prepared(app, bytes, move |loaded| {
        let Some(template) = &loaded.template else {
            let text = "this model has no chat template; use /v1/completions";
            return Err(Problem::bad_request(text).code("no_chat_template"));
        };
        for message in &mut messages {
            markup::mark(message, loaded.vocabulary.controls());
        }
        let prompt = template.render(&messages)?;
        Ok(vocabulary::tokenize_prompt(&*loaded.vocabulary, &prompt, &loaded.bos))
    })
    .await
}

async fn text_tokens(app: &Arc<App>, prompt: Prompt) -> Result<Vec<i32>, Problem> {
    let several = || Refused::new("prompt", "unsupported_parameter", "`prompt` must be one text or one list of tokens");
    let text = match prompt {
        Prompt::Text(text) => text,
        Prompt::Texts(mut texts) if texts.len() == 1 => texts.remove(0),
        Prompt::Tokens(tokens) => return known_tokens(app, tokens, "prompt"),
        Prompt::TokenLists(mut lists) if lists.len() == 1 => return known_tokens(app, lists.remove(0), "prompt"),
        Prompt::Texts(_) | Prompt::TokenLists(_) => return Err(several().into()),
    };
    // Whoever writes a bare prompt writes its markup too, as with llama-server and vLLM.
    can_fit(app, "prompt", text.len())?;
    prepared(app, text.len(), move |loaded| Ok(loaded.tokens(&text, Markup::Obeyed))).await
}

/// Tokens given as numbers, all of them in the vocabulary: the engine would end the process otherwise.
pub(super) fn known_tokens(app: &App, tokens: Vec<i32>, param: &str) -> Result<Vec<i32>, Problem> {
    let size = app.ready()?.vocabulary.size();
    match tokens.iter().find(|&&token| usize::try_from(token).map_or(true, |token| token >= size)) {
        None => Ok(tokens),
        Some(token) => {
            let text = format!("`{param}` holds the token {token}; this model has the tokens 0 to {}", size - 1);
            Err(Problem::bad_request(text).param(param))
        }
    }
}

/// Refuses a text that cannot fit whatever its tokens are.
pub(super) fn can_fit(app: &App, field: &str, bytes: usize) -> Result<(), Problem> {
    let loaded = app.ready()?;
    Ok(request::fit_bytes(bytes, loaded.vocabulary.longest(), loaded.context, field)?)
}

/// Does the work on `bytes` of text here when that is short, on another thread when it would keep others waiting.
pub(super) async fn prepared<T, F>(app: &Arc<App>, bytes: usize, work: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce(&Loaded) -> Result<T, Problem> + Send + 'static,
{
    let loaded = app.ready()?;
    if bytes <= limits::INLINE_TEXT_BYTES {
        return work(loaded);
    }
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || work(app.ready()?)).await;
    done.unwrap_or_else(|_| Err(Problem::engine_gone()))
}

fn refuse_unsupported(request: &CompletionRequest) -> Result<(), Refused> {
    let refused = |name: &str, why: &str| Err(Refused::new(name, "unsupported_parameter", format!("`{name}` {why}")));
    if request.echo == Some(true) {
        return refused("echo", "is not supported by this engine: the prompt is known to the caller");
    }
    if request.best_of.is_some_and(|n| n != 1) {
        return refused("best_of", "must be 1: send one request per answer");
    }
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return refused("suffix", "is not supported by this engine");
    }
    Ok(())
}

impl Loaded {
    /// Tokens of a bare text.
    pub(super) fn tokens(&self, text: &str, markup: Markup) -> Vec<i32> {
        self.vocabulary.tokenize(text, Frame::Added, markup)
    }
}
