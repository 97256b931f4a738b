//! Tables on the terminal, and the same as CSV.
