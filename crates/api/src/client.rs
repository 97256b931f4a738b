//! The client of `/api/v1` and of the chat surface, for `galerne` and for programs.
//!
//! Retries only what cannot do harm twice: GET, and POST under an `Idempotency-Key`, which is added when absent.
//! A rustls provider must be installed in the process before the first client is made.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Code, Problem};
use crate::v1::{Create, Kind, Page, Update};

mod chat;
mod failure;
mod files;
mod gateways;

pub use chat::ChatEvents;
pub use failure::Failure;
pub use files::Upload;
pub use gateways::{Lines, Link};

/// Attempts of one call in all, the first included.
const ATTEMPTS: u32 = 4;
/// First pause between attempts; doubles.
const PAUSE_MS: u64 = 100;
/// Longest pause taken on a server's word.
const PAUSE_MAX_MS: u64 = 5_000;
/// Time to connect.
const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Time for one answer of `/api/v1`; a ledger check over ten million records takes seconds.
const ANSWER_TIMEOUT_MS: u64 = 120_000;
/// Largest answer kept in memory.
const ANSWER_MAX_BYTES: usize = 64 * 1024 * 1024;

/// A server and the key to call it with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<String>,
}

/// A call as it is about to be made.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

/// What lists take.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Only things of this tenant, by name or id.
    pub tenant: Option<String>,
    /// Only things of this project, by name or id.
    pub project: Option<String>,
    /// Longest page.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl Client {
    /// A client for the server at `base`, such as `http://127.0.0.1:8080`; `ca_pem` is trusted beside the system's authorities.
    pub fn new(base: &str, key: Option<String>, ca_pem: Option<&[u8]>) -> Result<Self, Failure> {
        let base: Url = base.parse().map_err(|_| Failure::BadAddress { address: base.to_owned() })?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(Failure::BadAddress { address: base.to_string() });
        }
        let mut builder = reqwest::Client::builder().connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS));
        if is_this_machine(&base) {
            // A proxy of the environment would read the key, and could not reach this machine's own address anyway.
            builder = builder.no_proxy();
        }
        if let Some(pem) = ca_pem {
            let certificate = reqwest::Certificate::from_pem(pem)
                .map_err(|source| Failure::Http { url: base.to_string(), source })?;
            builder = builder.tls_certs_merge([certificate]);
        }
        let http = builder.build().map_err(|source| Failure::Http { url: base.to_string(), source })?;
        Ok(Self { http, base, key })
    }

    /// The server's address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Whether nobody on the way can read what is said: over TLS, or inside this machine.
    pub fn is_protected(&self) -> bool {
        self.base.scheme() == "https" || is_this_machine(&self.base)
    }

    /// One page of a kind.
    pub async fn list<K: Kind>(&self, options: &ListOptions) -> Result<Page<K>, Failure> {
        self.read(&format!("/api/v1/{}", K::PLURAL), &options.pairs()).await
    }

    /// Everything of a kind, page by page.
    pub async fn list_all<K: Kind>(&self, options: &ListOptions) -> Result<Vec<K>, Failure> {
        self.read_all(&format!("/api/v1/{}", K::PLURAL), &options.pairs()).await
    }

    /// One of a kind, by id or name.
    pub async fn get<K: Kind>(&self, name_or_id: &str, options: &ListOptions) -> Result<K, Failure> {
        self.read(&one::<K>(name_or_id), &options.pairs()).await
    }

    /// Makes one. With `dry_run` nothing changes and the answer is what would be made.
    pub async fn create<K: Kind>(&self, create: &Create<K::Spec>, dry_run: DryRun) -> Result<K, Failure> {
        self.write(Method::POST, &format!("/api/v1/{}", K::PLURAL), dry_run, Some(create)).await
    }

    /// Replaces the spec of one; `update.generation` says which generation the change is based on.
    pub async fn update<K: Kind>(
        &self,
        name_or_id: &str,
        update: &Update<K::Spec>,
        dry_run: DryRun,
    ) -> Result<K, Failure> {
        self.write(Method::PUT, &one::<K>(name_or_id), dry_run, Some(update)).await
    }

    /// Deletes one; returns it as it was.
    pub async fn delete<K: Kind>(&self, name_or_id: &str, generation: i64, dry_run: DryRun) -> Result<K, Failure> {
        let call = Call::new(Method::DELETE, one::<K>(name_or_id)).at_generation(generation).dry(dry_run);
        self.call(call).await?.json()
    }

    /// GET of a path with query parameters.
    pub async fn read<T: DeserializeOwned>(&self, path: &str, query: &[(String, String)]) -> Result<T, Failure> {
        let mut call = Call::new(Method::GET, path);
        call.query.extend_from_slice(query);
        self.call(call).await?.json()
    }

    /// Everything a list holds, page by page.
    pub async fn read_all<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(String, String)],
    ) -> Result<Vec<T>, Failure> {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let mut query = query.to_vec();
            query.extend(cursor.map(|cursor| ("cursor".to_owned(), cursor)));
            let page: Page<T> = self.read(path, &query).await?;
            all.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// A change with a JSON body.
    pub async fn write<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        dry_run: DryRun,
        body: Option<&B>,
    ) -> Result<T, Failure> {
        let mut call = Call::new(method, path).dry(dry_run);
        if let Some(body) = body {
            call = call.json(body);
        }
        self.call(call).await?.json()
    }

    /// Makes a call and turns any status from 400 into a failure with its problem.
    pub async fn call(&self, call: Call) -> Result<Answer, Failure> {
        let answer = self.raw(call).await?;
        if answer.status < 400 { Ok(answer) } else { Err(answer.failure()) }
    }

    /// Makes a call and returns the answer whatever its status: `galerne api`.
    pub async fn raw(&self, mut call: Call) -> Result<Answer, Failure> {
        if call.method == Method::POST {
            call.ensure_idempotency_key();
        }
        let mut pause = PAUSE_MS;
        for attempt in 1.. {
            let outcome = self.once(&call).await;
            let wait = match &outcome {
                Ok(answer) => answer.retry_after(pause),
                Err(failure) => failure.is_worth_repeating().then_some(pause),
            };
            match wait.filter(|_| attempt < ATTEMPTS && call.is_repeatable()) {
                Some(wait) => tokio::time::sleep(Duration::from_millis(wait.min(PAUSE_MAX_MS))).await,
                None => return outcome,
            }
            pause = pause.saturating_mul(2);
        }
        unreachable!("the last attempt returns")
    }

    async fn once(&self, call: &Call) -> Result<Answer, Failure> {
        self.within(call, Duration::from_millis(ANSWER_TIMEOUT_MS)).await
    }

    /// One attempt, which is given up after `patience`.
    async fn within(&self, call: &Call, patience: Duration) -> Result<Answer, Failure> {
        let request = self.request(call)?.timeout(patience);
        let failed = |source| Failure::Http { url: self.base.to_string(), source };
        let mut response = request.send().await.map_err(failed)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_MAX_BYTES {
                return Err(Failure::TooLong { limit: ANSWER_MAX_BYTES });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    }

    /// Copies the body of a GET to `sink` as it arrives: exports of any size.
    pub async fn download(
        &self,
        call: Call,
        sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<u64, Failure> {
        let failed = |source| Failure::Http { url: self.base.to_string(), source };
        let mut response = self.request(&call)?.send().await.map_err(failed)?;
        if response.status() >= StatusCode::BAD_REQUEST {
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.bytes().await.map_err(failed)?.to_vec();
            return Err(Answer { status, headers, body }.failure());
        }
        let mut written = 0;
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            sink(&chunk).map_err(|source| Failure::Write { source })?;
            written += chunk.len() as u64;
        }
        Ok(written)
    }

    fn request(&self, call: &Call) -> Result<reqwest::RequestBuilder, Failure> {
        let mut url = self.base.join(&call.path).map_err(|_| Failure::BadAddress { address: call.path.clone() })?;
        if url.origin() != self.base.origin() {
            // The key goes to the server it belongs to and nowhere else.
            return Err(Failure::BadAddress { address: call.path.clone() });
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self.http.request(call.method.clone(), url).headers(call.headers.clone());
        if let Some(key) = &self.key {
            let value = HeaderValue::from_str(&format!("Bearer {key}")).map(|mut value| {
                value.set_sensitive(true);
                value
            });
            request = request.header(AUTHORIZATION, value.map_err(|_| Failure::BadKey)?);
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        Ok(request)
    }
}

/// Whether a change is made or only shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DryRun {
    /// It is made.
    #[default]
    No,
    /// The same checks, the same answer, no change.
    Yes,
}

impl Call {
    /// A call without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), headers: HeaderMap::new(), body: None }
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header; one that HTTP does not allow is left out.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// Says which generation a change is based on.
    #[must_use]
    pub fn at_generation(self, generation: i64) -> Self {
        self.header("if-match", &format!("\"{generation}\""))
    }

    /// Only shows what would happen.
    #[must_use]
    pub fn dry(self, dry_run: DryRun) -> Self {
        match dry_run {
            DryRun::No => self,
            DryRun::Yes => self.query("dry_run", "true"),
        }
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json<B: Serialize>(mut self, body: &B) -> Self {
        self.body = Some(serde_json::to_vec(body).expect("API bodies have text keys and finite numbers"));
        self
    }

    /// Sets a body that is JSON already.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = Some(body);
        self
    }

    fn ensure_idempotency_key(&mut self) {
        let name = HeaderName::from_static("idempotency-key");
        if !self.headers.contains_key(&name) && self.path.starts_with("/api/v1/") {
            let key = uuid::Uuid::now_v7().simple().to_string();
            self.headers.insert(name, HeaderValue::from_str(&key).expect("hex digits make a header value"));
        }
    }

    fn is_repeatable(&self) -> bool {
        self.method == Method::GET || self.headers.contains_key("idempotency-key")
    }
}

impl Answer {
    /// The body as a value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|source| Failure::Answer { status: self.status, source })
    }

    fn retry_after(&self, pause: u64) -> Option<u64> {
        if !matches!(self.status, 408 | 429 | 502 | 503 | 504) {
            return None;
        }
        let told = self
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u64>().ok());
        Some(told.map_or(pause, |seconds| seconds.saturating_mul(1_000)))
    }

    fn failure(&self) -> Failure {
        if let Ok(problem) = serde_json::from_slice::<Problem>(&self.body) {
            return Failure::Problem(Box::new(problem));
        }
        // On `/v1` errors have OpenAI's shape; their code is ours where we made it.
        if let Ok(body) = serde_json::from_slice::<crate::openai::ErrorBody>(&self.body) {
            let code = body.error.code.as_deref().and_then(Code::parse).unwrap_or(Code::AnswerInvalid);
            let mut problem = Problem::new(code, body.error.message);
            problem.status = self.status;
            problem.request_id = self.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
            return Failure::Problem(Box::new(problem));
        }
        let start: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        Failure::NotOurs { status: self.status, start }
    }
}

impl ListOptions {
    /// As query parameters.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let limit = self.limit.map(|limit| limit.to_string());
        [
            ("tenant", self.tenant.clone()),
            ("project", self.project.clone()),
            ("limit", limit),
            ("cursor", self.cursor.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }
}

/// Whether an address is one of the machine that this runs on.
fn is_this_machine(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(is_loopback)
}

fn one<K: Kind>(name_or_id: &str) -> String {
    format!("/api/v1/{}/{}", K::PLURAL, encode_segment(name_or_id))
}

/// Percent-encodes one segment of a path: names may contain `/`.
pub fn encode_segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests;
