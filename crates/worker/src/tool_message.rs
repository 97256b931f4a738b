//! Tools for models whose templates know none: told in the system message, in the words that Hermes was trained with and many
//! models have seen since; calls and results of earlier turns as the texts they would be.

use serde_json::{Value, json};

/// Rewrites a conversation so that it tells of `tools`.
pub(crate) fn tell(messages: Vec<Value>, tools: &[Value]) -> Vec<Value> {
    let tools: Vec<String> = tools.iter().map(Value::to_string).collect();
    let told = format!(
        "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML tags. You \
         may call one or more functions to assist with the user query. Don't make assumptions about what values to plug into \
         functions. Here are the available tools:\n<tools>\n{}\n</tools>\nFor each function call return a json object with \
         function name and arguments within <tool_call></tool_call> XML tags as follows:\n<tool_call>\n{{\"name\": \
         <function-name>, \"arguments\": <args-dict>}}\n</tool_call>",
        tools.join("\n")
    );
    let mut messages: Vec<Value> = messages.into_iter().map(plain).collect();
    match messages.first_mut().filter(|message| message["role"] == "system") {
        Some(system) => system["content"] = Value::from(format!("{}\n\n{told}", text(system))),
        None => messages.insert(0, json!({"role": "system", "content": told})),
    }
    messages
}

/// A message as a template without tools takes it.
fn plain(mut message: Value) -> Value {
    if message["role"] == "tool" {
        let result = format!("<tool_response>\n{}\n</tool_response>", text(&message));
        return json!({"role": "user", "content": result});
    }
    let Some(Value::Array(calls)) = message.as_object_mut().and_then(|object| object.remove("tool_calls")) else {
        return message;
    };
    let mut content = text(&message).to_owned();
    for call in &calls {
        let function = &call["function"];
        let arguments = function["arguments"].as_str().unwrap_or("{}");
        let separator = if content.is_empty() { "" } else { "\n" };
        content = format!(
            "{content}{separator}<tool_call>\n{{\"name\": {}, \"arguments\": {arguments}}}\n</tool_call>",
            function["name"]
        );
    }
    message["content"] = Value::from(content);
    message
}

fn text(message: &Value) -> &str {
    message["content"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_with_calls_becomes_one_without() {
        let call = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]);
        let messages = vec![
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "user", "content": "go"}),
            json!({"role": "assistant", "content": "", "tool_calls": call}),
            json!({"role": "tool", "tool_call_id": "c", "content": "7"}),
        ];
        let told = tell(messages, &[json!({"type": "function", "function": {"name": "f"}})]);
        let system = told[0]["content"].as_str().expect("a text");
        assert!(system.starts_with("Be brief.\n\nYou are a function calling"), "{system}");
        assert!(
            system.contains("<tools>\n{\"type\":\"function\",\"function\":{\"name\":\"f\"}}\n</tools>"),
            "{system}"
        );
        assert_eq!(told[2]["content"], "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>");
        assert_eq!(told[3], json!({"role": "user", "content": "<tool_response>\n7\n</tool_response>"}));
        assert_eq!(tell(vec![json!({"role": "user", "content": "a"})], &[]).len(), 2);
    }
}
