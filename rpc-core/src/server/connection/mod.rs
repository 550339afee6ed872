//! One connection of a server: calls come in through the engine, handlers run, answers go out.

mod after;
mod batch;
mod calls;
mod driver;
mod first;
mod halves;
mod heads;
mod linger;
mod patience;
mod report;
mod response_heads;
mod run;
mod task;
mod unary;

use std::sync::{Arc, Weak};

use rpc_http2::{Config, Connection as Machine, Output, Role};
use tokio::time::Instant;

use super::builder::Options;
use super::load::{Account, Load};
use super::places::{IdleSince, Seat};
use super::router::Router;
use super::shutdown::ShutdownHandle;
use crate::compat::RouterService;
use crate::lock::{Guard, Lock, Turn};
use crate::request::{Peer, PeerAddr};
use crate::transport::connector::Io;
use crate::transport::http2::socket::{self, Wire};
use crate::transport::sniff;
use calls::State;
use driver::{Driver, Last};
use first::{Begun, First};
use linger::linger;

pub(super) use halves::{Requests, Responses};

/// What all connections of a server share.
#[derive(Clone)]
pub(crate) struct Served(Arc<Inner>);

struct Inner {
    router: Router,
    options: Options,
    load: Arc<Load>,
}

impl Served {
    pub(crate) fn new(router: Router, options: Options) -> Self {
        let load = Load::new(&options);
        Self::with_load(router, options, load)
    }

    pub(crate) fn with_load(router: Router, options: Options, load: Arc<Load>) -> Self {
        Self(Arc::new(Inner {
            router,
            options,
            load,
        }))
    }

    /// Serves a connection until it closes, or until the calls that were open at the shutdown are done.
    pub(crate) async fn serve(self, io: Box<dyn Io>, peer: PeerAddr, shutdown: ShutdownHandle) {
        self.serve_at(Seat::free(), io, peer, shutdown).await;
    }

    /// As [`serve`](Self::serve), for as long as nobody else needs the place.
    pub(super) async fn serve_at(
        self,
        seat: Arc<Seat>,
        mut io: Box<dyn Io>,
        peer: PeerAddr,
        shutdown: ShutdownHandle,
    ) {
        // What comes after the first bytes has what is left of this time, not as much again.
        let accepted = Instant::now();
        let time = self.0.options.limits.handshake_time;
        let first = tokio::select! {
            biased;
            first = tokio::time::timeout(time, first::read(&mut io)) => first,
            () = shutdown.requested_and_late() => {
                tracing::debug!(%peer, "a connection said nothing until the server ended");
                // Whatever of a call comes now has not been looked at.
                return Box::pin(linger::turn_away(io)).await;
            }
            () = seat.left() => {
                tracing::debug!(%peer, "another client needs the place of a connection that says nothing");
                return;
            }
        };
        match first {
            Ok(Ok(First::Http2(bytes))) => {
                self.serve_http2(seat, io, bytes, peer, shutdown, accepted)
                    .await;
            }
            Ok(Ok(First::Http1(bytes))) => {
                // A next request that does not come in time ends it either way.
                seat.ask(Weak::<Shared>::new());
                let Inner {
                    router,
                    options,
                    load,
                } = &*self.0;
                let service =
                    RouterService::of_server(router.clone(), options, load, peer, &shutdown);
                service.serve_http1(Begun::new(bytes, io), shutdown).await;
            }
            Ok(Ok(First::Other(bytes))) => {
                let why = sniff::client_unknown(&bytes);
                tracing::debug!(%peer, why, "a connection was closed");
                // What it speaks it may not understand; the end it will.
                self.close(io).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection ended"),
            Err(_) => tracing::debug!(%peer, "a connection did not say in time what it speaks"),
        }
    }

    /// Closes a stream so that the client hears what was said to it last.
    pub(crate) async fn close(&self, io: Box<dyn Io>) {
        // In a box: few connections end this way, and each would have the room for it.
        Box::pin(linger(io, &self.0.load)).await;
    }

    async fn serve_http2(
        self,
        seat: Arc<Seat>,
        io: Box<dyn Io>,
        first: Vec<u8>,
        peer: PeerAddr,
        shutdown: ShutdownHandle,
        accepted: Instant,
    ) {
        let config = Config {
            max_streams: self.0.options.max_concurrent_streams,
            limits: self.0.options.limits,
            keepalive: self
                .0
                .options
                .keepalive
                .map(|keepalive| keepalive.of_engine(0)),
            max_idle: self.0.options.max_idle,
            // Connections that were made together do not end together (gRFC A9).
            max_age: self
                .0
                .options
                .max_age
                .map(|age| age.mul_f64(0.9 + 0.2 * fastrand::f64())),
            max_age_grace: self.0.options.max_age_grace,
            ..Config::default()
        }
        .with_max_header_list(self.0.options.max_header_list);
        let now = Instant::now().into_std();
        let machine = Machine::new(Role::Server, config, accepted.into_std());
        let shared = Arc::new(Shared {
            state: Lock::new(State::new(machine, Account::new(&self.0.load), now)),
            wire: Turn::new(Wire::new(io, first)),
            served: self.0,
            peer: Arc::new(Peer {
                address: peer,
                end: Some(shutdown.clone()),
            }),
        });
        let served = Arc::clone(&shared.served);
        seat.ask(Arc::downgrade(&shared) as Weak<dyn IdleSince>);
        let mut driver = Driver::new(shared);
        let mut requested = Some(Box::pin(async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = seat.left() => {}
            }
        }));
        let last = std::future::poll_fn(move |cx| {
            if let Some(waiting) = &mut requested
                && waiting.as_mut().poll(cx).is_ready()
            {
                requested = None;
                driver.shut_down();
            }
            driver.poll(cx)
        })
        .await;
        if let Last::Said(io) = last {
            Box::pin(linger(io, &served.load)).await;
        }
    }
}

