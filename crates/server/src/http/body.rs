//! JSON bodies and query parameters, with the place of what is wrong.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use galerne_api::error::Code;
use galerne_model::limits::API_BODY_MAX_BYTES;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::refusal::Refusal;
use crate::app::App;

/// A body as it was parsed, and the digest of its bytes.
#[derive(Debug)]
pub(crate) struct Json<T> {
    pub(crate) value: T,
    /// SHA-256 of method, path, query and bytes: what makes two requests the same.
    pub(crate) digest: String,
}

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _app: &App) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let bytes = read(body).await?;
        if !bytes.is_empty() {
            check_type(&parts.headers)?;
        }
        let digest = digest(&parts, &bytes);
        // A POST without a body asks with every field at its default.
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        Ok(Self { value: parse(text)?, digest })
    }
}

/// The digest of a request that carries no body.
pub(crate) fn digest(parts: &Parts, bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(parts.method.as_str());
    hash.update([0]);
    hash.update(parts.uri.path_and_query().map_or("", |path| path.as_str()));
    hash.update([0]);
    hash.update(bytes);
    hex::encode(hash.finalize())
}

async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    let too_large = || Refusal::new(Code::BodyTooLarge, format!("the body is larger than {API_BODY_MAX_BYTES} bytes"));
    match axum::body::to_bytes(body, API_BODY_MAX_BYTES).await {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(error) => {
            let text = super::refusal::chain(&error);
            if text.contains("length limit") {
                Err(too_large())
            } else {
                Err(Refusal::new(Code::MalformedJson, "the body broke off before its end"))
            }
        }
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json") {
        return Ok(());
    }
    let shown: String = given.chars().take(80).collect();
    Err(Refusal::new(Code::UnsupportedMediaType, format!("the body has content type `{shown}`"))
        .hint("send `Content-Type: application/json`"))
}

/// Reads JSON; tells text that is not JSON from JSON that is not what was expected.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Refusal::new(Code::MalformedJson, format!("the body is not UTF-8 from byte {} on", error.valid_up_to()))
    })?;
    // Whole first: what is not JSON is told as that, also after a field that is not known.
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| {
        Refusal::new(
            Code::MalformedJson,
            format!("the body is not JSON: it breaks at line {} column {}", error.line(), error.column()),
        )
    })?;
    if has_nul(text) {
        return Err(Refusal::new(Code::InvalidValue, "the body contains a NUL character, which no text may hold"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let detail = public(&inner.to_string());
        let path = if path == "." { "body".to_owned() } else { path };
        Refusal::new(Code::InvalidBody, format!("`{path}`: {detail}")).at(path, detail)
    })?;
    Ok(value)
}

/// Serde's sentence without Rust type names and position.
fn public(text: &str) -> String {
    let text = text.split(" at line ").next().unwrap_or(text);
    let words = [
        ("struct TokenPrice", "prices"),
        ("i64", "integer"),
        ("u32", "non-negative integer"),
        ("u64", "non-negative integer"),
        ("u16", "small integer"),
        ("a string", "text"),
        ("a map", "an object"),
        ("a sequence", "a list"),
        ("a borrowed string", "text"),
    ];
    let mut out = text.to_owned();
    while let Some(start) = out.find("struct ") {
        let end = out[start + 7..]
            .find(|letter: char| !letter.is_alphanumeric())
            .map_or(out.len(), |length| start + 7 + length);
        out.replace_range(start..end, "an object");
    }
    for (from, to) in words {
        out = out.replace(from, to);
    }
    out
}

/// Query parameters; unknown ones are refused like unknown fields.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        match Query::<T>::from_request_parts(parts, app).await {
            Ok(Query(value)) => no_nul(parts).map(|()| Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                Err(Refusal::new(Code::InvalidQuery, public(text)))
            }
        }
    }
}

/// One segment of a path after decoding.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl FromRequestParts<App> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let axum::extract::Path(text) = axum::extract::Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|_| Refusal::new(Code::RouteNotFound, "the path is not UTF-8 after decoding"))?;
        no_nul(parts).map(|()| Self(text))
    }
}

/// Two segments of a path after decoding.
#[derive(Debug)]
pub(crate) struct Segments(pub(crate) String, pub(crate) String);

impl FromRequestParts<App> for Segments {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let axum::extract::Path((first, second)) =
            axum::extract::Path::<(String, String)>::from_request_parts(parts, app)
                .await
                .map_err(|_| Refusal::new(Code::RouteNotFound, "the path is not UTF-8 after decoding"))?;
        no_nul(parts).map(|()| Self(first, second))
    }
}

/// Refuses NUL characters in path and query: PostgreSQL keeps no text with one, and would fail in the middle of the work.
fn no_nul(parts: &Parts) -> Result<(), Refusal> {
    if parts.uri.path_and_query().is_some_and(|text| text.as_str().contains("%00")) {
        return Err(Refusal::new(Code::InvalidQuery, "path and query must not contain a NUL character"));
    }
    Ok(())
}

/// Whether a JSON text writes a NUL character: the escape, its backslash not escaped itself.
fn has_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let backslashes = json[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
        backslashes % 2 == 0
    })
}

/// A JSON answer.
pub(crate) fn answer<T: Serialize>(status: StatusCode, body: &T) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text(body)).into_response()
}

/// A body as text.
pub(crate) fn text<T: Serialize>(body: &T) -> String {
    serde_json::to_string(body).expect("API bodies have text keys and finite numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use galerne_api::v1::Create;
    use galerne_model::inference::EndpointSpec;

    fn problem(body: &[u8]) -> galerne_api::error::Problem {
        match parse::<Create<EndpointSpec>>(body) {
            Err(Refusal::Problem(problem)) => *problem,
            other => panic!("accepted: {other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_without_type_names() {
        let wrong = problem(br#"{"name":"x","spec":{"backend":{"kind":"external","urls":[],"upstream_model":"m","context_tokens":1},"limits":{"tokens_per_minute":"many"}}}"#);
        assert_eq!(wrong.code, Code::InvalidBody);
        assert_eq!(wrong.errors[0].path, "spec.limits.tokens_per_minute");
        assert!(!wrong.detail.contains("u32"), "{}", wrong.detail);
        let missing = problem(br#"{"name":"x"}"#);
        assert!(missing.detail.contains("missing field `spec`"), "{}", missing.detail);
        assert_eq!(problem(b"[]").code, Code::InvalidBody);
    }

    #[test]
    fn a_nul_is_refused_and_a_text_that_only_looks_like_one_is_not() {
        let nul = problem(br#"{"name":"a\u0000b","spec":{}}"#);
        assert_eq!(nul.code, Code::InvalidValue);
        assert!(!has_nul(r"\\u0000") && has_nul(r"\\\u0000") && !has_nul("u0000"));
    }

    #[test]
    fn broken_json_and_broken_text_are_told_apart_from_wrong_fields() {
        for bytes in [&b"{"[..], b"{\"name\":}", b"\xff\xfe", b"{} {}", b"nul"] {
            assert!(
                matches!(parse::<galerne_api::v1::AtGeneration>(bytes), Err(Refusal::Problem(problem)) if problem.code == Code::MalformedJson),
                "{bytes:?}"
            );
        }
    }
}
