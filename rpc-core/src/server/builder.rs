//! Settings of a server: [`ServerBuilder`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rpc_http2::{Limits, PingPolicy};
use tokio::net::TcpListener;

use super::bound::BoundServer;
use super::interceptor::ServerInterceptor;
use super::listener::{Listener, ServeError};
use super::router::{Router, Service};
use super::shutdown::ShutdownHook;
use crate::client::CallObserver;
use crate::transport::keepalive::Keepalive;
use crate::wire::compression::Encoding;
use crate::wire::message::{DEFAULT_RECEIVE_LIMIT, MAX_HEADER_LIST};

/// Serves services over HTTP/2.
#[derive(Debug)]
pub struct Server(());

impl Server {
    /// Settings of a server.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            router: Router::new(),
            options: Options::default(),
            #[cfg(feature = "tls")]
            tls: None,
            max_connections: 10_000,
            user_timeout: None,
            accept_loops: 1,
            drain_timeout: Duration::from_secs(30),
            hooks: Vec::new(),
            health: None,
            twice: None,
        }
    }
}

/// What every call of a server is subject to.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) max_concurrent_streams: u32,
    pub(crate) max_handlers: usize,
    pub(crate) receive_limit: usize,
    pub(crate) max_header_list: u32,
    pub(crate) memory_budget: Option<usize>,
    pub(crate) limits: Limits,
    pub(crate) compress: Encoding,
    pub(crate) observers: Vec<Arc<dyn CallObserver>>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) max_idle: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_age_grace: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 256,
            max_handlers: usize::MAX >> 4,
            receive_limit: DEFAULT_RECEIVE_LIMIT,
            max_header_list: MAX_HEADER_LIST,
            memory_budget: None,
            limits: Limits::default(),
            compress: Encoding::Identity,
            observers: Vec::new(),
            keepalive: Some(Keepalive::of_server()),
            max_idle: None,
            max_age: None,
            max_age_grace: None,
        }
    }
}

/// Settings of a server.
///
/// Calls commute: what is added stays, in whatever order, and interceptors are around all services. A
/// figure that is set again has its last value. What can be there once only, such as a service by its
/// name or TLS, and was given twice, is an error of [`bind`](Self::bind) that names it.
///
/// ```no_run
/// # async fn example(service: rpc_core::server::Service) -> Result<(), Box<dyn std::error::Error>> {
/// let server = rpc_core::Server::builder().add_service(service).bind("127.0.0.1:0").await?;
/// println!("listening on {}", server.local_addr());
/// server.serve_until_terminated().await?;
/// # Ok(())
/// # }
/// ```
pub struct ServerBuilder {
    pub(crate) router: Router,
    pub(crate) options: Options,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::ServerTls>,
    pub(crate) max_connections: usize,
    /// What was set, if it was.
    user_timeout: Option<Option<Duration>>,
    pub(crate) accept_loops: usize,
    pub(crate) drain_timeout: Duration,
    pub(crate) hooks: Vec<Box<dyn ShutdownHook>>,
    pub(crate) health: Option<crate::health::Health>,
    /// What was given twice, beside what a router has.
    twice: Option<&'static str>,
}

/// A server of these services with the usual settings.
impl From<Router> for ServerBuilder {
    fn from(router: Router) -> Self {
        Server::builder().router(router)
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    /// Adds a service.
    #[must_use]
    pub fn add_service(mut self, service: impl Into<Service>) -> Self {
        self.router = self.router.add_service(service);
        self
    }

    /// Adds the services and the fallback of a router. Its interceptors are around its own calls,
    /// inside those of the server.
    #[must_use]
    pub fn router(mut self, router: Router) -> Self {
        self.router = self.router.merge(router);
        self
    }

    /// Puts an interceptor around every call that has a handler, whenever its service is added, health
    /// included; the first one added is the outermost.
    ///
    /// For one around a single service there is [`Service::interceptor`].
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl ServerInterceptor) -> Self {
        self.router = self.router.interceptor(interceptor);
        self
    }

