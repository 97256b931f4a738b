use super::{Chunked, Events, Framing, head, keep_tail};

#[test]
fn a_head_is_read_once_it_is_whole() {
    let text =
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 12\r\nConnection: close\r\n\r\nbody";
    for end in 0..text.len() - 4 {
        assert_eq!(head(&text[..end]).unwrap(), None, "{end} bytes");
    }
    let (head, length) = head(text).unwrap().unwrap();
    assert_eq!((head.status, head.framing, length), (429, Framing::Length(12), text.len() - 4));
    assert!(head.has_retry_after && head.closes && !head.is_stream);
}

#[test]
fn a_chunked_body_is_the_same_however_it_is_cut() {
    let text = b"5\r\nhello\r\n1;note=x\r\n \r\nA\r\n0123456789\r\n0\r\nx-trailer: 1\r\n\r\nNEXT";
    for step in 1..text.len() {
        let (mut chunked, mut body) = (Chunked::default(), Vec::new());
        for part in text.chunks(step) {
            chunked.feed(part, |piece| body.extend_from_slice(piece)).unwrap();
        }
        assert!(chunked.is_done(), "in steps of {step}");
        assert_eq!(body, b"hello 0123456789", "in steps of {step}");
    }
}

#[test]
fn a_chunked_body_that_lies_is_refused() {
    for text in [&b"zz\r\n"[..], b"3\r\nabcd\r\n", &[b'1'; 600]] {
        let answer = Chunked::default().feed(text, |_| ());
        assert!(answer.is_err(), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn events_are_counted_however_they_are_cut_and_comments_are_none() {
    let text = b": energy 3 J\n\ndata: {\"a\":1}\n\nevent: x\r\ndata: 2\r\n\r\n\n\ndata: [DONE]\n\n";
    for step in 1..text.len() {
        let mut events = Events::default();
        text.chunks(step).for_each(|part| events.feed(part));
        assert_eq!(events.count(), 3, "in steps of {step}");
    }
    let mut unfinished = Events::default();
    unfinished.feed(b"data: 1\n");
    assert_eq!(unfinished.count(), 0, "an event ends with an empty line");
}

#[test]
fn the_tail_is_the_end_of_the_body() {
    let mut tail = Vec::new();
    for number in 0..2_000 {
        keep_tail(&mut tail, format!("{number:04}").as_bytes());
    }
    assert!(tail.ends_with(b"19981999") && tail.len() <= 4 * super::TAIL);
}
