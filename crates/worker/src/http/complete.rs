//! Chat completions and text completions.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use galerne_api::openai::{ChatMessage, ChatRequest, CompletionRequest, Prompt};
use serde_json::Value;
use tokio::sync::mpsc;

use super::problem::Problem;
use super::read::Terms;
use super::speaker::Reading;
use super::write::{Answer, Echoed};
use super::{App, read, structure};
use crate::adapter::Adapter;
use crate::constraint::Constraint;
use crate::job::{self, Event, Generate, Job, Scores};
use crate::limits;
use crate::loaded::{Loaded, Task};
use crate::manner::Tools;
use crate::markup::{self, Markup};
use crate::request::{self, Echo, Ending, Refused, Rendering, Route, ToolUse, Wish};
use crate::tool_message;
use crate::vocabulary::{self, Frame};

pub(super) async fn chat(State(app): State<Arc<App>>, http: Request) -> Result<Response, Problem> {
    let loaded = app.ready_for(Task::Generate)?;
    let terms = read::terms(http.headers())?;
    let request: ChatRequest = read::json(http).await?;
    let adapter = app.served(&request.model)?;
    let wish = request::wish(&request.parameters, Route::Chat, Echo::Nothing, app.seed())?;
    let rendering = request::rendering(&request.parameters, &request.messages)?;
    let echo = rendering.prefix.clone().map(|text| Echoed { text, scored_from: None });
    let tools = request::tool_use(&request.parameters)?;
    if tools.is_some() && loaded.manner.calls().is_none() {
        let text = "`tools` are not supported with this model: how it writes calls is not known to this engine";
        return Err(Refused::new("tools", "unsupported_parameter", text).into());
    }
    let content = request::response_format(&request.parameters)?;
    let sent = tools.iter().flat_map(|tools| &tools.tools).map(|tool| tool.sent.clone()).collect();
    let Prompted { tokens: prompt, thinks } = chat_tokens(&app, request.messages, sent, rendering).await?;
    let names = tools.as_ref().map(ToolUse::names).unwrap_or_default();
    let reading = Some(Reading { manner: loaded.manner, tools: names, thinks });
    let constraint = structure::constraint(&app, content, tools, thinks).await?;
    let best_of = wish.choices;
    answer(&app, Asked { route: Route::Chat, adapter, prompt, best_of, wish, terms, echo, reading, constraint }).await
}

pub(super) async fn text(State(app): State<Arc<App>>, http: Request) -> Result<Response, Problem> {
    let loaded = app.ready_for(Task::Generate)?;
    let terms = read::terms(http.headers())?;
    let request: CompletionRequest = read::json(http).await?;
    let adapter = app.served(&request.model)?;
    let echoes = request.echo.unwrap_or(false);
    let echo = if echoes { Echo::Prompt } else { Echo::Nothing };
    let mut wish = request::wish(&request.parameters, Route::Text, echo, app.seed())?;
    // OpenAI's default for this route; chats run to the end of the context.
    wish.max_tokens = wish.max_tokens.or(Some(16));
    let best_of = best_of(request.best_of, &wish)?;
    let suffix = request.suffix.filter(|suffix| !suffix.is_empty());
    if suffix.is_some() && echoes {
        let text = "`echo` and `suffix` do not go together: the prompt is not what the answer follows";
        return Err(Refused::new("echo", "unsupported_parameter", text).into());
    }
    let (prompt, text) = match suffix {
        Some(suffix) => (gap_tokens(&app, request.prompt, suffix).await?, String::new()),
        None => text_tokens(&app, request.prompt).await?,
    };
    let scored_from = prompt.first().copied().filter(|_| wish.logprobs.is_some());
    let text = if text.is_empty() && echoes { vocabulary::text_of(&*loaded.vocabulary, &prompt) } else { text };
    let echo = echoes.then_some(Echoed { text, scored_from });
    let asked =
        Asked { route: Route::Text, adapter, prompt, best_of, wish, terms, echo, reading: None, constraint: None };
    answer(&app, asked).await
}