    /// Serves over TLS only.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: crate::ServerTls) -> Self {
        if self.tls.replace(tls).is_some() {
            self.twice = Some("TLS was given twice");
        }
        self
    }

    /// Adds the health service; once the server drains, it says `NOT_SERVING` and watches end.
    #[must_use]
    pub fn health(mut self, health: crate::health::Health) -> Self {
        self.router = self.router.add_service(health.service());
        self.health = Some(health);
        self
    }

    /// Adds an observer of finished calls.
    #[must_use]
    pub fn observer(mut self, observer: impl CallObserver) -> Self {
        self.options.observers.push(Arc::new(observer));
        self
    }

    /// How responses are compressed when the client takes it; not at all by default.
    #[must_use]
    pub fn compress(mut self, encoding: Encoding) -> Self {
        self.options.compress = encoding;
        self
    }

    /// The most connections at once, 10,000 by default.
    ///
    /// When there are as many, the one that has had no calls and said nothing for longest is asked to go
    /// for each that comes, by a GOAWAY after which its client makes another when it needs one; it need
    /// not have been idle for longer than 250 ms. A tenth as many may be on their way out besides. If
    /// all have calls, the next ones wait until one of them is done.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How it is found out that a client is gone; by default after 2 h of silence and 20 s for the
    /// answer (gRFC A8), or earlier when it has said how often it asks itself. `None` for not at all.
    #[must_use]
    pub fn keepalive(mut self, keepalive: impl Into<Option<Keepalive>>) -> Self {
        self.options.keepalive = keepalive.into();
        self
    }

    /// How often a client may ask by a PING whether this server is there, and whether without calls
    /// too; by default every 5 min, and without calls every 2 h (gRFC A8). One that does so more often
    /// thrice is told `too_many_pings`, and its connection ends.
    ///
    /// Clients of this framework are told what they may do. By default that is every 5 s, of which they
    /// make use every 10 s.
    #[must_use]
    pub fn permit_pings(mut self, every: Duration, without_calls: bool) -> Self {
        self.options.limits.pings = Some(PingPolicy {
            min_interval: every,
            without_calls,
            announced: without_calls.then_some(every),
            ..PingPolicy::default()
        });
        self
    }

    /// How long a connection may have no calls until its client is asked to go (gRFC A9), with a fourth
    /// of it more at the most; without limit by default. For servers whose clients leave connections
    /// open that cost something on the way, as at a proxy that counts them.
    ///
    /// Idle connections cost no client its place either way: see
    /// [`max_connections`](Self::max_connections).
    #[must_use]
    pub fn max_connection_idle(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.options.max_idle = idle.into();
        self
    }

    /// How old a connection may get until its client is asked to make another one (gRFC A9), give or
    /// take a tenth, so that those made together do not come again together; without limit by default.
    /// For servers behind something that spreads connections and not calls: clients that were there
    /// first would stay where they are for ever.
    #[must_use]
    pub fn max_connection_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.options.max_age = age.into();
        self
    }

    /// How long calls may go on once their connection is as old as it may get (gRFC A9); without limit
    /// by default.
    #[must_use]
    pub fn max_connection_age_grace(mut self, grace: impl Into<Option<Duration>>) -> Self {
        self.options.max_age_grace = grace.into();
        self
    }

    /// How long a client may leave data unacknowledged, or its window shut, until the system gives its
    /// connection up (`TCP_USER_TIMEOUT`, gRFC A18; on Linux); by default as long as keepalive waits
    /// for an answer, and for ever without keepalive.
    #[must_use]
    pub fn tcp_user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = Some(timeout.into());
        self
    }

    pub(super) fn user_timeout(&self) -> Option<Duration> {
        let of_keepalive = self.options.keepalive.map(Keepalive::user_timeout);
        self.user_timeout.unwrap_or(of_keepalive)
    }

    /// How many sockets and tasks accept connections; 1 by default.
    ///
    /// More than one share the port by `SO_REUSEPORT`, and the system spreads new connections over
    /// them: for servers with so many short connections that one task is too few to accept them. A
    /// unix socket, and a system without `SO_REUSEPORT`, has one whatever is asked for.
    #[must_use]
    pub fn accept_loops(mut self, loops: usize) -> Self {
        self.accept_loops = loops.max(1);
        self
    }

    /// The most streams at once on one connection, 256 by default; a client queues more.
    #[must_use]
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.options.max_concurrent_streams = streams;
        self
    }

    /// The most handlers at once on the whole server; a call past that is answered with
    /// `RESOURCE_EXHAUSTED` before it is decoded. By default only the other limits hold.
    #[must_use]
    pub fn max_handlers(mut self, handlers: usize) -> Self {
        self.options.max_handlers = handlers.min(usize::MAX >> 4);
        self
    }

    /// The largest message to accept, before and after decompression; 4 MiB by default.
    #[must_use]
    pub fn max_receive_message_size(mut self, bytes: usize) -> Self {
        self.options.receive_limit = bytes;
        self
    }

    /// The largest header list to accept, 16 KiB by default, from 1 KiB to 1 MiB: what the metadata of a
    /// head, or of trailers, may be in all, with 32 octets for each field beside name and value (RFC 9113
    /// section 6.5.2). How much may be sent is what each client says.
    ///
    /// The peer is told, and a call that has more metadata ends with `RESOURCE_EXHAUSTED`. For those who
    /// take large tokens or cookies; a list has 128 fields at the most in any case.
    #[must_use]
    pub fn max_header_list_size(mut self, octets: u32) -> Self {
        self.options.max_header_list = octets.clamp(1024, 1024 * 1024);
        self
    }

    /// How many bytes the server holds for all calls together; by default 192 MiB, or four messages of
    /// the largest size when that is more.
    ///
    /// Counted are messages of which a part has arrived, messages of streams that their handlers have
    /// not read, requests that did not come in one piece while their handlers run, and responses that
    /// the client does not take. A call that would hold more than there is left ends with
    /// `RESOURCE_EXHAUSTED`; and once nine tenths are used up, so do new calls of connections that hold
    /// some of it, before they are decoded. Small calls of other connections go on. A single message
    /// that is larger than the budget cannot be taken.
    ///
    /// While less than half of it is used up, a call may stand still until its deadline, whoever is
    /// slow. After that, calls that hold some of it and move less than 1 KiB/s end with
    /// `RESOURCE_EXHAUSTED` as well, within 15 to 45 s and the slowest first, until half of it is free;
    /// and little more is taken from handlers whose clients do not read.
    ///
    /// What handlers allocate comes on top. A stream that its handler does not read takes 256 KiB, or
    /// as much as its window has grown to while it was read: 1 MiB, or up to 16 MiB where the network
    /// holds as much. All streams of a connection have grown by 24 MiB at most. As much again may be
    /// messages that a handler has taken in one piece and not looked at yet. A connection takes up to
    /// 3 MiB of unsent responses, or 4 MiB while it reads.
    #[must_use]
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.options.memory_budget = Some(bytes);
        self
    }

    /// Changes the limits that keep a client from taking the server down with it.
    ///
    /// Each of them stops an attack that has taken servers down before and none of them stops a client
    /// that means well, so what this is for is to find out what happens without one.
    #[must_use]
    pub fn dangerous_limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.options.limits);
        self
    }

    /// How long the end of the server may take in all, 30 s by default: hooks, of which clients are
    /// told to go away after half of it at the latest, and the calls that are open then.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// That all that was said can be done.
    pub(crate) fn check(&self) -> Result<(), ServeError> {
        self.router.check().map_err(ServeError::contradiction)?;
        self.twice
            .map_or(Ok(()), |twice| Err(ServeError::contradiction(twice)))
    }

    /// Adds what happens first when the server ends, such as leaving a registry. All hooks run at the
    /// same time.
    #[must_use]
    pub fn on_shutdown(mut self, hook: impl ShutdownHook) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// Opens a socket at `host:port`, `unix:/path` or, on Linux, `unix-abstract:name`.
    ///
    /// A unix socket that nobody listens on any more, which a process that was killed leaves behind, is
    /// replaced. Anything else that is at the path stays there.
    ///
    /// # Errors
    /// When the address is none or cannot be listened on: somebody else listens there, or there is a
    /// file at the path that is no socket. When something was given twice.
    ///
    /// # Cancel safety
    /// Dropping the future opens nothing.
    pub async fn bind(self, address: impl AsRef<str>) -> Result<BoundServer, ServeError> {
        self.check()?;
        let (listeners, address) = Listener::bind(address.as_ref(), self.accept_loops).await?;
        Ok(BoundServer::new(self, listeners, address))
    }

    /// Serves on a socket that is open already, in one loop.
    ///
    /// # Errors
    /// When the socket has no local address, or when something was given twice.
    pub fn listener(self, listener: TcpListener) -> Result<BoundServer, ServeError> {
        self.check()?;
        let (listeners, address) = Listener::tcp(listener)?;
        Ok(BoundServer::new(self, listeners, address))
    }

    /// Opens a socket and serves until the process ends.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    ///
    /// # Cancel safety
    /// Dropping the future closes the server abruptly.
    pub async fn serve(self, address: impl AsRef<str>) -> Result<(), ServeError> {
        self.bind(address).await?.serve().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gRFC A18: as long as keepalive waits, and what is set in any order.
    #[test]
    fn sockets_wait_for_acknowledgements_as_long_as_keepalive_does() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let quick = Keepalive::every(Duration::from_secs(60)).timeout(Duration::from_secs(5));
        let server = Server::builder;
        assert_eq!(server().user_timeout(), seconds(20));
        assert_eq!(server().keepalive(quick).user_timeout(), seconds(5));
        assert_eq!(server().keepalive(None).user_timeout(), None);
        let set = Duration::from_secs(7);
        for server in [
            server().keepalive(None).tcp_user_timeout(set),
            server().tcp_user_timeout(set).keepalive(quick),
        ] {
            assert_eq!(server.user_timeout(), seconds(7));
        }
        assert_eq!(server().tcp_user_timeout(None).user_timeout(), None);
    }
}
