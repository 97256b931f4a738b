//! Counters and gauges of the worker, and their text form for Prometheus.
//! vLLM's names are served as well: routers and autoscalers that know vLLM read them.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Everything counted. One per worker, written by the engine thread and the HTTP side.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub running: Number,
    pub waiting: Number,
    pub cells: Number,
    pub cells_used: Number,
    pub prompt_tokens: Number,
    pub cached_tokens: Number,
    pub completion_tokens: Number,
    pub steps: Number,
    pub step_tokens: Number,
    pub cpu_micros: Number,
    pub finished: Number,
    pub cancelled: Number,
    pub failed: Number,
    pub refused: Number,
}

/// An atomic number. Readers want no order between numbers.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }

    pub(crate) fn lower(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    #[must_use]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds one unless that would exceed `limit`.
    pub(crate) fn raise_below(&self, limit: u64) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < limit).then_some(now + 1)).is_ok()
    }
}

impl Metrics {
    /// The exposition format, version 0.0.4.
    #[must_use]
    pub(crate) fn text(&self, model: &str) -> String {
        let mut out = String::with_capacity(4096);
        let label =
            format!("{{model_name=\"{}\"}}", model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
        #[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
        let usage = self.cells_used.get() as f64 / self.cells.get().max(1) as f64;
        let mut family = |name: &str, kind: &str, help: &str, value: String| {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{label} {value}")
                .expect("writing to a string cannot fail");
        };
        family("vllm:num_requests_running", "gauge", "Requests being answered.", self.running.get().to_string());
        family(
            "vllm:num_requests_waiting",
            "gauge",
            "Requests waiting for a sequence.",
            self.waiting.get().to_string(),
        );
        family("vllm:kv_cache_usage_perc", "gauge", "Used part of the attention cache, 1 is full.", usage.to_string());
        // Of tokens, as vLLM counts them: of the prompts taken up, those that need not be computed.
        let queries = self.prompt_tokens.get().to_string();
        family("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the cache.", queries);
        let hits = self.cached_tokens.get().to_string();
        family("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the cache.", hits);
        let gauges = [
            ("galerne_worker_requests_running", "Requests being answered.", &self.running),
            ("galerne_worker_requests_waiting", "Requests waiting for a sequence.", &self.waiting),
            ("galerne_worker_cache_cells", "Tokens the attention cache can hold.", &self.cells),
            ("galerne_worker_cache_cells_used", "Tokens held, finished sequences included.", &self.cells_used),
        ];
        for (name, help, number) in gauges {
            family(name, "gauge", help, number.get().to_string());
        }
        let counters = [
            ("galerne_worker_prompt_tokens_total", "Prompt tokens of requests taken up.", &self.prompt_tokens),
            ("galerne_worker_cached_tokens_total", "Prompt tokens not computed again.", &self.cached_tokens),
            ("galerne_worker_completion_tokens_total", "Tokens generated.", &self.completion_tokens),
            ("galerne_worker_steps_total", "Batches computed.", &self.steps),
            ("galerne_worker_step_tokens_total", "Tokens computed.", &self.step_tokens),
            ("galerne_worker_requests_finished_total", "Requests answered.", &self.finished),
            ("galerne_worker_requests_cancelled_total", "Requests whose client left.", &self.cancelled),
            ("galerne_worker_requests_failed_total", "Requests given up by the engine.", &self.failed),
            ("galerne_worker_requests_refused_total", "Requests refused because the queue was full.", &self.refused),
        ];
        for (name, help, number) in counters {
            family(name, "counter", help, number.get().to_string());
        }
        let micros = self.cpu_micros.get();
        let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        family("galerne_worker_cpu_seconds_total", "counter", "CPU time of steps, shared among requests.", seconds);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_help_type_and_one_value() {
        let metrics = Metrics::default();
        metrics.cells.set(4);
        metrics.cells_used.set(1);
        metrics.cpu_micros.set(1_500_001);
        metrics.prompt_tokens.set(10);
        metrics.cached_tokens.set(7);
        let text = metrics.text("a\"b");
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(text.lines().count(), values.len() * 3);
        assert!(values.contains(&r#"vllm:kv_cache_usage_perc{model_name="a\"b"} 0.25"#), "{text}");
        assert!(values.contains(&r#"vllm:prefix_cache_queries_total{model_name="a\"b"} 10"#), "{text}");
        assert!(values.contains(&r#"vllm:prefix_cache_hits_total{model_name="a\"b"} 7"#), "{text}");
        assert!(values.contains(&r#"galerne_worker_cpu_seconds_total{model_name="a\"b"} 1.500001"#), "{text}");
    }

    #[test]
    fn a_bounded_number_stops_at_its_limit() {
        let number = Number::default();
        assert_eq!([number.raise_below(2), number.raise_below(2), number.raise_below(2)], [true, true, false]);
        number.lower();
        assert!(number.raise_below(2));
    }
}