/// What the driver and the handlers of a connection share.
struct Shared {
    state: Lock<State>,
    /// Taken before the lock of the state where both are.
    wire: Turn<Wire>,
    served: Arc<Inner>,
    /// Shared with the requests.
    peer: Arc<Peer>,
}

impl IdleSince for Shared {
    fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        let is_idle = state.machine.stream_count() == 0;
        is_idle.then(|| Instant::from_std(state.machine.last_heard()))
    }
}

impl Shared {
    fn lock(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// The connection is over, however that came: all handlers hear of it. Gives what is still to be
    /// said to the client, and whether that is why the connection had to end.
    fn lose(&self) -> (Output, bool) {
        let mut last = Output::default();
        let mut state = self.lock();
        let now = Instant::now().into_std();
        state.machine.take_output(&mut last, now);
        let has_failed = state.machine.error().is_some();
        state.on_lost();
        (last, has_failed)
    }

    /// Writes without the driver, or wakes it.
    fn write_now(&self) {
        let written = socket::write_now(&self.wire, |output| {
            let now = Instant::now().into_std();
            self.lock().machine.take_output(output, now);
        });
        let mut state = self.lock();
        let next = state.machine.next_timeout();
        let early = next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed));
        // The driver goes on with it, hears of the error, or sees to it that what is stuck is looked
        // at in time.
        if !written || state.machine.has_output() || early {
            state.call_driver();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::JoinHandle;

    use super::*;

    fn serve() -> (DuplexStream, JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let served = Served::new(Router::new(), Options::default());
        let serving = served.serve(Box::new(ours), PeerAddr::InProcess, ShutdownHandle::new());
        (theirs, tokio::spawn(serving))
    }

    /// Sends each piece after a time, and says when the connection ended and what was said before.
    async fn ended_after(pieces: &[(u64, &[u8])]) -> (Duration, Vec<u8>) {
        let start = Instant::now();
        let (mut client, server) = serve();
        for (at, piece) in pieces {
            tokio::time::sleep_until(start + Duration::from_secs(*at)).await;
            client.write_all(piece).await.unwrap();
        }
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        let elapsed = start.elapsed();
        drop(client);
        server.await.unwrap();
        (elapsed, said)
    }

    #[tokio::test(start_paused = true)]
    async fn preface_and_settings_share_ten_seconds() {
        let preface = &rpc_http2::frame::PREFACE[..];
        for pieces in [
            &[][..],
            &[(9, &b"PRI"[..])],
            &[(9, b"PRI ")],
            &[(9, preface)],
            &[(3, b"P"), (6, b"RI * HT"), (9, b"TP/2.0\r\n")],
        ] {
            let (elapsed, said) = ended_after(pieces).await;
            let late = elapsed.checked_sub(Duration::from_secs(10)).unwrap();
            assert!(late < Duration::from_millis(10), "{pieces:?}: {elapsed:?}");
            // SETTINGS_TIMEOUT, to those of whom it is known that they speak HTTP/2.
            let is_told = said.windows(4).any(|word| word == [0, 0, 0, 4]);
            assert_eq!(is_told, pieces.iter().any(|(_, piece)| piece.len() > 3));
        }
    }
    /// A client that was there and is gone, without a word.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_gone_gives_its_connection_back() {
        use rpc_http2::frame::{FrameHeader, kind, setting};
        let settings = |entries: &[u8]| {
            let header = FrameHeader {
                length: entries.len() as u32,
                kind: kind::SETTINGS,
                flags: 0,
                stream: 0,
            };
            [&rpc_http2::frame::PREFACE[..], &header.encode(), entries].concat()
        };
        let interval = [
            &setting::PING_INTERVAL.to_be_bytes()[..],
            &10_000u32.to_be_bytes(),
        ];
        // One that says how often it asks is missed when it has not done so thrice.
        for (greeting, seconds) in [(settings(&[]), 7_220), (settings(&interval.concat()), 50)] {
            let (elapsed, said) = ended_after(&[(0, &greeting)]).await;
            let late = elapsed.checked_sub(Duration::from_secs(seconds)).unwrap();
            assert!(late < Duration::from_secs(1), "{elapsed:?}");
            let word = b"keepalive: no answer to a PING";
            assert!(said.windows(word.len()).any(|words| words == word));
        }
    }
}
