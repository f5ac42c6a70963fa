//! Mistakes made on purpose, to see them found: those of the node, and one of its disks.
//!
//! Must not know what a mistake breaks.

use std::fmt;
use std::str::FromStr;

use tristream_node::planted;

/// A mistake made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Nothing is durable although every sync says so.
    DisksLie,
    /// A bug of the node's.
    Node(planted::Plant),
}

impl Plant {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Plant> {
        let of_node = planted::Plant::ALL.iter().map(|plant| Plant::Node(*plant));
        std::iter::once(Plant::DisksLie).chain(of_node)
    }

    /// What it does, in one line.
    pub fn about(self) -> &'static str {
        match self {
            Plant::DisksLie => "No disk keeps what it says it has synced.",
            Plant::Node(plant) => plant.about(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Plant::DisksLie => "disks-lie",
            Plant::Node(plant) => plant.name(),
        }
    }

    /// Switches it on for the nodes that run on this thread, and every other one off.
    pub(super) fn switch_on(plant: Option<Plant>) {
        planted::switch_on(match plant {
            Some(Plant::Node(plant)) => Some(plant),
            Some(Plant::DisksLie) | None => None,
        });
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Plant, String> {
        let found = Plant::all().find(|plant| plant.name() == name);
        found.ok_or_else(|| format!("no bug is called {name:?}: see `--plant list`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_bugs() {
        for plant in Plant::all() {
            assert_eq!(plant.to_string().parse(), Ok(plant));
            let plain = |letter: char| letter.is_ascii_lowercase() || letter == '-';
            assert!(plant.name().chars().all(plain), "{plant}");
        }
        assert!("list".parse::<Plant>().is_err());
    }

    #[test]
    fn one_bug_at_a_time_is_on() {
        use planted::Plant::{AckBeforeFsync, AckBeforeQuorum};
        Plant::switch_on(Some(Plant::Node(AckBeforeQuorum)));
        assert!(planted::is_on(AckBeforeQuorum) && !planted::is_on(AckBeforeFsync));
        assert_eq!(planted::reached(), 1);
        Plant::switch_on(Some(Plant::DisksLie));
        assert!(!planted::is_on(AckBeforeQuorum));
        assert_eq!(planted::reached(), 0);
    }
}
