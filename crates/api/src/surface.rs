//! What the inference API serves: its surfaces, their routes, each route's fields, and what becomes of each field.
//!
//! This is data. The gateway validates requests by it and `docs/gateway.md` is printed from it, so neither can say something
//! that the other does not do.
//! INVARIANT: fields of a call and names in a list are sorted and unique, so that a look-up is a binary search.
//! Deliberately absent: what an engine can do; a field that is sent on is done by the engine or refused by it.

use crate::nearest::nearest;

mod chat;
mod fields;
mod mistral_routes;
mod openai_routes;
mod page;
mod response;
mod routes;

pub use page::page;
pub use routes::{BESIDE, Found, Known, Route, SERVED, State, find};

/// A surface: whose words are spoken under a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/v1`: both at once, and what engines take beyond.
    Union,
    /// `/openai/v1`: OpenAI's words only.
    OpenAi,
    /// `/mistral/v1`: Mistral's words only.
    Mistral,
}

impl Dialect {
    /// Every surface, the shared one first.
    pub const ALL: [Self; 3] = [Self::Union, Self::OpenAi, Self::Mistral];

    /// What its paths begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Union => "/v1",
            Self::OpenAi => "/openai/v1",
            Self::Mistral => "/mistral/v1",
        }
    }

    /// The surface that a path belongs to; what belongs to none is answered as the shared one.
    pub fn of_path(path: &str) -> Self {
        if path.starts_with("/openai/") {
            Self::OpenAi
        } else if path.starts_with("/mistral/") {
            Self::Mistral
        } else {
            Self::Union
        }
    }

    /// Whether it has what these documents have.
    pub const fn has(self, of: Of) -> bool {
        match (self, of) {
            (Self::Union, _) | (_, Of::Both) | (Self::OpenAi, Of::OpenAi) | (Self::Mistral, Of::Mistral) => true,
            (Self::OpenAi, Of::Mistral | Of::Engines) | (Self::Mistral, Of::OpenAi | Of::Engines) => false,
        }
    }
}

/// Whose documents have a field or a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Both,
    OpenAi,
    Mistral,
    /// Engines that speak OpenAI's HTTP (vLLM, SGLang, llama-server) have it beyond OpenAI's document.
    Engines,
}

impl Of {
    /// As texts name them.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "OpenAI's and Mistral's",
            Self::OpenAi => "OpenAI's",
            Self::Mistral => "Mistral's",
            Self::Engines => "an engine's own",
        }
    }
}

/// A kind of request with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Chat,
    Completion,
    Fim,
    Embedding,
    Tokenise,
    Detokenise,
    /// Told to the engine as a chat.
    Response,
}

impl Call {
    /// Every call, as the page lists them.
    pub const ALL: [Self; 7] =
        [Self::Chat, Self::Completion, Self::Fim, Self::Embedding, Self::Tokenise, Self::Detokenise, Self::Response];

    /// Its fields, sorted by name.
    pub const fn fields(self) -> &'static [Field] {
        match self {
            Self::Chat => chat::CHAT,
            Self::Completion => fields::COMPLETION,
            Self::Fim => fields::FIM,
            Self::Embedding => fields::EMBEDDING,
            Self::Tokenise => fields::TOKENISE,
            Self::Detokenise => fields::DETOKENISE,
            Self::Response => response::RESPONSE,
        }
    }

    /// The field called `name`, if a surface has it.
    pub fn field(self, dialect: Dialect, name: &str) -> Result<&'static Field, Unknown> {
        let fields = self.fields();
        let found = fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|at| &fields[at]);
        match found {
            Some(field) if dialect.has(field.of) => Ok(field),
            Some(field) => Err(Unknown::Elsewhere(field)),
            None => {
                let known = fields.iter().filter(|field| dialect.has(field.of)).map(|field| field.name);
                Err(Unknown::Nowhere(nearest(name, known).first().copied()))
            }
        }
    }
}

/// A field that a surface does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Another surface has it.
    Elsewhere(&'static Field),
    /// None has it; the nearest one that this surface has.
    Nowhere(Option<&'static str>),
}

/// A field of a request, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub of: Of,
    pub takes: Takes,
    pub fate: Fate,
    /// What it does here, or why it is refused: part of a sentence, for the page and for refusals.
    pub note: &'static str,
}

/// What kind of JSON a field takes; `null` is always taken and means that the field was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Text,
    Number,
    Flag,
    List,
    Object,
    TextOrList,
    TextOrObject,
    FlagOrNumber,
}

impl Takes {
    /// As texts name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Flag => "true or false",
            Self::List => "a list",
            Self::Object => "an object",
            Self::TextOrList => "a text or a list",
            Self::TextOrObject => "a text or an object",
            Self::FlagOrNumber => "true, false or a number",
        }
    }

    /// Whether a JSON value, given as it is written, is of this kind.
    pub fn fits(self, json: &str) -> bool {
        let first = json.as_bytes().first().copied().unwrap_or(b' ');
        let (text, flag, number) = (first == b'"', matches!(first, b't' | b'f'), matches!(first, b'-' | b'0'..=b'9'));
        match self {
            Self::Text => text,
            Self::Number => number,
            Self::Flag => flag,
            Self::List => first == b'[',
            Self::Object => first == b'{',
            Self::TextOrList => text || first == b'[',
            Self::TextOrObject => text || first == b'{',
            Self::FlagOrNumber => flag || number,
        }
    }
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The gateway acts by it.
    Gateway,
    /// It goes to the engine as it came.
    Engine,
    /// It goes to the engine under this name.
    Renamed(&'static str),
    /// It is taken and changes nothing; it is not sent on.
    NoEffect,
    /// These values, as JSON, ask for nothing and are taken; others are refused. It is not sent on.
    Only(&'static [&'static str]),
    /// Whatever it says, it is refused.
    Refused,
}

/// A row of a table.
const fn field(name: &'static str, of: Of, takes: Takes, fate: Fate, note: &'static str) -> Field {
    Field { name, of, takes, fate, note }
}

#[cfg(test)]
mod tests;
