//! Routes: those served, and those that OpenAI or Mistral document and nobody serves here.

use super::mistral_routes::MISTRAL;
use super::openai_routes::OPENAI;
use super::{Call, Dialect, Of};
use crate::nearest::nearest;

/// A route that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Method and path below the surface's root; `{name}` is one segment, `{*name}` the rest.
    pub method: &'static str,
    pub path: &'static str,
    pub of: Of,
    pub state: State,
    pub note: &'static str,
}

/// How a route is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// With a body, whose fields are in a table.
    Body(Call),
    /// Without one.
    Plain,
}

const fn route(method: &'static str, path: &'static str, of: Of, state: State, note: &'static str) -> Route {
    Route { method, path, of, state, note }
}

/// Every route that is served.
pub const SERVED: &[Route] = &[
    route("POST", "/v1/chat/completions", Of::Both, State::Body(Call::Chat), "plain and streamed"),
    route("POST", "/v1/completions", Of::OpenAi, State::Body(Call::Completion), "plain and streamed"),
    route(
        "POST",
        "/v1/fim/completions",
        Of::Mistral,
        State::Body(Call::Fim),
        "plain and streamed, where the model can fill in",
    ),
    route(
        "POST",
        "/v1/responses",
        Of::Both,
        State::Body(Call::Response),
        "plain and streamed, on top of a chat; nothing is stored, so none can be asked for by its id",
    ),
    route("POST", "/v1/embeddings", Of::Both, State::Body(Call::Embedding), ""),
    route("GET", "/v1/models", Of::Both, State::Plain, "the endpoints that the key may call"),
    route("GET", "/v1/models/{*id}", Of::Both, State::Plain, ""),
    route(
        "POST",
        "/v1/tokenize",
        Of::Engines,
        State::Body(Call::Tokenise),
        "as vLLM's; also at `/tokenize`; counts for limits, costs nothing",
    ),
    route(
        "POST",
        "/v1/detokenize",
        Of::Engines,
        State::Body(Call::Detokenise),
        "as vLLM's; also at `/detokenize`; counts for limits, costs nothing",
    ),
];

/// Routes that are served beside the gateway, by who has the store: a gateway in a process of its own answers 501 to them.
pub const BESIDE: &[Route] = &[
    route(
        "POST",
        "/v1/files",
        Of::Both,
        State::Plain,
        "a form with `file` and `purpose`: `batch`, `fine-tune`, `user_data`; others are refused, because nothing reads them; `expires_after` or `expiry` in hours, `visibility`",
    ),
    route("GET", "/v1/files", Of::Both, State::Plain, "by `after` and `limit`, or by `page` and `page_size`"),
    route("GET", "/v1/files/{id}", Of::Both, State::Plain, ""),
    route("DELETE", "/v1/files/{id}", Of::Both, State::Plain, "the bytes go at once; 409 while a batch reads it"),
    route("GET", "/v1/files/{id}/content", Of::Both, State::Plain, "whole, or one `Range`"),
    route("GET", "/v1/files/{id}/url", Of::Mistral, State::Plain, "a link that needs no key, for 1 to 168 hours"),
    route(
        "POST",
        "/v1/batches",
        Of::OpenAi,
        State::Plain,
        "of chats, completions, FIM and embeddings; `completion_window` `24h`",
    ),
    route("GET", "/v1/batches", Of::OpenAi, State::Plain, ""),
    route("GET", "/v1/batches/{id}", Of::OpenAi, State::Plain, ""),
    route("POST", "/v1/batches/{id}/cancel", Of::OpenAi, State::Plain, "what was answered is kept"),
    route("POST", "/v1/batch/jobs", Of::Mistral, State::Plain, "`input_files` or `requests`; no `agent_id`"),
    route("GET", "/v1/batch/jobs", Of::Mistral, State::Plain, "other parameters filter by `metadata`"),
    route("GET", "/v1/batch/jobs/{id}", Of::Mistral, State::Plain, "`inline=true` with its answers"),
    route("DELETE", "/v1/batch/jobs/{id}", Of::Mistral, State::Plain, "one that has ended; its files stay"),
    route("POST", "/v1/batch/jobs/{id}/cancel", Of::Mistral, State::Plain, "what was answered is kept"),
    route(
        "GET",
        "/v1/organization/usage/completions",
        Of::OpenAi,
        State::Plain,
        "of the key's tenant, or of its project where that is all it may read; a key needs the scope `read`; no `api_source`",
    ),
    route("GET", "/v1/organization/usage/embeddings", Of::OpenAi, State::Plain, "likewise"),
    route("GET", "/v1/organization/costs", Of::OpenAi, State::Plain, "likewise, in euros; `bucket_width` `1d`"),
];

