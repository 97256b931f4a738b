//! Names that are near a mistyped one.

/// Most names suggested.
const SUGGESTED_MAX: usize = 3;
/// Longest text compared: names are below it, and the comparison takes time by the product of lengths.
const COMPARED_MAX_CHARS: usize = 80;

/// The nearest names, nearest first; none when nothing is near.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted: Vec<char> = wanted.to_lowercase().chars().take(COMPARED_MAX_CHARS).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut scored: Vec<_> = names.filter_map(|name| Some((distance_if_near(&wanted, name)?, name))).collect();
    scored.sort();
    scored.into_iter().take(SUGGESTED_MAX).map(|(_, name)| name.to_owned()).collect()
}

/// ` — did you mean …?` for the end of a message.
pub(super) fn question(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    format!("; did you mean `{}`?", nearest.join("` or `"))
}

/// A part of a name counts as near; else up to a third of the letters may differ.
fn distance_if_near(wanted: &[char], name: &str) -> Option<usize> {
    let known: Vec<char> = name.to_lowercase().chars().collect();
    if wanted.len() >= 3 && known.windows(wanted.len()).any(|part| part == wanted) {
        return Some(0);
    }
    let distance = distance(wanted, &known);
    (distance <= known.len().max(wanted.len()) / 3).then_some(distance)
}

/// Letters to insert, delete or replace (Levenshtein), one row at a time.
fn distance(a: &[char], b: &[char]) -> usize {
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
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        for (a, b, expected) in [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)] {
            assert_eq!(distance(&chars(a), &chars(b)), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_typo_and_a_part_are_near_and_noise_is_not() {
        let names = ["mistral-7b-instruct-v0.3", "qwen3-8b", "smollm2-135m-instruct"];
        let near = |text: &str| nearest(text, names.into_iter());
        assert_eq!(near("mistral-7b-instuct-v0.3"), ["mistral-7b-instruct-v0.3"]);
        assert_eq!(near("QWEN"), ["qwen3-8b"]);
        assert_eq!(near("zzz"), [] as [&str; 0]);
        assert_eq!(near(""), [] as [&str; 0]);
        assert_eq!(question(&near("smolm2-135m-instruct")), "; did you mean `smollm2-135m-instruct`?");
    }
}
