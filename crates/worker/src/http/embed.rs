//! Embeddings.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use galerne_api::openai::{
    Embedding, EmbeddingInput, EmbeddingList, EmbeddingRequest, EmbeddingVector, Usage, WorkerUsage,
};
use tokio::sync::oneshot;

use super::problem::Problem;
use super::{App, complete, read};
use crate::job::{Embed, Job};
use crate::limits;
use crate::loaded::{Loaded, Task};
use crate::markup::Markup;
use crate::request;

#[derive(Clone, Copy)]
enum Encoding {
    Float,
    Base64,
}

pub(super) async fn embeddings(State(app): State<Arc<App>>, http: Request) -> Result<Json<EmbeddingList>, Problem> {
    let loaded = app.ready_for(Task::Embed)?;
    let terms = read::terms(http.headers())?;
    let request: EmbeddingRequest = read::json(http).await?;
    app.served(&request.model)?;
    let encoding = check(&request)?;
    let inputs = tokens(&app, request.input).await?;
    let prompt_tokens = inputs.iter().map(Vec::len).sum::<usize>() as u64;
    if let Some((i, input)) = inputs.iter().enumerate().find(|(_, input)| input.len() > loaded.context) {
        let field = if inputs.len() == 1 { "input".to_owned() } else { format!("input[{i}]") };
        request::fit(input.len(), None, loaded.context, &field)?;
    }
    let (reply, answer) = oneshot::channel();
    let account = app.accounts.open(terms.request_id);
    app.queue.submit(Job::Embed(Embed { inputs, account, reply }))?;
    let embedded = answer.await.map_err(|_| Problem::engine_gone())??;
    let data = (0_u32..).zip(embedded.vectors).map(|(index, vector)| Embedding {
        object: "embedding".into(),
        index,
        embedding: encode(vector, encoding),
    });
    Ok(Json(EmbeddingList {
        object: "list".into(),
        data: data.collect(),
        model: app.name.clone(),
        usage: Usage {
            prompt_tokens,
            total_tokens: prompt_tokens,
            galerne: Some(WorkerUsage { cpu_micros: embedded.cpu_micros, cached_tokens: 0 }),
            ..Usage::default()
        },
    }))
}

fn check(request: &EmbeddingRequest) -> Result<Encoding, Problem> {
    if request.dimensions.is_some() {
        let text = "`dimensions` is not supported by this engine: vectors have the model's own length";
        return Err(Problem::bad_request(text).param("dimensions").code("unsupported_parameter"));
    }
    for (name, value) in &request.other {
        if name != "user" && !value.is_null() {
            let text = format!("`{name}` is not supported for embeddings");
            return Err(Problem::bad_request(text).param(name).code("unsupported_parameter"));
        }
    }
    match request.encoding_format.as_deref() {
        None | Some("float") => Ok(Encoding::Float),
        Some("base64") => Ok(Encoding::Base64),
        Some(other) => {
            let text = format!("`encoding_format` is `{other}`; it must be `float` or `base64`");
            Err(Problem::bad_request(text).param("encoding_format"))
        }
    }
}

async fn tokens(app: &Arc<App>, input: EmbeddingInput) -> Result<Vec<Vec<i32>>, Problem> {
    let (texts, lists) = match input {
        EmbeddingInput::Text(text) => (vec![text], vec![]),
        EmbeddingInput::Texts(texts) => (texts, vec![]),
        EmbeddingInput::Tokens(tokens) => (vec![], vec![tokens]),
        EmbeddingInput::TokenLists(lists) => (vec![], lists),
    };
    let count = texts.len() + lists.len();
    if count == 0 || count > limits::EMBEDDING_INPUTS {
        let text = format!("`input` has {count} entries; it must have 1 to {}", limits::EMBEDDING_INPUTS);
        return Err(Problem::bad_request(text).param("input"));
    }
    if texts.iter().any(String::is_empty) {
        return Err(Problem::bad_request("`input` holds an empty text").param("input"));
    }
    texts.iter().try_for_each(|text| complete::can_fit(app, "input", text.len()))?;
    let bytes = texts.iter().map(String::len).sum();
    // All at once, so that thousands of short texts do not keep others waiting. What is embedded is data: a `[SEP]` in it
    // is five letters.
    let tokens = move |loaded: &Loaded| Ok(texts.iter().map(|text| loaded.tokens(text, Markup::Plain)).collect());
    let mut inputs: Vec<Vec<i32>> = complete::prepared(app, bytes, tokens).await?;
    for list in lists {
        inputs.push(complete::known_tokens(app, list, "input")?);
    }
    if inputs.iter().any(Vec::is_empty) {
        return Err(Problem::bad_request("`input` holds a text without tokens").param("input"));
    }
    Ok(inputs)
}

fn encode(vector: Vec<f32>, encoding: Encoding) -> EmbeddingVector {
    match encoding {
        Encoding::Float => EmbeddingVector::Float(vector),
        Encoding::Base64 => {
            EmbeddingVector::Base64(STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
        }
    }
}
