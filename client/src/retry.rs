//! When a failed attempt is repeated, and after how long: exponential backoff with full jitter.
//!
//! Pure: randomness and time come in as arguments. Invariant: an attempt that may have happened is
//! repeated only where the caller said that this does no harm.

use std::time::Duration;

use tristream_proto::domain::{Effect, Retry};

use crate::error::Error;
use crate::options::Options;

/// Attempts in a row that follow a hint at once. Two nodes that name each other must not be asked in a
/// tight loop.
const HOPS_MAX: u32 = 3;

/// Which errors are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Those that prove that nothing happened.
    OnlyWithoutEffect,
    /// Also those that leave it open: reads, and puts, whose records a shard recognises.
    Always,
}

/// What to do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    GiveUp,
    Again(Duration),
    /// There would be another attempt, had the deadline not come first.
    Late,
}

/// The attempts of one call.
#[derive(Clone, Debug)]
pub(crate) struct Retries {
    policy: Policy,
    backoff_min: Duration,
    backoff_max: Duration,
    failures: u32,
    hops: u32,
}

impl Retries {
    pub(crate) fn new(policy: Policy, options: &Options) -> Retries {
        Retries {
            policy,
            backoff_min: options.backoff_min,
            backoff_max: options.backoff_max,
            failures: 0,
            hops: 0,
        }
    }

    /// What to do after `error`. `draw` is random in [0, 1).
    pub(crate) fn after(&mut self, error: &Error, draw: f64) -> Step {
        if error.effect() == Effect::Unknown && self.policy == Policy::OnlyWithoutEffect {
            return Step::GiveUp;
        }
        match error.retry() {
            Retry::Never => Step::GiveUp,
            Retry::Elsewhere if self.hops < HOPS_MAX => {
                self.hops += 1;
                Step::Again(Duration::ZERO)
            }
            Retry::Elsewhere | Retry::Later => Step::Again(self.wait(draw)),
        }
    }

    /// A random wait below the bound, which doubles with every call.
    pub(crate) fn wait(&mut self, draw: f64) -> Duration {
        let doubled = self.backoff_min.saturating_mul(1 << self.failures.min(20));
        self.failures += 1;
        self.hops = 0;
        doubled.min(self.backoff_max).mul_f64(draw.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::MapVersion;

    fn retries(policy: Policy) -> Retries {
        Retries::new(policy, &Options::default())
    }

    fn not_leader() -> Error {
        Error::NotLeader { leader: None, message: String::new() }
    }

    #[test]
    fn what_may_have_happened_is_repeated_only_when_allowed() {
        let unknown = Error::Unknown(String::new());
        assert_eq!(retries(Policy::OnlyWithoutEffect).after(&unknown, 0.5), Step::GiveUp);
        assert_ne!(retries(Policy::Always).after(&unknown, 0.5), Step::GiveUp);
        let protocol = Error::Protocol(String::new());
        assert_eq!(retries(Policy::Always).after(&protocol, 0.5), Step::GiveUp);
    }

    #[test]
    fn what_certainly_did_not_happen_is_repeated() {
        let text = String::new;
        for error in [Error::Unavailable(text()), Error::Throttled(text()), not_leader()] {
            assert_ne!(retries(Policy::OnlyWithoutEffect).after(&error, 0.5), Step::GiveUp);
        }
        for error in [
            Error::StreamNotFound(text()),
            Error::AlreadyExists(text()),
            Error::LimitExceeded(text()),
            Error::Invalid(text()),
        ] {
            assert_eq!(retries(Policy::Always).after(&error, 0.5), Step::GiveUp, "{error}");
        }
    }

    #[test]
    fn the_bound_doubles_up_to_its_maximum() {
        let mut retries = retries(Policy::OnlyWithoutEffect);
        let error = Error::Unavailable(String::new());
        let waits: Vec<Step> = (0..8).map(|_| retries.after(&error, 1.0)).collect();
        let millis = [20, 40, 80, 160, 320, 640, 1000, 1000];
        assert_eq!(waits, millis.map(|ms| Step::Again(Duration::from_millis(ms))));
    }

    #[test]
    fn jitter_is_full() {
        let error = Error::Throttled(String::new());
        let at = |draw| retries(Policy::OnlyWithoutEffect).after(&error, draw);
        assert_eq!(at(0.0), Step::Again(Duration::ZERO));
        assert_eq!(at(0.5), Step::Again(Duration::from_millis(10)));
    }

    #[test]
    fn hints_are_followed_at_once_but_not_for_ever() {
        let mut retries = retries(Policy::OnlyWithoutEffect);
        let errors = [not_leader(), Error::StaleMap(MapVersion(1)), not_leader(), not_leader()];
        let waits = errors.map(|error| retries.after(&error, 1.0));
        let now = Step::Again(Duration::ZERO);
        assert_eq!(waits, [now, now, now, Step::Again(Duration::from_millis(20))]);
        assert_eq!(retries.after(&not_leader(), 1.0), now, "a wait earns new hops");
    }
}
