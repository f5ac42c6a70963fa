//! The window against a naive one.

use super::*;
