//! The file that scripts wait for: where the server is, a key, and the endpoint.

use std::path::Path;

use galerne_api::error::Code;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::private_file;

/// Writes the file at once and for its owner only: whoever sees it can use all of it.
pub(super) fn write(path: &Path, context: &Context, endpoint: Option<&str>) -> Result<(), Failure> {
    let text = json!({ "url": context.url(), "api_key": context.key()?, "endpoint": endpoint }).to_string();
    private_file::write(path, &format!("{text}\n")).map_err(|error| {
        Failure::new(Code::ConfigInvalid, format!("the ready file `{}` cannot be written", path.display())).because_of(&error)
    })
}
