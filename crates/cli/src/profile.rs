//! Where the server is and which key to show it: flags, then environment, then the profile that `galerne up` writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use galerne_api::error::Code;
use galerne_model::token;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::private_file;

/// Where a server of `galerne up` listens when nothing else was said.
pub(crate) const URL_DEFAULT: &str = "http://127.0.0.1:8080";

/// What the profile keeps between commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Where the server is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The key to call it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// The endpoint `galerne chat` talks to when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A PEM file with the certificate authority that signed the server's certificate, when the system does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Profile {
    /// Path of the file in the configuration folder.
    pub fn path(config: &Path) -> PathBuf {
        config.join("config.toml")
    }

    /// Reads the file; one that is not there says nothing.
    pub fn load(config: &Path) -> Result<Self, Failure> {
        let path = Self::path(config);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(Failure::new(Code::ConfigInvalid, format!("`{}` cannot be read", path.display()))
                    .because_of(&error));
            }
        };
        toml::from_str(&text).map_err(|error| {
            Failure::new(Code::ConfigInvalid, format!("`{}` is not a profile", path.display()))
                .because(error.message().to_owned())
                .hint(format!("correct it, or remove it: rm '{}'", path.display()))
        })
    }

    /// Writes the file, for its owner only.
    pub fn save(&self, config: &Path) -> Result<PathBuf, Failure> {
        let path = Self::path(config);
        let text = toml::to_string(self).map_err(|error| Failure::internal("the profile is not TOML", &error))?;
        let head = "# Written by `galerne up`: the server and key of commands that name no other.\n";
        private_file::write(&path, &format!("{head}{text}")).map_err(|error| {
            Failure::new(Code::ConfigInvalid, format!("`{}` cannot be written", path.display())).because_of(&error)
        })?;
        Ok(path)
    }

    /// Moves the file out of the way if it holds a key, which may be the only copy; says where it is now.
    pub(crate) fn keep_aside(&self, config: &Path) -> Result<Option<PathBuf>, Failure> {
        if self.api_key.is_none() {
            return Ok(None);
        }
        let path = Self::path(config);
        let aside = path.with_extension(format!("{}.toml", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ")));
        fs::rename(&path, &aside).map_err(|error| {
            Failure::new(Code::ConfigInvalid, format!("`{}` cannot be moved", path.display())).because_of(&error)
        })?;
        Ok(Some(aside))
    }

    /// The profile with what flags and environment say put over it.
    #[must_use]
    pub fn overridden(mut self, url: Option<&str>, key: Option<&str>, ca_file: Option<&Path>) -> Self {
        if let Some(url) = url {
            // The stored key belongs to the stored server: it is not shown to another.
            if self.url.as_deref().map(trim_url) != Some(trim_url(url)) {
                self = Self::default();
            }
            self.url = Some(trim_url(url).to_owned());
        }
        if let Some(key) = key {
            self.api_key = Some(key.to_owned());
        }
        if let Some(file) = ca_file {
            // What is kept by `galerne login` is read from wherever the next command is typed.
            self.ca_file = Some(std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
        }
        self
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        self.url.as_deref().map_or(URL_DEFAULT, trim_url)
    }

    /// The key, checked for typing errors before anybody is asked.
    pub fn key(&self) -> Result<&str, Failure> {
        let Some(key) = self.api_key.as_deref() else {
            return Err(Failure::new(Code::Unauthenticated, "no API key is known")
                .because(format!("neither --key, nor GALERNE_API_KEY, nor the profile has one for {}", self.url()))
                .hint("start a server here, which writes one: galerne up")
                .hint("or name one: export GALERNE_API_KEY=galerne_…"));
        };
        token::check_key(key).map_err(|error| {
            Failure::new(Code::InvalidKey, error.to_string()).hint("make a new one: galerne key create NAME")
        })?;
        Ok(key)
    }
}

fn trim_url(url: &str) -> &str {
    let url = url.trim_end_matches('/');
    // People paste the base URL that OpenAI's clients want.
    url.strip_suffix("/v1").unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "galerne_0000000000000000000000000000002C8GjS";

    fn stored() -> Profile {
        Profile {
            url: Some("http://127.0.0.1:8080".into()),
            api_key: Some(KEY.into()),
            endpoint: Some("smol".into()),
            ca_file: None,
        }
    }

    #[test]
    fn a_stored_key_is_not_shown_to_another_server_nor_its_authority_trusted_there() {
        let stored = || Profile { ca_file: Some("/etc/stored.pem".into()), ..stored() };
        let profile = stored().overridden(Some("https://elsewhere.example"), None, None);
        assert_eq!(profile.url(), "https://elsewhere.example");
        assert_eq!((profile.api_key, profile.ca_file), (None, None));
        let trusted = stored().overridden(Some("https://elsewhere.example"), None, Some(Path::new("/etc/ca.pem")));
        assert_eq!(trusted.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
        let same = stored().overridden(Some("http://127.0.0.1:8080/v1/"), None, None);
        assert_eq!(same, stored());
    }

    #[test]
    fn a_typing_error_in_a_key_is_named_before_anybody_is_asked() {
        let wrong = KEY.replace("2C8GjS", "2C8GjT");
        let profile = Profile::default().overridden(None, Some(&wrong), None);
        let failure = profile.key().expect_err("the check characters do not match");
        assert_eq!(failure.code(), Code::InvalidKey);
        assert_eq!(Profile::default().key().expect_err("there is none").code(), Code::Unauthenticated);
    }

    #[test]
    fn a_profile_reads_back_and_an_unknown_field_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Profile::load(folder.path()).expect("nothing is there"), Profile::default());
        let path = stored().save(folder.path()).expect("writes");
        assert_eq!(Profile::load(folder.path()).expect("reads"), stored());
        fs::write(path, "urll = 'x'\n").expect("writes");
        let failure = Profile::load(folder.path()).expect_err("it is misspelt");
        assert!(failure.render().contains("urll"), "{}", failure.render());
    }
}
