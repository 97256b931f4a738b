//! Where files are kept: a folder, or a bucket with who we are there.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use galerne_api::error::Code;
use galerne_drivers::objects::{BadCredentials, Bucket, Credentials, Place};

use super::Origin;
use super::meaning::Reader;

/// Where files are kept, and how much of them one project may.
#[derive(Debug, Clone)]
pub struct ObjectsPlace {
    where_to: WhereTo,
    /// Most bytes of one project.
    pub project_bytes_max: u64,
}

#[derive(Debug, Clone)]
enum WhereTo {
    Folder(PathBuf),
    Bucket { name: String, prefix: String, endpoint: Option<String>, region: String, file: Option<Credentials> },
}

/// Where files are kept; what is wrong is kept in `reader`.
pub(super) fn place(reader: &mut Reader<'_>, data: Option<&Path>) -> Option<ObjectsPlace> {
    let gigabytes = reader.read("project_files_gb", "write gigabytes, such as `100`", |text| {
        let bytes = text.parse::<u64>().ok().and_then(|number| number.checked_mul(1_000_000_000));
        bytes.ok_or_else(|| format!("`{text}` is not a number of gigabytes"))
    })?;
    let typed = reader.layers.get("objects").map(|(value, origin): (&str, &Origin)| (value.to_owned(), origin.clone()));
    let where_to = match typed {
        None => WhereTo::Folder(data?.join("objects")),
        Some((text, origin)) => match text.strip_prefix("s3://") {
            None if text.contains("://") => {
                let detail = format!("`{text}` is neither a folder nor `s3://BUCKET/PREFIX`");
                reader.problem("objects", origin, detail, "write it as `s3://files/galerne`", Code::ConfigInvalid);
                return None;
            }
            None => WhereTo::Folder(PathBuf::from(text)),
            Some(rest) => bucket(reader, rest, origin)?,
        },
    };
    Some(ObjectsPlace { where_to, project_bytes_max: gigabytes })
}

fn bucket(reader: &mut Reader<'_>, rest: &str, origin: Origin) -> Option<WhereTo> {
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if !(3..=63).contains(&name.len()) || !name.bytes().all(allowed) {
        let detail = format!("`{name}` is not the name of a bucket");
        let hint = "a bucket has 3 to 63 of a-z, 0-9, `-` and `.`: `s3://files/galerne`";
        reader.problem("objects", origin, detail, hint, Code::ConfigInvalid);
        return None;
    }
    let endpoint = match reader.layers.get("objects_endpoint") {
        None => None,
        Some(_) => Some(reader.read("objects_endpoint", "write it as `https://s3.example:9000`", |text| {
            let is_url = text.starts_with("https://") || text.starts_with("http://");
            if is_url { Ok(text.trim_end_matches('/').to_owned()) } else { Err(format!("`{text}` is not an address")) }
        })?),
    };
    let region = reader.read("objects_region", "write it as `eu-west-3`", |text| Ok(text.to_owned()))?;
    let file = match reader.layers.get("objects_credentials_file") {
        None => None,
        Some(_) => {
            let hint = "two lines: `aws_access_key_id = …` and `aws_secret_access_key = …`, in a file of mode 600";
            Some(reader.read("objects_credentials_file", hint, |text| read_credentials(Path::new(text)))?)
        }
    };
    let (name, prefix) = (name.to_owned(), prefix.trim_matches('/').to_owned());
    Some(WhereTo::Bucket { name, prefix, endpoint, region, file })
}

fn read_credentials(path: &Path) -> Result<Credentials, String> {
    let failed = |error: std::io::Error| format!("`{}` cannot be read: {error}", path.display());
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("`{}` can be read by others (mode {mode:o}): `chmod 600` it", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    Credentials::from_file(&text).map_err(|bad| format!("`{}`: {bad}", path.display()))
}

impl ObjectsPlace {
    /// The place itself. Credentials that no file gives are taken from the environment.
    pub(crate) fn resolve(&self, environment: &BTreeMap<String, String>) -> Result<Place, BadCredentials> {
        match &self.where_to {
            WhereTo::Folder(folder) => Ok(Place::Folder(folder.clone())),
            WhereTo::Bucket { name, prefix, endpoint, region, file } => {
                let credentials = match file {
                    Some(credentials) => credentials.clone(),
                    None => Credentials::from_environment(environment)?
                        .ok_or(BadCredentials::Missing("objects_credentials_file"))?,
                };
                let (name, prefix, endpoint, region) = (name.clone(), prefix.clone(), endpoint.clone(), region.clone());
                Ok(Place::Bucket(Bucket { name, prefix, endpoint, region, credentials }))
            }
        }
    }
}
