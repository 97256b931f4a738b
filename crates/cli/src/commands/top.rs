//! What endpoints and replicas are doing now: redrawn each second at a terminal, told once elsewhere.
//!
//! Drawing is a pure function of what the server told, the size of the screen and the order; keys and escape codes are in
//! `screen`.

mod draw;
mod screen;

use std::time::Duration;

use clap::{Args, ValueEnum};
use galerne_api::v1::live::Live;
use tokio::time::{MissedTickBehavior, interval};

use crate::failure::Failure;
use crate::session::Session;
use draw::{Order, View};
use screen::{Key, Screen};

/// How often the view is drawn anew.
const REFRESH: Duration = Duration::from_secs(1);
/// Where it is asked for.
const PATH: &str = "/api/v1/live";

/// Options of `galerne top`.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// Write one view and end; so it is where stdout is no terminal, and with --output json
    #[arg(long)]
    once: bool,
    /// What comes first
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    sort: SortArgument,
}

/// What comes first in the view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortArgument {
    /// Names, from a to z
    #[default]
    Name,
    /// Most requests in flight
    Busy,
    /// Most generated tokens
    Tokens,
    /// Longest time to the first token
    Slow,
}

impl SortArgument {
    const fn order(self) -> Order {
        match self {
            Self::Name => Order::Name,
            Self::Busy => Order::Busy,
            Self::Tokens => Order::Tokens,
            Self::Slow => Order::Slow,
        }
    }
}

impl TopArguments {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let client = session.client()?;
        let live: Live = client.read(PATH, &[]).await?;
        if session.is_json() {
            return session.output.json(&live);
        }
        let mut view = View { live, order: self.sort.order(), trouble: None };
        let is_watched = session.output.width().is_some() && session.output.is_interactive();
        if self.once || !is_watched {
            let width = session.output.width().map_or(draw::WIDTH_PLAIN, usize::from);
            for line in view.lines(width, None) {
                session.output.line(line)?;
            }
            return Ok(());
        }
        let mut screen = Screen::take()?;
        let mut ticks = interval(REFRESH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first view was asked for a moment ago.
        ticks.reset();
        loop {
            let (width, height) = screen.size();
            screen.show(&view.lines(width, Some(height)))?;
            tokio::select! {
                key = screen.key() => match key {
                    Key::Quit => return Ok(()),
                    Key::Sort => view.order = view.order.next(),
                    Key::Other => {}
                },
                _ = ticks.tick() => match client.read::<Live>(PATH, &[]).await {
                    Ok(live) => (view.live, view.trouble) = (live, None),
                    // It may come back; what was seen last stays, and says how old it is.
                    Err(failure) => view.trouble = Some(failure.to_string()),
                },
            }
        }
    }
}
