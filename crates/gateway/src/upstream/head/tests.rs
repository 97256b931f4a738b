use proptest::prelude::*;

use super::*;

fn head(text: &str) -> Result<Option<Head>, BadHead> {
    read(text.as_bytes(), &mut 0)
}

fn whole(headers: &str) -> Head {
    head(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n")).expect("a head").expect("a whole one")
}

#[test]
fn a_head_says_where_its_body_ends_and_whether_another_may_follow() {
    let plain = whole("content-type: application/json\r\nContent-Length: 12\r\n");
    assert!(matches!(plain.framing, Framing::Length(12)) && plain.keeps_alive);
    let stream = whole("Content-Type: text/event-stream; charset=utf-8\r\ntransfer-encoding: Chunked\r\n");
    assert!(matches!(stream.framing, Framing::Chunked(_)) && stream.keeps_alive && stream.facts.is_event_stream);
    let closing = whole("content-length: 1\r\nconnection: x, Close\r\nretry-after: 7\r\n");
    assert!(!closing.keeps_alive);
    assert_eq!(closing.facts.retry_after, Some(Duration::from_secs(7)));
    let endless = whole("x: y\r\n");
    assert!(matches!(endless.framing, Framing::ToEnd) && !endless.keeps_alive);
    for status in [204, 304] {
        let text = format!("HTTP/1.1 {status} x\r\ncontent-length: 5\r\n\r\n");
        let head = head(&text).expect("a head").expect("whole");
        assert!(matches!(head.framing, Framing::Length(0)) && head.keeps_alive);
        assert_eq!((head.status, head.length), (status, text.len()));
    }
}

#[test]
fn an_old_server_keeps_a_connection_only_when_it_says_so() {
    let old = |headers: &str| head(&format!("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n{headers}\r\n"));
    assert!(!old("").expect("a head").expect("whole").keeps_alive);
    assert!(old("connection: keep-alive\r\n").expect("a head").expect("whole").keeps_alive);
    assert_eq!(old("transfer-encoding: chunked\r\n").expect_err("it knows no codings"), BadHead::Framing);
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    for headers in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 5\r\n",
        "content-length: -5\r\n",
        "content-length: +5\r\n",
        "content-length:\r\n",
        "content-length: 18446744073709551616\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: identity\r\n",
    ] {
        let read = head(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"));
        assert_eq!(read.expect_err(headers), BadHead::Framing);
    }
    assert!(matches!(whole("content-length: 5\r\ncontent-length: 5\r\n").framing, Framing::Length(5)), "said twice");
    assert_eq!(head("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n").expect_err("unasked"), BadHead::Switched);
    assert!(matches!(head("SSH-2.0-x\r\n\r\n"), Err(BadHead::Syntax(_))));
    let many = "a: b\r\n".repeat(97);
    assert_eq!(
        head(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).expect_err("too many"),
        BadHead::Syntax(httparse::Error::TooManyHeaders)
    );
}

#[test]
fn a_head_that_never_ends_is_given_up() {
    let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
    let mut scanned = 0;
    while bytes.len() <= HEAD_MAX_BYTES {
        assert!(read(&bytes, &mut scanned).expect("it may still end").is_none());
        assert_eq!(scanned, bytes.len(), "what was looked at is not looked at again");
        bytes.extend_from_slice(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n");
    }
    assert_eq!(read(&bytes, &mut scanned).expect_err("too long"), BadHead::TooLong);
}

proptest! {
    #[test]
    fn a_head_that_comes_in_parts_is_the_same_head(cuts in proptest::collection::vec(0usize..120, 0..6)) {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-y: z\r\n\r\nabc";
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        let mut scanned = 0;
        let found = cuts.iter().find_map(|cut| read(&text[..*cut], &mut scanned).expect("a good head"));
        prop_assert_eq!(found.expect("whole in the end").length, text.len() - 3);
    }

    #[test]
    fn no_bytes_make_it_panic(
        start in prop_oneof![Just(&b"HTTP/1.1 200 OK\r\n"[..]), Just(&b"HTTP/1.0 "[..]), Just(&b""[..])],
        rest in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), any::<u8>()], 0..300),
    ) {
        let bytes = [start, &rest].concat();
        if let Ok(Some(head)) = read(&bytes, &mut 0) {
            prop_assert!(head.length <= bytes.len());
        }
    }
}
