//! When endpoints are asked for and connected to again; in paused time.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::client::{Address, Endpoint, Resolver};
use rpc_core::{BoxFuture, Channel, Code, Connector, Io, Request, Status};
use rpc_testkit::proto::{Message, TestClient};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Refuses every connection, and counts them.
#[derive(Clone, Default)]
struct Refusing(Arc<AtomicUsize>);

impl Refusing {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Connector for Refusing {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Err(
            io::ErrorKind::ConnectionRefused.into()
        )))
    }
}

/// A resolver that answers at once, whatever it is asked; the last answer again and again.
struct AtOnce {
    answers: VecDeque<Result<Vec<Endpoint>, Status>>,
    asked: Arc<AtomicUsize>,
}

impl Resolver for AtOnce {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Endpoint>, Status>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.pop_front().unwrap();
        if self.answers.is_empty() {
            self.answers.push_back(answer.clone());
        }
        Box::pin(std::future::ready(answer))
    }
}

fn endpoint() -> Endpoint {
    Endpoint::new("127.0.0.1:1".parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_answers_at_once_is_asked_seldom() {
    for answer in [
        Err(Status::unavailable("no name server")),
        Ok(vec![endpoint()]),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = AtOnce {
            answers: [answer].into(),
            asked: Arc::clone(&asked),
        };
        let channel = Channel::builder()
            .connector(Refusing::default())
            .resolver(Box::new(resolver), "name")
            .unwrap();
        let status = TestClient::new(channel.clone())
            .echo(Message::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let count = asked.load(Ordering::SeqCst);
        assert!((5..=20).contains(&count), "{count}");
    }
}

/// A resolver of the lists that it is sent.
struct Sent(mpsc::UnboundedReceiver<Vec<Endpoint>>);

impl Resolver for Sent {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Endpoint>, Status>> {
        Box::pin(async {
            match self.0.recv().await {
                Some(list) => Ok(list),
                None => std::future::pending().await,
            }
        })
    }
}

/// A channel to an endpoint that refuses, after an outage of ten minutes.
async fn after_an_outage(
    change: impl FnOnce(rpc_core::client::ChannelBuilder) -> rpc_core::client::ChannelBuilder,
) -> (Channel, Refusing, mpsc::UnboundedSender<Vec<Endpoint>>) {
    let refusing = Refusing::default();
    let (send, lists) = mpsc::unbounded_channel();
    send.send(vec![endpoint()]).unwrap();
    let builder = change(Channel::builder().connector(refusing.clone()));
    let channel = builder.resolver(Box::new(Sent(lists)), "name").unwrap();
    let failed = TestClient::new(channel.clone())
        .echo(Message::default())
        .await;
    assert_eq!(failed.unwrap_err().code(), Code::Unavailable);
    tokio::time::sleep(Duration::from_secs(600)).await;
    (channel, refusing, send)
}

/// How many attempts there are in this time.
async fn attempts(refusing: &Refusing, time: Duration) -> usize {
    let before = refusing.count();
    tokio::time::sleep(time).await;
    refusing.count() - before
}

#[tokio::test(start_paused = true)]
async fn connecting_backs_off_as_the_specification_says() {
    let (_channel, refusing, _send) = after_an_outage(|builder| builder).await;
    // 1 s, times 1.6 each, up to 120 s.
    let count = refusing.count();
    assert!((10..=16).contains(&count), "{count}");
    let count = attempts(&refusing, Duration::from_secs(1200)).await;
    assert!((8..=12).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn floor_and_ceiling_of_the_backoff_can_be_set() {
    let (floor, ceiling) = (Duration::from_millis(100), Duration::from_secs(2));
    let (_channel, refusing, _send) =
        after_an_outage(|builder| builder.connect_backoff(floor, ceiling)).await;
    let count = attempts(&refusing, Duration::from_secs(100)).await;
    assert!((45..=60).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn the_backoff_ends_when_the_program_says_so() {
    let (channel, refusing, _send) = after_an_outage(|builder| builder).await;
    let before = refusing.count();
    channel.reset_connect_backoff();
    let count = attempts(&refusing, Duration::from_secs(3)).await;
    assert!((2..=4).contains(&count), "{before} {count}");
}

#[tokio::test(start_paused = true)]
async fn the_backoff_ends_with_news_of_the_endpoint() {
    let (_channel, refusing, send) = after_an_outage(|builder| builder).await;
    // The same list is none, and another endpoint is news of that alone.
    send.send(vec![endpoint()]).unwrap();
    assert_eq!(attempts(&refusing, Duration::from_millis(100)).await, 0);
    let mut restarted = endpoint();
    restarted.instance = 7;
    send.send(vec![restarted]).unwrap();
    let count = attempts(&refusing, Duration::from_secs(3)).await;
    assert!((2..=4).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn calls_during_the_backoff_fail_at_once_or_wait_as_they_say() {
    let (channel, _refusing, _send) = after_an_outage(|builder| builder).await;
    let test = TestClient::new(channel);
    let started = Instant::now();
    let status = test.echo(Message::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(started.elapsed(), Duration::ZERO);
    let request = Request::new(Message::default())
        .with_wait_for_ready()
        .with_timeout(Duration::from_secs(2));
    let status = test.echo(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

/// Counts the connections to a server in this process, and cuts them.
#[derive(Clone)]
struct Counting {
    inner: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
    uri: String,
    count: Arc<AtomicUsize>,
}

impl Connector for Counting {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        self.count.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            let address = self.uri.trim_start_matches("http://");
            let mut to = tokio::net::TcpStream::connect(address).await?;
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            let copying = tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut theirs, &mut to).await;
            });
            self.inner.lock().unwrap().push(copying);
            Ok(Box::new(ours) as Box<dyn Io>)
        })
    }
}

#[tokio::test]
async fn pick_first_connects_again_only_for_a_call() {
    let server = rpc_testkit::serve().await;
    let counting = Counting {
        inner: Arc::default(),
        uri: server.uri.clone(),
        count: Arc::default(),
    };
    let channel = Channel::builder().connector(counting.clone());
    let test = TestClient::new(channel.lazy("http://127.0.0.1:1").unwrap());
    for calls in 1..=3 {
        test.echo(Message::default()).await.unwrap();
        assert_eq!(counting.count.load(Ordering::SeqCst), calls);
        let cut = std::mem::take(&mut *counting.inner.lock().unwrap());
        for copying in cut {
            copying.abort();
            let _ = copying.await;
        }
        // The client sees the end of the connection, and would be back by now.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(counting.count.load(Ordering::SeqCst), calls);
    }
}