/// How many choices are computed for those that are written.
fn best_of(asked: Option<u32>, wish: &Wish) -> Result<usize, Refused> {
    let Some(asked) = asked else { return Ok(wish.choices) };
    let best_of = request::choices("best_of", Some(asked))?;
    if best_of < wish.choices {
        let text = format!("`best_of` is {best_of}, less than the `n` of {} that it is to choose from", wish.choices);
        return Err(Refused::new("best_of", "invalid_value", text));
    }
    if best_of > wish.choices && wish.stream {
        let text = "`best_of` above `n` cannot be streamed: which are the best is known at the end";
        return Err(Refused::new("best_of", "unsupported_parameter", text));
    }
    Ok(best_of)
}

/// A request that was understood.
struct Asked {
    route: Route,
    adapter: Option<Arc<Adapter>>,
    prompt: Vec<i32>,
    wish: Wish,
    best_of: usize,
    terms: Terms,
    echo: Option<Echoed>,
    /// In chats.
    reading: Option<Reading>,
    constraint: Option<Constraint>,
}

async fn answer(app: &Arc<App>, asked: Asked) -> Result<Response, Problem> {
    let loaded = app.ready_for(Task::Generate)?;
    let Asked { route, adapter, prompt, wish, best_of, terms, echo, reading, constraint } = asked;
    let field = if route == Route::Chat { "messages" } else { "prompt" };
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
    let prefix = if route == Route::Chat { "chatcmpl-" } else { "cmpl-" };
    let id = format!("{prefix}{}", uuid::Uuid::now_v7().simple());
    let (sender, events) = mpsc::channel::<Event>(job::events_of(max_tokens, best_of));
    // The likeliest are chosen by their scores, told or not.
    let of_answer = wish.logprobs.or_else(|| (best_of > wish.choices).then_some(0));
    let of_prompt = wish.logprobs.filter(|_| echo.as_ref().is_some_and(|echo| echo.scored_from.is_some()));
    let model = adapter.as_ref().map_or(&app.name, |adapter| &adapter.name).clone();
    let with = |adapter: &Arc<Adapter>| loaded.fingerprint.with(&adapter.fingerprint.bytes());
    let fingerprint = adapter.as_ref().map_or(loaded.fingerprint, with);
    app.queue.submit(Job::Generate(Box::new(Generate {
        id: id.clone(),
        prompt,
        choices: best_of,
        max_tokens,
        min_tokens: wish.min_tokens.min(max_tokens),
        sampling: wish.sampling,
        stops: wish.stops,
        ignore_end: wish.ignore_end,
        scores: Scores { answer: of_answer, prompt: of_prompt },
        constraint,
        // Completions show none, as everywhere.
        adapter,
        shown: if route == Route::Chat { Arc::clone(&loaded.marks) } else { Arc::default() },
        deadline: terms.deadline,
        account: app.accounts.open(terms.request_id),
        cache_scope: terms.cache_scope,
        events: sender,
    })))?;
    let answer = Answer {
        id,
        created: jiff::Timestamp::now().as_second(),
        model,
        fingerprint: fingerprint.to_string(),
        route,
        include_usage: wish.include_usage,
        choices: wish.choices,
        best_of,
        logprobs: wish.logprobs.is_some(),
        echo,
        reading,
        vocabulary: Arc::clone(&loaded.vocabulary),
    };
    if wish.stream { answer.streamed(events).await } else { answer.plain(events).await }
}

/// A chat as tokens.
pub(super) struct Prompted {
    pub(super) tokens: Vec<i32>,
    /// It ends where the model's thoughts have begun.
    pub(super) thinks: bool,
}

