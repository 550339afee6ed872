//! A client and a server, each as they are, on a network that delays, cuts, stands still inside
//! frames and loses connections, stepped by a seed and in simulated time.
//!
//! `SEED=7 cargo test -p rpc-core --test it -- simulation` plays one seed again.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use rpc_core::client::{Address, FinishedCall};
use rpc_core::{BoxFuture, Channel, Code, Connector, Io, Request, Server, Status, inside};
use rpc_testkit::TestService;
use rpc_testkit::proto::{Message, StreamRequest, TestClient, TestServer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many seeds there are.
const SEEDS: u64 = 1000;
/// So late a call may end after its deadline.
const LATE: Duration = Duration::from_millis(100);
/// What is answered at all is answered within this on a network without faults.
const AMPLE: Duration = Duration::from_secs(20);

/// What happens to the octets of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Nothing comes through behind so many octets.
    Stall(usize),
    /// The connection is lost behind so many octets.
    Cut(usize),
}

impl Fault {
    fn random(rng: &mut Rng) -> Self {
        // Most frames are at the beginning, where the heads of calls are.
        let most = [200, 2_000, 100_000][rng.usize(..3)];
        match rng.u8(..4) {
            0 => Self::Stall(rng.usize(..most)),
            1 => Self::Cut(rng.usize(..most)),
            _ => Self::None,
        }
    }
}

/// Carries octets one way, in pieces and with delays; an error is the end of the connection.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    fault: Fault,
    mut rng: Rng,
) -> io::Result<()> {
    let lost = || io::Error::from(io::ErrorKind::ConnectionReset);
    let mut carried = 0;
    let mut piece = vec![0; 16 * 1024];
    loop {
        let most = if rng.u8(..4) == 0 { 40 } else { piece.len() };
        let count = from.read(&mut piece[..most]).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let through = match fault {
            Fault::None => count,
            Fault::Stall(at) | Fault::Cut(at) => count.min(at.saturating_sub(carried)),
        };
        if rng.bool() {
            tokio::time::sleep(Duration::from_millis(rng.u64(1..5))).await;
        }
        to.write_all(&piece[..through]).await?;
        carried += count;
        if through < count && matches!(fault, Fault::Cut(_)) {
            return Err(lost());
        }
    }
}

/// Connects to a server of its own each time, over a network with faults.
struct Network {
    rng: Mutex<Rng>,
    faulty: bool,
    served: Arc<Mutex<JoinSet<()>>>,
    carried: Arc<Mutex<JoinSet<()>>>,
    seen: Arc<AtomicU64>,
}

impl Connector for Network {
    fn connect<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        let mut rng = self.rng.lock().unwrap();
        let faults = match self.faulty {
            true => [Fault::random(&mut rng), Fault::random(&mut rng)],
            false => [Fault::None; 2],
        };
        // Lost at some moment, whatever is under way.
        let life = match self.faulty && rng.u8(..3) == 0 {
            true => Duration::from_millis(rng.u64(..3_000)),
            false => Duration::MAX,
        };
        let (there, back) = (rng.fork(), rng.fork());
        drop(rng);
        let (ours, client) = tokio::io::duplex(64 * 1024);
        let (server, theirs) = tokio::io::duplex(64 * 1024);
        let seen = Arc::clone(&self.seen);
        let builder = Server::builder()
            .add_service(TestServer::new(TestService::default()))
            .observer(move |_: &FinishedCall<'_>| {
                seen.fetch_add(1, Ordering::Relaxed);
            });
        self.served
            .lock()
            .unwrap()
            .spawn(inside::serve(builder, theirs).1);
        self.carried.lock().unwrap().spawn(async move {
            let (client_read, client_write) = tokio::io::split(client);
            let (server_read, server_write) = tokio::io::split(server);
            let both = async {
                tokio::try_join!(
                    carry(client_read, server_write, faults[0], there),
                    carry(server_read, client_write, faults[1], back),
                )
            };
            let _ = tokio::time::timeout(life, both).await;
        });
        Box::pin(std::future::ready(Ok(Box::new(ours) as Box<dyn Io>)))
    }
}

/// What a caller does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Echo,
    EchoIdempotent,
    /// The server does not answer.
    Hang,
    ServerStream,
    ClientStream,
    Chat,
    /// Messages go to and fro until the deadline.
    Busy,
    /// The responses are not read.
    Unread,
    /// The caller gives up.
    Dropped,
}

impl Kind {
    /// Whether it ends well without faults.
    fn is_answered(self) -> bool {
        !matches!(self, Self::Hang | Self::Busy | Self::Unread | Self::Dropped)
    }
}

const KINDS: [Kind; 9] = [
    Kind::Echo,
    Kind::EchoIdempotent,
    Kind::Hang,
    Kind::ServerStream,
    Kind::ClientStream,
    Kind::Chat,
    Kind::Busy,
    Kind::Unread,
    Kind::Dropped,
];

