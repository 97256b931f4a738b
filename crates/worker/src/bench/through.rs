//! The same work through a server: plain sockets, so that the client costs little of the CPU that both share.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use galerne_api::openai::Completion;
use serde_json::json;

use super::{Mode, Round, Server, Work};
use crate::refusal::Refusal;

/// A server that is silent for this long has failed.
const SILENCE: Duration = Duration::from_secs(120);

/// One answered request.
#[derive(Debug, Clone, Copy)]
struct Served {
    last_at: Instant,
    tokens: u64,
    cpu_micros: Option<u64>,
}

/// Tokens per second of one round.
#[expect(clippy::cast_precision_loss, reason = "token counts are small")]
pub(super) fn round(server: &Server, work: &Work) -> Result<Round, Refusal> {
    match work.mode {
        Mode::Pp => {
            let started = Instant::now();
            let served = request(server, work, 0)?;
            Ok(Round {
                tokens_per_second: work.tokens as f64 / started.elapsed().as_secs_f64(),
                cpu_micros_per_token: served.cpu_micros.map(|cpu| cpu as f64 / work.tokens as f64),
            })
        }
        Mode::Tg => {
            let started = Instant::now();
            let served = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..work.sequences).map(|sequence| scope.spawn(move || request(server, work, sequence))).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().expect("the client does not panic"))
                    .collect::<Result<Vec<_>, _>>()
            })?;
            let last = served.iter().map(|s| s.last_at).max().unwrap_or(started);
            let tokens: u64 = served.iter().map(|s| s.tokens).sum();
            let cpu: Option<u64> = served.iter().map(|s| s.cpu_micros).sum();
            Ok(Round {
                tokens_per_second: tokens as f64 / last.duration_since(started).as_secs_f64(),
                cpu_micros_per_token: cpu.map(|cpu| cpu as f64 / tokens as f64),
            })
        }
    }
}

fn request(server: &Server, work: &Work, sequence: usize) -> Result<Served, Refusal> {
    let failed = |what: String| {
        Refusal::new(
            "bench_failed",
            format!("{}: {what}", server.url),
            "check that the server runs and serves this model",
        )
    };
    let io = |e: std::io::Error| failed(e.to_string());
    let authority =
        server.url.strip_prefix("http://").ok_or_else(|| failed("the URL must begin with http://".into()))?;
    let authority = authority.trim_end_matches('/');
    let max_tokens = if work.mode == Mode::Pp { 1 } else { work.tokens };
    let body = json!({
        "model": server.name, "prompt": work.prompt(sequence), "max_tokens": max_tokens, "temperature": 0,
        "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
    })
    .to_string();
    let key = server.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(authority).map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;
    stream.set_read_timeout(Some(SILENCE)).map_err(io)?;
    stream.write_all((head + &body).as_bytes()).map_err(io)?;
    let mut usage = None;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    let mut seen = String::new();
    loop {
        line.clear();
        if answer.read_line(&mut line).map_err(io)? == 0 {
            return Err(failed(format!("the answer ended early: {}", seen.chars().take(300).collect::<String>())));
        }
        // Chunk sizes and empty lines of the transfer are skipped: events are whole lines.
        let Some(event) = line.strip_prefix("data: ") else {
            seen.push_str(&line);
            continue;
        };
        if event.trim_end() == "[DONE]" {
            break;
        }
        if event.contains("\"usage\":{") {
            let last: Completion = serde_json::from_str(event).map_err(|e| failed(format!("not a completion: {e}")))?;
            usage = last.usage;
        }
    }
    let Some(usage) = usage else {
        return Err(failed("the answer has no usage".into()));
    };
    Ok(Served {
        last_at: Instant::now(),
        tokens: usage.completion_tokens,
        cpu_micros: usage.galerne.map(|measured| measured.cpu_micros),
    })
}
