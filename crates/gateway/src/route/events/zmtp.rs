//! A subscriber of ZeroMQ's wire protocol, ZMTP 3.0 with the mechanism NULL: what vLLM's publisher speaks.
//!
//! INVARIANT: no frame, message or handshake is larger than its limit, whatever the peer says.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Largest frame: a batch of thousands of blocks has a few MiB.
const FRAME_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Frames of one message: topic, number, batch.
const FRAMES_MAX: usize = 8;
/// Commands before the peer says that it is ready.
const COMMANDS_MAX: usize = 8;
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Greets, says that we subscribe, and subscribes to everything.
pub(super) async fn subscribe<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) -> io::Result<()> {
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    socket.write_all(&greeting).await?;
    let mut theirs = [0; 64];
    socket.read_exact(&mut theirs).await?;
    let is_zmtp_3 = theirs[0] == 0xff && theirs[9] & 1 == 1 && theirs[10] >= 3;
    if !is_zmtp_3 || &theirs[12..17] != b"NULL\0" {
        return Err(lie("it does not speak ZMTP 3 without authentication"));
    }
    socket.write_all(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB").await?;
    for _ in 0..COMMANDS_MAX {
        let (flags, body) = frame(socket).await?;
        if flags & COMMAND == 0 {
            return Err(lie("it sent a message before it was ready"));
        }
        if body.starts_with(b"\x05READY") {
            // A message of one byte and an empty topic: everything.
            socket.write_all(&[0, 1, 1]).await?;
            return socket.flush().await;
        }
        if body.starts_with(b"\x05ERROR") {
            return Err(lie("it refuses a subscriber"));
        }
    }
    Err(lie("it was not ready in time"))
}

/// The frames of the next message.
pub(super) async fn message<S: AsyncRead + Unpin>(socket: &mut S) -> io::Result<Vec<Vec<u8>>> {
    let mut frames = Vec::with_capacity(3);
    loop {
        let (flags, body) = frame(socket).await?;
        if flags & COMMAND != 0 {
            continue;
        }
        frames.push(body);
        if flags & MORE == 0 {
            return Ok(frames);
        }
        if frames.len() == FRAMES_MAX {
            return Err(lie("its message has too many frames"));
        }
    }
}

async fn frame<S: AsyncRead + Unpin>(socket: &mut S) -> io::Result<(u8, Vec<u8>)> {
    let flags = socket.read_u8().await?;
    let length = if flags & LONG != 0 { socket.read_u64().await? } else { u64::from(socket.read_u8().await?) };
    if flags & !(MORE | LONG | COMMAND) != 0 || length > FRAME_MAX_BYTES {
        return Err(lie("its frame is none, or larger than allowed"));
    }
    let mut body = Vec::new();
    // As it comes: a length alone reserves nothing.
    let read = socket.take(length).read_to_end(&mut body).await?;
    if u64::try_from(read).ok() == Some(length) { Ok((flags, body)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn lie(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libzmq's PUB socket sends first: greeting and READY with an identity as well.
    fn publisher() -> Vec<u8> {
        let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
        bytes.extend(b"NULL");
        bytes.resize(64, 0);
        let ready = b"\x05READY\x0bSocket-Type\0\0\0\x03PUB\x08Identity\0\0\0\0";
        bytes.extend([4, u8::try_from(ready.len()).expect("short")]);
        bytes.extend(ready);
        bytes
    }

    #[tokio::test]
    async fn a_subscriber_greets_and_reads_messages_of_short_and_long_frames() {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(&publisher()).await.expect("open");
        subscribe(&mut ours).await.expect("subscribed");
        let mut sent = vec![0; 64 + 27 + 3];
        theirs.read_exact(&mut sent).await.expect("all of it");
        assert_eq!(&sent[64..71], b"\x04\x19\x05READ");
        assert_eq!(&sent[91..], [0, 1, 1]);
        theirs.write_all(b"\x04\x05\x04PING").await.expect("open");
        theirs.write_all(&[1, 0, 1, 2, 7, 8, 2, 0, 0, 0, 0, 0, 0, 1, 0]).await.expect("open");
        theirs.write_all(&[9; 256]).await.expect("open");
        let frames = message(&mut ours).await.expect("a message");
        assert_eq!((frames.len(), &frames[1], frames[2].len()), (3, &vec![7, 8], 256));
        drop(theirs);
        assert!(message(&mut ours).await.is_err());
    }

    #[tokio::test]
    async fn peers_that_lie_are_left() {
        for bytes in [
            vec![0; 64],
            [&publisher()[..64], &[0, 1, 1]].concat(),
            [&publisher()[..64], b"\x04\x07\x05ERROR\0"].concat(),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
            theirs.write_all(&bytes).await.expect("open");
            assert!(subscribe(&mut ours).await.is_err());
        }
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(&[2, 0xff, 0, 0, 0, 0, 0, 0, 0]).await.expect("open");
        assert!(message(&mut ours).await.is_err(), "a frame of exabytes");
        theirs.write_all(&[0xf0, 1, 1]).await.expect("open");
        assert!(message(&mut ours).await.is_err(), "flags that there are not");
    }
}
