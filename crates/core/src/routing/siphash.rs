//! SipHash-1-3 with a key of ours: short inputs are fast, and who does not know the key finds no collisions.
//!
//! The standard library's hasher is the same function, but its key cannot be chosen, so that nothing built on it could be
//! repeated in a test.

/// The key of a process: made by chance at its start, never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u64; 2]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Hash of `first` followed by `bytes`.
pub(super) fn hash(secret: Secret, first: u64, bytes: &[u8]) -> u64 {
    let mut state = State::new(secret);
    state.word(first);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state.word(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The length of the whole, modulo 256, in the highest byte: what the function asks for.
    last[7] = u8::try_from((bytes.len() + 8) % 256).expect("a remainder of 256 fits");
    state.word(u64::from_le_bytes(last));
    state.finish()
}

struct State([u64; 4]);

impl State {
    fn new(Secret([k0, k1]): Secret) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    fn word(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v1 = v1.rotate_left(13) ^ v0;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v3);
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.wrapping_add(v3);
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.wrapping_add(v1);
        v1 = v1.rotate_left(17) ^ v2;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }

    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        self.0.into_iter().fold(0, |all, part| all ^ part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher as _;

    #[test]
    fn it_is_the_function_of_the_standard_library_whose_key_is_zero() {
        let text: Vec<u8> = (0..600).map(|n| u8::try_from(n % 251).expect("below 251")).collect();
        for length in [0, 1, 7, 8, 9, 63, 64, 247, 248, 256, 600] {
            let mut known = std::hash::DefaultHasher::new();
            known.write(&77u64.to_le_bytes());
            known.write(&text[..length]);
            assert_eq!(hash(Secret([0, 0]), 77, &text[..length]), known.finish(), "{length} bytes");
            assert_ne!(hash(Secret([0, 1]), 77, &text[..length]), known.finish(), "{length} bytes");
        }
    }
}
