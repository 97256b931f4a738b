//! What a model's answer is made of: thoughts, content, calls of tools; read from its text as it arrives.
//! Pure: text in, parts out. INVARIANT: however the text is cut, the parts joined are the same (a property test).
//! INVARIANT: nothing is lost: what looks like a call and is none is content.

use crate::manner::{Calls, DEEPSEEK_CALL, DEEPSEEK_END, DEEPSEEK_SEPARATOR, Manner};

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Reasoning(String),
    Content(String),
    /// A call of a tool begins.
    Call {
        index: usize,
        name: String,
    },
    /// A piece of its arguments, in JSON.
    Arguments {
        index: usize,
        text: String,
    },
}

/// Reads one answer.
#[derive(Debug)]
pub(crate) struct Reader {
    thoughts: Option<(&'static str, &'static str)>,
    calls: Option<Calls>,
    /// Names of the tools that may be called.
    tools: Vec<String>,
    state: State,
    /// Text that was not decided on.
    held: String,
    /// Calls that were begun.
    count: usize,
    /// Nothing but white space came since the beginning, the thoughts or the last call.
    is_fresh: bool,
    /// What white space at a fresh place is: part of the answer at its beginning, and nothing behind thoughts and calls.
    is_begun: bool,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum State {
    Content,
    /// Fresh until the first of them.
    Thoughts {
        is_fresh: bool,
    },
    Call(Call),
    /// Behind an element of a list of calls, or in front of the first.
    List,
    /// The envelope of a call goes on to its end.
    Envelope(&'static str),
}

/// A call being read.
#[derive(Debug)]
struct Call {
    /// All of it, while it may turn out to be none.
    raw: String,
    body: Body,
    from_list: bool,
}

#[derive(Debug)]
enum Body {
    /// `{"name": …, "arguments": …}`, whatever the order.
    Object(Object),
    /// A name, then the arguments.
    Named { name: String },
    /// DeepSeek's: a kind, a separator, the name, perhaps a fence, then the arguments.
    Separated { head: String },
    /// The arguments themselves.
    Arguments { scan: Scan, index: usize },
}

#[derive(Debug, Default)]
struct Object {
    place: Place,
    key: String,
    name: Option<String>,
    /// Arguments that came before the name.
    early: String,
    index: Option<usize>,
    has_arguments: bool,
    /// Arguments as a text that holds JSON, as some models write them: told when it is whole.
    quoted: Option<String>,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Start,
    /// Before a key, or the end.
    Key,
    InKey {
        raw: String,
        is_escaped: bool,
    },
    Colon,
    Value(Scan),
}

/// Follows one JSON value to its end.
#[derive(Debug, Default, Clone)]
struct Scan {
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    is_begun: bool,
    is_scalar: bool,
    /// Kept of values that are wanted whole.
    text: String,
}

/// What a character did to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scanned {
    /// White space in front of it.
    Before,
    Inside,
    /// Its last character.
    Last,
    /// It ended in front of this character.
    Over,
    Broken,
}

/// What a character did to a call.
enum Fed {
    More,
    /// The call is whole; the character belonged to it.
    Done,
    /// The call is whole; the character did not belong to it.
    Over,
    Broken,
}

impl Reader {
    /// Reads an answer in this manner that may call the tools named; `thinks` when the prompt has begun the thoughts.
    pub(crate) fn new(manner: &Manner, tools: Vec<String>, thinks: bool) -> Self {
        let state =
            if thinks && manner.thoughts.is_some() { State::Thoughts { is_fresh: true } } else { State::Content };
        Self {
            thoughts: manner.thoughts,
            calls: manner.calls().filter(|_| !tools.is_empty()),
            tools,
            state,
            held: String::new(),
            count: 0,
            is_fresh: true,
            is_begun: false,
            parts: vec![],
        }
    }

    /// Whether what comes now is a thought.
    pub(crate) fn is_thinking(&self) -> bool {
        matches!(self.state, State::Thoughts { .. })
    }

    /// Calls that were begun.
    pub(crate) fn calls(&self) -> usize {
        self.count
    }

    /// Takes more text; returns what it decided.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Part> {
        if self.thoughts.is_none() && self.calls.is_none() {
            return if text.is_empty() { vec![] } else { vec![Part::Content(text.to_owned())] };
        }
        self.held.push_str(text);
        while self.step() {}
        std::mem::take(&mut self.parts)
    }

