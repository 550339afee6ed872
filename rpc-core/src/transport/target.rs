//! What a channel's URI says, and how its endpoints are dialed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::connector::Connector;
use super::http2::client::{self, Connection};
use super::keepalive::Keepalive;
use super::race::race;
use crate::client::{Address, Endpoint, without_zone};
use crate::{BoxFuture, Status};

/// A parsed `http://`, `https://` or `unix:` target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) secure: bool,
}

impl Target {
    pub(crate) fn parse(uri: &str) -> Result<Self, Status> {
        let invalid = |why: String| {
            Status::invalid_argument(format!(
                "the target {uri:?} cannot be used: {why}; write http://host:port, https://host:port, unix:/path or unix-abstract:name"
            ))
        };
        if uri.starts_with("unix:") || uri.starts_with("unix-abstract:") {
            let address = uri.parse().map_err(|error| invalid(format!("{error}")))?;
            return Ok(Self {
                address,
                secure: false,
            });
        }
        let (scheme, rest) = uri
            .split_once("://")
            .ok_or_else(|| invalid("there is no scheme".to_owned()))?;
        let (secure, default_port) = match scheme {
            "http" => (false, 80),
            "https" => (true, 443),
            other => return Err(invalid(format!("the scheme {other:?} needs a resolver"))),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // RFC 6874: in a URI the zone of an IPv6 address is behind `%25`. Many write `%` alone.
        let unescaped = match rest.split_once("%25") {
            Some((address, zone)) if !zone.starts_with([']', ':']) => format!("{address}%{zone}"),
            _ => rest.to_owned(),
        };
        let rest = &*unescaped;
        if rest.contains('/') {
            return Err(invalid("a path has no meaning here".to_owned()));
        }
        let has_port = rest
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.contains(']'));
        let text = if has_port {
            rest.to_owned()
        } else {
            format!("{rest}:{default_port}")
        };
        let address = text.parse().map_err(|error| invalid(format!("{error}")))?;
        Ok(Self { address, secure })
    }
}

/// What an address of a name has for itself before the next one is tried beside it: the Connection
/// Attempt Delay of RFC 8305, section 5.
const STAGGER: Duration = Duration::from_millis(250);

/// Opens connections for one channel.
pub(crate) struct Dialer {
    pub(crate) connector: Arc<dyn Connector>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<super::tls::ClientTls>,
    pub(crate) authority: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) receive_limit: usize,
    pub(crate) keepalive: Option<Keepalive>,
    /// Connections that have ended since they asked too often whether their server is there.
    pub(crate) too_often: AtomicU32,
    pub(crate) max_header_list: u32,
}

impl Dialer {
    /// A server has said `too_many_pings`: the connections to come ask half as often (gRFC A8).
    pub(crate) fn ask_less_often(&self) {
        self.too_often.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens one connection: socket, TLS, HTTP/2. Of a name that has several addresses, whichever is
    /// the first to get this far: one that takes connections and says nothing keeps no other waiting.
    pub(crate) async fn dial(&self, endpoint: &Endpoint) -> Result<Connection, Status> {
        let address = &endpoint.address;
        let failed = |error: std::io::Error| {
            Status::unavailable(format!("no address of {address} can be found: {error}"))
                .with_source(error)
        };
        let found = match self
            .in_time(address, self.connector.resolve(address))
            .await?
        {
            Ok(found) => found,
            Err(error) => return Err(failed(error)),
        };
        if let [only] = &*found {
            return self.in_time(only, self.open(address, only)).await?;
        }
        let attempts = found.iter().map(|at| -> BoxFuture<'_, _> {
            Box::pin(async move { self.in_time(at, self.open(address, at)).await? })
        });
        race(attempts, STAGGER)
            .await
            .map_err(|failures| none_of(address, &failures))
    }

