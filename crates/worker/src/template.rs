//! Chat templates: the Jinja text inside the model, rendered as Hugging Face's `apply_chat_template` does.
//! Deliberately absent: files, includes, network; a template is foreign code and runs on a budget of instructions.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize as _;

use crate::limits;
use crate::request::{Ending, Rendering};

/// A model's chat template, parsed.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    /// Arguments of earlier calls as objects, which most templates write as JSON; else as the text that they are.
    takes_objects: bool,
}

/// What a template is given.
#[derive(Debug, Clone, Copy)]
struct Scene<'a> {
    messages: &'a [serde_json::Value],
    /// None: the variable is not defined.
    tools: &'a [serde_json::Value],
    /// Whether the prompt ends where the assistant begins to speak.
    begins_turn: bool,
    /// Further variables; none of those that are set here.
    variables: &'a serde_json::Map<String, serde_json::Value>,
}

/// Why a conversation has no prompt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// The template itself says so (`raise_exception`), for example about the order of roles.
    #[error("{0}")]
    Refused(String),
    #[error("the model's chat template fails: {0}")]
    Broken(String),
}

/// Where the last message ends when it is to be continued: a noncharacter, which Unicode keeps for a program's own use.
const CUT: char = '\u{fdd1}';

const NAME: &str = "chat";
const REFUSED: &str = "refused by the template: ";

impl ChatTemplate {
    /// Parses `source`; `bos` and `eos` are the texts of the special tokens.
    pub(crate) fn new(source: &str, bos: String, eos: String) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("the default marks"),
        );
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(limits::TEMPLATE_FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSED}{message}")))
        });
        environment.add_function("strftime_now", |format: String| strftime_now(&format));
        environment.add_filter("tojson", tojson);
        // Marks the assistant's text for training; no output of its own.
        let source = source.replace("{% generation %}", "").replace("{% endgeneration %}", "");
        environment.add_template_owned(NAME, source).map_err(|e| TemplateError::Broken(e.to_string()))?;
        let mut template = Self { environment, bos, eos, takes_objects: false };
        template.takes_objects = template.shows_objects();
        Ok(template)
    }

    /// Tries whether arguments as an object come out.
    fn shows_objects(&self) -> bool {
        const SEEN: &str = "argument_seen";
        let function = serde_json::json!({"name": "f", "arguments": {"k": SEEN}});
        let calls = serde_json::json!([{"id": "call00000", "type": "function", "function": function}]);
        let messages = [
            serde_json::json!({"role": "user", "content": "a"}),
            serde_json::json!({"role": "assistant", "content": "", "tool_calls": calls}),
        ];
        let variables = serde_json::Map::new();
        let scene = Scene { messages: &messages, tools: &[], begins_turn: true, variables: &variables };
        self.render(&scene).is_ok_and(|prompt| prompt.contains(SEEN))
    }

    /// The prompt of a conversation that ends as `rendering` says; texts of its messages are marked already.
    pub(crate) fn prompt(
        &self,
        mut messages: Vec<serde_json::Value>,
        tools: &[serde_json::Value],
        rendering: &Rendering,
    ) -> Result<String, TemplateError> {
        if self.takes_objects {
            messages.iter_mut().for_each(arguments_to_objects);
        }
        let is_continued = rendering.ending == Ending::Message;
        if is_continued
            && let Some(serde_json::Value::String(text)) = messages.last_mut().and_then(|m| m.get_mut("content"))
        {
            text.retain(|c| c != CUT);
            text.push(CUT);
        }
        let begins_turn = rendering.ending == Ending::Turn;
        let mut prompt =
            self.render(&Scene { messages: &messages, tools, begins_turn, variables: &rendering.variables })?;
        if is_continued {
            let Some(at) = prompt.rfind(CUT) else {
                let text = "the last message cannot be continued: the template does not write it as it is";
                return Err(TemplateError::Refused(text.into()));
            };
            prompt.truncate(at);
        }
        Ok(prompt)
    }

    fn render(&self, scene: &Scene<'_>) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME).expect("added when the template was made");
        let tools = if scene.tools.is_empty() { Value::UNDEFINED } else { Value::from(Serde(scene.tools)) };
        let context = minijinja::context! {
            messages => Value::from(Serde(scene.messages)),
            tools => tools,
            add_generation_prompt => scene.begins_turn,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            ..Value::from(Serde(scene.variables))
        };
        template.render(context).map_err(|e| {
            let detail = e.detail().unwrap_or_default();
            match detail.strip_prefix(REFUSED) {
                Some(message) => TemplateError::Refused(message.to_owned()),
                None => TemplateError::Broken(e.to_string()),
            }
        })
    }
}

/// OpenAI's messages hold the arguments of calls as a text in JSON.
fn arguments_to_objects(message: &mut serde_json::Value) {
    let Some(serde_json::Value::Array(calls)) = message.get_mut("tool_calls") else { return };
    for call in calls {
        let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
        if let Some(arguments) = arguments
            && let Some(object) =
                arguments.as_str().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok())
            && object.is_object()
        {
            *arguments = object;
        }
    }
}

fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("`strftime_now`: {e}")))
}

