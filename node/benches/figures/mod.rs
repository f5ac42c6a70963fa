//! One function per figure of the targets.

pub(crate) mod large;
pub(crate) mod speed;

/// How much to do.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// One part in so many of the full work.
    pub(crate) part: u64,
    /// Runs; their median counts.
    pub(crate) runs: usize,
}

/// One measured figure.
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) got: f64,
    pub(crate) reach: f64,
    pub(crate) unit: &'static str,
    /// What lies behind it.
    pub(crate) detail: String,
}

/// One measurement may give several figures.
type Measure = fn(Size) -> Vec<Figure>;

/// What can be measured, by name.
pub(crate) const FIGURES: [(&str, Measure); 6] = [
    ("throughput", speed::throughput),
    ("acks", speed::acks),
    ("groups", speed::groups),
    ("memory", large::memory),
    ("open", large::open),
    ("scan", large::scan),
];

impl Figure {
    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let number = |number: f64| match number {
            small if small < 10.0 => format!("{small:.3}"),
            large => format!("{large:.0}"),
        };
        let (got, reach) = (number(self.got), number(self.reach));
        format!("{:<46} {got:>9} {reach:>9}  {}\n    {}", self.what, self.unit, self.detail)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "what": self.what, "got": self.got, "reach": self.reach, "unit": self.unit,
            "detail": self.detail,
        })
    }
}

/// The middle one.
pub(crate) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// The runs behind a median, in their order.
pub(crate) fn listed(of: &[f64]) -> String {
    of.iter().map(|one| format!("{one:.2}")).collect::<Vec<_>>().join(" ")
}
