//! What has to happen within a time, or not before one. One after the other, so that no test is
//! late because of another, and less the stalls of the machine that a ticker saw.
#![allow(clippy::unwrap_used)]

mod backends;
mod connecting;
mod deadlines;
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

    /// Does something and says how long it took, less the stalls.
    async fn time<T>(&self, what: impl Future<Output = T>) -> (T, Duration) {
        let start = Instant::now();
        let done = soon(what).await;
        (done, self.ticker.elapsed(start))
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

#[track_caller]
fn assert_within(found: Duration, least: Duration, most: Duration) {
    assert!(
        (least..=most).contains(&found),
        "{found:?}, not {least:?} to {most:?}"
    );
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
