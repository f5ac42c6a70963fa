//! Splits and merges.

pub mod demand;
pub mod on_demand;
