//! A package index read directly: the simple repository API (PEP 503 HTML, PEP 691 JSON).

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use super::super::http::words;
use super::super::source::{check_http, shown};
use super::super::{FetchError, PackageSource};
use super::{Wheel, place_of};

/// Largest project page: the longest public ones are below 20 MB.
const PAGE_MAX_BYTES: usize = 32 * 1024 * 1024;

/// One file of a project.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    name: String,
    url: String,
    sha256: Option<String>,
}

/// Finds the wheel of `package` in the index at `base` (`…/simple`).
pub(super) async fn locate(client: &Client, base: &str, package: &PackageSource) -> Result<Wheel, FetchError> {
    let bad_base = |why: &str| FetchError::NoIndex { why: why.to_owned() };
    let mut url = Url::parse(base).map_err(|_| bad_base("the configured index is not a URL"))?;
    check_http(&url).map_err(|why| bad_base(&why))?;
    let project = normalised(&package.package);
    url.path_segments_mut()
        .map_err(|()| bad_base("the configured index is not a URL with a path"))?
        .pop_if_empty()
        .extend([project.as_str(), ""]);
    let (page, is_json) = read_page(client, &url).await?;
    let files = if is_json { from_json(&page, &url)? } else { from_html(&String::from_utf8_lossy(&page)) };
    let best = choose(files, package).ok_or_else(|| FetchError::NotFound { place: shown(&url) })?;
    let bad = |what: String| FetchError::BadAnswer { place: shown(&url), what };
    let address = url.join(&best.url).map_err(|_| bad("it lists an address that is no URL".to_owned()))?;
    let sha256 = best.sha256.as_deref().map(str::parse).transpose();
    let sha256 = sha256.map_err(|_| bad("it states a digest that is none".to_owned()))?;
    Ok(Wheel { place: place_of(address.as_str()).map_err(bad)?, sha256 })
}

async fn read_page(client: &Client, url: &Url) -> Result<(Vec<u8>, bool), FetchError> {
    const KINDS: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";
    let place = shown(url);
    let lost =
        |error: reqwest::Error| FetchError::Unreachable { place: place.clone(), attempts: 1, last: words(error) };
    let mut response = client.get(url.clone()).header(ACCEPT, KINDS).send().await.map_err(lost)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(FetchError::NotFound { place }),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            return Err(FetchError::Forbidden { place, status: status.as_u16() });
        }
        status => return Err(FetchError::BadAnswer { place, what: format!("status {status}") }),
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_json = kind.contains("json");
    let mut page = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if page.len() + chunk.len() > PAGE_MAX_BYTES {
            return Err(FetchError::BadAnswer { place, what: "the project page is too large".to_owned() });
        }
        page.extend_from_slice(&chunk);
    }
    Ok((page, is_json))
}

/// PEP 503: runs of `-`, `_`, `.` are one `-`, all lower case.
fn normalised(name: &str) -> String {
    let words: Vec<_> = name.split(['-', '_', '.']).filter(|word| !word.is_empty()).collect();
    words.join("-").to_ascii_lowercase()
}

#[derive(Deserialize)]
struct Page {
    files: Vec<PageFile>,
}

#[derive(Deserialize)]
struct PageFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    yanked: serde_json::Value,
}

fn from_json(page: &[u8], url: &Url) -> Result<Vec<Listed>, FetchError> {
    let page: Page = serde_json::from_slice(page).map_err(|_| FetchError::BadAnswer {
        place: shown(url),
        what: "its project page could not be read".to_owned(),
    })?;
    let kept = page
        .files
        .into_iter()
        .filter(|file| matches!(file.yanked, serde_json::Value::Null | serde_json::Value::Bool(false)));
    Ok(kept
        .map(|mut file| Listed { name: file.filename, url: file.url, sha256: file.hashes.remove("sha256") })
        .collect())
}

