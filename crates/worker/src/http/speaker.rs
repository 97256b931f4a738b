//! One choice of a chat as it is told: its text read into thoughts, content and calls (`reader`), the calls with their ids.

use galerne_api::openai::{
    AssistantMessage, CalledFunction, CalledFunctionDelta, Delta, FinishReason, ToolCall, ToolCallDelta,
};

use crate::job::Piece;
use crate::manner::{Calls, Manner};
use crate::reader::{Part, Reader};

/// How a chat's answers are read.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) manner: Manner,
    /// Names of the tools that may be called.
    pub(super) tools: Vec<String>,
    /// The prompt has begun the thoughts.
    pub(super) thinks: bool,
}

#[derive(Debug)]
pub(super) struct Speaker {
    reader: Reader,
    has_short_ids: bool,
    /// Tokens of its thoughts.
    pub(super) reasoning_tokens: u64,
}

impl Speaker {
    pub(super) fn new(reading: &Reading) -> Self {
        // Mistral's templates take ids of nine characters and refuse others.
        let has_short_ids = matches!(reading.manner.calls(), Some(Calls::MistralList | Calls::MistralNamed));
        let reader = Reader::new(&reading.manner, reading.tools.clone(), reading.thinks);
        Self { reader, has_short_ids, reasoning_tokens: 0 }
    }

    /// What a piece of text says.
    pub(super) fn push(&mut self, piece: &Piece) -> Vec<Part> {
        let was_thinking = self.reader.is_thinking();
        let parts = self.reader.push(&piece.text);
        // The marks are counted with what they enclose.
        if was_thinking || self.reader.is_thinking() || parts.iter().any(|part| matches!(part, Part::Reasoning(_))) {
            self.reasoning_tokens += piece.tokens as u64;
        }
        parts
    }

    pub(super) fn finish(&mut self) -> Vec<Part> {
        self.reader.finish()
    }

    /// Why the choice has ended, in OpenAI's words.
    pub(super) fn reason(&self, reason: FinishReason) -> FinishReason {
        if reason == FinishReason::Stop && self.reader.calls() > 0 { FinishReason::ToolCalls } else { reason }
    }

    /// The event of a part in a stream.
    pub(super) fn delta(&self, part: Part) -> Delta {
        let call = |index: usize, id: Option<String>, function: CalledFunctionDelta| {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let kind = id.as_ref().map(|_| "function".to_owned());
            Delta { tool_calls: Some(vec![ToolCallDelta { index, id, kind, function }]), ..Delta::default() }
        };
        match part {
            Part::Content(text) => Delta { content: Some(text), ..Delta::default() },
            Part::Reasoning(text) => Delta { reasoning_content: Some(text), ..Delta::default() },
            Part::Call { index, name } => {
                let function = CalledFunctionDelta { name: Some(name), arguments: Some(String::new()) };
                call(index, Some(self.id()), function)
            }
            Part::Arguments { index, text } => {
                call(index, None, CalledFunctionDelta { name: None, arguments: Some(text) })
            }
        }
    }

    /// Adds a part to a message.
    pub(super) fn add(&self, message: &mut AssistantMessage, part: Part) {
        match part {
            Part::Content(text) => message.content.get_or_insert_default().push_str(&text),
            Part::Reasoning(text) => message.reasoning_content.get_or_insert_default().push_str(&text),
            Part::Call { name, .. } => message.tool_calls.get_or_insert_default().push(ToolCall {
                id: self.id(),
                kind: "function".into(),
                function: CalledFunction { name, arguments: String::new() },
            }),
            Part::Arguments { index, text } => {
                if let Some(call) = message.tool_calls.as_mut().and_then(|calls| calls.get_mut(index)) {
                    call.function.arguments.push_str(&text);
                }
            }
        }
    }

    fn id(&self) -> String {
        let random = uuid::Uuid::now_v7().simple().to_string();
        // The last digits are random, the first ones the time.
        if self.has_short_ids { random[random.len() - 9..].to_owned() } else { format!("call_{random}") }
    }
}
