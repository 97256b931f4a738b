//! Where the state is kept: `sqlite:PATH` or `postgres://…`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The place of a store.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// One file on this machine.
    Sqlite(PathBuf),
    /// A PostgreSQL database; the text may carry a password.
    Postgres(String),
}

/// A text that is not the place of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store URL begins with neither `sqlite:` nor `postgres://`; write `sqlite:PATH` or `postgres://USER@HOST/DATABASE`"
)]
pub struct BadUrl;

impl StoreUrl {
    /// The SQLite file at `path`.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self::Sqlite(path.into())
    }
}

impl FromStr for StoreUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))),
            _ => Err(BadUrl),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(text) => f.write_str(&without_password(text)),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "postgres://…".to_owned() };
    // The query may hold a password too (`?password=`), so only what comes before it is shown.
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let name = user.split_once(':').map_or(user, |(name, _)| name);
            format!("{scheme}://{name}@{host}")
        }
        None => format!("{scheme}://{rest}"),
    }
}

/// The driver's form of a SQLite path: every byte outside the unreserved set is escaped.
pub(crate) fn sqlite_driver_url(path: &Path) -> String {
    let mut url = String::from("sqlite://");
    for &byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~') {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url.push_str("?mode=rwc");
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_url_never_shows_its_password() {
        let url: StoreUrl = "postgres://galerne:s3cret@db/galerne?password=s3cret".parse().expect("a PostgreSQL URL");
        assert_eq!(url.to_string(), "postgres://galerne@db/galerne");
        assert_eq!(format!("{url:?}"), "postgres://galerne@db/galerne");
    }

    #[test]
    fn a_sqlite_url_is_a_path_and_anything_else_is_refused() {
        assert_eq!("sqlite:/var/x.db".parse(), Ok(StoreUrl::sqlite("/var/x.db")));
        assert_eq!("sqlite:///var/x.db".parse(), Ok(StoreUrl::sqlite("/var/x.db")));
        assert_eq!("mysql://x".parse::<StoreUrl>(), Err(BadUrl));
        assert_eq!("sqlite:".parse::<StoreUrl>(), Err(BadUrl));
        assert_eq!(sqlite_driver_url(Path::new("/a b/ü?.db")), "sqlite:///a%20b/%C3%BC%3F.db?mode=rwc");
    }
}
