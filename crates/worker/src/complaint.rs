//! What llama.cpp complained about: it returns nothing but "no", and says why in its log only.

use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

static FIRST: Mutex<Option<String>> = Mutex::new(None);

/// Longest complaint told to whoever started the worker.
const CHARS: usize = 300;

/// Remembers the first error of llama.cpp's log; later ones only say that the earlier one was one.
#[derive(Debug)]
struct Complaints;

/// The layer that listens. It asks for errors only: without a level of its own it would make every trace of the decode
/// path be written down for nobody.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Complaints.with_filter(LevelFilter::ERROR)
}

impl<S: Subscriber> Layer<S> for Complaints {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() == "llama-cpp-2" && *event.metadata().level() == Level::ERROR {
            event.record(&mut Message);
        }
    }
}

struct Message;

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, text: &str) {
        let Ok(mut first) = FIRST.lock() else { return };
        if field.name() == "message" && first.is_none() {
            let text = text.trim().trim_start_matches("error loading model: ");
            *first = Some(text.chars().filter(|c| !c.is_control()).take(CHARS).collect());
        }
    }
}

/// Forgets what an earlier call complained about and got over: to be called before a call that `since_last` may explain.
pub(crate) fn forget() {
    if let Ok(mut first) = FIRST.lock() {
        *first = None;
    }
}

/// What it complained about since the last call, or `otherwise`.
pub(crate) fn since_last(otherwise: &dyn std::fmt::Display) -> String {
    let complaint = FIRST.lock().ok().and_then(|mut first| first.take());
    complaint.unwrap_or_else(|| otherwise.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn the_first_error_of_the_engine_is_the_reason() {
        let subscriber = tracing_subscriber::registry().with(layer());
        assert_eq!(subscriber.max_level_hint(), Some(LevelFilter::ERROR), "nothing else is written down for it");
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "llama-cpp-2", "one that did no harm");
            forget();
            tracing::error!("ours");
            tracing::warn!(target: "llama-cpp-2", "a warning");
            tracing::error!(target: "llama-cpp-2", "error loading model: unknown model architecture: 'x'\n");
            tracing::error!(target: "llama-cpp-2", "failed to load model");
        });
        assert_eq!(since_last(&"nothing"), "unknown model architecture: 'x'");
        assert_eq!(since_last(&"nothing"), "nothing");
        // As the binding writes them: a text in a field.
        let subscriber = tracing_subscriber::registry().with(layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "llama-cpp-2", message = "error loading model: too new", module = "m");
        });
        assert_eq!(since_last(&"nothing"), "too new");
    }
}
