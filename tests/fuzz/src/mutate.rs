//! Cases made from seeds by a chance that is the same each time: bytes changed, cut, doubled, moved, words put in.

/// Chance that can be repeated.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The chance of a run.
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = self.0;
        drawn = (drawn ^ drawn >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ drawn >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((drawn ^ drawn >> 31) >> 1).unwrap_or(0) % bound
    }

    /// A byte.
    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }

    /// A range of `length` bytes.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..start + self.below(length - start + 1)
    }
}

/// One of `seeds`, with up to eight changes.
pub fn case(seeds: &[Vec<u8>], words: &[&str], most: usize, chance: &mut Chance) -> Vec<u8> {
    let mut input = seeds[chance.below(seeds.len())].clone();
    if let Some(first) = input.first_mut() {
        // It seeds what a target draws.
        *first = chance.byte();
    }
    for _ in 0..chance.below(8) {
        change(&mut input, seeds, words, chance);
    }
    input.truncate(most);
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], chance: &mut Chance) {
    let at = chance.below(input.len() + 1);
    match chance.below(8) {
        0 if at < input.len() => input[at] ^= 1 << chance.below(8),
        1 if at < input.len() => input[at] = chance.byte(),
        2 => input.insert(at, chance.byte()),
        3 => drop(input.drain(chance.range(input.len()))),
        4 => {
            let doubled = input[chance.range(input.len())].to_vec();
            input.splice(at..at, doubled);
        }
        5 => {
            let other = &seeds[chance.below(seeds.len())];
            input.splice(at.., other[chance.below(other.len() + 1)..].iter().copied());
        }
        6 => input.truncate(at),
        _ if words.is_empty() => input.push(chance.byte()),
        _ => {
            let word = words[chance.below(words.len())];
            input.splice(at..at, word.bytes());
        }
    }
}
