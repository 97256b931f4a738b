//! Where the wheel of a Python package lies: pip is asked, for it knows this machine's index, mirrors and logins.
//!
//! Without a pip that can answer, the index that pip or the environment names is read directly. No index is named in
//! this program: which one to trust is the machine's setting.

mod index;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, Url};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::source::check_http;
use super::{FetchError, FetchSettings, PackageSource, Sha256Digest};

/// Longest time pip may take to look a package up.
const PIP_TIMEOUT: Duration = Duration::from_secs(120);
/// Most output of pip that is read; a report holds the package's whole description.
const PIP_OUTPUT_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Asks pip for the index it falls back to; the name has been there since pip 10.
const DEFAULT_INDEX_QUESTION: &str = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";

/// A wheel that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wheel {
    pub(super) place: Place,
    /// Digest the index states for it.
    pub(super) sha256: Option<Sha256Digest>,
}

/// Where a wheel lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a directory that pip is told to look into.
    Local(PathBuf),
    /// On the index.
    Remote(Url),
}

/// Finds the wheel of `package`.
pub(super) async fn locate(
    client: &Client,
    settings: &FetchSettings,
    package: &PackageSource,
) -> Result<Wheel, FetchError> {
    let requirement = requirement(package);
    let why = match ask_pip(&settings.python, &requirement).await {
        PipAnswer::Report(report) => return wheel_of(&report, &requirement),
        PipAnswer::Missing => return Err(FetchError::NotFound { place: format!("pypi://{requirement}") }),
        PipAnswer::Offline(last) => {
            return Err(FetchError::Unreachable { place: format!("pypi://{requirement}"), attempts: 3, last });
        }
        PipAnswer::Unable(why) => why,
    };
    let index = match &settings.package_index {
        Some(index) => index.clone(),
        None => ask_pip_for_index(&settings.python).await.ok_or(FetchError::NoIndex { why })?,
    };
    index::locate(client, &index, package).await
}

fn requirement(package: &PackageSource) -> String {
    match &package.version {
        Some(version) => format!("{}=={version}", package.package),
        None => package.package.clone(),
    }
}

/// What came of asking pip.
enum PipAnswer {
    Report(Vec<u8>),
    /// The index answers and has no such wheel.
    Missing,
    /// The index does not answer.
    Offline(String),
    /// No pip here, or one too old to report.
    Unable(String),
}

async fn ask_pip(python: &Path, requirement: &str) -> PipAnswer {
    // Only wheels: pip would run the code of a source package to learn its name.
    const ARGUMENTS: [&str; 17] = [
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--no-input",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "2",
        "--timeout",
        "15",
        "--only-binary",
        ":all:",
        "--report",
        "-",
    ];
    let mut command = Command::new(python);
    command.args(ARGUMENTS).arg(requirement);
    let output = match run(&mut command).await {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return PipAnswer::Offline("pip timed out".to_owned()),
        Err(error) => return PipAnswer::Unable(format!("`{}` could not be run: {error}", python.display())),
    };
    if output.ok {
        return PipAnswer::Report(output.stdout);
    }
    judge_pip(&String::from_utf8_lossy(&output.stderr))
}

/// Reads pip's mind from what it complained about.
fn judge_pip(complaint: &str) -> PipAnswer {
    let last = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("pip gave no reason");
    let last: String = last.trim().trim_start_matches("ERROR: ").chars().take(300).collect();
    let has = |text: &str| complaint.contains(text);
    if has("Retrying (") || has("connection broken") || has("Max retries exceeded") || has("ProxyError") {
        PipAnswer::Offline(last)
    } else if has("No matching distribution found") {
        PipAnswer::Missing
    } else {
        PipAnswer::Unable(last)
    }
}

/// The index that pip is set to, else the one it was built with.
async fn ask_pip_for_index(python: &Path) -> Option<String> {
    for arguments in [&["-m", "pip", "config", "get", "global.index-url"][..], &["-c", DEFAULT_INDEX_QUESTION]] {
        if let Ok(output) = run(Command::new(python).args(arguments)).await
            && output.ok
        {
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if !text.is_empty() {
                return Some(text);
            }
        }
    }
    None
}

