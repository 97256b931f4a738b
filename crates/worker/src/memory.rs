//! Will the model fit? Planned from the header before anything is loaded: the kernel's answer to a wrong guess is to kill.
//! Bytes throughout. The compute buffer is an estimate, checked against what llama.cpp reports for the models tested.

use crate::gguf::Header;
use crate::limits;
use crate::refusal::Refusal;

/// What a worker will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub weights: u64,
    pub cache: u64,
    pub compute: u64,
}

/// Process, runtime, allocator slack, tokeniser tables.
const BASE: u64 = 64 << 20;

impl Plan {
    /// `slots` sequences of `context` tokens each in the attention cache in 16-bit numbers, `step` tokens computed at once.
    #[must_use]
    pub(crate) fn new(header: &Header, context: u64, slots: u64, step: u64) -> Self {
        // Widest layer: the gate, its product and the input; queries, keys, values; all 32-bit. The mask in 32 and 16 bits.
        let layer = header
            .feed_forward_length
            .saturating_mul(3)
            .saturating_add(header.embedding_length.saturating_mul(8))
            .saturating_mul(step.saturating_mul(4))
            .saturating_add(context.saturating_mul(step.saturating_mul(6)));
        // llama.cpp reserves a row of logits for every token of a step; they follow the layers in the same memory.
        let logits = header.vocabulary.saturating_mul(step.saturating_mul(4));
        let rows = slots.saturating_add(limits::SCORED_TOKENS_AT_ONCE as u64);
        let rows_handed_out = header.vocabulary.saturating_mul(rows.saturating_mul(4));
        Self {
            weights: header.tensor_bytes,
            cache: header.cache_values_per_token.saturating_mul(context).saturating_mul(slots).saturating_mul(2),
            compute: layer.max(logits).saturating_add(rows_handed_out).saturating_add(BASE),
        }
    }

    #[must_use]
    pub(crate) fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.compute)
    }

    /// Refuses a plan that does not fit into what is available now.
    pub(crate) fn check(&self, available: u64) -> Result<(), Refusal> {
        if self.total() <= available {
            return Ok(());
        }
        Err(Refusal::new(
            "engine_memory",
            format!(
                "the model needs {} MiB (weights {}, attention cache {}, compute {}), {} MiB are available",
                mib(self.total()),
                mib(self.weights),
                mib(self.cache),
                mib(self.compute),
                mib(available)
            ),
            "lower the context or the number of sequences, choose a smaller model or quantisation, or free memory",
        ))
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_counted_per_cell() {
        // 30 layers, 3 heads of 64, keys and values, 16 bits: 23,040 bytes per token.
        assert_eq!(Plan::new(&Header::small(), 2048, 2, 512).cache, 2 * 2048 * 23_040);
    }

    #[test]
    fn the_estimate_is_near_what_llama_cpp_takes() {
        // Measured with 8 sequences of 2048: cache 360 MiB, compute 104.8 MiB, logits handed out 1.5 MiB.
        let plan = Plan::new(&Header::small(), 2048, 8, 512);
        assert_eq!(plan.cache, 360 << 20);
        let compute = plan.compute - BASE;
        assert!((95 << 20..115 << 20).contains(&compute), "{compute}");
    }

    #[test]
    fn a_plan_that_does_not_fit_is_refused_with_its_numbers() {
        let plan = Plan { weights: 900 << 20, cache: 200 << 20, compute: 100 << 20 };
        let refusal = plan.check(1 << 30).expect_err("too large");
        assert_eq!(refusal.code, "engine_memory");
        assert_eq!(
            refusal.message,
            "the model needs 1200 MiB (weights 900, attention cache 200, compute 100), 1024 MiB are available"
        );
        assert_eq!(plan.check(1200 << 20), Ok(()));
    }

    #[test]
    fn a_hostile_header_cannot_overflow_the_plan() {
        let header = Header { cache_values_per_token: u64::MAX, feed_forward_length: u64::MAX, ..Header::small() };
        assert!(Plan::new(&header, u64::MAX, 2, 512).check(u64::MAX - 1).is_err());
    }
}
