//! What a call carries beside its message: [`Request`], [`Response`].

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::server::{ServerDraining, ShutdownHandle};
use crate::{Deadline, Metadata};

/// Values of any type that travel with a call inside one process, one per type.
#[derive(Default)]
pub struct Extensions(Option<Box<Values>>);

type Values = HashMap<TypeId, Box<dyn Any + Send + Sync>>;

impl Extensions {
    /// Sets the value of a type and gives back the earlier one.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) -> Option<T> {
        let values = self.0.get_or_insert_default();
        let old = values.insert(TypeId::of::<T>(), Box::new(value))?;
        old.downcast().ok().map(|value| *value)
    }

    /// The value of a type.
    #[must_use]
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.as_ref()?.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// Takes the value of a type out.
    pub fn remove<T: Send + Sync + 'static>(&mut self) -> Option<T> {
        let old = self.0.as_mut()?.remove(&TypeId::of::<T>())?;
        old.downcast().ok().map(|value| *value)
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.as_ref().map_or(0, |values| values.len());
        write!(f, "Extensions({count})")
    }
}

/// Where a call came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerAddr {
    /// A TCP connection.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix,
    /// [`Channel::in_process`](crate::Channel::in_process).
    InProcess,
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::InProcess => f.write_str("in-process"),
        }
    }
}

/// What the calls of one connection have in common.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: PeerAddr,
    /// Whether the server still serves; nothing where nobody says so.
    pub(crate) end: Option<ShutdownHandle>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// What a caller may say about one call, and seldom does.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallOptions {
    pub(crate) wait_for_ready: bool,
    pub(crate) hash_key: Option<u64>,
    pub(crate) no_retry: bool,
}

/// A message, or a stream of them, with the call's metadata and options.
///
/// ```
/// use std::time::Duration;
/// use rpc_core::Request;
/// let mut request = Request::new("hello").with_timeout(Duration::from_millis(200));
/// request.metadata_mut().insert("x-tenant", "blue")?;
/// # Ok::<(), rpc_core::MetadataError>(())
/// ```
#[derive(Debug)]
pub struct Request<T> {
    pub(crate) metadata: Metadata,
    pub(crate) extensions: Extensions,
    pub(crate) timeout: Option<Duration>,
    /// In a box: the future of each handler has a request in it, and few requests have options.
    pub(crate) options: Option<Box<CallOptions>>,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) peer: Option<Arc<Peer>>,
    message: T,
}

impl<T> Request<T> {
    /// A request without metadata and with the channel's own options.
    #[must_use]
    pub fn new(message: T) -> Self {
        Self {
            metadata: Metadata::new(),
            extensions: Extensions::default(),
            timeout: None,
            options: None,
            deadline: None,
            peer: None,
            message,
        }
    }

    /// Ends the call with `DEADLINE_EXCEEDED` this long after it starts, over all attempts and the whole stream.
    ///
    /// Inside a handler the call ends by the handler's own deadline if that is earlier.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Waits for a connection until the deadline instead of failing at once when no endpoint can be reached.
    #[must_use]
    pub fn with_wait_for_ready(mut self) -> Self {
        self.options.get_or_insert_default().wait_for_ready = true;
        self
    }

    /// The key by which a hashing policy chooses the endpoint, such as the `Rendezvous` of
    /// `rpc-registry`; others spread calls regardless of it.
    #[must_use]
    pub fn with_hash_key(mut self, key: u64) -> Self {
        self.options.get_or_insert_default().hash_key = Some(key);
        self
    }

    /// Makes one attempt only, however the call fails.
    #[must_use]
    pub fn without_retry(mut self) -> Self {
        self.options.get_or_insert_default().no_retry = true;
        self
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata to change.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// Values that interceptors left for the handler.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The extensions to change.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// When the call must have ended; on a server, what the client said.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Where the call came from, on a server.
    #[must_use]
    pub fn peer_addr(&self) -> Option<&PeerAddr> {
        self.peer.as_ref().map(|peer| &peer.address)
    }

    /// When the server of this call drains, for handlers that would go on for long: a stream of events
    /// can end then, so that its client turns to another server and this one ends.
    ///
    /// Never on a client, in a channel in process, or in a mounted
    /// [`RouterService`](crate::compat::RouterService).
    ///
    /// ```
    /// # use rpc_core::{Request, SendStream, Status};
    /// # async fn next() -> u64 { 1 }
    /// async fn events(request: Request<()>, events: &mut SendStream<u64>) -> Result<(), Status> {
    ///     let mut draining = request.server_draining();
    ///     loop {
    ///         tokio::select! {
    ///             event = next() => events.send(event).await?,
    ///             () = &mut draining => return Err(Status::unavailable("the server ends")),
    ///         }
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn server_draining(&self) -> ServerDraining {
        ServerDraining::new(self.peer.as_ref().and_then(|peer| peer.end.clone()))
    }

    /// The message.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.message
    }

    /// The message to change.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.message
    }

    /// The message alone.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.message
    }

    /// The same request around another message.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Request<U> {
        Request {
            metadata: self.metadata,
            extensions: self.extensions,
            timeout: self.timeout,
            options: self.options,
            deadline: self.deadline,
            peer: self.peer,
            message: change(self.message),
        }
    }
}

/// What a client method takes: a message, or a [`Request`] around it.
pub trait IntoRequest<T> {
    /// The request.
    fn into_request(self) -> Request<T>;
}

impl<T> IntoRequest<T> for T {
    fn into_request(self) -> Request<T> {
        Request::new(self)
    }
}

impl<T> IntoRequest<T> for Request<T> {
    fn into_request(self) -> Self {
        self
    }
}

/// A message with the metadata that comes before it and the trailers after it.
#[derive(Debug)]
pub struct Response<T> {
    pub(crate) metadata: Metadata,
    pub(crate) trailers: Metadata,
    message: T,
}

impl<T> Response<T> {
    /// A response without metadata.
    #[must_use]
    pub fn new(message: T) -> Self {
        Self {
            metadata: Metadata::new(),
            trailers: Metadata::new(),
            message,
        }
    }

    /// The metadata sent before the message.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata to change.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// The metadata sent after the message.
    #[must_use]
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }

    /// The trailers to change.
    pub fn trailers_mut(&mut self) -> &mut Metadata {
        &mut self.trailers
    }

    /// The message.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.message
    }

    /// The message to change.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.message
    }

    /// The message alone.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.message
    }

    /// The same response around another message.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Response<U> {
        Response {
            metadata: self.metadata,
            trailers: self.trailers,
            message: change(self.message),
        }
    }
}

impl<T> From<T> for Response<T> {
    fn from(message: T) -> Self {
        Self::new(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future of each handler has one in it for as long as it runs.
    #[test]
    fn a_request_is_nine_words() {
        assert!(size_of::<Request<usize>>() <= 9 * size_of::<u64>());
    }

    #[test]
    fn extensions_hold_one_value_per_type() {
        let mut extensions = Extensions::default();
        assert_eq!(extensions.insert(1u32), None);
        assert_eq!(extensions.insert(2u32), Some(1));
        assert_eq!(extensions.get::<u32>(), Some(&2));
        assert_eq!(extensions.get::<u64>(), None);
        assert_eq!(extensions.remove::<u32>(), Some(2));
        assert_eq!(extensions.get::<u32>(), None);
    }
}