    /// Ends the answer: what was held back is what it looks like.
    pub(crate) fn finish(&mut self) -> Vec<Part> {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Call(call) => self.give_up(call),
            State::Thoughts { is_fresh } => {
                let rest = std::mem::take(&mut self.held);
                let rest = if is_fresh { rest.trim_start() } else { &rest };
                self.reasoning(rest);
            }
            State::Content => {
                let rest = std::mem::take(&mut self.held);
                if !self.is_fresh || !self.is_begun || !rest.trim().is_empty() {
                    self.content(&rest);
                }
            }
            // Of an envelope that was not closed nothing is missed.
            State::List | State::Envelope(_) => self.held.clear(),
        }
        std::mem::take(&mut self.parts)
    }

    /// Decides on some of the held text; false when more has to come.
    fn step(&mut self) -> bool {
        match &self.state {
            State::Content => self.step_content(),
            State::Thoughts { is_fresh } => {
                let is_fresh = *is_fresh;
                self.step_thoughts(is_fresh)
            }
            State::Call(_) => self.step_call(),
            State::List => self.step_list(),
            State::Envelope(end) => {
                let end = *end;
                self.step_envelope(end)
            }
        }
    }

    fn step_content(&mut self) -> bool {
        if self.is_fresh {
            return self.step_fresh();
        }
        let open = self.calls.map(|calls| calls.open());
        let Some(open) = open.filter(|open| !open.is_empty()) else {
            let all = std::mem::take(&mut self.held);
            self.content(&all);
            return false;
        };
        match self.held.find(open) {
            Some(at) => {
                let before = self.held[..at].to_owned();
                self.content(&before);
                self.held.drain(..at + open.len());
                self.open_call();
                true
            }
            None => {
                let keep = overlap(&self.held, open);
                let rest = self.held.split_off(self.held.len() - keep);
                let now = std::mem::replace(&mut self.held, rest);
                self.content(&now);
                false
            }
        }
    }

    /// At the beginning, behind thoughts and behind calls: white space, then thoughts, a call, or content.
    fn step_fresh(&mut self) -> bool {
        let text = self.held.trim_start();
        if text.is_empty() {
            return false;
        }
        let at = self.held.len() - text.len();
        let thoughts = self.thoughts.filter(|_| !self.is_begun).map(|(begin, _)| begin);
        let open = self.calls.map(|calls| calls.open()).filter(|open| !open.is_empty());
        let is_bare = self.calls.is_some_and(Calls::is_bare);
        if let Some(begin) = thoughts.filter(|begin| text.starts_with(begin)) {
            self.held.drain(..at + begin.len());
            self.is_begun = true;
            self.state = State::Thoughts { is_fresh: true };
            return true;
        }
        if let Some(open) = open.filter(|open| text.starts_with(open)) {
            self.held.drain(..at + open.len());
            self.open_call();
            return true;
        }
        if is_bare && text.starts_with('{') {
            self.held.drain(..at);
            self.open_call();
            return true;
        }
        if is_bare && self.count > 0 && text.starts_with(';') {
            self.held.drain(..=at);
            return true;
        }
        let may_become = |marker: &str| marker.len() > text.len() && marker.starts_with(text);
        if thoughts.is_some_and(may_become) || open.is_some_and(may_become) {
            return false;
        }
        if self.is_begun {
            self.held.drain(..at);
        }
        self.is_fresh = false;
        self.is_begun = true;
        true
    }

    fn step_thoughts(&mut self, is_fresh: bool) -> bool {
        let (_, end) = self.thoughts.expect("thoughts have marks");
        if is_fresh {
            let spaces = self.held.len() - self.held.trim_start().len();
            self.held.drain(..spaces);
            if self.held.is_empty() {
                return false;
            }
            self.state = State::Thoughts { is_fresh: false };
        }
        self.is_begun = true;
        if let Some(at) = self.held.find(end) {
            let thought = self.held[..at].trim_end().to_owned();
            self.reasoning(&thought);
            self.held.drain(..at + end.len());
            self.state = State::Content;
            self.is_fresh = true;
            return true;
        }
        // White space in front of the end is none of the thoughts.
        let keep = overlap(&self.held, end);
        let shown = self.held[..self.held.len() - keep].trim_end().len();
        let rest = self.held.split_off(shown);
        let now = std::mem::replace(&mut self.held, rest);
        self.reasoning(&now);
        false
    }

    fn open_call(&mut self) {
        self.is_begun = true;
        self.state = match self.calls {
            Some(Calls::Hermes) => State::Call(Call::object(Calls::Hermes.open(), false)),
            Some(Calls::MistralNamed) => {
                let body = Body::Named { name: String::new() };
                State::Call(Call { raw: Calls::MistralNamed.open().into(), body, from_list: false })
            }
            Some(Calls::MistralList | Calls::DeepSeek { .. }) => State::List,
            // Its mark is optional and no part of a content.
            Some(Calls::Llama) | None => State::Call(Call::object("", false)),
        };
    }

    /// Between the calls of a list.
    fn step_list(&mut self) -> bool {
        let spaces = self.held.len() - self.held.trim_start().len();
        self.held.drain(..spaces);
        let Some(first) = self.held.chars().next() else { return false };
        if let Some(Calls::DeepSeek { .. }) = self.calls {
            return self.step_deep_list();
        }
        match first {
            '[' | ',' => {
                self.held.drain(..1);
                true
            }
            '{' => {
                self.state = State::Call(Call::object("", true));
                true
            }
            ']' => {
                self.held.drain(..1);
                self.end_calls();
                true
            }
            _ => {
                self.end_calls();
                true
            }
        }
    }

    fn step_deep_list(&mut self) -> bool {
        let [begin, end] = DEEPSEEK_CALL;
        // The fence is that of the arguments.
        for marker in [begin, DEEPSEEK_END, end, "```"] {
            if self.held.starts_with(marker) {
                self.held.drain(..marker.len());
                if marker == begin {
                    let body = Body::Separated { head: String::new() };
                    self.state = State::Call(Call { raw: marker.into(), body, from_list: true });
                } else if marker == DEEPSEEK_END {
                    self.end_calls();
                }
                return true;
            }
            if marker.starts_with(self.held.as_str()) {
                return false;
            }
        }
        self.end_calls();
        true
    }

    fn end_calls(&mut self) {
        self.state = State::Content;
        self.is_fresh = true;
    }

    /// White space and the mark that closes a call.
    fn step_envelope(&mut self, end: &'static str) -> bool {
        let text = self.held.trim_start();
        if text.len() < end.len() && end.starts_with(text) {
            return false;
        }
        let at = self.held.len() - text.len();
        let skip = if text.starts_with(end) { at + end.len() } else { 0 };
        self.held.drain(..skip);
        self.end_calls();
        true
    }

    fn step_call(&mut self) -> bool {
        let State::Call(mut call) = std::mem::replace(&mut self.state, State::Content) else { return false };
        let held = std::mem::take(&mut self.held);
        for (at, character) in held.char_indices() {
            let mut told =
                Told { count: &mut self.count, parts: &mut self.parts, calls: self.calls, tools: &self.tools };
            let fed = call.feed(character, &mut told);
            let behind = at + character.len_utf8();
            match fed {
                Fed::More => {}
                Fed::Done | Fed::Over => {
                    self.held = held[if matches!(fed, Fed::Done) { behind } else { at }..].to_owned();
                    self.close_call(&call);
                    return true;
                }
                Fed::Broken => {
                    call.raw.push(character);
                    self.held = held[behind..].to_owned();
                    self.give_up(call);
                    // It goes on as content.
                    self.is_fresh = false;
                    return true;
                }
            }
            call.raw.push(character);
        }
        self.state = State::Call(call);
        false
    }

    fn close_call(&mut self, call: &Call) {
        match self.calls {
            Some(Calls::Hermes) => self.state = State::Envelope("</tool_call>"),
            Some(Calls::DeepSeek { .. }) => self.state = State::List,
            _ if call.from_list => self.state = State::List,
            _ => self.end_calls(),
        }
    }

    /// What looked like a call is content, unless it was told already.
    fn give_up(&mut self, call: Call) {
        let was_told = match call.body {
            Body::Object(object) => object.index.is_some(),
            Body::Arguments { .. } => true,
            Body::Named { .. } | Body::Separated { .. } => false,
        };
        if !was_told {
            self.content(&call.raw);
        }
    }

    fn content(&mut self, text: &str) {
        if !text.is_empty() {
            self.parts.push(Part::Content(text.to_owned()));
        }
    }

    fn reasoning(&mut self, text: &str) {
        if !text.is_empty() {
            self.parts.push(Part::Reasoning(text.to_owned()));
        }
    }
}

