//! The mistake that a guided run must find: four bytes in order, each behind a branch. By chance that takes 2³² tries; a run
//! that is rewarded for each byte needs some ten thousand.

/// The bytes it falls over.
const MAGIC: &[u8; 4] = b"\n0;\xfe";

pub(crate) fn planted(input: &[u8]) {
    let mut known = 0;
    for (byte, magic) in input.iter().zip(MAGIC) {
        if byte != magic {
            return;
        }
        known += 1;
        assert!(known < MAGIC.len(), "the planted mistake was found");
    }
}
