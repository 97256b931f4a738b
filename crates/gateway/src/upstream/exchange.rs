//! One request on a connection, and the response it brings.
//!
//! INVARIANT: a connection goes back to the pool only after a response that was read to its end, that said it may, behind
//! which nothing came, and whose request was written whole. In every other case it is closed, which is how a replica learns
//! that nobody wants its answer.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};
use tokio_util::io::poll_read_buf;

use super::address::BadAddress;
use super::chunked::BadChunk;
use super::head::{self, BadHead, Facts, Framing, Head};
use super::pool::{Connection, Origin};
use super::socket::Socket;

/// Heads before the one that counts (`100 Continue`, `103 Early Hints`).
const INTERIM_HEADS_MAX: u32 = 8;
/// What one read has room for, at first; doubled when that was not enough.
const READ_MIN_BYTES: usize = 8 * 1024;
/// And at most.
const READ_MAX_BYTES: usize = 64 * 1024;
/// A read with less room than this would cost a system call for little.
const ROOM_MIN_BYTES: usize = 1024;
/// Pieces written with one system call.
const PIECES_MAX: usize = 16;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Address(#[from] BadAddress),
    #[error("it cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("its connection broke")]
    Broken(#[source] io::Error),
    #[error("it closed its connection before the end of its answer")]
    EndedEarly,
    #[error(transparent)]
    Head(#[from] BadHead),
    #[error("the head of its answer did not end in time")]
    SlowHead,
    #[error(transparent)]
    Body(#[from] BadChunk),
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// A response whose head was read.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) facts: Facts,
    pub(crate) body: Incoming,
}

/// The body of a response, as it comes. Dropped before its end, it closes the connection.
///
/// What was read lies in one run of bytes until it is taken, so that whoever looks for the end of something in it finds it
/// whole, without a buffer of its own.
pub(crate) struct Incoming {
    origin: Arc<Origin>,
    /// Absent once the body was read to its end.
    connection: Option<Connection>,
    framing: Framing,
    keeps_alive: bool,
    /// Bytes of the body at the front of what the connection has read.
    ready: usize,
    /// What is left of a body whose connection is gone.
    last: BytesMut,
    /// The next read.
    room: usize,
}

/// A fault, and whether the replica had begun to answer.
pub(super) struct Failed {
    pub(super) fault: Fault,
    pub(super) was_heard: bool,
}

/// Sends a request of `pieces` and reads the head of the response, which ends within `patience` from its first byte.
pub(super) async fn exchange(
    origin: &Arc<Origin>,
    mut connection: Connection,
    pieces: &[Bytes],
    patience: Duration,
) -> Result<Reply, Failed> {
    let mut talk = Talk { unsent: Unsent::new(pieces), patience, write_error: None, scanned: 0, interim: 0 };
    let mut late = pin!(None);
    let spoken = poll_fn(|cx| talk.poll(&mut connection, late.as_mut(), cx)).await;
    match spoken {
        Ok(head) => {
            let keeps_alive = head.keeps_alive && talk.unsent.is_sent() && talk.write_error.is_none();
            let body = Incoming {
                origin: Arc::clone(origin),
                connection: Some(connection),
                framing: head.framing,
                keeps_alive,
                ready: 0,
                last: BytesMut::new(),
                room: READ_MIN_BYTES,
            };
            Ok(Reply { status: head.status, facts: head.facts, body })
        }
        Err(fault) => Err(Failed { fault, was_heard: talk.interim > 0 || !connection.read.is_empty() }),
    }
}

/// A request on its way out and a head on its way in, at the same time: a replica may refuse what it has not read yet.
struct Talk<'a> {
    unsent: Unsent<'a>,
    patience: Duration,
    write_error: Option<io::Error>,
    scanned: usize,
    interim: u32,
}

impl Talk<'_> {
    fn poll(
        &mut self,
        connection: &mut Connection,
        mut late: Pin<&mut Option<Sleep>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Fault>> {
        // After a failed write there may still be an answer that says why.
        if self.write_error.is_none()
            && let Poll::Ready(Err(error)) = self.unsent.poll_write(&mut connection.socket, cx)
        {
            self.write_error = Some(error);
        }
        loop {
            while let Some(head) = head::read(&connection.read, &mut self.scanned)? {
                connection.read.advance(head.length);
                self.scanned = 0;
                if !(100..200).contains(&head.status) {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                // The head that counts may take as long as if nothing had come before it.
                late.set(None);
                if self.interim > INTERIM_HEADS_MAX {
                    return Poll::Ready(Err(BadHead::TooLong.into()));
                }
            }
            match read_more(connection, READ_MIN_BYTES, cx) {
                Poll::Ready(Ok(0)) => {
                    let broken = self.write_error.take().map(Fault::Broken);
                    return Poll::Ready(Err(broken.unwrap_or(Fault::EndedEarly)));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Fault::Broken(self.write_error.take().unwrap_or(error))));
                }
                Poll::Pending => break,
            }
        }
        if connection.read.is_empty() {
            return Poll::Pending;
        }
        if late.is_none() {
            late.set(Some(sleep(self.patience)));
        }
        match late.as_pin_mut() {
            Some(late) => late.poll(cx).map(|()| Err(Fault::SlowHead)),
            None => Poll::Pending,
        }
    }
}

/// Pieces, and how far they were written.
struct Unsent<'a> {
    pieces: &'a [Bytes],
    /// Written of the first piece.
    offset: usize,
    is_flushed: bool,
}

