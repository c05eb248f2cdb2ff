//! Failures on request, to test clients with: what real registries and networks do at bad times.

use std::time::Duration;

/// What the registry does wrong from now on. Counts go down as they are used up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Cut the connection after as many bytes of a blob, once.
    pub drop_blob_after: Option<u64>,
    /// Cut the connection after as many bytes of an upload's body, once.
    pub drop_upload_after: Option<u64>,
    /// Answer as many requests with 429 and a `Retry-After` of zero seconds.
    pub too_many_requests: u32,
    /// Answer as many requests with 500.
    pub server_errors: u32,
    /// Close an upload properly, then cut the connection before the answer, once.
    pub lose_answer: bool,
    /// Give blobs with one bit changed.
    pub corrupt_blobs: bool,
    /// Leave the digest out of answers to `HEAD` for manifests.
    pub no_head_digest: bool,
    /// Answer 411 to uploads that do not say their length, and 413 to whole blobs.
    pub refuse_streams: bool,
    /// Ignore `Range` of blobs.
    pub ignore_ranges: bool,
    /// Wait before every answer.
    pub delay: Duration,
    /// Send readers of blobs elsewhere: the path is appended to this URL.
    pub redirect_blobs: Option<String>,
    /// Life time that tokens are said to have and really have.
    pub token_life: Option<Duration>,
    /// Refuse as many tokens that are still good.
    pub expire_tokens: u32,
}

impl Faults {
    /// Uses up one failing status.
    pub(super) fn take_status(&mut self) -> Option<u16> {
        for (count, status) in [(&mut self.too_many_requests, 429), (&mut self.server_errors, 500)] {
            if *count > 0 {
                *count -= 1;
                return Some(status);
            }
        }
        None
    }

    /// Uses up one refused token.
    pub(super) fn take_expiry(&mut self) -> bool {
        let refuse = self.expire_tokens > 0;
        self.expire_tokens = self.expire_tokens.saturating_sub(1);
        refuse
    }
}
