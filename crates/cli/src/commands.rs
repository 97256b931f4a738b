//! What each noun and verb does: read the arguments, call the API, show the answer.

pub(crate) mod values;

pub(crate) mod endpoint;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod pull;
pub(crate) mod replica;

pub(crate) mod key;
pub(crate) mod principal;
pub(crate) mod project;
pub(crate) mod role;
pub(crate) mod route;
pub(crate) mod tenant;

pub(crate) mod budget;
pub(crate) mod cost;
pub(crate) mod ledger;
pub(crate) mod price;

pub(crate) mod batch;
pub(crate) mod file;

pub(crate) mod backup;
pub(crate) mod event;
pub(crate) mod top;
pub(crate) mod why;

pub(crate) mod api;
pub(crate) mod chat;
pub(crate) mod env;
