//! Following the attempts to one endpoint: [`CallTracker`].

use std::time::Duration;

use tokio::time::Instant;

use crate::Code;

/// One attempt of a call, as a [`CallTracker`] sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// When it began.
    pub began: Instant,
    /// Whether it has one request and one response, so that its answer is due soon; how soon a
    /// streaming call is answered is up to the service.
    pub is_unary: bool,
    /// Whether it was answered before it ended; streaming calls only.
    pub answered: bool,
}

impl Attempt {
    /// An attempt that begins; for tests of trackers.
    #[must_use]
    pub fn new(began: Instant, is_unary: bool) -> Self {
        Self {
            began,
            is_unary,
            answered: false,
        }
    }
}

/// How an attempt has ended, as far as that says something of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptEnd {
    /// The server has ended it with this code.
    Answered(Code),
    /// The server's library has refused it before the service saw it.
    Refused,
    /// The connection was lost.
    Lost,
    /// The call's deadline has passed.
    Expired,
    /// The caller has given up, or another attempt was faster: nothing is known of the endpoint.
    Abandoned,
    /// It could not be sent: nothing is known of the endpoint.
    Unsent,
}

/// Follows the attempts that a picker sent to one endpoint. It must not block.
pub trait CallTracker: Send + Sync {
    /// An attempt starts.
    fn started(&self, attempt: &Attempt);

    /// A streaming call has its first answer: the head of the response, or a message.
    fn answered(&self, _attempt: &Attempt, _now: Instant) {}

    /// The attempt has ended.
    fn finished(&self, attempt: &Attempt, now: Instant, end: AttemptEnd);

    /// When an attempt that is not answered until then is overdue, so that a call that may be repeated
    /// makes another one beside it, which then shows who is faster. The call can wait for `most`.
    ///
    /// By default never.
    fn overdue_at(&self, _attempt: &Attempt, _now: Instant, _most: Duration) -> Option<Instant> {
        None
    }

    /// The attempt is overdue.
    fn overdue(&self, _attempt: &Attempt, _now: Instant) {}
}
