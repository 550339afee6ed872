//! Unary calls between a client and a server in one thread, without a socket: what `.ci/instructions`
//! counts the instructions of.
//!
//! `steady CALLS` makes so many, 64 at a time, each with a deadline. The clock stands still.

use std::time::Duration;

use rpc_core::server::Router;
use rpc_core::{Channel, RecvStream, Request, Response, SendStream, Status};

#[allow(missing_docs, unreachable_pub)]
mod proto {
    rpc_core::include_proto!("bench");
}

use proto::{Echo, EchoClient, EchoServer, Payload, StreamRequest};

struct EchoService;

impl Echo for EchoService {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn unary_wait(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn server_stream(
        &self,
        _request: Request<StreamRequest>,
        _responses: &mut SendStream<Payload>,
    ) -> Result<(), Status> {
        Ok(())
    }

    async fn ping_pong(
        &self,
        _request: Request<RecvStream<Payload>>,
        _responses: &mut SendStream<Payload>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

const IN_FLIGHT: u32 = 64;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let calls: u32 = std::env::args().nth(1).ok_or("steady CALLS")?.parse()?;
    let router = Router::new().add_service(EchoServer::new(EchoService));
    let client = EchoClient::new(Channel::in_process(router)?);
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..calls / IN_FLIGHT {
                    let message = Payload { body: vec![7; 100] };
                    let request = Request::new(message).with_timeout(Duration::from_secs(10));
                    client.unary(request).await?;
                }
                Ok::<_, Status>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}