/// Anchors of a PEP 503 page: `<a href="../../x.whl#sha256=…" …>x.whl</a>`.
fn from_html(page: &str) -> Vec<Listed> {
    let mut files = Vec::new();
    for anchor in page.split("<a ").skip(1) {
        let Some((attributes, rest)) = anchor.split_once('>') else { continue };
        let name = rest.split('<').next().unwrap_or_default().trim();
        let Some(target) = attributes.split_once("href=\"").and_then(|(_, rest)| rest.split('"').next()) else {
            continue;
        };
        if attributes.contains("data-yanked") {
            continue;
        }
        let target = target.replace("&amp;", "&");
        let (url, fragment) = target.split_once('#').unwrap_or((&target, ""));
        let sha256 = fragment.strip_prefix("sha256=").map(str::to_owned);
        files.push(Listed { name: name.to_owned(), url: url.to_owned(), sha256 });
    }
    files
}

/// The newest wheel, or the one of the version asked for; one for any platform before others.
fn choose(files: Vec<Listed>, package: &PackageSource) -> Option<Listed> {
    files
        .into_iter()
        .filter_map(|file| {
            let stem = file.name.strip_suffix(".whl")?;
            let mut words = stem.split('-');
            let (_, version) = (words.next()?, words.next()?);
            let rank = match &package.version {
                Some(wanted) => (wanted == version).then(Vec::new)?,
                None => release_numbers(version)?,
            };
            Some(((rank, stem.ends_with("-none-any")), file))
        })
        .max_by(|(a, _), (b, _)| a.cmp(b))
        .map(|(_, file)| file)
}

/// `1.12.3` → `[1, 12, 3]`; pre-releases are not chosen unasked.
fn release_numbers(version: &str) -> Option<Vec<u64>> {
    version.split('.').map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(version: Option<&str>) -> PackageSource {
        PackageSource {
            package: "Some.Thing_x".to_owned(),
            version: version.map(str::to_owned),
            file: "m.gguf".to_owned(),
        }
    }

    #[test]
    fn names_are_folded_as_indexes_fold_them() {
        assert_eq!(normalised("Some.Thing__x"), "some-thing-x");
    }

    #[test]
    fn the_newest_release_is_a_matter_of_numbers() {
        let page = r#"<a href="../a-1.9.0-py3-none-any.whl#sha256=aa" >a-1.9.0-py3-none-any.whl</a>
            <a href="../a-1.10.0-py3-none-any.whl#sha256=bb">a-1.10.0-py3-none-any.whl</a>
            <a href="../a-2.0rc1-py3-none-any.whl">a-2.0rc1-py3-none-any.whl</a>
            <a data-yanked="bad" href="../a-3.0-py3-none-any.whl">a-3.0-py3-none-any.whl</a>
            <a href="../a-4.0.tar.gz">a-4.0.tar.gz</a>"#;
        let chosen = choose(from_html(page), &package(None)).expect("there are wheels");
        assert_eq!((chosen.url.as_str(), chosen.sha256.as_deref()), ("../a-1.10.0-py3-none-any.whl", Some("bb")));
        let pinned = choose(from_html(page), &package(Some("2.0rc1"))).expect("asked for by name");
        assert_eq!(pinned.name, "a-2.0rc1-py3-none-any.whl");
        assert!(choose(from_html(page), &package(Some("9.9"))).is_none());
    }

    #[test]
    fn json_pages_are_read_without_yanked_files() {
        let page = br#"{"files":[{"filename":"a-1.0-py3-none-any.whl","url":"https://f.example/a","hashes":{"sha256":"cc"},"yanked":false},
            {"filename":"a-2.0-py3-none-any.whl","url":"https://f.example/b","hashes":{},"yanked":"broken"}]}"#;
        let url = Url::parse("https://index.example/simple/a/").expect("a URL");
        let files = from_json(page, &url).expect("the documented shape");
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].sha256.as_deref(), Some("cc"));
    }
}
