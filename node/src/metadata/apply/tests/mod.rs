//! Commands, as data, and what becomes of the view.

mod modes;
mod random;
mod rescale;
mod reshards;
mod streams;

use super::*;
use crate::metadata::trial::name;
