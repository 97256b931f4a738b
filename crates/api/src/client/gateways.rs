//! A gateway's side of `/agent/v1/gateways`: one attempt each, because the caller knows better when to try again.

use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Answer, Call, Client, Failure, encode_segment};
use crate::gateways::{
    Events, Join, Joined, LINE_MAX_BYTES, Line, PATH, Report, Reported, SILENCE_MAX_MS, Usage, UsageTaken,
};

/// Time for an answer to a short message: past it the control plane counts as away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a batch of usage: a commit on a slow disk.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(25);

/// A session of a gateway with its control plane. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    client: Client,
    base: String,
}

/// The stream of snapshots. Dropping it ends it.
#[derive(Debug)]
pub struct Lines {
    response: reqwest::Response,
    url: String,
    buffer: Vec<u8>,
    /// Bytes of `buffer` in which no line ends.
    searched: usize,
}

impl Client {
    /// Asks the control plane to let a gateway in.
    pub async fn join(&self, join: &Join) -> Result<(Link, Joined), Failure> {
        let call = Call::new(Method::POST, PATH).json(join);
        let joined: Joined = accepted(self.within(&call, ANSWER_TIMEOUT).await?)?.json()?;
        let base = format!("{PATH}/{}", encode_segment(&joined.session));
        Ok((Link { client: self.clone(), base }, joined))
    }
}

impl Link {
    /// Books usage.
    pub async fn usage(&self, usage: &Usage) -> Result<UsageTaken, Failure> {
        self.tell("usage", usage, SETTLE_TIMEOUT).await
    }

    /// Says what the gateway is doing.
    pub async fn report(&self, report: &Report) -> Result<Reported, Failure> {
        self.tell("reports", report, ANSWER_TIMEOUT).await
    }

    /// Records events of refusals.
    pub async fn events(&self, events: &Events) -> Result<(), Failure> {
        let call = Call::new(Method::POST, format!("{}/events", self.base)).json(events);
        accepted(self.client.within(&call, SETTLE_TIMEOUT).await?).map(drop)
    }

    /// Says goodbye: the session is over.
    pub async fn leave(&self) -> Result<(), Failure> {
        let call = Call::new(Method::DELETE, self.base.clone());
        accepted(self.client.within(&call, ANSWER_TIMEOUT).await?).map(drop)
    }

    /// Begins to hear snapshots.
    pub async fn snapshots(&self) -> Result<Lines, Failure> {
        let call = Call::new(Method::GET, format!("{}/snapshots", self.base));
        let url = self.client.base().to_string();
        let failed = |source| Failure::Http { url: url.clone(), source };
        let sending = self.client.request(&call)?.send();
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, sending).await {
            Ok(response) => response.map_err(failed)?,
            Err(_) => return Err(Failure::Silent { url, after: ANSWER_TIMEOUT }),
        };
        if response.status().as_u16() >= 400 {
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.bytes().await.map_err(failed)?.to_vec();
            return Err(Answer { status, headers, body }.failure());
        }
        Ok(Lines { response, url, buffer: Vec::new(), searched: 0 })
    }

    async fn tell<B: Serialize, T: DeserializeOwned>(
        &self,
        what: &str,
        body: &B,
        patience: Duration,
    ) -> Result<T, Failure> {
        let call = Call::new(Method::POST, format!("{}/{what}", self.base)).json(body);
        accepted(self.client.within(&call, patience).await?)?.json()
    }
}

fn accepted(answer: Answer) -> Result<Answer, Failure> {
    if answer.status < 400 { Ok(answer) } else { Err(answer.failure()) }
}

impl Lines {
    /// The next line; a stream that ends or falls silent is a failure.
    pub async fn next(&mut self) -> Result<Line, Failure> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.searched + end).collect();
                self.searched = 0;
                return serde_json::from_slice(&line).map_err(|source| Failure::Answer { status: 200, source });
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(Failure::TooLong { limit: LINE_MAX_BYTES });
            }
            let patience = Duration::from_millis(SILENCE_MAX_MS);
            match tokio::time::timeout(patience, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.buffer.extend_from_slice(&bytes),
                Ok(Ok(None)) => {
                    let start = "the stream of snapshots ended".to_owned();
                    return Err(Failure::NotOurs { status: 200, start });
                }
                Ok(Err(source)) => return Err(Failure::Http { url: self.url.clone(), source }),
                Err(_) => return Err(Failure::Silent { url: self.url.clone(), after: patience }),
            }
        }
    }
}