impl Call {
    fn object(raw: &str, from_list: bool) -> Self {
        Self { raw: raw.to_owned(), body: Body::Object(Object::default()), from_list }
    }

    fn feed(&mut self, c: char, told: &mut Told<'_>) -> Fed {
        match &mut self.body {
            Body::Object(object) => object.feed(c, told),
            Body::Named { name } => {
                if c == '{' {
                    // `[CALL_ID]…` and `[ARGS]` stand between the name and its arguments.
                    let name = name.split('[').next().unwrap_or_default().trim().to_owned();
                    return self.arguments(c, name, told);
                }
                let is_name = c.is_ascii_alphanumeric() || c.is_whitespace() || "_-.[]".contains(c);
                if !is_name || name.len() > NAME_BYTES {
                    return Fed::Broken;
                }
                name.push(c);
                Fed::More
            }
            Body::Separated { head } => {
                if c == '{' {
                    let name = separated_name(head, told.calls).unwrap_or_default();
                    return self.arguments(c, name, told);
                }
                head.push(c);
                if head.len() <= 2 * NAME_BYTES { Fed::More } else { Fed::Broken }
            }
            Body::Arguments { scan, index } => match scan.feed(c) {
                Scanned::Broken => Fed::Broken,
                Scanned::Over => Fed::Over,
                Scanned::Before => Fed::More,
                scanned @ (Scanned::Inside | Scanned::Last) => {
                    told.argue(*index, c);
                    if scanned == Scanned::Last { Fed::Done } else { Fed::More }
                }
            },
        }
    }

