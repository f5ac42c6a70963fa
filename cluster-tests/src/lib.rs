//! Placeholder.

pub mod in_process;
