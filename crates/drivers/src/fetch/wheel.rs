//! One file out of a wheel (a zip archive), checked against the archive's own table and its `RECORD`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use base64::Engine as _;
use tokio_util::sync::CancellationToken;
use zip::ZipArchive;

use super::part::{Landed, Origin, Part, fill};
use super::{FetchError, OnProgress, Phase, Sha256Digest};

/// Largest `RECORD`: 100 bytes a file, tens of thousands of files.
const RECORD_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Unpacks `wanted`, a path in the archive or the end of one, into `part`.
pub(super) fn unpack(
    archive: &Path,
    wanted: &str,
    mut part: Part,
    max_bytes: u64,
    expected: Option<Sha256Digest>,
    on_progress: &OnProgress,
    cancel: &CancellationToken,
) -> Result<Landed, FetchError> {
    let shown = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bad = |what: String| FetchError::BadArchive { archive: shown.clone(), what };
    let file = File::open(archive).map_err(FetchError::io("open", archive))?;
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|error| bad(error.to_string()))?;
    let names = zip.file_names().map(|name| name.map(std::borrow::Cow::into_owned)).collect::<Result<Vec<_>, _>>();
    let names = names.map_err(|error| bad(error.to_string()))?;
    let (index, name) = find(&names, wanted).map_err(&bad)?;
    let recorded = recorded_digest(&mut zip, &names, name).map_err(&bad)?;
    let entry = zip.by_index(index).map_err(|error| bad(error.to_string()))?;
    let total_bytes = entry.size();
    if total_bytes > max_bytes {
        return Err(FetchError::TooLarge { place: name.to_owned(), bytes: total_bytes, max_bytes });
    }
    part.check_space(total_bytes)?;
    part.restart(&Origin::default())?;
    // One byte more than announced is read, so that a lying table is seen.
    fill(
        &mut part,
        entry.take(total_bytes.saturating_add(1)),
        Phase::Unpacking,
        Some(total_bytes),
        on_progress,
        cancel,
    )
    .map_err(|error| error.unwrap_or_else(|error| bad(format!("`{name}` is damaged: {error}"))))?;
    let landed = part.land(Some(total_bytes), expected.or(recorded))?;
    if let Some(recorded) = recorded
        && recorded != landed.digest()
    {
        let found = landed.digest();
        landed.discard()?;
        return Err(FetchError::DigestMismatch { place: name.to_owned(), expected: recorded, found });
    }
    Ok(landed)
}

/// The one entry that is `wanted` or ends with `/wanted`.
fn find<'a>(names: &'a [String], wanted: &str) -> Result<(usize, &'a str), String> {
    let exact = |name: &str| name == wanted;
    let ending = |name: &str| name.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/'));
    let found = |test: &dyn Fn(&str) -> bool| -> Vec<(usize, &'a str)> {
        names.iter().enumerate().filter(|(_, name)| test(name)).map(|(at, name)| (at, name.as_str())).collect()
    };
    let mut matches = found(&exact);
    if matches.is_empty() {
        matches = found(&ending);
    }
    match matches.as_slice() {
        [one] => Ok(*one),
        [] => {
            let models: Vec<_> =
                names.iter().filter(|name| name.ends_with(".gguf")).take(5).map(String::as_str).collect();
            let there =
                if models.is_empty() { "no `.gguf` at all".to_owned() } else { format!("`{}`", models.join("`, `")) };
            Err(format!("it holds no `{wanted}`; it holds {there}"))
        }
        several => Err(format!("`{wanted}` fits {} of its files; give the whole path", several.len())),
    }
}

/// The digest that `RECORD` states, if there is one: `path,sha256=<url-safe base64>,size`.
fn recorded_digest(
    zip: &mut ZipArchive<BufReader<File>>,
    names: &[String],
    name: &str,
) -> Result<Option<Sha256Digest>, String> {
    let Some(index) = names.iter().position(|name| name.ends_with(".dist-info/RECORD")) else {
        return Ok(None);
    };
    let mut text = String::new();
    let entry = zip.by_index(index).map_err(|error| error.to_string())?;
    entry
        .take(RECORD_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| format!("its RECORD is damaged: {error}"))?;
    // A line of CSV: the path, in quotes when it holds a comma; other paths may begin like this one.
    let of_this_file = |line: &str| {
        let rest = line.trim_start_matches('"').strip_prefix(name)?;
        rest.trim_start_matches('"').strip_prefix(',').map(str::to_owned)
    };
    let line = text.lines().find_map(of_this_file);
    let stated = line.as_deref().and_then(|rest| rest.strip_prefix("sha256=")?.split(',').next());
    let Some(stated) = stated else { return Ok(None) };
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(stated);
    let bytes = bytes.map_err(|_| "its RECORD states a digest that is none".to_owned())?;
    hex::encode(bytes).parse().map(Some).map_err(|_| "its RECORD states a digest that is none".to_owned())
}
