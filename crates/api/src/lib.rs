//! What Galerne promises outside: types of the OpenAI-compatible surface and of `/api/v1`, what gateways
//! and the control plane say to each other, the error body, and the client.
//!
//! Deliberately absent: how anything is done.

pub mod error;
pub mod gateways;
pub mod nearest;
pub mod openai;
pub mod surface;
pub mod v1;

pub mod client;
