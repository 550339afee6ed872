//! Being told of every finished call: [`CallObserver`].

use std::time::Duration;

use crate::{Code, Status};

/// What is known of a call that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FinishedCall<'a> {
    /// The path of the method.
    pub path: &'a str,
    /// How it ended.
    pub code: Code,
    /// Why it failed.
    pub status: Option<&'a Status>,
    /// From start to end, over all attempts.
    pub latency: Duration,
    /// The endpoint of the last attempt on a client, the peer's address on a server.
    pub endpoint: Option<&'a str>,
    /// How many attempts were made; 1 on a server.
    pub attempts: u32,
}

impl<'a> FinishedCall<'a> {
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
