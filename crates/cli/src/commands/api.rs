//! Any route of the API, as it is: what the other commands have no words for.

use std::io::Read;

use clap::Args;
use galerne_api::client::Call;
use galerne_api::error::{Code, Problem};
use galerne_model::limits;
use reqwest::Method;

use crate::failure::Failure;
use crate::session::Session;

/// Options of `galerne api`.
#[derive(Debug, Args)]
pub struct ApiArguments {
    /// GET, POST, PUT, DELETE
    method: String,
    /// Path such as /api/v1/endpoints?limit=5
    path: String,
    /// JSON body; @FILE reads it from a file, - from stdin
    #[arg(long, short = 'd', value_name = "JSON")]
    data: Option<String>,
    /// Generation the change is based on, sent as If-Match
    #[arg(long, value_name = "N")]
    generation: Option<i64>,
}

impl ApiArguments {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let method = Method::from_bytes(self.method.to_ascii_uppercase().as_bytes())
            .map_err(|_| Failure::usage(format!("`{}` is not a method", self.method)))?;
        if !self.path.starts_with('/') {
            return Err(
                Failure::usage(format!("`{}` is not a path", self.path)).hint("it begins with /, as in /api/v1/whoami")
            );
        }
        let mut call = Call::new(method, self.path);
        if let Some(generation) = self.generation {
            call = call.at_generation(generation);
        }
        if let Some(data) = &self.data {
            call = call.body(body(data)?);
        }
        let answer = session.client()?.raw(call).await?;
        write_body(session, &answer.body)?;
        if answer.status < 400 {
            return Ok(());
        }
        // The body has been written as it came: what is said beside it is only how it ended.
        let code = serde_json::from_slice::<Problem>(&answer.body).map_or(Code::AnswerInvalid, |problem| problem.code);
        Err(Failure::new(code, format!("the server answered with status {}", answer.status)))
    }
}

fn body(data: &str) -> Result<Vec<u8>, Failure> {
    let Some(path) = data.strip_prefix('@') else {
        return if data == "-" { read(&mut std::io::stdin(), "stdin") } else { Ok(data.as_bytes().to_vec()) };
    };
    let mut file = std::fs::File::open(path)
        .map_err(|error| Failure::usage(format!("`{path}` cannot be read")).because_of(&error))?;
    read(&mut file, path)
}

fn read(from: &mut dyn Read, what: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // One more than is allowed, so that the server's own limit is what refuses it.
    let most = limits::INFERENCE_BODY_MAX_BYTES as u64 + 1;
    from.take(most)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("{what} cannot be read")).because_of(&error))?;
    Ok(bytes)
}

fn write_body(session: &mut Session, body: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => session.output.json(&value),
        Err(_) => session.output.bytes(body),
    }
}
