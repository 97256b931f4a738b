//! Where events are sent: an address and the file of its secret, given together.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use galerne_api::error::Code;
use galerne_drivers::webhook::{BadReceiver, Receiver};

use super::Origin;
use super::meaning::Reader;

const MAKE_SECRET: &str = "make one: `(umask 077; printf 'whsec_%s' \"$(head -c 32 /dev/urandom | base64)\" > FILE)`, and give it to the receiver";

/// Where every event is sent, if anywhere; what is wrong is kept in `reader`.
pub(super) fn receiver(reader: &mut Reader<'_>) -> Option<Receiver> {
    let typed = |reader: &Reader<'_>, key| {
        reader.layers.get(key).map(|(value, origin): (&str, &Origin)| (value.to_owned(), origin.clone()))
    };
    let (url, file) = (typed(reader, "events_url"), typed(reader, "events_secret_file"));
    let ((url, url_origin), (file, file_origin)) = match (url, file) {
        (Some(url), Some(file)) => (url, file),
        (None, None) => return None,
        (url, file) => {
            let (given, missing) = match url {
                Some(_) => ("events_url", "events_secret_file"),
                None => ("events_secret_file", "events_url"),
            };
            let origin = url.or(file).map_or(Origin::Default, |(_, origin)| origin);
            let detail = format!("`{missing}` is missing");
            reader.problem(given, origin, detail, "an address and its secret are given together", Code::ConfigInvalid);
            return None;
        }
    };
    let secret = match secret(Path::new(&file)) {
        Ok(secret) => secret,
        Err(detail) => {
            reader.problem("events_secret_file", file_origin, detail, MAKE_SECRET, Code::ConfigInvalid);
            return None;
        }
    };
    match Receiver::new(&url, &secret) {
        Ok(receiver) => Some(receiver),
        Err(bad @ BadReceiver::Secret) => {
            let key = "events_secret_file";
            reader.problem(key, file_origin, bad.to_string(), MAKE_SECRET, Code::ConfigInvalid);
            None
        }
        Err(bad) => {
            let hint = "write it as `https://siem.example/galerne`; what proves who you are is the signature";
            reader.problem("events_url", url_origin, bad.to_string(), hint, Code::ConfigInvalid);
            None
        }
    }
}

fn secret(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("`{}` cannot be read: {error}", path.display());
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("`{}` can be read by others (mode {mode:o}): `chmod 600` it", path.display()));
    }
    fs::read_to_string(path).map_err(failed)
}