    /// The name is known, and `c` begins the arguments.
    fn arguments(&mut self, c: char, name: String, told: &mut Told<'_>) -> Fed {
        if name.is_empty() {
            return Fed::Broken;
        }
        let index = told.call(name);
        let mut scan = Scan::default();
        scan.feed(c);
        told.argue(index, c);
        self.body = Body::Arguments { scan, index };
        Fed::More
    }
}

/// What a call tells the reader.
struct Told<'r> {
    count: &'r mut usize,
    parts: &'r mut Vec<Part>,
    calls: Option<Calls>,
    tools: &'r [String],
}

impl Told<'_> {
    fn call(&mut self, name: String) -> usize {
        let index = *self.count;
        *self.count += 1;
        self.parts.push(Part::Call { index, name });
        index
    }

    fn argue(&mut self, index: usize, c: char) {
        match self.parts.last_mut() {
            Some(Part::Arguments { index: last, text }) if *last == index => text.push(c),
            _ => self.parts.push(Part::Arguments { index, text: c.to_string() }),
        }
    }
}

/// Longest name of a tool; OpenAI takes 64 characters.
const NAME_BYTES: usize = 256;

/// `function<sep>NAME\n` and a fence, or `NAME<sep>`.
fn separated_name(head: &str, calls: Option<Calls>) -> Option<String> {
    let (before, behind) = head.split_once(DEEPSEEK_SEPARATOR)?;
    let name = match calls {
        Some(Calls::DeepSeek { is_fenced: true }) => behind.split('\n').next()?.trim(),
        _ => before.trim(),
    };
    (!name.is_empty()).then(|| name.to_owned())
}

impl Object {
    fn feed(&mut self, c: char, told: &mut Told<'_>) -> Fed {
        match &mut self.place {
            Place::Start => match c {
                '{' => {
                    self.place = Place::Key;
                    Fed::More
                }
                _ if c.is_whitespace() => Fed::More,
                _ => Fed::Broken,
            },
            Place::Key => match c {
                '"' => {
                    self.place = Place::InKey { raw: String::new(), is_escaped: false };
                    Fed::More
                }
                '}' => self.end(told),
                ',' => Fed::More,
                _ if c.is_whitespace() => Fed::More,
                _ => Fed::Broken,
            },
            Place::InKey { raw, is_escaped } => {
                if *is_escaped {
                    *is_escaped = false;
                } else if c == '\\' {
                    *is_escaped = true;
                } else if c == '"' {
                    self.key = std::mem::take(raw);
                    self.place = Place::Colon;
                    return Fed::More;
                }
                raw.push(c);
                Fed::More
            }
            Place::Colon => match c {
                ':' => {
                    self.place = Place::Value(Scan::default());
                    Fed::More
                }
                _ if c.is_whitespace() => Fed::More,
                _ => Fed::Broken,
            },
            Place::Value(scan) => {
                let scanned = scan.feed(c);
                match scanned {
                    Scanned::Broken => return Fed::Broken,
                    Scanned::Before => return Fed::More,
                    Scanned::Inside | Scanned::Last if !self.value(c, told) => return Fed::Broken,
                    Scanned::Inside | Scanned::Last | Scanned::Over => {}
                }
                if matches!(scanned, Scanned::Inside) {
                    return Fed::More;
                }
                if !self.end_value(told) {
                    return Fed::Broken;
                }
                self.place = Place::Key;
                if scanned == Scanned::Over { self.feed(c, told) } else { Fed::More }
            }
        }
    }

