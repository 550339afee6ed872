//! What the tests of this workspace share: a service to call and a server that runs it, a fleet of
//! processes that may be killed, a load on it, and the books that must agree afterwards.

pub mod fleet;
pub mod ledger;
pub mod load;
pub mod promises;
mod proxy;
pub mod raw;
pub mod roles;
mod ticker;

use std::sync::atomic::{AtomicI64, Ordering};

use rpc_core::server::{BoundServer, ShutdownHandle};
use rpc_core::{Code, MetadataValue, RecvStream, Request, Response, SendStream, Server, Status};
use tokio::task::JoinHandle;

/// The generated code of the test service.
#[allow(missing_docs)]
pub mod proto {
    rpc_core::include_proto!("testkit.v1");
}

/// `grpc.health.v1`, generated: `rpc-core` has its messages written by hand.
#[allow(missing_docs)]
pub mod health {
    rpc_core::include_proto!("grpc.health.v1");
}

/// The generated code of the service that the processes of a fleet serve.
#[allow(missing_docs)]
pub mod orders {
    rpc_core::include_proto!("testkit.orders.v1");
}

/// The generated code of the messages that cost more than they look.
#[allow(missing_docs)]
pub mod heavy {
    rpc_core::include_proto!("testkit.heavy.v1");
}

pub use proxy::FaultProxy;
pub use ticker::Ticker;

use proto::{Counts, FailRequest, Message, StreamRequest, Test, TestServer};

/// The test service.
#[derive(Debug, Default)]
pub struct TestService {
    started: AtomicI64,
    dropped: AtomicI64,
}

struct CountDrop<'a>(&'a AtomicI64);

impl Drop for CountDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Test for TestService {
    async fn echo(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn echo_idempotent(
        &self,
        request: Request<Message>,
    ) -> Result<Response<Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn fail(&self, request: Request<FailRequest>) -> Result<Response<Message>, Status> {
        let request = request.into_inner();
        let mut status = Status::new(Code::from_i32(request.code), request.message)
            .with_details(request.details.into());
        status
            .metadata_mut()
            .insert("x-fail", "yes")
            .map_err(|error| Status::internal(error.to_string()))?;
        Err(status)
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
        responses: &mut SendStream<Message>,
    ) -> Result<(), Status> {
        let request = request.into_inner();
        let body = vec![7; usize::try_from(request.size).unwrap_or(0)];
        for number in 0..request.count {
            if request.fail_after > 0 && number == request.fail_after {
                return Err(Status::aborted("as asked"));
            }
            responses
                .send(Message {
                    number,
                    body: body.clone(),
                    ..Message::default()
                })
                .await?;
        }
        Ok(())
    }

    async fn client_stream(
        &self,
        request: Request<RecvStream<Message>>,
    ) -> Result<Response<Message>, Status> {
        let mut requests = request.into_inner();
        let mut number = 0;
        while let Some(message) = requests.recv().await? {
            number += message.number;
        }
        Ok(Response::new(Message {
            number,
            ..Message::default()
        }))
    }

    async fn chat(
        &self,
        request: Request<RecvStream<Message>>,
        responses: &mut SendStream<Message>,
    ) -> Result<(), Status> {
        let mut requests = request.into_inner();
        while let Some(message) = requests.recv().await? {
            responses.send(message).await?;
        }
        Ok(())
    }

    async fn hang(&self, _request: Request<Message>) -> Result<Response<Message>, Status> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let _count = CountDrop(&self.dropped);
        std::future::pending().await
    }

    async fn dropped(&self, _request: Request<Message>) -> Result<Response<Counts>, Status> {
        let started = self.started.load(Ordering::SeqCst);
        Ok(Response::new(Counts {
            started,
            dropped: self.dropped.load(Ordering::SeqCst),
        }))
    }

    async fn metadata_echo(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let mut response = Response::new(Message::default());
        for (key, value) in request
            .metadata()
            .iter()
            .filter(|(key, _)| key.starts_with("x-"))
        {
            let copied = match value {
                MetadataValue::Text(text) => response
                    .metadata_mut()
                    .append(key, text)
                    .and_then(|()| response.trailers_mut().append(key, text)),
                MetadataValue::Binary(bytes) => response
                    .metadata_mut()
                    .append_bin(key, bytes)
                    .and_then(|()| response.trailers_mut().append_bin(key, bytes)),
            };
            copied.map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(response)
    }

    async fn panic(&self, _request: Request<Message>) -> Result<Response<Message>, Status> {
        std::panic::panic_any("as asked");
    }
}

/// A server of the test service on an ephemeral port.
#[derive(Debug)]
pub struct Running {
    /// What a client connects to.
    pub uri: String,
    /// Ends it.
    pub shutdown: ShutdownHandle,
    /// Ends when it has ended.
    pub task: JoinHandle<()>,
}

/// Starts a server of the test service.
///
/// # Panics
/// When no port can be opened.
///
/// # Cancel safety
/// Dropping the future starts nothing.
pub async fn serve() -> Running {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    run(server)
}

/// Runs a server in a task.
#[must_use]
pub fn run(server: BoundServer) -> Running {
    let (uri, shutdown) = (server.uri(), server.shutdown_handle());
    let task = tokio::spawn(async move {
        if let Err(error) = server.serve().await {
            std::panic::panic_any(error.to_string());
        }
    });
    Running {
        uri,
        shutdown,
        task,
    }
}
