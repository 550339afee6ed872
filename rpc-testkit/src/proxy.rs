//! A network that fails on request: [`FaultProxy`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A TCP proxy between a client and a server. It starts as a perfect network; faults are switched
/// on and off while connections go on. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    faults: Arc<watch::Sender<Faults>>,
    listening: watch::Receiver<bool>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    refuse: bool,
    blackhole: bool,
    delay: Duration,
    slice: Option<usize>,
    reset_after: Option<u64>,
    /// Connections that were opened under another number are ended.
    reset_epoch: u64,
    cut_epoch: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl FaultProxy {
    /// A proxy to a server's address or URI.
    ///
    /// # Panics
    /// When no port can be opened.
    ///
    /// # Cancel safety
    /// Dropping the future opens nothing.
    pub async fn to(server: &str) -> Self {
        let server = server.rsplit("//").next().unwrap_or(server).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let faults = Arc::new(watch::Sender::new(Faults::default()));
        let (announce, listening) = watch::channel(true);
        let counters = Arc::new(Counters::default());
        let proxy = Proxy {
            address,
            server: server.into(),
            faults: faults.subscribe(),
            announce,
            counters: Arc::clone(&counters),
        };
        let task = tokio::spawn(proxy.run(listener));
        Self {
            address,
            faults,
            listening,
            counters,
            task,
        }
    }

    /// What a client connects to.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new connections, or takes them again; returns once that is so.
    ///
    /// # Panics
    /// When the port was taken by another process meanwhile.
    ///
    /// # Cancel safety
    /// The change happens all the same.
    pub async fn refuse(&self, refuse: bool) {
        self.faults.send_modify(|faults| faults.refuse = refuse);
        let mut listening = self.listening.clone();
        listening
            .wait_for(|listening| *listening != refuse)
            .await
            .expect("the port is free again");
    }

    /// Holds every byte back, without telling anyone, or lets them pass again.
    pub fn blackhole(&self, on: bool) {
        self.faults.send_modify(|faults| faults.blackhole = on);
    }

    /// Lets every byte pass so much later.
    pub fn delay(&self, delay: Duration) {
        self.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Writes at most so many bytes at once, so that frames arrive in pieces.
    pub fn slice(&self, bytes: usize) {
        self.faults
            .send_modify(|faults| faults.slice = Some(bytes.max(1)));
    }

    /// Resets a connection once so many bytes of it have gone to the client.
    pub fn reset_after(&self, bytes: Option<u64>) {
        self.faults.send_modify(|faults| faults.reset_after = bytes);
    }

    /// Resets all open connections (RST).
    pub fn reset(&self) {
        self.faults.send_modify(|faults| faults.reset_epoch += 1);
    }

    /// Closes all open connections (FIN).
    pub fn cut(&self) {
        self.faults.send_modify(|faults| faults.cut_epoch += 1);
    }

    /// How many connections were accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::SeqCst)
    }

    /// How many bytes have gone to the server so far.
    #[must_use]
    pub fn to_server(&self) -> u64 {
        self.counters.to_server.load(Ordering::SeqCst)
    }

    /// How many bytes have gone to the client so far.
    #[must_use]
    pub fn to_client(&self) -> u64 {
        self.counters.to_client.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Proxy {
    address: SocketAddr,
    server: Arc<str>,
    faults: watch::Receiver<Faults>,
    announce: watch::Sender<bool>,
    counters: Arc<Counters>,
}

impl Proxy {
    async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        let mut connections = JoinSet::new();
        loop {
            let refuse = self.faults.borrow_and_update().refuse;
            if refuse {
                listener = None;
            } else if listener.is_none() {
                let Ok(bound) = TcpListener::bind(self.address).await else {
                    return;
                };
                listener = Some(bound);
            }
            self.announce.send_replace(listener.is_some());
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.faults.changed() => if changed.is_err() { return },
                accepted = accepted => if let Ok((client, _)) = accepted {
                    self.counters.connections.fetch_add(1, Ordering::SeqCst);
                    let (server, faults, counters) = (Arc::clone(&self.server), self.faults.clone(), Arc::clone(&self.counters));
                    connections.spawn(async move { relay(client, &server, faults, &counters).await });
                    while connections.try_join_next().is_some() {}
                },
            }
        }
    }
}

/// How a connection ends.
enum End {
    Reset,
    Close,
}