async fn make(
    test: &TestClient,
    kind: Kind,
    timeout: Duration,
    rng: &mut Rng,
) -> Result<(), Status> {
    let size = [10, 1_000, 30_000][rng.usize(..3)];
    let message = Message {
        body: vec![7; size],
        ..Message::default()
    };
    let request = Request::new(message.clone()).with_timeout(timeout);
    let open = Request::new(()).with_timeout(timeout);
    let stream = |count| {
        let request = StreamRequest {
            count,
            size: size as i64,
            ..StreamRequest::default()
        };
        Request::new(request).with_timeout(timeout)
    };
    match kind {
        Kind::Echo => test.echo(request).await.map(drop),
        Kind::EchoIdempotent => test.echo_idempotent(request).await.map(drop),
        Kind::Hang => test.hang(request).await.map(drop),
        Kind::ServerStream => {
            let mut responses = test.server_stream(stream(10));
            while responses.recv().await?.is_some() {}
            Ok(())
        }
        Kind::ClientStream => {
            let mut requests = test.client_stream(open);
            for _ in 0..5 {
                requests.send(message.clone()).await?;
            }
            requests.finish().await.map(drop)
        }
        Kind::Chat | Kind::Busy => {
            let (mut requests, mut responses) = test.chat(open);
            let mut left = 5;
            while left > 0 {
                let sent = requests.send(message.clone()).await;
                // How it ended is what the responses say.
                if responses.recv().await?.is_none() {
                    return sent;
                }
                left -= i32::from(matches!(kind, Kind::Chat));
            }
            requests.finish().await?;
            while responses.recv().await?.is_some() {}
            Ok(())
        }
        Kind::Unread => {
            let mut responses = test.server_stream(stream(1_000));
            responses.headers().await?;
            tokio::time::sleep(timeout * 3 / 4).await;
            while responses.recv().await?.is_some() {}
            Ok(())
        }
        Kind::Dropped => {
            let call = test.hang(request);
            let _ = tokio::time::timeout(timeout / 2, call).await;
            Ok(())
        }
    }
}

/// How many calls ended with each code, over all seeds.
type Codes = Mutex<HashMap<Code, u64>>;

async fn play(seed: u64, codes: &Codes) {
    let mut rng = Rng::with_seed(seed);
    let faulty = rng.u8(..4) != 0;
    let (served, carried) = (Arc::default(), Arc::default());
    let at_server = Arc::new(AtomicU64::new(0));
    let at_client = Arc::new(AtomicU64::new(0));
    let network = Network {
        rng: Mutex::new(rng.fork()),
        faulty,
        served: Arc::clone(&served),
        carried: Arc::clone(&carried),
        seen: Arc::clone(&at_server),
    };
    let seen = Arc::clone(&at_client);
    let channel = Channel::builder()
        .connector(network)
        .random_seed(seed)
        .observer(move |_: &FinishedCall<'_>| {
            seen.fetch_add(1, Ordering::Relaxed);
        })
        .lazy("http://test:1")
        .unwrap();
    let test = TestClient::new(channel);
    let mut calls = JoinSet::new();
    let count = rng.u64(4..16);
    for number in 0..count {
        let (test, mut rng) = (test.clone(), rng.fork());
        calls.spawn(async move {
            tokio::time::sleep(Duration::from_millis(rng.u64(..1_000))).await;
            let kind = KINDS[rng.usize(..KINDS.len())];
            let timeout = match kind {
                Kind::Busy => Duration::from_millis(rng.u64(10..300)),
                _ if kind.is_answered() && rng.bool() => AMPLE,
                _ => Duration::from_millis(rng.u64(10..5_000)),
            };
            let start = Instant::now();
            let outcome = tokio::time::timeout(timeout * 10, make(&test, kind, timeout, &mut rng));
            let outcome = outcome.await;
            let elapsed = start.elapsed();
            let what = format!("call {number}, {kind:?} within {timeout:?}");
            let Ok(outcome) = outcome else {
                panic!("{what} does not end");
            };
            assert!(
                elapsed <= timeout + LATE,
                "{what} ended after {elapsed:?}: {outcome:?}"
            );
            if !faulty && kind.is_answered() && timeout == AMPLE {
                assert!(outcome.is_ok(), "{what}: {outcome:?}");
            }
            outcome.map_or_else(|status| status.code(), |()| Code::Ok)
        });
    }
    while let Some(ended) = calls.join_next().await {
        match ended {
            Ok(code) => *codes.lock().unwrap().entry(code).or_default() += 1,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    assert_eq!(at_client.load(Ordering::Relaxed), count);
    drop(test);
    // Whatever still stands still is lost now.
    let ended = std::mem::take(&mut *carried.lock().unwrap());
    drop(ended);
    let mut serving = std::mem::take(&mut *served.lock().unwrap());
    let all = async { while serving.join_next().await.is_some() {} };
    let within = tokio::time::timeout(Duration::from_secs(30), all).await;
    assert!(within.is_ok(), "a connection of the server does not end");
    // Those who wait to connect again hear that the channel is gone.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        Arc::strong_count(&at_server),
        1,
        "something of a server is left"
    );
    assert_eq!(
        Arc::strong_count(&at_client),
        1,
        "something of the client is left"
    );
}

fn run(seed: u64, codes: &Codes) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(play(seed, codes));
}

#[test]
fn every_call_ends_in_time_and_nothing_is_left_of_its_connection() {
    if let Some(seed) = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        run(seed, &Codes::default());
        return;
    }
    let (next, codes) = (AtomicU64::new(0), Codes::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let outcome = std::panic::catch_unwind(|| run(seed, &codes));
                    assert!(outcome.is_ok(), "SEED={seed} plays it again");
                }
            });
        }
    });
    // The faults are felt, and not by all.
    let codes = codes.into_inner().unwrap();
    for code in [Code::Ok, Code::DeadlineExceeded, Code::Unavailable] {
        assert!(
            codes.get(&code).is_some_and(|count| *count > SEEDS / 2),
            "{codes:?}"
        );
    }
}
