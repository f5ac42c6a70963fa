//! Settings that change what a cluster allows and keeps, as flags of `node` and `up`.
//!
//! Invariant: a flag that is not given leaves the default, or what the settings file says.

use clap::ValueEnum;

use super::when;
use crate::config::Config;

/// The flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Tuning {
    /// Whether AWS's limits on changes of shards and modes hold: at most double and at least half
    /// of the shards at a time, ten times a day; the mode twice a day. On by default.
    #[arg(
        long,
        env = "TRISTREAM_QUOTAS",
        value_enum,
        value_name = "on|off",
        hide_possible_values = true
    )]
    pub(super) quotas: Option<Switch>,
    /// Whether a put that a client sends again, for want of an answer, is stored once. On by
    /// default.
    #[arg(
        long,
        env = "TRISTREAM_DEDUPE",
        value_enum,
        value_name = "on|off",
        hide_possible_values = true
    )]
    pub(super) dedupe: Option<Switch>,
    /// Keep records for this long, such as 90s, 30m or 12h, whatever their streams say. For tests.
    #[arg(long, env = "TRISTREAM_RETENTION_OVERRIDE", value_name = "TIME", value_parser = seconds)]
    pub(super) retention_override: Option<u64>,
    /// How far back a stream on demand looks for its peak, such as 60s. 10m by default; at AWS 30
    /// days.
    #[arg(long, env = "TRISTREAM_ON_DEMAND_WINDOW", value_name = "TIME", value_parser = seconds)]
    pub(super) on_demand_window: Option<u64>,
    /// Let faults be imposed on messages between nodes, with `tristream fault`. For tests. Off by
    /// default.
    #[arg(
        long,
        env = "TRISTREAM_ENABLE_FAULTS",
        value_enum,
        value_name = "on|off",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "on",
        hide_possible_values = true
    )]
    pub(super) enable_faults: Option<Switch>,
    /// What must be shown to impose faults from another machine: at least 16 characters. Without it
    /// only a node's own machine may.
    #[arg(long, env = "TRISTREAM_FAULT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(super) fault_token: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

impl Switch {
    fn is_on(self) -> bool {
        self == Switch::On
    }
}

impl From<bool> for Switch {
    fn from(on: bool) -> Switch {
        if on { Switch::On } else { Switch::Off }
    }
}

/// Whole seconds, at least one, from a time such as `90s` or `2h`.
///
/// # Errors
/// What would be understood.
pub fn seconds(text: &str) -> Result<u64, String> {
    match when::duration(text) {
        Some(time) if time.as_secs() > 0 => Ok(time.as_secs()),
        Some(_) => Err("at least a second".to_owned()),
        None => Err("a number with s, m, h or d, such as 90s".to_owned()),
    }
}

/// A flag with its place in the settings file.
pub(super) struct Setting {
    pub(super) flag: &'static str,
    pub(super) key: &'static str,
    pub(super) value: toml::Value,
}

impl Tuning {
    /// What settings say of all flags.
    pub(super) fn of(config: &Config) -> Tuning {
        Tuning {
            quotas: Some(config.quotas.into()),
            dedupe: Some(config.deduplicate.into()),
            retention_override: config.retention_override_seconds,
            on_demand_window: Some(config.on_demand_window_seconds),
            enable_faults: Some(config.enable_faults.into()),
            fault_token: config.fault_token.clone(),
        }
    }

    /// The flags that were given.
    pub(super) fn given(&self) -> Vec<Setting> {
        let switch = |switch: Switch| toml::Value::Boolean(switch.is_on());
        // No time is longer than a TOML integer can say: 292 billion years.
        let seconds =
            |seconds: u64| toml::Value::Integer(i64::try_from(seconds).unwrap_or(i64::MAX));
        let all = [
            ("--quotas", "quotas", self.quotas.map(switch)),
            ("--dedupe", "deduplicate", self.dedupe.map(switch)),
            (
                "--retention-override",
                "retention_override_seconds",
                self.retention_override.map(seconds),
            ),
            ("--on-demand-window", "on_demand_window_seconds", self.on_demand_window.map(seconds)),
            ("--enable-faults", "enable_faults", self.enable_faults.map(switch)),
            ("--fault-token", "fault_token", self.fault_token.clone().map(toml::Value::String)),
        ];
        let given = all.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?)));
        given.map(|(flag, key, value)| Setting { flag, key, value }).collect()
    }

    /// The first flag that says other than `config`, and what that says.
    pub(super) fn contradiction(&self, config: &Config) -> Option<(Setting, Option<toml::Value>)> {
        let known = Tuning::of(config).given();
        self.given().into_iter().find_map(|setting| {
            let stands = known.iter().find(|known| known.key == setting.key);
            let stands = stands.map(|known| known.value.clone());
            (stands.as_ref() != Some(&setting.value)).then_some((setting, stands))
        })
    }

    /// Overrides `config` where flags were given.
    pub(super) fn apply(&self, config: &mut Config) {
        let Tuning { quotas, dedupe, retention_override, on_demand_window, .. } = self;
        let Tuning { enable_faults, fault_token, .. } = self;
        config.enable_faults = enable_faults.map_or(config.enable_faults, Switch::is_on);
        config.fault_token = fault_token.clone().or(config.fault_token.take());
        config.quotas = quotas.map_or(config.quotas, Switch::is_on);
        config.deduplicate = dedupe.map_or(config.deduplicate, Switch::is_on);
        config.retention_override_seconds =
            retention_override.or(config.retention_override_seconds);
        config.on_demand_window_seconds =
            on_demand_window.unwrap_or(config.on_demand_window_seconds);
    }

    /// Lines for a settings file.
    pub(super) fn lines(&self) -> String {
        let line = |setting: Setting| format!("{} = {}\n", setting.key, setting.value);
        self.given().into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("2h"), Ok(7200));
        for bad in ["0s", "90", "s", "1.5h", "-1s", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_not_given_is_not_written() {
        let tuning =
            Tuning { quotas: Some(Switch::Off), on_demand_window: Some(60), ..Tuning::default() };
        assert_eq!(tuning.lines(), "quotas = false\non_demand_window_seconds = 60\n");
        assert_eq!(Tuning::default().lines(), "");
    }
}
