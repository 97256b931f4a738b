//! A model server without a model: answers at once, or at a pace that the prompt asks for, as cheaply as can be.
//!
//! A prompt may hold `pace=MICROSECONDS` (between tokens) and `id=NUMBER` (so that its cancel can be found in `/stats`):
//! prompts pass through every gateway unchanged, other fields may not. Each token of a stream is an event in a chunk
//! of its own; without a pace they are written together, with one each by itself.
//!
//! Deliberately absent: checking what is sent beyond what a gateway could spoil.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

mod answers;
mod request;
mod seen;

use request::{Asked, Request, Route};
use seen::Seen;
pub(crate) use seen::micros_now;

/// The model it says that it has.
pub(crate) const MODEL: &str = "mock";
/// Most bytes of one write of a stream without a pace.
const BURST: usize = 16 * 1024;

/// Serves until it is killed.
pub(crate) fn run(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        serve(listener).await
    })
}

#[expect(clippy::disallowed_methods, reason = "a mock is killed, it has no shutdown that a connection could outlive")]
async fn serve(listener: TcpListener) -> Result<()> {
    let seen = Arc::new(Seen::default());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            // A caller that went away is the caller's business; what mattered of it is in `seen`.
            drop(connection(stream, &seen).await);
        });
    }
}

/// One caller's connection, and what was read of it but not used.
struct Caller {
    stream: TcpStream,
    buffer: Vec<u8>,
}

async fn connection(stream: TcpStream, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut caller = Caller { stream, buffer: Vec::with_capacity(64 * 1024) };
    while let Some((request, length)) = caller.next().await? {
        match request.route {
            Route::Chat | Route::Completion => {
                let asked = Asked::read(&caller.buffer[request.body_at..length]);
                caller.buffer.drain(..length);
                let mut guard = seen.begin(asked.id);
                caller.answer(request.route, asked).await?;
                guard.finish();
            }
            other => {
                let text = answers::other(other, &caller.buffer[request.body_at..length], seen);
                caller.buffer.drain(..length);
                caller.stream.write_all(&text).await?;
            }
        }
    }
    Ok(())
}

impl Caller {
    /// The next request, once it is whole in the buffer, and its length. Nothing when the caller closed.
    async fn next(&mut self) -> io::Result<Option<(Request, usize)>> {
        loop {
            if let Some(request) = Request::read(&self.buffer)? {
                let length = request.body_at + request.body_length;
                while self.buffer.len() < length {
                    self.more().await?;
                }
                return Ok(Some((request, length)));
            }
            match self.more().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                read => read?,
            }
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn answer(&mut self, route: Route, asked: Asked) -> io::Result<()> {
        if !asked.stream {
            self.wait(Instant::now() + asked.pace * u32::try_from(asked.tokens).unwrap_or(u32::MAX)).await?;
            return self.stream.write_all(&answers::plain(route, asked.tokens)).await;
        }
        let (events, last) = (answers::events(route), answers::last_events(route, asked.tokens));
        self.stream.write_all(answers::STREAM_HEAD).await?;
        if asked.pace.is_zero() {
            let pair = events.concat();
            let whole = pair.repeat((BURST / pair.len()).max(1));
            let mut left = asked.tokens * events[0].len();
            while left > 0 {
                let now = left.min(whole.len());
                self.stream.write_all(&whole[..now]).await?;
                left -= now;
            }
        } else {
            let mut due = Instant::now();
            for event in events.iter().cycle().take(asked.tokens) {
                self.stream.write_all(event).await?;
                due += asked.pace;
                self.wait(due).await?;
            }
        }
        self.stream.write_all(&last).await
    }

    /// Waits, and ends early with an error when the caller goes away.
    async fn wait(&mut self, until: Instant) -> io::Result<()> {
        if until.saturating_duration_since(Instant::now()) == Duration::ZERO {
            return Ok(());
        }
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                // Another request before this one's answer waits in the buffer.
                read = self.stream.read_buf(&mut self.buffer) => if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                },
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
