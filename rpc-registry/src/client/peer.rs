//! One registry server and the connection to it: [`Peer`].

use std::time::Duration;

use rpc_core::client::Address;
use rpc_core::{Channel, Code, Status};
use tokio::sync::Mutex;

use crate::generated::RegistryClient;

/// How long a registry has to take a connection or to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// One registry server; leases and watches share its connection.
///
/// A channel waits longer and longer between its attempts; here the caller decides when to try
/// again, so a channel that failed is thrown away.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: Address,
    connection: Mutex<Connection>,
}

#[derive(Debug, Default)]
struct Connection {
    number: u64,
    channel: Option<Channel>,
}

impl Peer {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            connection: Mutex::default(),
        }
    }

    /// The client to use, and the number to [`Self::discard`] it by.
    pub(crate) async fn client(&self) -> Result<(u64, RegistryClient), Status> {
        let mut connection = self.connection.lock().await;
        if let Some(channel) = &connection.channel {
            return Ok((connection.number, RegistryClient::new(channel.clone())));
        }
        let target = match &self.address {
            Address::Unix(_) | Address::UnixAbstract(_) => self.address.to_string(),
            address => format!("http://{}", address.to_string().replace('%', "%25")),
        };
        let connecting = Channel::builder()
            .connect_timeout(PATIENCE)
            .connect(&target);
        let channel = within(PATIENCE, &self.address, connecting).await?;
        connection.number += 1;
        connection.channel = Some(channel.clone());
        Ok((connection.number, RegistryClient::new(channel)))
    }

    /// Has the next one connect anew, unless that has happened.
    pub(crate) async fn discard(&self, number: u64, why: &Status) {
        if matches!(
            why.code(),
            Code::InvalidArgument | Code::FailedPrecondition | Code::Aborted
        ) {
            // The connection works.
            return;
        }
        let mut connection = self.connection.lock().await;
        if connection.number == number {
            connection.channel = None;
        }
    }
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
