//! When to try again and how long to wait before it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::header::{DATE, HeaderMap, RETRY_AFTER};
use hyper::{Method, StatusCode};

/// How often and how patiently failures that may pass are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// How often a request is sent before its failure is final.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with every further one.
    pub first: Duration,
    /// The longest wait, also when the registry asks for more.
    pub longest: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_millis(250), longest: Duration::from_secs(30) }
    }
}

impl Retries {
    /// Returns the wait after `failures` failures, without jitter.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

/// Spreads waits, so that many clients that failed together do not come back together.
///
/// A counter feeds it, not a clock: the same sequence of failures waits the same in every run.
#[derive(Debug, Default)]
pub(crate) struct Jitter(AtomicU64);

impl Jitter {
    /// Returns between half of `delay` and all of it.
    pub(crate) fn spread(&self, delay: Duration) -> Duration {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        // The mixing function of SplitMix64: neighbours come out unrelated.
        let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let permille = 500 + u32::try_from((x >> 33) % 501).unwrap_or(0);
        delay / 1000 * permille
    }
}

/// Tells whether an answer with this status may be another one next time.
pub(crate) fn may_pass(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        408 | 425 | 429 | 500 | 502 | 503 | 504 => true,
        // A registry that does not know HEAD says so the same way every time.
        501 | 505 => false,
        status => status >= 500 && *method != Method::HEAD,
    }
}

/// Returns how long the registry asks to wait, relative to its own clock.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    // The answer carries the server's clock, so a wrong clock here does not matter.
    let now = http_date(headers.get(DATE)?.to_str().ok()?)?;
    Some(Duration::from_secs(http_date(text)?.saturating_sub(now)))
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970.
pub(crate) fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month_word = words.next()?;
    let month = u64::try_from(MONTHS.iter().position(|m| *m == month_word)?).ok()? + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|n| n.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let date = (1970..=9999).contains(&year) && (1..=31).contains(&day);
    if words.next() != Some("GMT") || !date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days of the civil calendar, with the year beginning in March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    const DAYS_TO_1970: u64 = 719_468;
    Some((days - DAYS_TO_1970) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let retries =
            Retries { attempts: 9, first: Duration::from_millis(100), longest: Duration::from_secs(1) };
        let waits: Vec<u128> = (1..=6).map(|n| retries.delay(n).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        let jitter = Jitter::default();
        for _ in 0..100 {
            let spread = jitter.spread(Duration::from_secs(1));
            assert!((Duration::from_millis(500)..=Duration::from_secs(1)).contains(&spread));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let check = |value: &str, expect: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            assert_eq!(retry_after(&headers), expect.map(Duration::from_secs), "{value}");
        };
        check("7", Some(7));
        check("Sun, 06 Nov 1994 08:50:00 GMT", Some(23));
        check("Sun, 06 Nov 1994 08:00:00 GMT", Some(0));
        check("soon", None);
        assert_eq!(http_date("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
    }
}
