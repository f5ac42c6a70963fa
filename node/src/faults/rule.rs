//! What a fault is: asked for in JSON, checked once, and what it does to a message.
//!
//! Pure: no clock, no randomness, no I/O. Invariant: a `Fault` names other zones of the cluster only, and each of
//! its numbers is within its bound.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a fault lasts if nobody says.
pub const LAST_DEFAULT: Duration = Duration::from_secs(60);
/// No fault lasts longer.
pub const LAST_MAX: Duration = Duration::from_secs(600);
/// A message is held up by at most this long, its random part too.
pub const DELAY_MAX: Duration = Duration::from_secs(60);

/// What is done to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// None comes through while the fault lasts; what waited then comes late.
    Partition,
    /// Each takes longer.
    Delay,
    /// A share of them is lost, each with the connection that carried it.
    Loss,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Partition, Kind::Delay, Kind::Loss];

    /// Its name in JSON and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Partition => "partition",
            Kind::Delay => "delay",
            Kind::Loss => "loss",
        }
    }
}

/// Which messages, as seen from the node that has the fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Those to the other zones, and those from them.
    #[default]
    Both,
    /// Those that this node sends.
    To,
    /// Those that this node is sent.
    From,
}

/// The way of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From this node to a peer.
    To,
    /// From a peer to this node.
    From,
}

impl Direction {
    fn covers(self, flow: Flow) -> bool {
        matches!(
            (self, flow),
            (Direction::Both, _) | (Direction::To, Flow::To) | (Direction::From, Flow::From)
        )
    }
}

/// A fault as somebody asks for it: the body of `POST /admin/v1/faults`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Which kind.
    pub fault: Kind,
    /// The other zones that it is about.
    pub az: Vec<String>,
    /// Which messages.
    #[serde(default)]
    pub direction: Direction,
    /// How long it lasts, in milliseconds; by default a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// Of a delay: what each message takes longer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Of a delay: up to this much more, at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_ms: Option<u64>,
    /// Of a loss: between 0 and 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// A fault that may be imposed.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub(super) kind: Kind,
    pub(super) zones: Vec<String>,
    pub(super) direction: Direction,
    pub(super) last: Duration,
    pub(super) delay: Duration,
    pub(super) random: Duration,
    pub(super) share: f64,
}

impl Fault {
    /// Checks an order for a node whose peers are in `others`. An error says what is wrong with it.
    pub fn of(order: Order, others: &[String]) -> Result<Fault, String> {
        let Order { fault: kind, az: zones, direction, for_ms, delay_ms, random_ms, share } = order;
        if zones.is_empty() {
            return Err(format!("name the zones that it is about: {}", others.join(", ")));
        }
        if let Some(strange) = zones.iter().find(|zone| !others.contains(zone)) {
            let others = others.join(", ");
            return Err(format!("{strange:?} is no other zone of this node: it has {others}"));
        }
        let last = for_ms.map_or(LAST_DEFAULT, Duration::from_millis);
        if last.is_zero() || last > LAST_MAX {
            return Err(format!("for_ms: from 1 to {}", LAST_MAX.as_millis()));
        }
        if kind != Kind::Delay && (delay_ms.is_some() || random_ms.is_some()) {
            return Err("delay_ms and random_ms are of a delay".to_owned());
        }
        if kind != Kind::Loss && share.is_some() {
            return Err("share is of a loss".to_owned());
        }
        let delay_ms = [delay_ms, random_ms].map(Option::unwrap_or_default);
        let [delay, random] = delay_ms.map(Duration::from_millis);
        let longest = delay.saturating_add(random);
        if kind == Kind::Delay && (longest.is_zero() || longest > DELAY_MAX) {
            return Err(format!("delay_ms + random_ms: from 1 to {}", DELAY_MAX.as_millis()));
        }
        let share = share.unwrap_or_default();
        if kind == Kind::Loss && !(share > 0.0 && share <= 1.0) {
            return Err("share: more than 0, at most 1".to_owned());
        }
        Ok(Fault { kind, zones, direction, last, delay, random, share })
    }

