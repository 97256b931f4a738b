//! `/tokenize` and `/detokenize`, as vLLM has them: tokens of a prompt or a conversation as its completion would count them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use galerne_api::openai::{ChatMessage, Parameters, Prompt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::problem::Problem;
use super::{App, complete, read};
use crate::markup::Markup;
use crate::request;
use crate::vocabulary::{self, Frame};

#[derive(Debug, Deserialize)]
pub(super) struct TokenizeRequest {
    #[serde(default)]
    model: String,
    /// `prompt` is vLLM's name, `content` llama-server's.
    #[serde(alias = "prompt")]
    content: Option<Prompt>,
    messages: Option<Vec<ChatMessage>>,
    /// Whether the tokens that the model wants around every text are added; of prompts, not of conversations.
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
    /// Those of a chat that change its prompt.
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Debug, Serialize)]
pub(super) struct Tokens {
    tokens: Vec<i32>,
    count: usize,
    max_model_len: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_strs: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DetokenizeRequest {
    #[serde(default)]
    model: String,
    tokens: Vec<i32>,
}

#[derive(Debug, Serialize)]
pub(super) struct Text {
    prompt: String,
}

pub(super) async fn tokenize(State(app): State<Arc<App>>, http: Request) -> Result<Json<Tokens>, Problem> {
    let loaded = app.ready()?;
    let request: TokenizeRequest = read::json(http).await?;
    app.served(&request.model)?;
    let parameters = Parameters { other: request.other, ..Parameters::default() };
    request::check_rendering(&parameters)?;
    let tokens = match (request.content, request.messages) {
        (Some(content), None) if request.add_special_tokens == Some(false) => bare(&app, content).await?,
        (Some(content), None) => complete::text_tokens(&app, content).await?.0,
        (None, Some(_)) if request.add_special_tokens == Some(true) => {
            let text = "`add_special_tokens` is for prompts: the chat template writes a conversation's own";
            return Err(Problem::bad_request(text).param("add_special_tokens"));
        }
        (None, Some(messages)) => {
            let rendering = request::rendering(&parameters, &messages)?;
            let tools = request::tool_use(&parameters)?;
            let sent = tools.iter().flat_map(|tools| &tools.tools).map(|tool| tool.sent.clone()).collect();
            complete::chat_tokens(&app, messages, sent, rendering).await?.tokens
        }
        _ => return Err(Problem::bad_request("give either `prompt` or `messages`").param("prompt")),
    };
    let shown = |token: &i32| String::from_utf8_lossy(&loaded.vocabulary.piece(*token)).into_owned();
    let token_strs = request.return_token_strs.unwrap_or(false).then(|| tokens.iter().map(shown).collect());
    Ok(Json(Tokens { count: tokens.len(), max_model_len: loaded.context, token_strs, tokens }))
}

async fn bare(app: &Arc<App>, prompt: Prompt) -> Result<Vec<i32>, Problem> {
    let Prompt::Text(text) = prompt else { return Ok(complete::text_tokens(app, prompt).await?.0) };
    complete::can_fit(app, "prompt", text.len())?;
    let tokens = move |text: String| {
        move |loaded: &crate::loaded::Loaded| Ok(loaded.vocabulary.tokenize(&text, Frame::Left, Markup::Obeyed))
    };
    complete::prepared(app, text.len(), tokens(text)).await
}

pub(super) async fn detokenize(State(app): State<Arc<App>>, http: Request) -> Result<Json<Text>, Problem> {
    let loaded = app.ready()?;
    let request: DetokenizeRequest = read::json(http).await?;
    app.served(&request.model)?;
    let tokens = complete::known_tokens(&app, request.tokens, "tokens")?;
    Ok(Json(Text { prompt: vocabulary::text_of(&*loaded.vocabulary, &tokens) }))
}
