//! OpenAI's Responses on top of chats: the request becomes a chat, the answer is told back as items.
//!
//! It is admitted, metered and recorded once, as the chat it is.
//! Deliberately absent: storage. A response cannot be asked for later, nor gone on with by its id; built-in tools.

use galerne_api::error::Code;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

mod answer;
mod asked;
mod events;

pub(crate) use asked::as_chat;
pub(crate) use events::Events;

/// What of the request its answer repeats, by name.
pub(crate) type Repeated = Map<String, Value>;

/// A piece of a request that no chat can say.
fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Refusal {
    Refusal::new(Code::UnsupportedValue, message).param(param)
}

#[cfg(test)]
mod tests;
