//! The terminal while `galerne top` has it: another screen, keys one by one. Given back when this is dropped.

use std::io::{self, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// Screen assumed where the terminal does not say.
const SIZE_DEFAULT: (usize, usize) = (80, 24);
/// Keys that wait to be looked at; more are dropped by the terminal.
const KEYS_MAX: usize = 16;
/// The other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Sort,
    Other,
}

impl Key {
    fn of(byte: u8) -> Self {
        match byte {
            // Also what the terminal would have made a signal of: control and c, d.
            b'q' | b'Q' | 3 | 4 => Self::Quit,
            b's' | b'S' => Self::Sort,
            _ => Self::Other,
        }
    }
}

/// The terminal, ours.
pub(super) struct Screen {
    before: Termios,
    keys: mpsc::Receiver<u8>,
    terminated: Signal,
    resized: Signal,
}

impl Screen {
    pub(super) fn take() -> Result<Self, Failure> {
        let refused = |error: &dyn std::error::Error| Failure::internal("the terminal cannot be used", error);
        let before = tcgetattr(io::stdin()).map_err(|error| refused(&error))?;
        let terminated = signal(SignalKind::terminate()).map_err(|error| refused(&error))?;
        let resized = signal(SignalKind::window_change()).map_err(|error| refused(&error))?;
        let mut ours = before.clone();
        ours.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Now, &ours).map_err(|error| refused(&error))?;
        let (press, keys) = mpsc::channel(KEYS_MAX);
        // A read of a terminal cannot be given up: the thread ends with the process.
        std::thread::spawn(move || {
            for byte in io::stdin().lock().bytes() {
                let Ok(byte) = byte else { return };
                if press.blocking_send(byte).is_err() {
                    return;
                }
            }
        });
        let screen = Self { before, keys, terminated, resized };
        write(ENTER)?;
        Ok(screen)
    }

    /// Columns and lines.
    #[expect(clippy::unused_self, reason = "only who has the terminal may ask")]
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
            Ok(_) | Err(_) => SIZE_DEFAULT,
        }
    }

    /// Draws over what is there; what was longer before is cleared.
    #[expect(clippy::unused_self, reason = "only who has the terminal may draw")]
    pub(super) fn show(&self, lines: &[String]) -> Result<(), Failure> {
        let mut text = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            text.push_str(if at == 0 { "" } else { "\r\n" });
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        write(&text)
    }

    /// The next key; also a terminal of another size, or the end.
    pub(super) async fn key(&mut self) -> Key {
        tokio::select! {
            byte = self.keys.recv() => byte.map_or(Key::Quit, Key::of),
            _ = self.terminated.recv() => Key::Quit,
            _ = self.resized.recv() => Key::Other,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody can be told that the terminal is gone.
        drop(write(LEAVE));
        tcsetattr(io::stdin(), OptionalActions::Now, &self.before).ok();
    }
}

/// To the terminal itself: without colours, `anstream` would leave these codes out.
fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))
}
