//! Settings of a channel: [`ChannelBuilder`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backoff::Range;
use super::balancer::LoadBalancer;
use super::budget::RetryBudget;
use super::channel::{Channel, Core};
use super::control::{Control, Published};
use super::endpoint::Endpoint;
use super::interceptor::{ClientInterceptor, ErasedInterceptor};
use super::observer::CallObserver;
use super::pick_first::PickFirst;
use super::random::Random;
use super::resolver::{Resolver, StaticResolver};
use crate::Status;
use crate::transport::connector::{Connector, SocketConnector};
use crate::transport::keepalive::Keepalive;
use crate::transport::target::{Dialer, Target};
#[cfg(feature = "tls")]
use crate::transport::tls::ClientTls;
use crate::wire::compression::Encoding;
use crate::wire::message::{DEFAULT_RECEIVE_LIMIT, MAX_HEADER_LIST};

/// How long connections stay open without a call, where nothing else is set.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// Settings of a [`Channel`].
///
/// Calls commute: what is added stays, in whatever order. A figure or a balancer that is set again has
/// its last value; TLS or a connector that was given twice is an error that names it.
///
/// ```no_run
/// # async fn example() -> Result<(), rpc_core::Status> {
/// use std::time::Duration;
/// let channel = rpc_core::Channel::builder()
///     .timeout(Duration::from_secs(2))
///     .connect("http://127.0.0.1:50051")
///     .await?;
/// # Ok(())
/// # }
/// ```
pub struct ChannelBuilder {
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
    interceptors: Vec<Box<dyn ErasedInterceptor>>,
    observers: Vec<Arc<dyn CallObserver>>,
    timeout: Option<Duration>,
    connect_timeout: Duration,
    backoff: Range,
    connections: usize,
    encoding: Encoding,
    receive_limit: usize,
    max_header_list: u32,
    balancer: Option<Box<dyn LoadBalancer>>,
    connector: Option<Arc<dyn Connector>>,
    authority: Option<String>,
    seed: Option<u64>,
    keepalive: Option<Keepalive>,
    idle_timeout: Option<Duration>,
    /// What was set, if it was.
    user_timeout: Option<Option<Duration>>,
    /// What was given twice and can be there once.
    twice: Option<&'static str>,
}

impl fmt::Debug for ChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBuilder").finish_non_exhaustive()
    }
}

