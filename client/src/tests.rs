//! The client against nodes that do as they are told: a fake cluster on loopback.

mod fake;
mod puts;
mod reads;
mod resharding;
