//! Words about transfers, shared by the views for people.

use std::time::Duration;

use crate::text::{printable, rate, seconds, size};

/// A transfer that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer {
    /// When it was first heard of.
    pub(super) started: Duration,
    /// What had arrived by then, from an earlier attempt.
    pub(super) resumed_at: u64,
    /// When a line was last printed about it.
    pub(super) printed: Duration,
}

impl Transfer {
    /// Returns a transfer that starts now.
    pub(super) fn new(now: Duration, bytes: u64) -> Self {
        Self { started: now, resumed_at: bytes, printed: now }
    }

    fn rate(&self, bytes: u64, now: Duration) -> String {
        let rate = rate(bytes.saturating_sub(self.resumed_at), now.saturating_sub(self.started));
        rate.map(|rate| format!(", {rate}")).unwrap_or_default()
    }

    /// Says how far it is.
    pub(super) fn state(&self, name: &str, bytes: u64, total: Option<u64>, now: Duration) -> String {
        let of = total.map(|total| format!(" of {}", size(total))).unwrap_or_default();
        format!("{}: {}{of}{}", printable(name), size(bytes), self.rate(bytes, now))
    }

    /// Says that it is done.
    pub(super) fn end(&self, name: &str, bytes: u64, now: Duration) -> String {
        let took = seconds(now.saturating_sub(self.started));
        format!("{}: {} in {took}{}", printable(name), size(bytes), self.rate(bytes, now))
    }
}

/// Says that a transfer starts.
pub(super) fn start(name: &str, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{}: {} to go", printable(name), size(total)),
        None => format!("{}: started", printable(name)),
    }
}

/// Says what was over before anything could be said about it.
pub(super) fn at_once(name: &str, bytes: u64) -> String {
    format!("{}: {}", printable(name), size(bytes))
}
