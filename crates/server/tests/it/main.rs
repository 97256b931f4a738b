//! The whole server on SQLite, over a real socket. Every answer of every test is checked against the committed document.

mod document;
mod site;

mod bad_input;
mod changes;
mod identity;
mod lifecycle;
mod matrix;
