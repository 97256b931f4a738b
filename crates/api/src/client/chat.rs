//! Streaming chat: server-sent events of `/v1/chat/completions`, one chunk at a time.

use reqwest::Method;

use super::{Answer, Call, Client, Failure};
use crate::openai::{ChatChunk, ChatRequest, ErrorBody};

/// Longest single event; a chunk is a few hundred bytes.
const EVENT_MAX_BYTES: usize = 1024 * 1024;

/// A chat answer as it arrives. Dropping it cancels the request.
#[derive(Debug)]
pub struct ChatEvents {
    response: reqwest::Response,
    url: String,
    buffer: Vec<u8>,
    /// The request, as events and `galerne why request` know it.
    pub request_id: Option<String>,
    done: bool,
}

impl Client {
    /// Starts a streaming chat; `request.parameters.stream` must be set.
    pub async fn chat(&self, request: &ChatRequest) -> Result<ChatEvents, Failure> {
        let call = Call::new(Method::POST, "/v1/chat/completions").json(request);
        let failed = |source| Failure::Http { url: self.base.to_string(), source };
        let response = self.request(&call)?.send().await.map_err(failed)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status >= 400 {
            let body = response.bytes().await.map_err(failed)?.to_vec();
            return Err(Answer { status, headers, body }.failure());
        }
        let request_id = headers.get("x-request-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(ChatEvents { response, url: self.base.to_string(), buffer: Vec::new(), request_id, done: false })
    }
}

impl ChatEvents {
    /// The next chunk; nothing after `[DONE]`. A stream that ends before `[DONE]` is a failure.
    pub async fn next(&mut self) -> Result<Option<ChatChunk>, Failure> {
        loop {
            if self.done {
                return Ok(None);
            }
            while let Some(line) = take_line(&mut self.buffer) {
                let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
                if data == "[DONE]" {
                    self.done = true;
                    return Ok(None);
                }
                return parse(data).map(Some);
            }
            if self.buffer.len() > EVENT_MAX_BYTES {
                return Err(Failure::TooLong { limit: EVENT_MAX_BYTES });
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) => {
                    return Err(Failure::NotOurs {
                        status: 200,
                        start: "the stream ended before its end mark".to_owned(),
                    });
                }
                Err(source) => return Err(Failure::Http { url: self.url.clone(), source }),
            }
        }
    }
}

fn take_line(buffer: &mut Vec<u8>) -> Option<String> {
    let end = buffer.iter().position(|&byte| byte == b'\n')?;
    let line: Vec<u8> = buffer.drain(..=end).collect();
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn parse(data: &str) -> Result<ChatChunk, Failure> {
    match serde_json::from_str::<ChatChunk>(data) {
        Ok(chunk) => Ok(chunk),
        Err(source) => match serde_json::from_str::<ErrorBody>(data) {
            Ok(_) => {
                Err(Answer { status: 502, headers: reqwest::header::HeaderMap::new(), body: data.as_bytes().to_vec() }
                    .failure())
            }
            Err(_) => Err(Failure::Answer { status: 200, source }),
        },
    }
}
