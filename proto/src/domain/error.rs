//! The two questions that every error of Tristream answers.

/// May the caller send the same request again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request would fail again.
    Never,
    /// Try again, after a backoff.
    Later,
    /// Try again at once, elsewhere: the error names a better place or the shard map changed.
    Elsewhere,
}

/// Did the request happen?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It certainly did not, and never will.
    None,
    /// It may have happened, or may still happen.
    Unknown,
}
