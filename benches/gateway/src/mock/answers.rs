//! What the mock says. Shapes are those of OpenAI and vLLM, as far as gateways and clients look.

use serde_json::{Value, json};

use super::MODEL;
use super::request::Route;
use super::seen::Seen;

/// Tokens that every prompt is said to have.
const PROMPT_TOKENS: usize = 9;
/// Numbers of an embedding.
const DIMENSIONS: usize = 384;
/// Two in turn: LiteLLM takes a hundred equal ones in a row for a model that is stuck.
const TOKENS: [&str; 2] = [" tok", " kot"];

pub(super) const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/// A whole answer with its head.
pub(super) fn plain(route: Route, tokens: usize) -> Vec<u8> {
    let text: String = TOKENS.into_iter().cycle().take(tokens).collect();
    let total = PROMPT_TOKENS + tokens;
    let usage =
        format!("{{\"prompt_tokens\":{PROMPT_TOKENS},\"completion_tokens\":{tokens},\"total_tokens\":{total}}}");
    let body = match route {
        Route::Completion => format!(
            "{{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"{MODEL}\",\"choices\":[{{\"index\":0,\
             \"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":{usage}}}"
        ),
        _ => format!(
            "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"{MODEL}\",\"choices\":[{{\"index\":0,\
             \"message\":{{\"role\":\"assistant\",\"content\":\"{text}\",\"refusal\":null}},\"logprobs\":null,\
             \"finish_reason\":\"stop\"}}],\"usage\":{usage}}}"
        ),
    };
    whole("application/json", &body)
}

/// The tokens with even and odd places, each as an event in a chunk; both have the same length.
pub(super) fn events(route: Route) -> [Vec<u8>; 2] {
    TOKENS.map(|token| event(route, token))
}

fn event(route: Route, token: &str) -> Vec<u8> {
    let choice = match route {
        Route::Completion => format!("\"text\":\"{token}\",\"logprobs\":null,\"finish_reason\":null"),
        _ => format!("\"delta\":{{\"content\":\"{token}\"}},\"logprobs\":null,\"finish_reason\":null"),
    };
    chunk(&frame(&stream_object(route, &format!("[{{\"index\":0,{choice}}}]"), "")))
}

/// The end of a stream: the reason, the usage, the word that it is done, each an event in a chunk; then the last chunk.
pub(super) fn last_events(route: Route, tokens: usize) -> Vec<u8> {
    let choice = match route {
        Route::Completion => "\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\"",
        _ => "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"",
    };
    let total = PROMPT_TOKENS + tokens;
    let usage = format!(
        ",\"usage\":{{\"prompt_tokens\":{PROMPT_TOKENS},\"completion_tokens\":{tokens},\"total_tokens\":{total}}}"
    );
    let mut bytes = chunk(&frame(&stream_object(route, &format!("[{{\"index\":0,{choice}}}]"), "")));
    bytes.extend(chunk(&frame(&stream_object(route, "[]", &usage))));
    bytes.extend(chunk(&frame("[DONE]")));
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn stream_object(route: Route, choices: &str, more: &str) -> String {
    let (id, object) = match route {
        Route::Completion => ("cmpl-1", "text_completion"),
        _ => ("chatcmpl-1", "chat.completion.chunk"),
    };
    format!(
        "{{\"id\":\"{id}\",\"object\":\"{object}\",\"created\":1,\"model\":\"{MODEL}\",\"choices\":{choices}{more}}}"
    )
}

fn frame(object: &str) -> String {
    format!("data: {object}\n\n")
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// Everything that is no chat and no completion.
pub(super) fn other(route: Route, body: &[u8], seen: &Seen) -> Vec<u8> {
    match route {
        Route::Embeddings => whole("application/json", &embeddings(body).to_string()),
        Route::Tokenize => whole("application/json", &json!({"count": PROMPT_TOKENS}).to_string()),
        Route::Models => {
            let model = json!({"id": MODEL, "object": "model", "created": 1, "owned_by": MODEL});
            whole("application/json", &json!({"object": "list", "data": [model]}).to_string())
        }
        Route::Metrics => whole("text/plain; version=0.0.4", &metrics(seen.running())),
        Route::Stats => whole("application/json", &seen.told().to_string()),
        Route::Facts => {
            let facts = json!({"model_path": MODEL, "served_model_name": MODEL, "is_generation": true, "dp_size": 1});
            whole("application/json", &facts.to_string())
        }
        Route::Health => whole("application/json", "{}"),
        Route::Chat | Route::Completion | Route::Unknown => with_status("404 Not Found", "application/json", "{}"),
    }
}

fn embeddings(body: &[u8]) -> Value {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let inputs = asked["input"].as_array().map_or(1, Vec::len);
    let numbers = vec![0.05; DIMENSIONS];
    let one = |index: usize| json!({"object": "embedding", "index": index, "embedding": numbers});
    let tokens = PROMPT_TOKENS * inputs;
    json!({
        "object": "list",
        "model": MODEL,
        "data": (0..inputs).map(one).collect::<Vec<Value>>(),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}

/// The lines of vLLM's metrics that routers read.
fn metrics(running: u64) -> String {
    let label = format!("{{model_name=\"{MODEL}\",engine=\"0\"}}");
    let gauge = |name: &str, value: &str| format!("# TYPE {name} gauge\n{name}{label} {value}\n");
    [
        gauge("vllm:num_requests_running", &running.to_string()),
        gauge("vllm:num_requests_waiting", "0"),
        gauge("vllm:kv_cache_usage_perc", "0.1"),
        gauge("vllm:gpu_cache_usage_perc", "0.1"),
        "# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"4096\"} 1\n"
            .to_owned(),
    ]
    .concat()
}

fn whole(kind: &str, body: &str) -> Vec<u8> {
    with_status("200 OK", kind, body)
}

fn with_status(status: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}
