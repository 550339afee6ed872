//! What has to happen within a time, or not before one. One after the other, so that no test is
//! late because of another, and less the stalls of the machine that a ticker saw.
#![allow(clippy::unwrap_used)]

mod backends;
mod connecting;
mod deadlines;
mod dispatch;
mod registry;
mod shutdown;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use rpc_core::Request;
use rpc_testkit::Ticker;
use tokio::sync::{Mutex, MutexGuard};

/// What may pass after the moment that is promised.
const GRACE: Duration = Duration::from_millis(100);

/// What must come at all comes within this.
const LIMIT: Duration = Duration::from_secs(20);

static ALONE: Mutex<()> = Mutex::const_new(());

/// Holds the other tests off, and measures.
struct Clock {
    _alone: MutexGuard<'static, ()>,
    ticker: Ticker,
}

impl Clock {
    async fn alone() -> Self {
        Self {
            _alone: ALONE.lock().await,
            ticker: Ticker::start(),
        }
    }

    /// Does something and says how long it took.
    async fn time<T>(&self, what: impl Future<Output = T>) -> (T, Took) {
        let start = Instant::now();
        let done = soon(what).await;
        (done, self.between(start, Instant::now()))
    }

    fn between(&self, from: Instant, to: Instant) -> Took {
        let all = to.saturating_duration_since(from);
        Took {
            all,
            awake: all.saturating_sub(self.ticker.stalled(from, to.max(from))),
        }
    }
}

/// How long something took by the clock, and less the machine's stalls.
#[derive(Clone, Copy, Debug)]
struct Took {
    all: Duration,
    awake: Duration,
}

impl Took {
    #[track_caller]
    fn at_most(self, most: Duration) {
        assert!(self.awake <= most, "{self:?}, which is more than {most:?}");
    }

    /// A stall makes nothing happen earlier: only the upper bound is less it.
    #[track_caller]
    fn at_least(self, least: Duration) -> Self {
        assert!(self.all >= least, "{self:?}, which is less than {least:?}");
        self
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what)
        .await
        .expect("it takes too long")
}

fn request<T>(message: T, timeout: Duration) -> Request<T> {
    Request::new(message).with_timeout(timeout)
}

/// Asks until the answer is yes.
async fn until(what: impl AsyncFn() -> bool) {
    soon(async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[track_caller]
fn assert_code<T: Debug>(result: Result<T, rpc_core::Status>, code: rpc_core::Code) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
}
