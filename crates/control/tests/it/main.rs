//! The loops on a real store, with shell scripts in the worker's place and a small server in the engine's.

mod bill;
mod endpoints;
mod forward;
mod lease;
mod pulls;
mod site;
mod view;
