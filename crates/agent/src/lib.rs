//! What runs on a node: its facts, its health, its energy.
//!
//! Everything is read below one root (`/`), so that a test can lay out a host of its own. What cannot be read is absent
//! from the answer, never invented. Deliberately absent: sending anything anywhere, and any change to the host.

mod clock;
pub mod energy;
pub mod facts;
mod gpus;
pub mod health;
mod host;

pub use gpus::Gpus;
pub use host::Host;