    /// Bounds what connecting to one address may take.
    async fn in_time<T>(&self, at: &Address, what: impl Future<Output = T>) -> Result<T, Status> {
        match tokio::time::timeout(self.connect_timeout, what).await {
            Ok(done) => Ok(done),
            Err(_) => Err(Status::unavailable(format!(
                "connecting to {at} took longer than {:?}",
                self.connect_timeout
            ))),
        }
    }

    /// Opens a connection to one of the addresses of an endpoint.
    async fn open(&self, address: &Address, at: &Address) -> Result<Connection, Status> {
        let failed = |what: &str, error: std::io::Error| {
            Status::unavailable(format!("{what} {at} failed: {error}")).with_source(error)
        };
        let io = self
            .connector
            .connect(at)
            .await
            .map_err(|error| failed("connecting to", error))?;
        let authority = match (&self.authority, address) {
            (Some(authority), _) => authority.clone(),
            (None, Address::Tcp { host, port }) if host.contains('%') => {
                format!("[{}]:{port}", without_zone(host))
            }
            (None, Address::Tcp { .. }) => address.to_string(),
            (None, _) => "localhost".to_owned(),
        };
        let too_often = self.too_often.load(Ordering::Relaxed);
        let keepalive = self
            .keepalive
            .map(|keepalive| keepalive.of_engine(too_often));
        let config = rpc_http2::Config {
            keepalive,
            ..rpc_http2::Config::default()
        }
        .with_max_header_list(self.max_header_list);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let host = match address {
                Address::Tcp { host, .. } => without_zone(host),
                _ => "localhost",
            };
            let io = tls
                .connect(host, io)
                .await
                .map_err(|error| failed("the TLS handshake with", error))?;
            return client::connect(io, &authority, true, self.receive_limit, config)
                .await
                .map_err(|error| failed("opening HTTP/2 over TLS with", error));
        }
        client::connect(io, &authority, false, self.receive_limit, config)
            .await
            .map_err(|error| failed("opening HTTP/2 with", error))
    }
}

/// Why none of the addresses of a name can be reached.
fn none_of(address: &Address, failures: &[Status]) -> Status {
    const LISTED: usize = 5;
    if failures.is_empty() {
        return Status::unavailable(format!("{address} has no address"));
    }
    let mut message = format!(
        "none of the {} addresses of {address} can be reached",
        failures.len()
    );
    for (index, failure) in failures.iter().take(LISTED).enumerate() {
        message.push_str(if index == 0 { ": " } else { "; " });
        message.push_str(failure.message());
    }
    if failures.len() > LISTED {
        message.push_str(&format!("; and {} more", failures.len() - LISTED));
    }
    Status::unavailable(message)
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (uri, address, secure) in [
            ("http://127.0.0.1:50051", "127.0.0.1:50051", false),
            ("http://localhost/", "localhost:80", false),
            ("https://example.com", "example.com:443", true),
            ("https://[::1]:1", "[::1]:1", true),
            ("http://[::1]", "[::1]:80", false),
            ("unix:/tmp/s", "unix:/tmp/s", false),
            ("unix-abstract:s/1", "unix-abstract:s/1", false),
            ("http://[fe80::1%25eth0]:1", "[fe80::1%eth0]:1", false),
            ("http://[fe80::1%eth0]", "[fe80::1%eth0]:80", false),
            ("https://[fe80::1%2]:1", "[fe80::1%2]:1", true),
        ] {
            let target = Target::parse(uri).unwrap();
            assert_eq!(
                (target.address.to_string().as_str(), target.secure),
                (address, secure),
                "{uri}"
            );
        }
    }

    #[test]
    fn bad_targets_are_named() {
        for uri in [
            "",
            "127.0.0.1:1",
            "ftp://a:1",
            "http://",
            "http://a:x",
            "http://a:1/path",
            "http://a b:1",
        ] {
            let status = Target::parse(uri).unwrap_err();
            assert!(status.message().contains(&format!("{uri:?}")), "{status}");
        }
    }
}
