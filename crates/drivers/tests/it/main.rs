//! Drivers against real neighbours: processes, files, and the package index where this machine reaches one.

mod codes;
mod engine;
mod package;
