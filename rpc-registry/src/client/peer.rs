//! One registry server and the connection to it: [`Peer`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpc_core::client::Address;
use rpc_core::{Channel, ClientTls, Code, Metadata, Request, Status};
use tokio::sync::Mutex;

use super::holder::Leases;
use super::watch::Watches;
use crate::generated::RegistryClient;

/// How long a registry has to take a connection or a goodbye.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long it has for its first answer on a stream.
pub(crate) const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// How registry servers are spoken to.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// The value of the `authorization` field.
    pub(crate) authorization: Option<Arc<str>>,
    pub(crate) tls: Option<ClientTls>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("token", &self.authorization.is_some())
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

/// One registry server: all leases and watches of a [`Registry`](crate::Registry) share a connection
/// and one stream of each kind.
///
/// A channel waits longer and longer between its attempts; here the caller decides when to try
/// again, so a channel that failed is thrown away.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: Address,
    access: Access,
    connection: Mutex<Connection>,
    /// Whether it could not be reached last, for the log.
    lost: AtomicBool,
    pub(crate) leases: Leases,
    pub(crate) watches: Watches,
}

#[derive(Debug, Default)]
struct Connection {
    number: u64,
    channel: Option<Channel>,
}

impl Peer {
    pub(crate) fn new(address: Address, access: Access) -> Self {
        Self {
            address,
            access,
            connection: Mutex::default(),
            lost: AtomicBool::new(false),
            leases: Leases::default(),
            watches: Watches::default(),
        }
    }

    /// The client to use, and the number to [`Self::discard`] it by.
    pub(crate) async fn client(&self) -> Result<(u64, RegistryClient), Status> {
        let mut connection = self.connection.lock().await;
        if let Some(channel) = &connection.channel {
            return Ok((connection.number, RegistryClient::new(channel.clone())));
        }
        let mut settings = Channel::builder().connect_timeout(PATIENCE);
        let text = self.address.to_string();
        let target = match (&self.address, &self.access.tls) {
            (Address::Unix(_) | Address::UnixAbstract(_), _) => text,
            (_, None) => format!("http://{}", text.replace('%', "%25")),
            (_, Some(tls)) => {
                settings = settings.tls(tls.clone());
                format!("https://{}", text.replace('%', "%25"))
            }
        };
        let channel = within(PATIENCE, &self.address, settings.connect(&target)).await?;
        connection.number += 1;
        connection.channel = Some(channel.clone());
        Ok((connection.number, RegistryClient::new(channel)))
    }

    /// A request that shows the token.
    pub(crate) fn request(&self) -> Result<Request<()>, Status> {
        let mut request = Request::new(()).without_retry();
        if let Some(authorization) = &self.access.authorization {
            authorize(request.metadata_mut(), authorization)?;
        }
        Ok(request)
    }

    /// Has the next one connect anew, unless that has happened.
    pub(crate) async fn discard(&self, number: u64, why: &Status) {
        if is_refusal(why) || why.code() == Code::Aborted {
            // The connection works.
            return;
        }
        let mut connection = self.connection.lock().await;
        if connection.number == number {
            connection.channel = None;
        }
    }

    /// The registry answers.
    pub(crate) fn reached(&self) {
        if self.lost.swap(false, Ordering::Relaxed) {
            tracing::info!(registry = %self.address, "the registry is back");
        }
    }

    /// The registry cannot be reached, or refuses; said once until it is back.
    pub(crate) fn lost(&self, status: &Status, wait: Duration) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            let registry = &self.address;
            let error = in_full(status);
            tracing::warn!(%registry, error, retry_in = ?wait, "the registry is lost; tried again until it is back");
        }
    }
}

/// Adds the token to a call.
pub(crate) fn authorize(metadata: &mut Metadata, authorization: &str) -> Result<(), Status> {
    metadata
        .insert("authorization", authorization)
        .map_err(|error| {
            Status::invalid_argument("the registry's token has characters that cannot be sent")
                .with_source(error)
        })
}

/// Whether a registry that says this works and trying again is of little use.
pub(crate) fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
    )
}

/// Waits for an answer of a registry, but not for ever.
pub(crate) async fn within<T>(
    patience: Duration,
    address: &Address,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(patience, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::unavailable(format!(
            "the registry {address} has not answered within {patience:?}"
        ))),
    }
}

/// The stream to a registry ended without a reason.
pub(crate) fn ended(address: &Address) -> Status {
    Status::unavailable(format!("the registry {address} ended the stream"))
}

/// A status's message with its causes, each once.
pub(crate) fn in_full(status: &Status) -> String {
    status.explanation()
}

/// A refusal of one lease or watch, as the registry gave it.
pub(crate) fn refused(refused: crate::generated::Refused) -> Status {
    let code = Code::from_i32(i32::try_from(refused.code).unwrap_or(i32::MAX));
    Status::new(code, refused.message)
}
