//! Being told of every finished call: [`CallObserver`].

use std::time::Duration;

use crate::{Code, Status};

/// What is known of a call that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FinishedCall<'a> {
    /// The path of the method, or [`OTHER`](Self::OTHER) for one that the program does not know: a
    /// label of a metric must not be made up by a peer (gRFC A66).
    ///
    /// A server knows the methods of its services, and not what its fallback takes; a client knows
    /// methods whose path is a constant.
    pub path: &'a str,
    /// How it ended.
    pub code: Code,
    /// Why it failed.
    pub status: Option<&'a Status>,
    /// From start to end, over all attempts.
    pub latency: Duration,
    /// The endpoint of the last attempt on a client; on a server the peer's address and port, which
    /// are too many for a label.
    pub endpoint: Option<&'a str>,
    /// How many attempts were made; 1 on a server.
    pub attempts: u32,
}

impl<'a> FinishedCall<'a> {
    /// Stands for all methods that the program does not know.
    pub const OTHER: &'static str = "other";

    pub(crate) fn new(
        path: &'a str,
        status: Option<&'a Status>,
        latency: Duration,
        endpoint: Option<&'a str>,
        attempts: u32,
    ) -> Self {
        let code = status.map_or(Code::Ok, Status::code);
        Self {
            path,
            code,
            status,
            latency,
            endpoint,
            attempts,
        }
    }
}

/// Is told of every call that has ended, on a client or a server.
///
/// Runs in the call's own task: it must be quick and must not block.
pub trait CallObserver: Send + Sync + 'static {
    /// A call has ended.
    fn call_finished(&self, call: &FinishedCall<'_>);
}

impl<F: Fn(&FinishedCall<'_>) + Send + Sync + 'static> CallObserver for F {
    fn call_finished(&self, call: &FinishedCall<'_>) {
        self(call);
    }
}
