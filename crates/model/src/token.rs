//! The format of API keys: `galerne_` + 30 random base62 characters + 6 that check them (CRC-32 in base62).
//!
//! The check lets a typing error be named at once and lets secret scanners recognise a key.
//! It is not authentication: the store keeps an HMAC of the whole key.

/// What every key begins with.
pub const KEY_PREFIX: &str = "galerne_";
/// Random characters in a key: 62³⁰ is 178 bits.
pub const KEY_BODY_CHARS: usize = 30;
/// Check characters at the end of a key.
pub const KEY_CHECK_CHARS: usize = 6;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a text cannot be an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// It does not begin with `galerne_` or has the wrong length or alphabet.
    #[error("this is not a Galerne API key: one is `galerne_` followed by 36 letters and digits")]
    Shape,
    /// The last six characters do not fit the others.
    #[error("this API key has a typing error: its check characters do not match")]
    Check,
}

/// Makes the key whose random part is drawn from `random`: 30 numbers below 62.
pub fn key_from_digits(random: &[u8; KEY_BODY_CHARS]) -> String {
    let body: String = random.iter().map(|&n| char::from(BASE62[usize::from(n) % 62])).collect();
    let check = check_chars(&body);
    format!("{KEY_PREFIX}{body}{check}")
}

/// Checks shape and check characters; says nothing about whether the key exists.
pub fn check_key(key: &str) -> Result<(), BadKey> {
    let rest = key.strip_prefix(KEY_PREFIX).ok_or(BadKey::Shape)?;
    let alphabet = rest.bytes().all(|b| b.is_ascii_alphanumeric());
    if rest.len() != KEY_BODY_CHARS + KEY_CHECK_CHARS || !alphabet {
        return Err(BadKey::Shape);
    }
    let (body, check) = rest.split_at(KEY_BODY_CHARS);
    if check_chars(body) == check { Ok(()) } else { Err(BadKey::Check) }
}

/// The last four characters, which lists may show.
pub fn last_four(key: &str) -> &str {
    key.get(key.len().saturating_sub(4)..).unwrap_or("")
}

fn check_chars(body: &str) -> String {
    let mut rest = crc32(body.as_bytes());
    let mut chars = [b'0'; KEY_CHECK_CHARS];
    for slot in chars.iter_mut().rev() {
        *slot = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    chars.iter().map(|&b| char::from(b)).collect()
}

/// CRC-32 (ISO-HDLC, as in zip and PNG), bit by bit: keys are 30 bytes.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let mask = (crc & 1).wrapping_neg();
            crc = (crc >> 1) ^ (0xEDB8_8320 & mask);
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn check_characters_match_the_published_vectors() {
        // Body of a well-known dummy token, and thirty zeros.
        let body = ["zQWBuTSOoRi4A9sp", "HcVY5ncnsDkxkJ"].concat();
        assert_eq!(crc32(body.as_bytes()), 0x2a95_ee6d);
        assert_eq!(check_chars(&body), "0mLq17");
        assert_eq!(check_chars(&"0".repeat(30)), "2C8GjS");
    }

    proptest! {
        #[test]
        fn one_wrong_character_is_always_noticed(digits in proptest::array::uniform30(0u8..62), at in 0usize..36, to in 0u8..62) {
            let key = key_from_digits(&digits);
            prop_assert_eq!(check_key(&key), Ok(()));
            let mut bytes = key.into_bytes();
            let slot = KEY_PREFIX.len() + at;
            prop_assume!(bytes[slot] != BASE62[usize::from(to)]);
            bytes[slot] = BASE62[usize::from(to)];
            let wrong = String::from_utf8(bytes).expect("base62 is ASCII");
            prop_assert_eq!(check_key(&wrong), Err(BadKey::Check));
        }
    }
}