struct Output {
    ok: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Runs a command to its end, bounded in time and output.
async fn run(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let whole = async {
        let (stdout, stderr) = tokio::try_join!(read_bounded(stdout), read_bounded(stderr))?;
        Ok(Output { ok: child.wait().await?.success(), stdout, stderr })
    };
    tokio::time::timeout(PIP_TIMEOUT, whole).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn read_bounded(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(PIP_OUTPUT_MAX_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The part of pip's installation report (its documented format, version 1) that matters here.
#[derive(Deserialize)]
struct Report {
    install: Vec<ReportItem>,
}

#[derive(Deserialize)]
struct ReportItem {
    download_info: Download,
}

#[derive(Deserialize)]
struct Download {
    url: String,
    archive_info: Option<Archive>,
}

#[derive(Deserialize)]
struct Archive {
    /// `sha256=<hex>`, older reports.
    hash: Option<String>,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

fn wheel_of(report: &[u8], requirement: &str) -> Result<Wheel, FetchError> {
    let bad = |what: &str| FetchError::BadAnswer { place: format!("pypi://{requirement}"), what: what.to_owned() };
    let report: Report = serde_json::from_slice(report).map_err(|_| bad("pip's report could not be read"))?;
    let [item] = report.install.as_slice() else {
        return Err(bad("pip's report does not name exactly one package"));
    };
    let archive = item.download_info.archive_info.as_ref();
    let stated = archive.and_then(|archive| {
        archive.hashes.get("sha256").map(String::as_str).or_else(|| archive.hash.as_deref()?.strip_prefix("sha256="))
    });
    let sha256 = stated.map(str::parse).transpose().map_err(|_| bad("the index states a digest that is none"))?;
    Ok(Wheel { place: place_of(&item.download_info.url).map_err(|why| bad(&why))?, sha256 })
}

fn place_of(text: &str) -> Result<Place, String> {
    let mut url = Url::parse(text).map_err(|_| "the index gives an address that is no URL".to_owned())?;
    url.set_fragment(None);
    if url.scheme() == "file" {
        return url.to_file_path().map(Place::Local).map_err(|()| "the index gives a file that is not here".to_owned());
    }
    check_http(&url)?;
    Ok(Place::Remote(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    #[test]
    fn a_report_gives_the_address_and_the_digest() {
        let report = format!(
            r#"{{"version":"1","install":[{{"download_info":{{"url":"https://files.example/a.whl",
            "archive_info":{{"hash":"sha256={HEX}","hashes":{{"sha256":"{HEX}"}}}}}},"metadata":{{}}}}]}}"#
        );
        let wheel = wheel_of(report.as_bytes(), "a").expect("the documented shape");
        assert_eq!(wheel.sha256, Some(HEX.parse().expect("a digest")));
        assert_eq!(wheel.place, Place::Remote(Url::parse("https://files.example/a.whl").expect("a URL")));
    }

    #[test]
    fn a_wheel_in_a_local_directory_is_taken_from_there() {
        let report = br#"{"install":[{"download_info":{"url":"file:///srv/wheels/a.whl"}}]}"#;
        assert_eq!(wheel_of(report, "a").expect("no digest is fine").place, Place::Local("/srv/wheels/a.whl".into()));
    }

    #[test]
    fn an_index_cannot_send_us_to_plain_http() {
        let report = br#"{"install":[{"download_info":{"url":"http://files.example/a.whl"}}]}"#;
        assert_eq!(wheel_of(report, "a").expect_err("plain HTTP").code(), "source_invalid");
    }

    #[test]
    fn complaints_of_pip_become_the_error_they_mean() {
        let missing = "ERROR: Could not find a version that satisfies x\nERROR: No matching distribution found for x\n";
        assert!(matches!(judge_pip(missing), PipAnswer::Missing));
        let offline = format!("WARNING: Retrying (Retry(total=1)) after connection broken\n{missing}");
        assert!(matches!(judge_pip(&offline), PipAnswer::Offline(last) if last.starts_with("No matching")));
        assert!(matches!(judge_pip("/usr/bin/python3: No module named pip\n"), PipAnswer::Unable(_)));
        assert!(matches!(judge_pip("no such option: --report"), PipAnswer::Unable(_)));
    }
}
