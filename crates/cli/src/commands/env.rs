//! Variables that other programs read.

use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::session::Session;

/// Options of `galerne env`.
#[derive(Debug, Args)]
pub struct EnvArguments {
    /// Those that OpenAI's clients read: OPENAI_BASE_URL, OPENAI_API_KEY
    #[arg(long)]
    openai: bool,
    /// Those that Mistral's client reads: MISTRAL_API_KEY; it takes the server in code, as server_url
    #[arg(long)]
    mistral: bool,
}

impl EnvArguments {
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), Failure> {
        let (url, key) = (session.profile.url().to_owned(), session.profile.key()?.to_owned());
        let mut variables = Vec::new();
        if self.openai {
            variables.push(("OPENAI_BASE_URL", format!("{url}/v1")));
            variables.push(("OPENAI_API_KEY", key.clone()));
        }
        if self.mistral {
            variables.push(("MISTRAL_API_KEY", key.clone()));
        }
        if variables.is_empty() {
            variables.push(("GALERNE_URL", url));
            variables.push(("GALERNE_API_KEY", key));
        }
        if session.is_json() {
            let map: serde_json::Map<_, _> =
                variables.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            return session.output.json(&map);
        }
        variables.iter().try_for_each(|(name, value)| session.output.line(format!("export {name}={}", quote(value))))
    }
}

/// A word that a shell reads back as it is.
fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':');
    if value.chars().all(plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_quoted_where_a_shell_would_read_more_into_it() {
        assert_eq!(quote("http://127.0.0.1:8080/v1"), "http://127.0.0.1:8080/v1");
        assert_eq!(quote("a b'c$(d)"), r"'a b'\''c$(d)'");
    }
}
