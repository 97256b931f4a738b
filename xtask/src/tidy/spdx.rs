//! Licence expressions: `AND`, `OR`, `WITH`, parentheses, and the old `/` for `OR`.

/// Whether `expression` can be met with licences that `allowed` accepts; a malformed expression cannot.
pub(crate) fn is_met(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut tokens = tokens(expression);
    tokens.reverse();
    let met = alternatives(&mut tokens, allowed);
    tokens.is_empty() && met == Some(true)
}

fn tokens(expression: &str) -> Vec<String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens: Vec<String> = Vec::new();
    let mut words = spaced.split_whitespace();
    while let Some(word) = words.next() {
        match (word, tokens.last_mut()) {
            // A licence with an exception is a licence of its own.
            ("WITH", Some(licence)) => {
                licence.push_str(" WITH ");
                licence.push_str(words.next().unwrap_or_default());
            }
            _ => tokens.push(word.to_owned()),
        }
    }
    tokens
}

fn alternatives(tokens: &mut Vec<String>, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = conjunction(tokens, allowed)?;
    while tokens.last().is_some_and(|token| token == "OR") {
        tokens.pop();
        met |= conjunction(tokens, allowed)?;
    }
    Some(met)
}

fn conjunction(tokens: &mut Vec<String>, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = licence(tokens, allowed)?;
    while tokens.last().is_some_and(|token| token == "AND") {
        tokens.pop();
        met &= licence(tokens, allowed)?;
    }
    Some(met)
}

fn licence(tokens: &mut Vec<String>, allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let token = tokens.pop()?;
    match token.as_str() {
        "(" => {
            let met = alternatives(tokens, allowed)?;
            (tokens.pop()? == ")").then_some(met)
        }
        ")" | "AND" | "OR" => None,
        name => Some(allowed(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::is_met;

    fn with_mit_and_zlib(expression: &str) -> bool {
        is_met(expression, &|licence| matches!(licence, "MIT" | "Zlib"))
    }

    #[test]
    fn an_alternative_is_met_by_one_side_and_a_conjunction_by_both() {
        assert!(with_mit_and_zlib("GPL-3.0 OR MIT"));
        assert!(with_mit_and_zlib("MIT AND Zlib"));
        assert!(with_mit_and_zlib("(GPL-3.0 OR MIT) AND Zlib"));
        assert!(with_mit_and_zlib("Unlicense/MIT"));
        assert!(!with_mit_and_zlib("MIT AND GPL-3.0"));
        assert!(!with_mit_and_zlib("GPL-3.0 AND MIT OR AGPL-3.0"));
    }

    #[test]
    fn an_exception_makes_another_licence_and_a_broken_text_meets_nothing() {
        assert!(!with_mit_and_zlib("MIT WITH something-odd"));
        assert!(!with_mit_and_zlib(""));
        assert!(!with_mit_and_zlib("MIT OR"));
        assert!(!with_mit_and_zlib("(MIT"));
        assert!(!with_mit_and_zlib("MIT Zlib"));
    }
}