    /// Whether a message of this way, between this node and that zone, is its business.
    pub(super) fn covers(&self, zone: &str, flow: Flow) -> bool {
        self.direction.covers(flow) && self.zones.iter().any(|known| known == zone)
    }

    /// In words: `partition from az-b, az-c`.
    pub fn words(&self) -> String {
        let zones = self.zones.join(", ");
        let way = match self.direction {
            Direction::Both => "to and from",
            Direction::To => "to",
            Direction::From => "from",
        };
        match self.kind {
            Kind::Partition => format!("no message {way} {zones}"),
            Kind::Delay if self.random.is_zero() => {
                format!("messages {way} {zones} take {} ms longer", self.delay.as_millis())
            }
            Kind::Delay => {
                let (least, most) =
                    (self.delay.as_millis(), (self.delay + self.random).as_millis());
                format!("messages {way} {zones} take {least} to {most} ms longer")
            }
            Kind::Loss => {
                format!("{} % of messages {way} {zones} are lost", self.share * 100.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others() -> Vec<String> {
        ["az-b", "az-c"].map(str::to_owned).to_vec()
    }

    fn read(json: &str) -> Result<Fault, String> {
        let order: Order = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Fault::of(order, &others())
    }

    #[test]
    fn an_order_is_read_and_has_defaults() {
        let cut = read(r#"{"fault":"partition","az":["az-b"]}"#).expect("legal");
        assert_eq!((cut.kind, cut.last), (Kind::Partition, LAST_DEFAULT));
        assert!(cut.covers("az-b", Flow::To) && cut.covers("az-b", Flow::From));
        assert!(!cut.covers("az-c", Flow::To), "only the zones that are named");
        let text = r#"{"fault":"partition","az":["az-b"],"direction":"from","for_ms":600000}"#;
        let one_way = read(text).expect("legal");
        assert!(one_way.covers("az-b", Flow::From) && !one_way.covers("az-b", Flow::To));
        let slow =
            r#"{"fault":"delay","az":["az-c"],"direction":"to","delay_ms":100,"random_ms":50}"#;
        let slow = read(slow).expect("legal");
        assert!(slow.covers("az-c", Flow::To) && !slow.covers("az-c", Flow::From));
        assert_eq!(slow.words(), "messages to az-c take 100 to 150 ms longer");
        let lossy = read(r#"{"fault":"loss","az":["az-b","az-c"],"share":0.25}"#).expect("legal");
        assert_eq!(lossy.words(), "25 % of messages to and from az-b, az-c are lost");
    }

    #[test]
    fn what_has_no_bound_or_no_sense_is_refused() {
        for bad in [
            r#"{"fault":"partition"}"#,
            r#"{"fault":"partition","az":[]}"#,
            r#"{"fault":"partition","az":["az-a"]}"#,
            r#"{"fault":"partition","az":["az-b"],"for_ms":0}"#,
            r#"{"fault":"partition","az":["az-b"],"for_ms":600001}"#,
            r#"{"fault":"partition","az":["az-b"],"delay_ms":5}"#,
            r#"{"fault":"partition","az":["az-b"],"share":0.5}"#,
            r#"{"fault":"partition","az":["az-b"],"forever":true}"#,
            r#"{"fault":"delay","az":["az-b"]}"#,
            r#"{"fault":"delay","az":["az-b"],"delay_ms":60000,"random_ms":1}"#,
            r#"{"fault":"delay","az":["az-b"],"delay_ms":18446744073709551615,"random_ms":9}"#,
            r#"{"fault":"loss","az":["az-b"]}"#,
            r#"{"fault":"loss","az":["az-b"],"share":0}"#,
            r#"{"fault":"loss","az":["az-b"],"share":1.01}"#,
            r#"{"fault":"fire","az":["az-b"]}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
