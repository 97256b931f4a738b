//! The file that scripts wait for: where the server is, a key, and the endpoint.

use std::path::Path;

use galerne_api::error::Code;
use serde_json::json;

use crate::failure::Failure;
use crate::private_file;
use crate::profile::Profile;

/// Writes the file at once and for its owner only: whoever sees it can use all of it.
pub(super) fn write(path: &Path, profile: &Profile, endpoint: Option<&str>) -> Result<(), Failure> {
    let text = json!({ "url": profile.url(), "api_key": profile.key()?, "endpoint": endpoint }).to_string();
    private_file::write(path, &format!("{text}\n")).map_err(|error| {
        Failure::new(Code::ConfigInvalid, format!("the ready file `{}` cannot be written", path.display()))
            .because_of(&error)
    })
}
