//! Which part of a file is asked for.

use std::ops::Range;

use galerne_api::error::Code;
use galerne_gateway::Refusal;
use http::{HeaderMap, header};

/// The part that `Range` names. Nothing where it names none, several, or one in other units: then the whole is sent, as the
/// protocol allows.
///
/// `tag` names the file's bytes: a part that is wanted only of others is not sent.
pub(super) fn asked(headers: &HeaderMap, size: u64, tag: &str) -> Result<Option<Range<u64>>, Refusal> {
    if headers.get(header::IF_RANGE).is_some_and(|wanted| wanted.as_bytes() != tag.as_bytes()) {
        return Ok(None);
    }
    let text = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some((first, last)) = text.and_then(|text| text.strip_prefix("bytes=")?.trim().split_once('-')) else {
        return Ok(None);
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let part = match (first.trim(), last.trim()) {
        ("", last) => number(last).map(|count| size.saturating_sub(count)..size),
        (first, "") => number(first).map(|first| first..size),
        (first, last) => number(first).zip(number(last)).map(|(first, last)| first..last.saturating_add(1).min(size)),
    };
    match part {
        None => Ok(None),
        Some(part) if part.start < part.end => Ok(Some(part)),
        Some(_) => {
            let text = format!("the range `{}` holds no byte of the {size} there are", text.unwrap_or(""));
            Err(Refusal::new(Code::RangeNotSatisfiable, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_in_each_of_its_forms() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().expect("a header"));
            asked(&headers, 10, "\"a\"").map_err(|refusal| format!("{refusal:?}"))
        };
        assert_eq!(of("bytes=0-0"), Ok(Some(0..1)));
        assert_eq!(of("bytes=3-"), Ok(Some(3..10)));
        assert_eq!(of("bytes=3-99"), Ok(Some(3..10)));
        assert_eq!(of("bytes=-4"), Ok(Some(6..10)));
        assert_eq!(of("bytes=-99"), Ok(Some(0..10)));
        for whole in ["bytes=0-1,4-5", "lines=1-2", "bytes=a-b", "bytes=5"] {
            assert_eq!(of(whole), Ok(None), "{whole}");
        }
        for none in ["bytes=10-", "bytes=5-4", "bytes=-0"] {
            assert!(of(none).is_err(), "{none}");
        }
        assert_eq!(asked(&HeaderMap::new(), 10, "\"a\"").expect("whole"), None);
    }

    #[test]
    fn a_part_of_other_bytes_is_not_sent() {
        let of = |wanted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, "bytes=2-3".parse().expect("a header"));
            headers.insert(header::IF_RANGE, wanted.parse().expect("a header"));
            asked(&headers, 10, "\"a\"").map_err(|refusal| format!("{refusal:?}"))
        };
        assert_eq!(of("\"a\""), Ok(Some(2..4)));
        for other in ["\"b\"", "W/\"a\"", "Tue, 24 Nov 2026 00:00:00 GMT"] {
            assert_eq!(of(other), Ok(None), "{other}");
        }
    }
}
