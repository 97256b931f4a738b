//! The known names that are nearest to one that is not known: for hints wherever something is called by name.

/// Most names suggested.
const SUGGESTED_MAX: usize = 3;
/// Longest text compared: names are below it, and the comparison takes time by the product of lengths.
const COMPARED_MAX_CHARS: usize = 80;
/// Letters that a part of a name has at least: two are in everything.
const PART_MIN_CHARS: usize = 3;

/// The names near enough to be what was meant, nearest first; none when nothing is near.
///
/// A part of a name is near; else up to a third of the letters may differ.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = letters(wanted);
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut scored: Vec<(usize, &str)> =
        names.into_iter().filter_map(|name| Some((distance_if_near(&wanted, &letters(name))?, name))).collect();
    scored.sort_unstable();
    scored.dedup();
    scored.into_iter().take(SUGGESTED_MAX).map(|(_, name)| name).collect()
}

/// Letters to insert, delete or replace (Levenshtein), upper and lower case alike.
pub fn distance(a: &str, b: &str) -> usize {
    between(&letters(a), &letters(b))
}

fn letters(text: &str) -> Vec<char> {
    text.chars().take(COMPARED_MAX_CHARS).flat_map(char::to_lowercase).collect()
}

fn distance_if_near(wanted: &[char], known: &[char]) -> Option<usize> {
    let is_part = wanted.len() >= PART_MIN_CHARS && known.windows(wanted.len()).any(|part| part == wanted);
    let distance = between(wanted, known);
    (is_part || distance <= known.len().max(wanted.len()) / 3).then_some(distance)
}

/// One row of the table at a time.
fn between(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (to, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[to + 1];
            row[to + 1] = replaced.min(row[to] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, expected) in
            [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2), ("SMOL", "smol", 0)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_typo_and_a_part_are_near_and_noise_is_not() {
        let names = ["mistral-7b-instruct-v0.3", "qwen3-8b", "smollm2-135m-instruct"];
        let near = |text: &str| nearest(text, names);
        assert_eq!(near("mistral-7b-instuct-v0.3"), ["mistral-7b-instruct-v0.3"]);
        assert_eq!(near("QWEN"), ["qwen3-8b"]);
        assert_eq!(near("instruct"), ["smollm2-135m-instruct", "mistral-7b-instruct-v0.3"]);
        assert_eq!(near("zzz"), [] as [&str; 0]);
        assert_eq!(near(""), [] as [&str; 0]);
    }

    #[test]
    fn the_nearest_comes_first() {
        assert_eq!(nearest("not_fond", ["not_enough_disk", "not_found"]), ["not_found"]);
        assert_eq!(nearest("in_us", ["address_in_use", "in_use"]), ["in_use", "address_in_use"]);
        assert_eq!(nearest("lsiten", ["data", "listen"]), ["listen"]);
        assert_eq!(nearest("tlscert", ["tls_key", "tls_cert"]), ["tls_cert"]);
    }
}