    /// A character of the value of `key`; false when this is no call.
    fn value(&mut self, c: char, told: &mut Told<'_>) -> bool {
        let Place::Value(scan) = &mut self.place else { return false };
        if self.key == "name" {
            scan.text.push(c);
        } else if matches!(self.key.as_str(), "arguments" | "parameters") {
            if self.quoted.is_some() || !self.has_arguments && c == '"' {
                self.quoted.get_or_insert_default().push(c);
            } else if self.name.is_none() {
                self.early.push(c);
            } else {
                if !self.tell(told) {
                    return false;
                }
                told.argue(self.index.unwrap_or_default(), c);
            }
            self.has_arguments = true;
        }
        true
    }

    /// The value of `key` is whole; false when it is none of a call.
    fn end_value(&mut self, told: &mut Told<'_>) -> bool {
        let Place::Value(scan) = &mut self.place else { return false };
        if self.key == "name" {
            match serde_json::from_str::<String>(&scan.text) {
                Ok(name) if self.name.is_none() && !name.is_empty() && name.len() <= NAME_BYTES => {
                    self.name = Some(name)
                }
                _ => return false,
            }
        } else if let Some(quoted) = self.quoted.take() {
            match serde_json::from_str::<String>(&quoted) {
                Ok(text) => self.early = text,
                Err(_) => return false,
            }
        }
        self.name.is_none() || !self.has_arguments || self.tell(told)
    }

    /// Tells the call once its name is known and arguments have begun, and what came of them before the name.
    fn tell(&mut self, told: &mut Told<'_>) -> bool {
        if self.index.is_none() {
            let Some(name) = self.name.clone() else { return false };
            // An answer in JSON that happens to have a name is no call.
            if told.calls.is_some_and(Calls::is_bare) && !told.tools.contains(&name) {
                return false;
            }
            self.index = Some(told.call(name));
        }
        let index = self.index.unwrap_or_default();
        std::mem::take(&mut self.early).chars().for_each(|c| told.argue(index, c));
        true
    }

    /// The object is whole.
    fn end(&mut self, told: &mut Told<'_>) -> Fed {
        if self.has_arguments && self.index.is_some() {
            return Fed::Done;
        }
        if self.has_arguments || told.calls.is_some_and(Calls::is_bare) {
            return Fed::Broken;
        }
        // A tool without parameters.
        self.early = "{}".into();
        if self.tell(told) { Fed::Done } else { Fed::Broken }
    }
}

impl Scan {
    fn feed(&mut self, c: char) -> Scanned {
        if !self.is_begun {
            if c.is_whitespace() {
                return Scanned::Before;
            }
            self.is_begun = true;
            match c {
                '{' | '[' => self.depth = 1,
                '"' => self.in_text = true,
                '}' | ']' | ',' | ':' => return Scanned::Broken,
                _ => self.is_scalar = true,
            }
            return Scanned::Inside;
        }
        if self.in_text {
            if self.is_escaped {
                self.is_escaped = false;
            } else if c == '\\' {
                self.is_escaped = true;
            } else if c == '"' {
                self.in_text = false;
                if self.depth == 0 {
                    return Scanned::Last;
                }
            }
            return Scanned::Inside;
        }
        if self.is_scalar {
            return if c.is_whitespace() || matches!(c, ',' | '}' | ']') { Scanned::Over } else { Scanned::Inside };
        }
        match c {
            '"' => self.in_text = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Scanned::Last;
                }
            }
            _ => {}
        }
        Scanned::Inside
    }
}

/// Length of the longest end of `text` with which `marker` begins, without being complete.
fn overlap(text: &str, marker: &str) -> usize {
    let longest = text.len().min(marker.len() - 1);
    (1..=longest).rev().find(|&n| marker.as_bytes().starts_with(&text.as_bytes()[text.len() - n..])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