/// Python's `json.dumps`: no HTML escapes, a space after `,` and `:`, or indented.
#[expect(clippy::needless_pass_by_value, reason = "filters own their arguments")]
fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Others (`ensure_ascii`, `separators`, `sort_keys`) do not change what a model understands.
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(8));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)).map_err(failed)?,
    }
    let text = String::from_utf8(out).expect("JSON is UTF-8");
    Ok(Value::from_safe_string(text))
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, messages: &[serde_json::Value]) -> Result<String, TemplateError> {
        let scene = Scene { messages, tools: &[], begins_turn: true, variables: &serde_json::Map::new() };
        ChatTemplate::new(source, "<s>".into(), "</s>".into())?.render(&scene)
    }

    #[test]
    fn a_chatml_template_renders_as_transformers_does() {
        let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        assert_eq!(
            render(source, &[json!({"role": "user", "content": "a < b"})]).expect("renders"),
            "<|im_start|>system\nYou are SmolLM<|im_end|>\n<|im_start|>user\na < b<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn python_methods_and_json_work() {
        let source = "{{ bos_token }}{% for m in messages %}{{ m.content.strip().split('|')[1].upper() }}{{ m | tojson }}{% if m.content.startswith(' a') %}!{% endif %}{% endfor %}{% for k, v in messages[0].items() %}{{ k }},{% endfor %}";
        assert_eq!(
            render(source, &[json!({"role": "user", "content": " a|<b> "})]).expect("renders"),
            r#"<s><B>{"role": "user", "content": " a|<b> "}!role,content,"#
        );
    }

    #[test]
    fn a_refusal_of_the_template_reaches_the_caller() {
        let source =
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
        let error = render(source, &[json!({"role": "system", "content": ""})]).expect_err("refused");
        assert!(matches!(&error, TemplateError::Refused(text) if text == "System role not supported"), "{error:?}");
    }

    #[test]
    fn a_template_that_never_ends_is_cut() {
        let source = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        assert!(matches!(render(source, &[]), Err(TemplateError::Broken(_))));
    }

    #[test]
    fn variables_of_a_request_reach_the_template_and_the_turn_may_stay_closed() {
        let template = ChatTemplate::new(
            "{% if enable_thinking is false %}no{% endif %}{% if add_generation_prompt %}!{% endif %}{{ messages | length }}",
            String::new(),
            String::new(),
        );
        let variables = json!({"enable_thinking": false, "messages": "mine"});
        let variables = variables.as_object().expect("an object");
        let scene = Scene { messages: &[], tools: &[], begins_turn: false, variables };
        assert_eq!(template.expect("parses").render(&scene).expect("renders"), "no0");
    }

    #[test]
    fn a_last_message_is_continued_where_it_ends() {
        let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
        let template = ChatTemplate::new(source, String::new(), String::new()).expect("parses");
        let messages = vec![
            json!({"role": "user", "content": "a\u{fdd1}"}),
            json!({"role": "assistant", "content": "b\u{fdd1} c "}),
        ];
        let prompt = |ending| {
            let rendering = Rendering { ending, prefix: None, variables: serde_json::Map::new() };
            template.prompt(messages.clone(), &[], &rendering)
        };
        assert_eq!(prompt(Ending::Message).expect("renders"), "<|user|>a\u{fdd1}<|end|><|assistant|>b c ");
        assert!(prompt(Ending::Turn).expect("renders").ends_with("<|end|><|assistant|>"));
        assert!(prompt(Ending::Nothing).expect("renders").ends_with("<|end|>"));
        let silent = ChatTemplate::new("{{ messages[0].content }}", String::new(), String::new()).expect("parses");
        let rendering = Rendering { ending: Ending::Message, prefix: None, variables: serde_json::Map::new() };
        let messages = vec![json!({"content": "a"}), json!({"content": "b"})];
        assert!(matches!(silent.prompt(messages, &[], &rendering), Err(TemplateError::Refused(_))));
    }

    #[test]
    fn tools_and_earlier_calls_reach_the_template_as_it_wants_them() {
        let call = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]);
        let messages = vec![json!({"role": "assistant", "content": "", "tool_calls": call})];
        let rendering = Rendering { ending: Ending::Turn, prefix: None, variables: serde_json::Map::new() };
        let prompt = |source: &str| {
            let template = ChatTemplate::new(source, String::new(), String::new()).expect("parses");
            template.prompt(messages.clone(), &[json!({"name": "f"})], &rendering).expect("renders")
        };
        let loops = "{% for m in messages %}{% for c in m.tool_calls %}";
        let ends = "{% endfor %}{% endfor %}{% if tools is defined %}{{ tools | tojson }}{% endif %}";
        let object = prompt(&format!("{loops}{{{{ c.function.arguments | tojson }}}}{ends}"));
        assert_eq!(object, r#"{"a": 1}[{"name": "f"}]"#);
        let text = prompt(&format!("{loops}{{{{ '>' + c.function.arguments }}}}{ends}"));
        assert_eq!(text, r#">{"a": 1}[{"name": "f"}]"#);
    }

    #[test]
    fn the_date_can_be_asked_for() {
        let year = render("{{ strftime_now('%Y') }}", &[]).expect("renders");
        assert!(year.parse::<u16>().is_ok_and(|year| year >= 2025), "{year}");
    }
}
