//! Speeds, learnt from requests that ended and from what replicas report; all in integers.
//!
//! Replicas of one endpoint share their rates, so that one with little to do, and so with little to show, does not look
//! slow. What one does slower than the others under the same load is its own [`Pace`].
//! Decoding is a line: a token of one sequence takes the longer the more sequences there are beside it.

/// New samples weigh an eighth: a change is believed after a dozen requests, one odd request is not.
const WEIGHT: i64 = 8;
/// Fixed point of averages.
const FINE: i64 = 1_024;
/// Micros in a second.
const SECOND: u64 = 1_000_000;
/// Until something is measured: between a small model on processors and a large one on a GPU. Only its size beside the
/// other defaults matters.
const PREFILL_UNKNOWN: u64 = 4_000;
/// Micros for a token of a sequence that is alone, until something is measured.
const TOKEN_UNKNOWN: u64 = 20_000;
/// Until two crowds were measured, and at least after that: with so many sequences a token takes twice as long.
const CROWD_DOUBLES_UNKNOWN: u64 = 16;
const CROWD_DOUBLES_MOST: u64 = 64;
/// Tokens of an answer, until something is measured.
const COMPLETION_UNKNOWN: u64 = 200;
/// Tokens of a prompt, until something is measured.
const PROMPT_UNKNOWN: u64 = 500;
/// Bytes of a prompt's JSON in a thousand tokens, until something is measured.
const BYTES_PER_1000_UNKNOWN: u64 = 4_000;
/// Shorter prompts and answers say more about the network than about the engine.
const SAMPLE_TOKENS_MIN: u64 = 32;
/// Numbers of sequences are kept apart by powers of two: 1, 2, 4 … 1,024 and above.
const CROWDS: usize = 11;
/// A sample of pace counts at most this many times the usual, in thousandths.
const PACE_SAMPLE: (u64, u64) = (125, 16_000);
/// A replica's cost is multiplied by at most this, in thousandths: past it the breaker and the outliers act.
const PACE: (u64, u64) = (250, 8_000);

/// An average in which the newest weigh most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Average {
    fine: i64,
    pub(super) samples: u32,
}

/// What the replicas of an endpoint can do.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates {
    prefill_per_second: Average,
    /// By how many sequences there were: sixteenths of how many, and the micros between two tokens of one of them.
    steps: [(Average, Average); CROWDS],
    completion: Average,
    prompt: Average,
    bytes_per_1000: Average,
    /// Thousandths of the predicted cached tokens that engines say they had.
    borne_out: Average,
    cached_ever: bool,
}

/// How one replica compares with its like, in thousandths: 2,000 takes twice as long.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace(Average);

/// What is measured of a request that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) prompt_bytes: u64,
    pub(super) prompt: u64,
    pub(super) cached: u64,
    pub(super) completion: u64,
    /// Cached tokens that were predicted for it.
    pub(super) predicted: u64,
    /// Prompt tokens that were to be computed when it was sent, its own included.
    pub(super) ahead: u64,
    /// Sequences on the replica, itself included.
    pub(super) crowd: u64,
    /// From sending to the first token; absent where the answer came in one piece.
    pub(super) first_micros: Option<u64>,
    /// From sending to the end.
    pub(super) micros: u64,
}

impl Average {
    pub(super) fn add(&mut self, sample: u64) {
        let fine = i64::try_from(sample.min(1 << 40)).unwrap_or(0) * FINE;
        self.fine = if self.samples == 0 { fine } else { self.fine + (fine - self.fine) / WEIGHT };
        self.samples = self.samples.saturating_add(1);
    }

    pub(super) fn get(&self) -> Option<u64> {
        (self.samples > 0).then(|| u64::try_from(self.fine / FINE).unwrap_or(0))
    }

    pub(super) fn or(&self, unknown: u64) -> u64 {
        self.get().filter(|value| *value > 0).unwrap_or(unknown)
    }
}

impl Rates {
    /// Prompt tokens a replica computes in a second.
    pub(super) fn prefill(&self) -> u64 {
        self.prefill_per_second.or(PREFILL_UNKNOWN)
    }

