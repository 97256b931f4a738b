//! Whether an engine answers: our worker by `/health`, any other OpenAI server by its list of models.

use std::time::{Duration, Instant};

use reqwest::{Client, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

/// Most bytes of an answer that are read: a server with a thousand models says less than 1 MiB.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;
/// Models named in a reason.
const NAMED_MAX: usize = 5;

/// What to ask.
#[derive(Debug, Clone, Copy)]
pub enum ProbeTarget<'a> {
    /// One of our workers.
    Worker,
    /// Another server; it must know the model.
    External {
        /// The model name that requests will use.
        model: &'a str,
        /// Its key, if it wants one.
        key: Option<&'a SecretString>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It takes requests.
    Ready {
        /// Time to the answer.
        latency: Duration,
    },
    /// It does not; the reason in words.
    Unready {
        /// Why.
        why: String,
    },
}

/// Probes engines over one connection pool.
#[derive(Debug, Clone)]
pub struct Prober {
    client: Client,
}

impl Prober {
    /// A prober that waits at most `limit` for an answer.
    pub fn new(limit: Duration) -> Result<Self, reqwest::Error> {
        crate::tls::install_provider();
        // A server that sends elsewhere would send requests there too, which the gateway does not follow.
        let redirect = reqwest::redirect::Policy::none();
        let client = Client::builder().redirect(redirect).timeout(limit).connect_timeout(limit).no_proxy().build()?;
        Ok(Self { client })
    }

    /// Asks the engine at `url` (base before `/v1`). Never an error: what went wrong is why it is not ready.
    pub async fn probe(&self, url: &str, target: ProbeTarget<'_>) -> Health {
        let asked_at = Instant::now();
        let answered = match target {
            ProbeTarget::Worker => self.ask(&format!("{url}/health"), None).await.map(|_| ()),
            ProbeTarget::External { model, key } => match self.ask(&format!("{url}/v1/models"), key).await {
                Ok(body) => knows_model(&body, model),
                Err(why) => Err(why),
            },
        };
        match answered {
            Ok(()) => Health::Ready { latency: asked_at.elapsed() },
            Err(why) => Health::Unready { why },
        }
    }

    async fn ask(&self, url: &str, key: Option<&SecretString>) -> Result<Vec<u8>, String> {
        let mut request = self.client.get(url);
        if let Some(key) = key {
            request = request.bearer_auth(key.expose_secret());
        }
        let response = request.send().await.map_err(|error| words(&error))?;
        let status = response.status();
        let body = read_body(response).await?;
        if status.is_success() {
            return Ok(body);
        }
        let said: String = String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(200).collect();
        Err(format!("it answers {status}: {said}"))
    }
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| words(&error))? {
        if body.len() + chunk.len() > ANSWER_MAX_BYTES {
            return Err("its answer is too long".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "it did not answer in time".to_owned()
    } else if error.is_connect() {
        "nothing listens there".to_owned()
    } else {
        "its answer broke off".to_owned()
    }
}

#[derive(Deserialize)]
struct Models {
    data: Vec<ModelName>,
}

#[derive(Deserialize)]
struct ModelName {
    id: String,
}

fn knows_model(body: &[u8], model: &str) -> Result<(), String> {
    let models: Models =
        serde_json::from_slice(body).map_err(|_| "its `/v1/models` is not a list of models".to_owned())?;
    if models.data.iter().any(|known| known.id == model) {
        return Ok(());
    }
    let named: Vec<_> = models.data.iter().take(NAMED_MAX).map(|known| format!("`{}`", known.id)).collect();
    let known = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
    Err(format!("it does not know the model `{model}`; it knows {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_the_model_says_which_it_has() {
        let body = br#"{"object":"list","data":[{"id":"a","object":"model"},{"id":"b"}]}"#;
        assert_eq!(knows_model(body, "b"), Ok(()));
        assert_eq!(knows_model(body, "c"), Err("it does not know the model `c`; it knows `a`, `b`".to_owned()));
        assert!(knows_model(b"<html>", "c").expect_err("not JSON").contains("not a list"));
    }
}
