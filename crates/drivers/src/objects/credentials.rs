//! Credentials of an S3 server: from the environment, or from a file in the form that all its tools read.

use std::collections::BTreeMap;

use secrecy::SecretString;

/// Who we are at an S3 server.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Access key id.
    pub key_id: String,
    /// Secret access key.
    pub secret: SecretString,
    /// Session token of credentials that end.
    pub token: Option<SecretString>,
}

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCredentials {
    /// A line is neither a section nor a setting.
    #[error("line {0} is neither `[section]` nor `name = value`")]
    Line(usize),
    /// Something is not said.
    #[error("`{0}` is not given")]
    Missing(&'static str),
}

impl Credentials {
    /// What the variables of Amazon's tools say; nothing when they say nothing.
    pub fn from_environment(variables: &BTreeMap<String, String>) -> Result<Option<Self>, BadCredentials> {
        let of = |name: &str| variables.get(name).filter(|value| !value.is_empty()).cloned();
        match (of("AWS_ACCESS_KEY_ID"), of("AWS_SECRET_ACCESS_KEY")) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(BadCredentials::Missing("AWS_SECRET_ACCESS_KEY")),
            (None, Some(_)) => Err(BadCredentials::Missing("AWS_ACCESS_KEY_ID")),
            (Some(key_id), Some(secret)) => {
                Ok(Some(Self { key_id, secret: secret.into(), token: of("AWS_SESSION_TOKEN").map(Into::into) }))
            }
        }
    }

    /// What the section `[default]` of a credentials file says; lines before any section count as its own.
    pub fn from_file(text: &str) -> Result<Self, BadCredentials> {
        let mut section = "default";
        let mut said = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.trim();
                continue;
            }
            let (name, value) = line.split_once('=').ok_or(BadCredentials::Line(index + 1))?;
            if section == "default" {
                said.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let mut of = |name: &'static str| {
            said.remove(name).filter(|value| !value.is_empty()).ok_or(BadCredentials::Missing(name))
        };
        let (key_id, secret) = (of("aws_access_key_id")?, of("aws_secret_access_key")?);
        Ok(Self { key_id, secret: secret.into(), token: of("aws_session_token").ok().map(Into::into) })
    }
}