    /// Micros that decoding a usual answer takes beside `crowd` others, and by which it makes them longer: half of each of
    /// theirs is still to come.
    pub(super) fn decode_micros(&self, crowd: u64) -> u64 {
        let (alone, each) = self.step();
        let own = alone.saturating_add(each.saturating_mul(crowd));
        let others = each.saturating_mul(crowd) / 2;
        own.saturating_add(others).saturating_mul(self.completion())
    }

    /// Micros for a token of a sequence that is alone, and what each other sequence adds.
    fn step(&self) -> (u64, u64) {
        let mut known = self.steps.iter().filter_map(|(crowd, micros)| Some((crowd.get()?, micros.get()?)));
        let Some((crowd, micros)) = known.next() else {
            return (TOKEN_UNKNOWN, TOKEN_UNKNOWN / CROWD_DOUBLES_UNKNOWN);
        };
        let line = known.next_back().and_then(|(more, slower)| {
            Some(slower.saturating_sub(micros).saturating_mul(16) / more.checked_sub(crowd).filter(|more| *more > 0)?)
        });
        let others = (crowd / 16).saturating_sub(1);
        let each = match line {
            Some(each) => each.max(micros / (CROWD_DOUBLES_MOST + others)),
            None => micros / (CROWD_DOUBLES_UNKNOWN + others),
        };
        (micros.saturating_sub(each.saturating_mul(others)), each)
    }

    /// Tokens of a usual answer.
    pub(super) fn completion(&self) -> u64 {
        self.completion.or(COMPLETION_UNKNOWN)
    }

    /// Tokens of a usual prompt.
    pub(super) fn prompt(&self) -> u64 {
        self.prompt.or(PROMPT_UNKNOWN)
    }

    /// Tokens of a prompt of that many bytes.
    pub(super) fn tokens(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(1_000) / self.bytes_per_1000.or(BYTES_PER_1000_UNKNOWN)
    }

    /// Predicted cached tokens as far as engines bore predictions out: one that shares no prefixes earns no affinity. An
    /// engine that never tells of cached tokens is believed.
    pub(super) fn believed(&self, predicted: u64) -> u64 {
        let thousandths = if self.cached_ever { self.borne_out.get().unwrap_or(1_000).min(1_000) } else { 1_000 };
        predicted.saturating_mul(thousandths) / 1_000
    }

    /// Learns from a request; what it says of its replica's pace is given back.
    pub(super) fn learn(&mut self, sample: &Sample) -> Option<u64> {
        let Sample { prompt_bytes, prompt, cached, completion, predicted, ahead, crowd, first_micros, micros } =
            *sample;
        if prompt >= SAMPLE_TOKENS_MIN {
            self.prompt.add(prompt);
            self.bytes_per_1000.add(prompt_bytes.saturating_mul(1_000) / prompt);
        }
        self.completion.add(completion);
        self.cached_ever |= cached > 0;
        if predicted >= SAMPLE_TOKENS_MIN {
            self.borne_out.add((cached.saturating_mul(1_000) / predicted).min(1_000));
        }
        // An answer in one piece says nothing of its first token; one of few tokens was all prefill.
        let prefill_micros = first_micros.or_else(|| (completion < 4).then_some(micros)).filter(|micros| *micros > 0);
        let mut pace = Average::default();
        if let Some(taken) = prefill_micros.filter(|_| ahead >= SAMPLE_TOKENS_MIN) {
            let usual = self.prefill_per_second.get().map(|rate| ahead.saturating_mul(SECOND) / rate.max(1));
            add_ratio(&mut pace, taken, usual);
            self.prefill_per_second.add(ahead.saturating_mul(SECOND) / taken);
        }
        let decode_micros = micros.saturating_sub(first_micros.unwrap_or(0));
        if completion >= SAMPLE_TOKENS_MIN && decode_micros > 0 {
            let each = decode_micros / completion;
            let (crowds, micros) = &mut self.steps[power_of(crowd)];
            add_ratio(&mut pace, each, micros.get());
            crowds.add(crowd * 16);
            micros.add(each);
        }
        pace.get()
    }