pub(super) async fn chat_tokens(
    app: &Arc<App>,
    messages: Vec<ChatMessage>,
    mut tools: Vec<Value>,
    rendering: Rendering,
) -> Result<Prompted, Problem> {
    let mut messages = request::template_messages(&messages)?;
    can_fit(app, "messages", messages.iter().map(|message| message["content"].as_str().map_or(0, str::len)).sum())?;
    // Templates may leave out names and tool calls, but they are all gone through.
    let bytes = messages.iter().chain(&tools).map(markup::text_bytes).sum();
    prepared(app, bytes, move |loaded| {
        let Some(template) = &loaded.template else {
            let text = "this model has no chat template; use /v1/completions";
            return Err(Problem::bad_request(text).code("no_chat_template"));
        };
        for value in messages.iter_mut().chain(&mut tools) {
            markup::mark(value, loaded.vocabulary.controls());
        }
        if loaded.manner.tools == Tools::Message && !tools.is_empty() {
            messages = tool_message::tell(messages, &tools);
            tools.clear();
        }
        let prompt = template.prompt(messages, &tools, &rendering)?;
        let begins_thoughts = |(begin, _): (&str, &str)| prompt.trim_end().ends_with(begin);
        let thinks = rendering.ending == Ending::Turn && loaded.manner.thoughts.is_some_and(begins_thoughts);
        Ok(Prompted { tokens: vocabulary::tokenize_prompt(&*loaded.vocabulary, &prompt, &loaded.bos), thinks })
    })
    .await
}

/// The tokens of a bare prompt, and its text if it was one.
pub(super) async fn text_tokens(app: &Arc<App>, prompt: Prompt) -> Result<(Vec<i32>, String), Problem> {
    let text = match one(prompt)? {
        Single::Text(text) => text,
        Single::Tokens(tokens) => return Ok((known_tokens(app, tokens, "prompt")?, String::new())),
    };
    // Whoever writes a bare prompt writes its markup too, as with llama-server and vLLM.
    can_fit(app, "prompt", text.len())?;
    prepared(app, text.len(), move |loaded| Ok((loaded.tokens(&text, Markup::Obeyed), text))).await
}

/// The prompt of a gap between `prompt` and `suffix`.
async fn gap_tokens(app: &Arc<App>, prompt: Prompt, suffix: String) -> Result<Vec<i32>, Problem> {
    let Single::Text(before) = one(prompt)? else {
        let text = "`suffix` needs a `prompt` in text: the tokens of the gap are put between the two";
        return Err(Problem::bad_request(text).param("prompt"));
    };
    let Some(gap) = app.ready()?.vocabulary.gap() else {
        let text = "`suffix` is not supported by this model: its vocabulary has no tokens for filling in the middle";
        return Err(Refused::new("suffix", "unsupported_parameter", text).into());
    };
    can_fit(app, "prompt", before.len() + suffix.len())?;
    let bytes = before.len() + suffix.len();
    prepared(app, bytes, move |loaded| Ok(vocabulary::tokenize_gap(&*loaded.vocabulary, gap, &before, &suffix))).await
}

enum Single {
    Text(String),
    Tokens(Vec<i32>),
}

fn one(prompt: Prompt) -> Result<Single, Refused> {
    match prompt {
        Prompt::Text(text) => Ok(Single::Text(text)),
        Prompt::Texts(mut texts) if texts.len() == 1 => Ok(Single::Text(texts.remove(0))),
        Prompt::Tokens(tokens) => Ok(Single::Tokens(tokens)),
        Prompt::TokenLists(mut lists) if lists.len() == 1 => Ok(Single::Tokens(lists.remove(0))),
        Prompt::Texts(_) | Prompt::TokenLists(_) => {
            let text = "`prompt` must be one text or one list of tokens";
            Err(Refused::new("prompt", "unsupported_parameter", text))
        }
    }
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

impl Loaded {
    /// Tokens of a bare text.
    pub(super) fn tokens(&self, text: &str, markup: Markup) -> Vec<i32> {
        self.vocabulary.tokenize(text, Frame::Added, markup)
    }
}
