//! What a replica says of itself under `/metrics`, in the words of vLLM (and of our worker), SGLang or llama-server.

use galerne_core::routing::Report;

/// Names of one engine.
struct Names {
    running: &'static str,
    waiting: &'static str,
    /// A share from 0 to 1.
    kv: &'static [&'static str],
    decoded: &'static str,
}

const ENGINES: [Names; 3] = [
    Names {
        running: "vllm:num_requests_running",
        waiting: "vllm:num_requests_waiting",
        kv: &["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"],
        decoded: "vllm:generation_tokens_total",
    },
    Names {
        running: "sglang:num_running_reqs",
        waiting: "sglang:num_queue_reqs",
        kv: &["sglang:token_usage"],
        decoded: "sglang:generation_tokens_total",
    },
    Names {
        running: "llamacpp:requests_processing",
        waiting: "llamacpp:requests_deferred",
        kv: &["llamacpp:kv_cache_usage_ratio"],
        decoded: "llamacpp:tokens_predicted_total",
    },
];

/// Reads Prometheus' text; nothing when no engine's words are in it. Series of one name, such as those of data-parallel
/// ranks, are added up; of the KV cache the fullest counts.
pub(super) fn read(text: &str) -> Option<Report> {
    ENGINES.iter().find_map(|names| names.read(text))
}

impl Names {
    fn read(&self, text: &str) -> Option<Report> {
        let running = sum(text, self.running)?;
        let kv = self.kv.iter().flat_map(|name| values(text, name)).reduce(f64::max);
        Some(Report {
            running: whole(running),
            waiting: whole(sum(text, self.waiting).unwrap_or(0.0)),
            kv_thousandths: kv.map(|share| whole(share * 1_000.0).min(1_000)),
            decoded: sum(text, self.decoded).map(count),
        })
    }
}

fn sum(text: &str, name: &str) -> Option<f64> {
    values(text, name).reduce(|a, b| a + b)
}

fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        // Labels may hold spaces and braces within quotes, the value comes after the last closing brace.
        let value = match rest.as_bytes().first()? {
            b'{' => rest.rsplit_once('}')?.1,
            b' ' | b'\t' => rest,
            _ => return None,
        };
        let number: f64 = value.split_ascii_whitespace().next()?.parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some(number)
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite, not negative, and `as` saturates")]
fn whole(number: f64) -> u32 {
    number as u32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite, not negative, and `as` saturates")]
fn count(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_three_engines_are_read() {
        let vllm = "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
            # TYPE vllm:num_requests_running gauge\n\
            vllm:num_requests_running{engine=\"0\",model_name=\"a {b} c\"} 3.0\n\
            vllm:num_requests_running{engine=\"1\",model_name=\"a\"} 2.0\n\
            vllm:num_requests_waiting{engine=\"0\",model_name=\"a\"} 7.0\n\
            vllm:num_requests_waiting_by_reason{engine=\"0\"} 99.0\n\
            vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.913\n\
            vllm:generation_tokens_total{engine=\"0\"} 1.2345e+06\n";
        let report = Report { running: 5, waiting: 7, kv_thousandths: Some(913), decoded: Some(1_234_500) };
        assert_eq!(read(vllm), Some(report));
        let sglang = "sglang:num_running_reqs{model_name=\"m\"} 4.0\nsglang:num_queue_reqs{model_name=\"m\"} 1.0\n\
            sglang:token_usage{model_name=\"m\"} 0.5\n";
        assert_eq!(read(sglang), Some(Report { running: 4, waiting: 1, kv_thousandths: Some(500), decoded: None }));
        let llama =
            "llamacpp:requests_processing 2\nllamacpp:requests_deferred 0\nllamacpp:tokens_predicted_total 10\n";
        assert_eq!(read(llama), Some(Report { running: 2, waiting: 0, kv_thousandths: None, decoded: Some(10) }));
    }

    #[test]
    fn what_is_no_report_or_lies_is_not_believed() {
        assert_eq!(read(""), None);
        assert_eq!(read("<html>vllm:num_requests_running</html>"), None);
        assert_eq!(read("vllm:num_requests_running NaN\n"), None);
        assert_eq!(read("vllm:num_requests_running -1\n"), None);
        let huge = read("vllm:num_requests_running 1e30\nvllm:kv_cache_usage_perc 17\n").expect("a number");
        assert_eq!((huge.running, huge.kv_thousandths), (u32::MAX, Some(1_000)));
    }
}
