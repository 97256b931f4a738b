//! The chunked transfer coding of RFC 9112 §7.1, from the reader's side.
//!
//! Works in place on what one read brought, in any number of pieces: payload moves to the front, so a read with many chunks
//! becomes one run of bytes without a second buffer.
//! Strict where lenience has led readers of the same bytes to different messages: no bare line feeds, no signs, no blanks
//! before a size; extensions and trailers are skipped within bounds.
//! INVARIANT: no input makes it panic, and what it gives does not depend on how the input is cut.

/// Longest chunk extension; nobody who serves models sends any.
const EXTENSION_MAX_BYTES: u16 = 1024;
/// Longest trailer section.
const TRAILER_MAX_BYTES: u16 = 8 * 1024;
/// Hex digits of a size: 15 stay far inside 64 bits.
const SIZE_DIGITS_MAX: u8 = 15;

/// Where in the coding the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size { digits: u8, size: u64 },
    Extension { size: u64, seen: u16 },
    SizeEnd { size: u64 },
    Payload { left: u64 },
    PayloadReturn,
    PayloadEnd,
    TrailerStart { seen: u16 },
    Trailer { seen: u16 },
    TrailerEnd { seen: u16 },
    LastEnd,
    Done,
}

/// A reader of one chunked body.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    state: State,
}

/// What a call to [`Decoder::decode`] made of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Bytes of payload, now at the front of the input.
    pub(crate) payload: usize,
    /// Bytes of input used up. All of them, unless the body ended before, or what follows is bad: the next call says so.
    pub(crate) used: usize,
}

/// Bytes that are not this coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadChunk {
    #[error("a chunk's size is no hexadecimal number of at most {SIZE_DIGITS_MAX} digits")]
    Size,
    #[error("a line of its chunked body does not end as a line does")]
    LineEnd,
    #[error("a chunk does not end where it said")]
    PayloadEnd,
    #[error("its chunk extensions or trailers are too long")]
    TooLong,
}

impl Decoder {
    pub(crate) const fn new() -> Self {
        Self { state: State::Size { digits: 0, size: 0 } }
    }

    /// Whether the end of the body was read.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes what it can from `bytes`. What came before something bad is given first.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BadChunk> {
        let (mut payload, mut used) = (0, 0);
        while used < bytes.len() && self.state != State::Done {
            if let State::Payload { left } = &mut self.state {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - used);
                if payload != used {
                    bytes.copy_within(used..used + here, payload);
                }
                payload += here;
                used += here;
                *left -= here as u64;
                if *left == 0 {
                    self.state = State::PayloadReturn;
                }
            } else {
                match self.state.after(bytes[used]) {
                    Ok(next) => self.state = next,
                    Err(_) if payload > 0 => break,
                    Err(bad) => return Err(bad),
                }
                used += 1;
            }
        }
        Ok(Decoded { payload, used })
    }
}

impl State {
    /// The state behind a byte that is no payload.
    fn after(self, byte: u8) -> Result<Self, BadChunk> {
        match self {
            Self::Size { digits, size } => size_digit(digits, size, byte),
            Self::Extension { size, seen } => match byte {
                b'\r' => Ok(Self::SizeEnd { size }),
                b'\n' => Err(BadChunk::LineEnd),
                _ if seen == EXTENSION_MAX_BYTES => Err(BadChunk::TooLong),
                _ => Ok(Self::Extension { size, seen: seen + 1 }),
            },
            Self::SizeEnd { size } => {
                line_feed(byte, if size == 0 { Self::TrailerStart { seen: 0 } } else { Self::Payload { left: size } })
            }
            Self::PayloadReturn if byte == b'\r' => Ok(Self::PayloadEnd),
            Self::PayloadEnd if byte == b'\n' => Ok(Self::Size { digits: 0, size: 0 }),
            Self::PayloadReturn | Self::PayloadEnd => Err(BadChunk::PayloadEnd),
            Self::TrailerStart { .. } if byte == b'\r' => Ok(Self::LastEnd),
            Self::TrailerStart { seen } | Self::Trailer { seen } => match byte {
                b'\r' => Ok(Self::TrailerEnd { seen }),
                b'\n' => Err(BadChunk::LineEnd),
                _ if seen == TRAILER_MAX_BYTES => Err(BadChunk::TooLong),
                _ => Ok(Self::Trailer { seen: seen + 1 }),
            },
            Self::TrailerEnd { seen } => line_feed(byte, Self::TrailerStart { seen }),
            Self::LastEnd => line_feed(byte, Self::Done),
            // `decode` hands neither of them a byte.
            Self::Payload { .. } | Self::Done => Ok(self),
        }
    }
}

fn size_digit(digits: u8, size: u64, byte: u8) -> Result<State, BadChunk> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if digits > 0 => return Ok(State::SizeEnd { size }),
        // Blanks are allowed between a size and its extensions.
        b';' | b' ' | b'\t' if digits > 0 => return Ok(State::Extension { size, seen: 0 }),
        _ => return Err(BadChunk::Size),
    };
    if digits == SIZE_DIGITS_MAX {
        return Err(BadChunk::Size);
    }
    Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
}

fn line_feed(byte: u8, next: State) -> Result<State, BadChunk> {
    if byte == b'\n' { Ok(next) } else { Err(BadChunk::LineEnd) }
}

#[cfg(test)]
mod tests;
