//! Where a model comes from, as a person writes it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

use super::FetchError;

/// Longest source text: a signed URL takes 1 to 2 kB.
const TEXT_MAX_BYTES: usize = 4_096;

/// A place to fetch a model from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of this machine. Whoever may name one can read it: only for the operator.
    File(PathBuf),
    /// A URL; plain HTTP only to this machine itself.
    Http(Url),
    /// A file of a model repository.
    HuggingFace(Repository),
    /// A file inside a Python package.
    Package(PackageSource),
}

/// A file of a repository on a Hugging Face hub or a mirror of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// User or organisation.
    pub owner: String,
    /// Repository.
    pub name: String,
    /// Path of the file.
    pub file: String,
    /// Branch, tag or commit; `main` when absent.
    pub revision: Option<String>,
}

/// A file inside a Python package of the index that pip is set up for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSource {
    /// Package.
    pub package: String,
    /// Exact version; the newest when absent.
    pub version: Option<String>,
    /// Path inside the wheel, or its end.
    pub file: String,
}

impl Source {
    /// Whether it reads from this machine, which only its operator may ask for.
    pub fn is_local(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Http(url) => is_loopback(url),
            Self::HuggingFace(_) | Self::Package(_) => false,
        }
    }

    /// Name for the model when the person gives none: the file's name without its ending.
    pub fn stem(&self) -> String {
        let path = match self {
            Self::File(path) => path.to_string_lossy().into_owned(),
            Self::Http(url) => url.path().to_owned(),
            Self::HuggingFace(repository) => repository.file.clone(),
            Self::Package(package) => package.file.clone(),
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        name.strip_suffix(".gguf").unwrap_or(name).to_owned()
    }
}

impl FromStr for Source {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        let bad = |why: &str| FetchError::BadSource { text: text.chars().take(120).collect(), why: why.to_owned() };
        if text.len() > TEXT_MAX_BYTES || text.chars().any(char::is_control) {
            return Err(bad("it is too long or holds control characters"));
        }
        match text.split_once("://") {
            Some(("file", _)) => {
                let url = Url::parse(text).map_err(|_| bad("it is not a file URL"))?;
                let path =
                    url.to_file_path().map_err(|()| bad("write an absolute path, as in `file:///srv/model.gguf`"))?;
                Ok(Self::File(path))
            }
            Some(("https" | "http", _)) => parse_http(text).map_err(|why| bad(&why)),
            Some(("hf", rest)) => parse_repository(rest).map(Self::HuggingFace).map_err(|why| bad(&why)),
            Some(("pypi", rest)) => parse_package(rest).map(Self::Package).map_err(|why| bad(&why)),
            Some(_) => Err(bad("its scheme is unknown")),
            None => Err(bad("it has no scheme")),
        }
    }
}

impl fmt::Display for Source {
    /// The text to show and to keep; a query string stays out, for it may hold a signature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Http(url) => f.write_str(&shown(url)),
            Self::HuggingFace(Repository { owner, name, file, revision }) => {
                write!(f, "hf://{owner}/{name}/{file}")?;
                revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
            }
            Self::Package(PackageSource { package, version: Some(version), file }) => {
                write!(f, "pypi://{package}=={version}/{file}")
            }
            Self::Package(PackageSource { package, version: None, file }) => write!(f, "pypi://{package}/{file}"),
        }
    }
}

impl Repository {
    /// The download address below a hub's endpoint.
    pub(super) fn url(&self, endpoint: &str) -> Result<Url, FetchError> {
        let bad = |why: &str| FetchError::BadSource { text: endpoint.to_owned(), why: why.to_owned() };
        let mut url = Url::parse(endpoint).map_err(|_| bad("HF_ENDPOINT is not a URL"))?;
        check_http(&url).map_err(|why| bad(&why))?;
        let revision = self.revision.as_deref().unwrap_or("main");
        {
            let mut path = url.path_segments_mut().map_err(|()| bad("HF_ENDPOINT is not a URL with a path"))?;
            path.pop_if_empty().extend([&self.owner, &self.name, "resolve", revision]);
            path.extend(self.file.split('/'));
        }
        Ok(url)
    }
}

/// A URL without what may be secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// HTTPS anywhere, HTTP only to this machine; no password in the URL, for the source is stored and shown.
pub(super) fn check_http(url: &Url) -> Result<(), String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user name or password would be stored and shown".to_owned());
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(url) => Ok(()),
        "http" => Err("plain `http://` is only allowed to this machine; use `https://`".to_owned()),
        other => Err(format!("`{other}://` is not HTTP")),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn parse_http(text: &str) -> Result<Source, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    check_http(&url)?;
    Ok(Source::Http(url))
}

fn parse_repository(rest: &str) -> Result<Repository, String> {
    const FORM: &str = "write `hf://owner/repo/file`, with `@revision` at the end if needed";
    let (path, revision) = match rest.rsplit_once('@') {
        Some((path, revision)) => (path, Some(revision)),
        None => (rest, None),
    };
    let mut segments = path.splitn(3, '/');
    let (Some(owner), Some(name), Some(file)) = (segments.next(), segments.next(), segments.next()) else {
        return Err(FORM.to_owned());
    };
    let sound = is_word(owner) && is_word(name) && is_path(file) && revision.is_none_or(is_path);
    if !sound {
        return Err(FORM.to_owned());
    }
    Ok(Repository {
        owner: owner.to_owned(),
        name: name.to_owned(),
        file: file.to_owned(),
        revision: revision.map(str::to_owned),
    })
}

fn parse_package(rest: &str) -> Result<PackageSource, String> {
    const FORM: &str = "write `pypi://package/file` or `pypi://package==version/file`";
    let (requirement, file) = rest.split_once('/').ok_or(FORM)?;
    let (package, version) = match requirement.split_once("==") {
        Some((package, version)) => (package, Some(version)),
        None => (requirement, None),
    };
    let sound = is_word(package) && is_path(file) && version.is_none_or(is_version);
    if !sound {
        return Err(FORM.to_owned());
    }
    Ok(PackageSource { package: package.to_owned(), version: version.map(str::to_owned), file: file.to_owned() })
}

/// Letters, digits, `.`, `_`, `-`; neither hidden nor an option.
fn is_word(text: &str) -> bool {
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    starts_plain
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_version(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'!');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

fn is_path(text: &str) -> bool {
    text.len() <= 512
        && text.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..")
        && !text.contains(['\\', '?', '#', '%'])
}

#[cfg(test)]
mod tests;
