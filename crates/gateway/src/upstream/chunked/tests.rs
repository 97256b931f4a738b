use proptest::prelude::*;

use super::*;

/// Decodes `parts` one after the other; the payload, and whether the body ended.
fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, bool), BadChunk> {
    let mut decoder = Decoder::new();
    let mut payload = Vec::new();
    for part in parts {
        let mut bytes = part.to_vec();
        let mut rest = &mut bytes[..];
        while !rest.is_empty() && !decoder.is_done() {
            let decoded = decoder.decode(rest)?;
            assert!(decoded.used > 0, "it goes on or says why not");
            payload.extend_from_slice(&rest[..decoded.payload]);
            rest = &mut rest[decoded.used..];
        }
    }
    Ok((payload, decoder.is_done()))
}

#[test]
fn many_chunks_of_one_read_become_one_run_of_bytes() {
    assert_eq!(decode(&[b"3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n"]), Ok((b"abc0123456789".to_vec(), true)));
    assert_eq!(
        decode(&[b"1;x=\"y\"\r\na\r\n2 \r\nbc\r\n0\r\nexpires: now\r\nx: y\r\n\r\n"]),
        Ok((b"abc".to_vec(), true))
    );
    assert_eq!(decode(&[b"4\r\nab"]), Ok((b"ab".to_vec(), false)));
}

#[test]
fn what_follows_the_body_is_left_alone() {
    let mut bytes = b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n".to_vec();
    let mut decoder = Decoder::new();
    assert_eq!(decoder.decode(&mut bytes), Ok(Decoded { payload: 1, used: 11 }));
    assert_eq!(decoder.decode(&mut bytes[11..]), Ok(Decoded { payload: 0, used: 0 }), "nothing more is read");
}

#[test]
fn what_came_before_something_bad_is_given_before_the_error() {
    let mut decoder = Decoder::new();
    let mut bytes = b"2\r\nab\r\nzz".to_vec();
    assert_eq!(decoder.decode(&mut bytes), Ok(Decoded { payload: 2, used: 7 }));
    assert_eq!(bytes[..2], *b"ab");
    assert_eq!(decoder.decode(&mut bytes[7..]), Err(BadChunk::Size));
}

#[test]
fn lenience_is_refused() {
    let size = [&b"\r\n"[..], b"-1\r\n", b"+1\r\na", b" 1\r\na", b"0x1\r\na", b"g\r\n", b"1000000000000000\r\n", b"\n"];
    for bad in size {
        assert_eq!(decode(&[bad]), Err(BadChunk::Size), "{}", bad.escape_ascii());
    }
    assert_eq!(decode(&[b"1\na"]), Err(BadChunk::Size));
    assert_eq!(decode(&[b"1\r\nab\r\n"]), Err(BadChunk::PayloadEnd));
    assert_eq!(decode(&[b"1\r\na\n0\r\n\r\n"]), Err(BadChunk::PayloadEnd));
    assert_eq!(decode(&[b"1;a\nx\r\n"]), Err(BadChunk::LineEnd));
    assert_eq!(decode(&[b"0\r\n\n"]), Err(BadChunk::LineEnd));
    let long = [b"1;".as_slice(), &[b'x'; 1025]].concat();
    assert_eq!(decode(&[&long]), Err(BadChunk::TooLong));
    let long = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(2049)].concat();
    assert_eq!(decode(&[&long]), Err(BadChunk::TooLong), "trailers are bounded together, not one by one");
}

proptest! {
    #[test]
    fn any_cut_of_the_input_gives_the_same_payload(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
        cuts in proptest::collection::vec(0usize..400, 0..12),
    ) {
        let mut coded = Vec::new();
        for chunk in &chunks {
            coded.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            coded.extend_from_slice(chunk);
            coded.extend_from_slice(b"\r\n");
        }
        coded.extend_from_slice(b"0\r\n\r\n");
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(coded.len())).collect();
        cuts.extend([0, coded.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &coded[pair[0]..pair[1]]).collect();
        prop_assert_eq!(decode(&parts), Ok((chunks.concat(), true)));
    }

    #[test]
    fn no_bytes_make_it_panic_and_a_cut_changes_nothing(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), any::<u8>()], 0..200),
        cut in 0usize..200,
    ) {
        let cut = cut.min(bytes.len());
        let (first, second) = bytes.split_at(cut);
        let whole = decode(&[&bytes]);
        let parts = decode(&[first, second]);
        prop_assert_eq!(whole, parts);
    }
}
