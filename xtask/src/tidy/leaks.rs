//! What must not be in a public tree: paths of one machine, host names of package registries, secrets.

use super::Finding;
use super::tree::Tree;

/// Folders that exist on somebody's machine only. Written in halves, or this file would be a finding.
const PERSONAL: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/Us", "ers/"),
    concat!("/t", "mp/"),
    concat!("/opt", "/wheels"),
];

const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("deb.", "debian.org"),
    concat!("archive.", "ubuntu.com"),
    concat!("proxy.", "golang.org"),
];

/// Beginning of a secret, and how many characters follow at least.
const SECRETS: &[(&str, usize)] = &[
    (concat!("galer", "ne_"), 36),
    (concat!("s", "k-"), 20),
    (concat!("gh", "p_"), 30),
    (concat!("h", "f_"), 30),
    (concat!("gl", "pat-"), 20),
    (concat!("AK", "IA"), 16),
];

/// Fewer different characters than this, and it is an example like `xxxx`, not a secret.
const DISTINCT_MIN: usize = 12;

/// Written by cargo, with the registry's name in every entry.
const SKIPPED: &[&str] = &["Cargo.lock"];

/// Every line that tells too much.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.texts.iter().filter(|file| !SKIPPED.contains(&file.path.as_str())) {
        for (index, line) in file.text.lines().enumerate() {
            findings.extend(look(&file.path, index + 1, line));
        }
    }
    findings
}

fn look(path: &str, line_number: usize, line: &str) -> Vec<Finding> {
    let finding = |what: String, why, hint: &str| Finding {
        path: path.to_owned(),
        line: line_number,
        rule: "leak",
        what,
        why,
        hint: hint.to_owned(),
    };
    let mut findings = Vec::new();
    for folder in PERSONAL.iter().filter(|folder| has_absolute(line, folder)) {
        let hint = "use a relative path, or a folder made for the purpose";
        findings.push(finding(format!("absolute path `{folder}…`"), "it exists on one machine only", hint));
    }
    for host in REGISTRIES.iter().filter(|host| line.contains(*host)) {
        let hint = "leave the choice to the client's own configuration";
        findings.push(finding(format!("registry host `{host}`"), "a site may use a mirror, or no network", hint));
    }
    if has_secret(line) {
        let hint = "revoke it if it is real; write examples as one repeated letter";
        findings.push(finding("text that looks like a secret".to_owned(), "what is committed is published", hint));
    }
    findings
}

/// Whether `folder` stands in the line as the beginning of a path.
fn has_absolute(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | ')' | '~' | '/' | '*'))
    })
}

fn has_secret(line: &str) -> bool {
    if line.contains(concat!("-----BEG", "IN")) && line.contains(concat!("PRIVATE", " KEY-----")) {
        return true;
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    line.split(|c: char| !is_part(c)).any(|token| {
        SECRETS.iter().any(|(prefix, least)| {
            token.strip_prefix(prefix).is_some_and(|rest| rest.len() >= *least && looks_random(rest))
        })
    })
}

fn looks_random(text: &str) -> bool {
    let mut seen: Vec<char> = text.chars().collect();
    seen.sort_unstable();
    seen.dedup();
    // Ids are prefix + hex and public; a secret mixes cases and digits.
    seen.len() >= DISTINCT_MIN && seen.iter().any(char::is_ascii_digit) && seen.iter().any(char::is_ascii_uppercase)
}