/// A documented route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub path: &'static str,
    pub of: Of,
}

/// What a path is that no handler took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// In somebody's documents, and not served.
    NotServed(Known),
    /// Served or documented, with other methods than this one.
    WrongMethod { allowed: Vec<&'static str> },
    /// Served on another surface.
    Elsewhere(Known),
    /// Nobody's; the nearest served paths of this surface.
    Nowhere { nearest: Vec<&'static str> },
}

/// Says what `path`, the surface's root included, is on a surface for a method that no handler takes.
pub fn find(dialect: Dialect, method: &str, path: &str) -> Found {
    let path = below_root(dialect, path);
    let documented = |(of, list): (Of, &'static [(&'static str, &'static str)])| {
        list.iter().map(move |&(path, methods)| (Known { path, of }, methods))
    };
    let lists = [(Of::OpenAi, OPENAI), (Of::Mistral, MISTRAL)].into_iter().filter(|(of, _)| dialect.has(*of));
    let unserved: Vec<(Known, &str)> =
        lists.flat_map(documented).filter(|(known, _)| matches(known.path, path)).collect();
    if let Some((known, _)) = unserved.iter().find(|(_, methods)| methods.split(' ').any(|known| known == method)) {
        return Found::NotServed(*known);
    }
    let served: Vec<&Route> = SERVED.iter().filter(|route| matches(route.path, path)).collect();
    let here = served.iter().filter(|route| dialect.has(route.of)).map(|route| route.method);
    let mut allowed: Vec<&str> = here.chain(unserved.iter().flat_map(|(_, methods)| methods.split(' '))).collect();
    if !allowed.is_empty() {
        allowed.sort_unstable();
        allowed.dedup();
        return Found::WrongMethod { allowed };
    }
    if let Some(route) = served.first() {
        return Found::Elsewhere(Known { path: route.path, of: route.of });
    }
    let names = SERVED.iter().filter(|route| dialect.has(route.of)).map(|route| route.path);
    Found::Nowhere { nearest: nearest(path, names) }
}

/// The path without `/openai` or `/mistral`.
fn below_root(dialect: Dialect, path: &str) -> &str {
    let root = dialect.prefix().strip_suffix("/v1").unwrap_or_default();
    path.strip_prefix(root).unwrap_or(path).trim_end_matches('/')
}

fn matches(template: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    for wanted in template.split('/') {
        let Some(part) = parts.next() else { return false };
        if wanted.starts_with("{*") {
            return !part.is_empty();
        }
        let fits = if wanted.starts_with('{') { !part.is_empty() } else { wanted == part };
        if !fits {
            return false;
        }
    }
    parts.next().is_none()
}

/// Documented routes that are not served, by the first word of their path, with their methods.
pub(super) fn not_served() -> Vec<(&'static str, Of, &'static str, &'static str)> {
    let rows = |of: Of, list: &'static [(&'static str, &'static str)]| {
        list.iter().map(move |&(path, methods)| {
            let group = path.split('/').nth(2).unwrap_or_default();
            (group, of, path, methods)
        })
    };
    let is_beside =
        |of: Of, path: &str| BESIDE.iter().any(|route| route.path == path && (route.of == of || route.of == Of::Both));
    let all = rows(Of::OpenAi, OPENAI).chain(rows(Of::Mistral, MISTRAL));
    let mut all: Vec<_> = all.filter(|(_, of, path, _)| !is_beside(*of, path)).collect();
    all.sort_by_key(|(group, _, path, _)| (*group, *path));
    all
}
