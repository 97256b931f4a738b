//! Bodies of `/api/v1`, by noun. Resources themselves are the types of `galerne_model`.

pub mod backup;
pub mod catalogue;
pub mod identity;
pub mod kind;
pub mod ledger;
pub mod live;
pub mod route;
pub mod usage;
pub mod why;
pub mod write;

pub use kind::Kind;
pub use write::{AtGeneration, Create, Page, Update};