impl<'a> Unsent<'a> {
    fn new(pieces: &'a [Bytes]) -> Self {
        Self { pieces, offset: 0, is_flushed: false }
    }

    fn is_sent(&self) -> bool {
        self.pieces.is_empty() && self.is_flushed
    }

    fn poll_write(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((first, others)) = self.pieces.split_first() {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            slices[0] = IoSlice::new(&first[self.offset..]);
            for (slice, piece) in slices[1..].iter_mut().zip(others) {
                *slice = IoSlice::new(piece);
            }
            let count = self.pieces.len().min(PIECES_MAX);
            match ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        if !self.is_flushed {
            ready!(Pin::new(socket).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        self.offset += written;
        while let Some((first, others)) = self.pieces.split_first()
            && self.offset >= first.len()
        {
            self.offset -= first.len();
            self.pieces = others;
        }
    }
}

impl Incoming {
    /// The next bytes, as many as one read brought; nothing at the end.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, Fault> {
        let is_there = !self.bytes().is_empty() || self.more().await?;
        Ok(is_there.then(|| self.take(self.bytes().len())))
    }

    /// Reads more of the body behind what is there; false at the end.
    pub(crate) async fn more(&mut self) -> Result<bool, Fault> {
        poll_fn(|cx| self.poll_more(cx)).await
    }

    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Fault>> {
        loop {
            let before = self.bytes().len();
            self.decode()?;
            if self.bytes().len() > before {
                return Poll::Ready(Ok(true));
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(false)) };
            match ready!(read_more(connection, self.room, cx)).map_err(Fault::Broken)? {
                0 if matches!(self.framing, Framing::ToEnd) => self.finish(),
                0 => return Poll::Ready(Err(Fault::EndedEarly)),
                _ if connection.read.len() == connection.read.capacity() => {
                    self.room = (self.room * 2).min(READ_MAX_BYTES);
                }
                _ => {}
            }
        }
    }

    /// What was read and not taken.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.connection {
            Some(connection) => &connection.read[..self.ready],
            None => &self.last,
        }
    }

    /// Takes the first `count` of what was read.
    pub(crate) fn take(&mut self, count: usize) -> Bytes {
        match &mut self.connection {
            Some(connection) => {
                self.ready -= count;
                connection.read.split_to(count).freeze()
            }
            None => self.last.split_to(count).freeze(),
        }
    }

    /// The whole body, of at most `most` bytes.
    pub(crate) async fn whole(mut self, most: usize) -> Result<Bytes, Fault> {
        if let Framing::Length(length) = self.framing
            && length > most as u64
        {
            return Err(Fault::TooLarge(most));
        }
        while self.more().await? {
            if self.bytes().len() > most {
                return Err(Fault::TooLarge(most));
            }
        }
        Ok(self.take(self.bytes().len()))
    }

    /// Whether the body was read to its end.
    pub(crate) fn is_read(&self) -> bool {
        self.connection.is_none()
    }

    /// Makes what was read ready to be taken.
    fn decode(&mut self) -> Result<(), Fault> {
        let Some(Connection { read, .. }) = &mut self.connection else { return Ok(()) };
        let ended = match &mut self.framing {
            Framing::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len() - self.ready);
                self.ready += here;
                *left -= here as u64;
                *left == 0
            }
            Framing::Chunked(decoder) => {
                let coded = &mut read[self.ready..];
                let (decoded, length) = (decoder.decode(coded)?, coded.len());
                // What was not used follows the payload, as if the coding had never been between them.
                coded.copy_within(decoded.used.., decoded.payload);
                read.truncate(self.ready + decoded.payload + length - decoded.used);
                self.ready += decoded.payload;
                decoder.is_done()
            }
            Framing::ToEnd => {
                self.ready = read.len();
                false
            }
        };
        if ended {
            self.finish();
        }
        Ok(())
    }

    fn finish(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            self.last = connection.read.split_to(self.ready);
            if self.keeps_alive && connection.read.is_empty() {
                self.origin.put(connection);
            }
        }
    }
}

fn read_more(connection: &mut Connection, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let Connection { socket, read } = connection;
    if read.capacity() - read.len() < ROOM_MIN_BYTES {
        read.reserve(room);
    }
    poll_read_buf(Pin::new(socket), cx, read)
}