impl ChannelBuilder {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(feature = "tls")]
            tls: None,
            interceptors: Vec::new(),
            observers: Vec::new(),
            timeout: None,
            connect_timeout: Duration::from_secs(5),
            backoff: Range::CONNECT,
            connections: 1,
            encoding: Encoding::Identity,
            receive_limit: DEFAULT_RECEIVE_LIMIT,
            max_header_list: MAX_HEADER_LIST,
            balancer: None,
            connector: None,
            authority: None,
            seed: None,
            keepalive: Some(Keepalive::default()),
            idle_timeout: Some(IDLE),
            user_timeout: None,
            twice: None,
        }
    }

    /// TLS with these roots and certificates; an `https://` target has it with the system's roots.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        if self.tls.replace(tls).is_some() {
            self.twice = Some("TLS was given twice");
        }
        self
    }

    /// Adds an interceptor; the first one added is the outermost.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl ClientInterceptor) -> Self {
        self.interceptors.push(Box::new(interceptor));
        self
    }

    /// Adds an observer of finished calls.
    #[must_use]
    pub fn observer(mut self, observer: impl CallObserver) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// The timeout of calls that set none; by default they have none.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long opening one connection may take; 5 s by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How it is found out that a server is gone; as [`Keepalive::default`], and `None` for not at all.
    #[must_use]
    pub fn keepalive(mut self, keepalive: impl Into<Option<Keepalive>>) -> Self {
        self.keepalive = keepalive.into();
        self
    }

    /// How long connections stay open without a call; 30 min by default, and `None` for ever. The next
    /// call opens them again.
    ///
    /// For a client of many servers that it calls seldom, and for one whose calls may not wait for a
    /// connection.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into();
        self
    }

    /// How long a server may leave data unacknowledged, or its window shut, until the system gives its
    /// connection up (`TCP_USER_TIMEOUT`, gRFC A18; on Linux); by default as long as keepalive waits for
    /// an answer, and for ever without keepalive. Of sockets that a [connector](Self::connector) opens
    /// that is for the connector to set.
    #[must_use]
    pub fn tcp_user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = Some(timeout.into());
        self
    }

    /// The wait from the start of one failed attempt to connect to the next: at first `floor`, then
    /// 1.6 times the last one up to `ceiling`, give or take a fifth; 1 s and 120 s by default, at
    /// least 10 ms. News of an endpoint from the resolver and [`Channel::reset_connect_backoff`] end it.
    ///
    /// For clients that must be back sooner after an outage than their servers need to be spared.
    #[must_use]
    pub fn connect_backoff(mut self, floor: Duration, ceiling: Duration) -> Self {
        let floor = floor.max(Duration::from_millis(10));
        let ceiling = ceiling.max(floor);
        self.backoff = Range { floor, ceiling };
        self
    }

    /// How many connections each endpoint has; 1 by default, at most 1,000. Calls take them in turn.
    ///
    /// One carries hundreds of thousands of calls a second, so that more are for a client that keeps
    /// several cores busy with one server, or for a server that allows few streams a connection.
    #[must_use]
    pub fn connections_per_endpoint(mut self, connections: usize) -> Self {
        self.connections = connections.clamp(1, 1000);
        self
    }

    /// How requests are compressed; not at all by default. Responses are decompressed either way.
    #[must_use]
    pub fn compress(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// The largest message to accept, before and after decompression; 4 MiB by default.
    #[must_use]
    pub fn max_receive_message_size(mut self, bytes: usize) -> Self {
        self.receive_limit = bytes;
        self
    }

    /// The largest header list to accept, 16 KiB by default, from 1 KiB to 1 MiB: what the metadata of a
    /// head, or of trailers, may be in all, with 32 octets for each field beside name and value (RFC 9113
    /// section 6.5.2). How much may be sent is what the server says.
    ///
    /// The peer is told, and a call that has more metadata ends with `RESOURCE_EXHAUSTED`. For those who
    /// get large details of errors or large tokens; a list has 128 fields at the most in any case.
    #[must_use]
    pub fn max_header_list_size(mut self, octets: u32) -> Self {
        self.max_header_list = octets.clamp(1024, 1024 * 1024);
        self
    }

    /// How calls are spread over the endpoints; [`PickFirst`] by default.
    #[must_use]
    pub fn balancer(mut self, balancer: impl LoadBalancer) -> Self {
        self.balancer = Some(Box::new(balancer));
        self
    }

    /// How byte streams are opened; sockets by default.
    #[must_use]
    pub fn connector(mut self, connector: impl Connector) -> Self {
        if self.connector.replace(Arc::new(connector)).is_some() {
            self.twice = Some("a connector was given twice");
        }
        self
    }

    /// The `:authority` of requests; the endpoint's address by default.
    #[must_use]
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// The seed of picks and of the jitter of retries and reconnects; a random one by default.
    ///
    /// For a test or a simulation that has to go the same way again.
    #[must_use]
    pub fn random_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Connects to one address.
    ///
    /// # Errors
    /// As [`Channel::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what it had opened.
    pub async fn connect(self, target: &str) -> Result<Channel, Status> {
        let channel = self.lazy(target)?;
        channel.ready().await?;
        Ok(channel)
    }

    /// A channel to one address that connects when the first call is made.
    ///
    /// # Errors
    /// As [`Channel::lazy`].
    pub fn lazy(self, target: &str) -> Result<Channel, Status> {
        let parsed = Target::parse(target)?;
        #[cfg(feature = "tls")]
        if self.tls.is_some() && target.starts_with("http://") {
            return Err(Status::invalid_argument(format!(
                "the target {target:?} says plaintext and the channel has TLS; write https://, or leave the TLS away"
            )));
        }
        let resolver = StaticResolver::new(vec![Endpoint::new(parsed.address)]);
        self.build(Box::new(resolver), target, parsed.secure)
    }

    /// A channel to whatever a resolver finds; the name is for logs and errors.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` outside a tokio runtime.
    pub fn resolver(self, resolver: Box<dyn Resolver>, name: &str) -> Result<Channel, Status> {
        self.build(resolver, name, false)
    }

    fn build(
        self,
        resolver: Box<dyn Resolver>,
        name: &str,
        secure: bool,
    ) -> Result<Channel, Status> {
        if let Some(twice) = self.twice {
            return Err(Status::invalid_argument(format!(
                "building a channel to {name:?}: {twice}"
            )));
        }
        let runtime = Handle::try_current().map_err(|error| {
            Status::failed_precondition(format!(
                "a channel to {name:?} needs a tokio runtime to run in"
            ))
            .with_source(error)
        })?;
        #[cfg(feature = "tls")]
        let tls = match self.tls {
            Some(tls) => Some(tls),
            None if secure => Some(ClientTls::system_roots().map_err(|error| {
                Status::failed_precondition("the system's root certificates cannot be read")
                    .with_source(error)
            })?),
            None => None,
        };
        #[cfg(not(feature = "tls"))]
        if secure {
            return Err(Status::invalid_argument(format!(
                "the target {name:?} needs the feature `tls` of rpc-core"
            )));
        }
        let dialer = Dialer {
            connector: self.connector.unwrap_or_else(|| {
                let of_keepalive = self.keepalive.map(Keepalive::user_timeout);
                let timeout = self.user_timeout.unwrap_or(of_keepalive);
                Arc::new(SocketConnector::default().tcp_user_timeout(timeout))
            }),
            #[cfg(feature = "tls")]
            tls,
            authority: self.authority,
            connect_timeout: self.connect_timeout,
            receive_limit: self.receive_limit,
            keepalive: self.keepalive,
            too_often: AtomicU32::new(0),
            max_header_list: self.max_header_list,
        };
        let random = Arc::new(Random::new(self.seed.unwrap_or_else(|| fastrand::u64(..))));
        let published = Arc::new(Published::new());
        let target: Arc<str> = name.into();
        let control = Control {
            target: Arc::clone(&target),
            resolver,
            balancer: self.balancer.unwrap_or_else(|| Box::<PickFirst>::default()),
            dialer: Arc::new(dialer),
            connections: self.connections,
            backoff: self.backoff,
            random: Arc::clone(&random),
            published: Arc::clone(&published),
            idle_timeout: self.idle_timeout,
            rests: false,
        };
        let (kicks, kicked) = mpsc::channel(1);
        runtime.spawn(control.run(kicked));
        Ok(Channel(Arc::new(Core {
            target,
            published,
            kicks,
            random,
            budget: RetryBudget::new(Instant::now()),
            interceptors: self.interceptors,
            observers: self.observers,
            timeout: self.timeout,
            encoding: self.encoding,
            receive_limit: self.receive_limit,
            runtime,
        })))
    }
}
