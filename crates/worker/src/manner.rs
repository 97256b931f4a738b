//! The manner in which a model writes thoughts and calls of tools, recognised by its chat template: data, a variant per family.
//! `reader` reads it, `grammar` forces it.
//! Deliberately absent: families whose calls are no JSON (Qwen3-Coder's and GLM's XML): their models answer, but refuse tools.

/// How a model's answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// What begins and ends its thoughts.
    pub thoughts: Option<(&'static str, &'static str)>,
    pub tools: Tools,
}

/// How a model is told of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tools {
    /// Its template writes them, and it calls them so.
    Template(Calls),
    /// Its template knows no tools: a system message in the words of Hermes tells of them.
    Message,
    /// Its template writes them, and how it calls them is not known here.
    Unknown,
}

/// How a model writes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, and many others.
    Hermes,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`: Mistral up to its tokeniser v7.
    MistralList,
    /// `[TOOL_CALLS]NAME[ARGS]{…}`, once per call: Mistral from v11 on.
    MistralNamed,
    /// `{"name": …, "parameters": {…}}` as the whole answer, perhaps behind `<|python_tag|>`: Llama 3.1 to 3.3.
    Llama,
    /// `<｜tool▁calls▁begin｜>`, then each call between its own marks: DeepSeek V3 and R1 with a fence, V3.1 without.
    DeepSeek { is_fenced: bool },
}

pub(crate) const DEEPSEEK_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(crate) const DEEPSEEK_END: &str = "<｜tool▁calls▁end｜>";
pub(crate) const DEEPSEEK_CALL: [&str; 2] = ["<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"];
pub(crate) const DEEPSEEK_SEPARATOR: &str = "<｜tool▁sep｜>";

/// All marks that may be control tokens, whose text belongs to the answer here.
pub(crate) const MARKS: [&str; 16] = [
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
    DEEPSEEK_BEGIN,
    DEEPSEEK_END,
    DEEPSEEK_CALL[0],
    DEEPSEEK_CALL[1],
    DEEPSEEK_SEPARATOR,
    "<|eom_id|>",
];

impl Manner {
    /// What a chat template tells.
    pub(crate) fn of(template: &str) -> Self {
        let has = |text: &str| template.contains(text);
        let thoughts = if has("[THINK]") {
            Some(("[THINK]", "[/THINK]"))
        } else if has("<think>") || has("</think>") {
            Some(("<think>", "</think>"))
        } else {
            None
        };
        let tools = if has("<function=") || has("<arg_key>") {
            Tools::Unknown
        } else if has("[TOOL_CALLS]") {
            Tools::Template(if has("[ARGS]") { Calls::MistralNamed } else { Calls::MistralList })
        } else if has(DEEPSEEK_BEGIN) {
            Tools::Template(Calls::DeepSeek { is_fenced: has("```json") })
        } else if has("<tool_call>") {
            Tools::Template(Calls::Hermes)
        } else if has("<|python_tag|>") || has("ipython") {
            Tools::Template(Calls::Llama)
        } else if has("tools") {
            Tools::Unknown
        } else {
            Tools::Message
        };
        Self { thoughts, tools }
    }

    /// How it writes calls, if that is known.
    pub(crate) fn calls(&self) -> Option<Calls> {
        match self.tools {
            Tools::Template(calls) => Some(calls),
            Tools::Message => Some(Calls::Hermes),
            Tools::Unknown => None,
        }
    }
}

impl Calls {
    /// The mark that begins a call, or a list of them.
    pub(crate) fn open(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::MistralList | Self::MistralNamed => "[TOOL_CALLS]",
            Self::Llama => "<|python_tag|>",
            Self::DeepSeek { .. } => DEEPSEEK_BEGIN,
        }
    }

    /// Whether a call may come without a mark.
    pub(crate) fn is_bare(self) -> bool {
        self == Self::Llama
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_known_by_their_templates() {
        // Lines of the templates that their makers publish.
        let qwen = r#"{{- '<tool_call>\n{"name": "' }}{{- tool_call.name }}{% if '</think>' in content %}"#;
        let mistral = r#"{{- "[AVAILABLE_TOOLS] [" }}{{- "[TOOL_CALLS] [" }}"#;
        let small = r#"{{- '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}"#;
        let llama =
            r#"{{- "Environment: ipython\n" }}{{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}"#;
        let deepseek = "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + '\\n' + '```json'}}</think>";
        let coder = "{{- '\\n<tool_call>\\n<function=' + tool_call.name }}";
        let calls = |template: &str| Manner::of(template).tools;
        assert_eq!(calls(qwen), Tools::Template(Calls::Hermes));
        assert_eq!(Manner::of(qwen).thoughts, Some(("<think>", "</think>")));
        assert_eq!(calls(mistral), Tools::Template(Calls::MistralList));
        assert_eq!(calls(small), Tools::Template(Calls::MistralNamed));
        assert_eq!(calls(llama), Tools::Template(Calls::Llama));
        assert_eq!(calls(deepseek), Tools::Template(Calls::DeepSeek { is_fenced: true }));
        assert_eq!(calls(coder), Tools::Unknown);
        assert_eq!(calls("{% if tools %}<my_tools>{% endif %}"), Tools::Unknown);
        assert_eq!(calls("{{ messages }}"), Tools::Message);
        assert_eq!(Manner::of("{{ messages }}").thoughts, None);
    }
}
