//! A client that has nothing to do with an attack.

use std::time::{Duration, Instant};

use rpc_core::Request;
use rpc_testkit::proto::{Message, TestClient};
use tokio::sync::oneshot;

use crate::Outcome;
use crate::victim::Victim;

/// The time between two calls.
const PACE: Duration = Duration::from_millis(5);
/// How slow one call in a hundred may be, whatever it was before.
const SLOW: Duration = Duration::from_millis(50);

/// What it has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) calls: u32,
    pub(crate) failed: u32,
    /// The most handlers that ran at once.
    pub(crate) live: u64,
    pub(crate) p99: Duration,
    /// The same before the attack.
    quiet: Duration,
}

impl Seen {
    /// Whether the attack was nothing to it.
    pub(crate) fn is_undisturbed(&self) -> bool {
        self.failed == 0 && self.calls > 0 && self.p99 <= SLOW.max(self.quiet * 5)
    }
}

/// Makes 200 calls a second until it is stopped, on a thread of its own: what the attackers make each
/// other wait for is not its business.
pub(crate) struct Bystander {
    seen: oneshot::Receiver<Seen>,
    stop: oneshot::Sender<()>,
}

impl Bystander {
    pub(crate) async fn start(victim: &Victim) -> Outcome<Self> {
        let client = victim.client();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let (ready, begun) = oneshot::channel();
        let (done, seen) = oneshot::channel();
        std::thread::spawn(move || {
            // Whoever waits for it sees that there is nothing.
            let _ = runtime.block_on(async {
                let test = TestClient::new(client.channel().await.ok()?);
                let mut quiet = Vec::new();
                for _ in 0..50 {
                    quiet.push(call(&test).await?);
                }
                ready.send(()).ok()?;
                done.send(watch(&test, p99(quiet), stopped).await).ok()
            });
        });
        begun.await.map_err(|_| "a quiet server does not answer")?;
        Ok(Self { seen, stop })
    }

    /// What it has seen.
    pub(crate) async fn stop(self) -> Outcome<Seen> {
        // It cannot have ended by itself.
        let _ = self.stop.send(());
        Ok(self.seen.await?)
    }
}

async fn watch(test: &TestClient, quiet: Duration, mut stopped: oneshot::Receiver<()>) -> Seen {
    let (mut times, mut calls, mut failed, mut live) = (Vec::new(), 0, 0, 0);
    let mut interval = tokio::time::interval(PACE);
    while stopped.try_recv().is_err() {
        interval.tick().await;
        calls += 1;
        match call(test).await {
            Some(time) => times.push(time),
            None => failed += 1,
        }
        if calls % 10 == 0
            && let Ok(counts) = test.dropped(Message::default()).await
        {
            let counts = counts.get_ref();
            live = live.max(counts.started.abs_diff(counts.dropped));
        }
    }
    Seen {
        calls,
        failed,
        live,
        p99: p99(times),
        quiet,
    }
}

/// How long a call takes; nothing when it fails.
async fn call(test: &TestClient) -> Option<Duration> {
    let start = Instant::now();
    let message = Message {
        body: vec![7; 100],
        ..Message::default()
    };
    let request = Request::new(message).with_timeout(Duration::from_secs(1));
    test.echo(request.without_retry()).await.ok()?;
    Some(start.elapsed())
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let place = (times.len() * 99).div_ceil(100).saturating_sub(1);
    times.get(place).copied().unwrap_or_default()
}