    /// What a replica counted itself while it had about `crowd` sequences: believed where no request of ours was measured.
    pub(super) fn counted(&mut self, decoded: u64, crowd: u64, micros: u64) {
        let (crowds, each) = &mut self.steps[power_of(crowd)];
        if crowd > 0 && decoded >= SAMPLE_TOKENS_MIN && each.samples == 0 {
            crowds.add(crowd * 16);
            each.add(micros.saturating_mul(crowd) / decoded);
        }
    }
}

impl Pace {
    pub(super) fn add(&mut self, thousandths: u64) {
        self.0.add(thousandths);
    }

    pub(super) fn thousandths(&self) -> u64 {
        self.0.or(1_000).clamp(PACE.0, PACE.1)
    }

    pub(super) fn samples(&self) -> u32 {
        self.0.samples
    }
}

fn add_ratio(pace: &mut Average, taken: u64, usual: Option<u64>) {
    if let Some(usual) = usual.filter(|usual| *usual > 0) {
        pace.add((taken.saturating_mul(1_000) / usual).clamp(PACE_SAMPLE.0, PACE_SAMPLE.1));
    }
}

fn power_of(crowd: u64) -> usize {
    usize::try_from(crowd.max(1).ilog2()).unwrap_or(0).min(CROWDS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Sample = Sample {
        prompt_bytes: 4_000,
        prompt: 1_000,
        cached: 0,
        completion: 100,
        predicted: 0,
        ahead: 1_000,
        crowd: 1,
        first_micros: Some(100_000),
        micros: 2_100_000,
    };

    #[test]
    fn rates_come_from_what_requests_took() {
        let mut rates = Rates::default();
        assert_eq!((rates.prefill(), rates.step()), (PREFILL_UNKNOWN, (20_000, 1_250)));
        assert_eq!(rates.learn(&SAMPLE), None, "the first has nothing to be compared with");
        assert_eq!((rates.prefill(), rates.completion(), rates.prompt()), (10_000, 100, 1_000));
        assert_eq!(rates.step(), (20_000, 1_250));
        // Queued behind 9,000 other tokens: that is no slower.
        let queued = Sample { ahead: 10_000, first_micros: Some(1_000_000), micros: 3_000_000, ..SAMPLE };
        assert_eq!(rates.learn(&queued), Some(1_000));
        assert_eq!(rates.prefill(), 10_000);
        // Beside eight others a token takes 40 ms instead of 20.
        rates.learn(&Sample { crowd: 9, micros: 4_100_000, ..SAMPLE });
        assert_eq!(rates.step(), (20_000, 2_500));
        assert_eq!(rates.decode_micros(4), 100 * (20_000 + 4 * 2_500 + 4 * 1_250));
    }

    #[test]
    fn a_replica_is_compared_with_its_like_under_the_same_crowd() {
        let mut rates = Rates::default();
        rates.learn(&SAMPLE);
        let slow = Sample { first_micros: Some(300_000), micros: 6_300_000, ..SAMPLE };
        let mut pace = Pace::default();
        for _ in 0..2 {
            pace.add(rates.learn(&slow).expect("compared"));
        }
        assert!((2_000..=3_000).contains(&pace.thousandths()), "{pace:?}");
    }

    #[test]
    fn predictions_are_believed_as_far_as_engines_bear_them_out() {
        let mut rates = Rates::default();
        rates.learn(&Sample { predicted: 800, ..SAMPLE });
        assert_eq!(rates.believed(800), 800, "an engine that tells nothing is believed");
        rates.learn(&Sample { cached: 400, predicted: 800, ..SAMPLE });
        assert!(rates.believed(800) < 100);
        for _ in 0..40 {
            rates.learn(&Sample { cached: 800, predicted: 800, ..SAMPLE });
        }
        assert!(rates.believed(800) > 780);
    }

    #[test]
    fn what_a_replica_counted_is_believed_where_nothing_was_measured() {
        let mut rates = Rates::default();
        rates.counted(600, 6, 3_000_000);
        assert_eq!(rates.step().0 + 5 * rates.step().1, 30_000);
        rates.counted(6, 6, 3_000_000);
        rates.learn(&SAMPLE);
        rates.counted(600, 1, 600_000_000);
        assert_eq!(rates.step(), (20_000, 2_000));
    }
}