async fn relay(
    mut client: TcpStream,
    server: &str,
    faults: watch::Receiver<Faults>,
    counters: &Counters,
) -> io::Result<()> {
    let mut server = match TcpStream::connect(server).await {
        Ok(server) => server,
        Err(error) => {
            client.set_zero_linger()?;
            return Err(error);
        }
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = Pump {
            from: from_client,
            to: to_server,
            faults: faults.clone(),
            counter: &counters.to_server,
            counts_for_reset: false,
        };
        let down = Pump {
            from: from_server,
            to: to_client,
            faults: faults.clone(),
            counter: &counters.to_client,
            counts_for_reset: true,
        };
        let both = async { tokio::join!(up.run(), down.run()) };
        let (up, down) = tokio::select! {
            ends = both => ends,
            end = ended(faults) => (end, End::Close),
        };
        if matches!((&up, &down), (End::Close, End::Close)) {
            End::Close
        } else {
            End::Reset
        }
    };
    if matches!(end, End::Reset) {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

async fn ended(mut faults: watch::Receiver<Faults>) -> End {
    let (reset, cut) = {
        let faults = faults.borrow();
        (faults.reset_epoch, faults.cut_epoch)
    };
    match faults
        .wait_for(|faults| faults.reset_epoch != reset || faults.cut_epoch != cut)
        .await
    {
        Ok(faults) if faults.reset_epoch != reset => End::Reset,
        // The proxy is gone, or the connections were cut.
        _ => End::Close,
    }
}

/// One direction of one connection.
struct Pump<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    faults: watch::Receiver<Faults>,
    counter: &'a AtomicU64,
    counts_for_reset: bool,
}

impl Pump<'_> {
    async fn run(mut self) -> End {
        let mut buffer = vec![0; 64 * 1024];
        let mut passed = 0;
        loop {
            let Ok(length) = self.from.read(&mut buffer).await else {
                return End::Reset;
            };
            let delay = self.faults.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let Ok(faults) = self
                .faults
                .wait_for(|faults| !faults.blackhole)
                .await
                .map(|faults| faults.clone())
            else {
                return End::Close;
            };
            if length == 0 {
                // A half close; the other direction goes on.
                let _ = self.to.shutdown().await;
                return End::Close;
            }
            for piece in buffer[..length].chunks(faults.slice.unwrap_or(length)) {
                if self.to.write_all(piece).await.is_err() {
                    return End::Reset;
                }
                if faults.slice.is_some() {
                    tokio::task::yield_now().await;
                }
                let count = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                self.counter.fetch_add(count, Ordering::SeqCst);
                passed += count;
                if self.counts_for_reset && faults.reset_after.is_some_and(|limit| passed >= limit)
                {
                    return End::Reset;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Message, TestClient};
    use rpc_core::{Channel, Code, Request};

    async fn through() -> (crate::Running, FaultProxy, TestClient) {
        let server = crate::serve().await;
        let proxy = FaultProxy::to(&server.uri).await;
        let client = TestClient::new(Channel::connect(&proxy.uri()).await.unwrap());
        (server, proxy, client)
    }

    #[tokio::test]
    async fn a_perfect_network_that_counts() {
        let (_server, proxy, client) = through().await;
        client
            .echo(Message {
                body: vec![1; 1000],
                ..Message::default()
            })
            .await
            .unwrap();
        assert_eq!(proxy.connections(), 1);
        assert!(proxy.to_server() > 1000 && proxy.to_client() > 1000);
    }

    #[tokio::test]
    async fn bytes_one_by_one() {
        let (_server, proxy, client) = through().await;
        proxy.slice(1);
        let message = Message {
            text: "pieces".into(),
            ..Message::default()
        };
        assert_eq!(
            client.echo(message.clone()).await.unwrap().into_inner(),
            message
        );
    }

    #[tokio::test]
    async fn a_blackhole_ends_by_the_deadline() {
        let (_server, proxy, client) = through().await;
        proxy.blackhole(true);
        let request = Request::new(Message::default()).with_timeout(Duration::from_millis(30));
        assert_eq!(
            client.echo(request).await.unwrap_err().code(),
            Code::DeadlineExceeded
        );
        proxy.blackhole(false);
        client.echo(Message::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_and_a_cut_are_unavailable() {
        for reset in [true, false] {
            let (_server, proxy, client) = through().await;
            let call = tokio::spawn({
                let client = client.clone();
                async move { client.hang(Message::default()).await.unwrap_err() }
            });
            while client
                .dropped(Message::default())
                .await
                .unwrap()
                .get_ref()
                .started
                == 0
            {}
            if reset {
                proxy.reset()
            } else {
                proxy.cut()
            }
            assert_eq!(call.await.unwrap().code(), Code::Unavailable);
        }
    }

    #[tokio::test]
    async fn refusing_ends_when_told() {
        let server = crate::serve().await;
        let proxy = FaultProxy::to(&server.uri).await;
        proxy.refuse(true).await;
        assert!(Channel::connect(&proxy.uri()).await.is_err());
        proxy.refuse(false).await;
        Channel::connect(&proxy.uri()).await.unwrap();
    }
}
