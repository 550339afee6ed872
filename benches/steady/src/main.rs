//! Unary calls between a client and a server in one thread, without a socket: what `.ci/instructions`
//! counts the instructions of.
//!
//! `steady CALLS [ENTRIES]` makes so many, 64 at a time, each with a deadline and with so many entries
//! of metadata, of which one differs in every call. The clock stands still.

use std::error::Error;
use std::sync::Arc;
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
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut words = std::env::args().skip(1);
    let calls: u32 = words.next().ok_or("steady CALLS [ENTRIES]")?.parse()?;
    let entries: usize = words.next().map_or(Ok(0), |word| word.parse())?;
    let keys: Arc<[String]> = (0..entries).map(|n| format!("x-entry-{n}")).collect();
    let router = Router::new().add_service(EchoServer::new(EchoService));
    let client = EchoClient::new(Channel::in_process(router)?);
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|task| {
            let (client, keys) = (client.clone(), Arc::clone(&keys));
            tokio::spawn(async move {
                for call in 0..calls / IN_FLIGHT {
                    let message = Payload { body: vec![7; 100] };
                    let mut request = Request::new(message).with_timeout(Duration::from_secs(10));
                    for (place, key) in keys.iter().enumerate() {
                        let metadata = request.metadata_mut();
                        match place {
                            0 => metadata.insert(key, &(call * IN_FLIGHT + task).to_string())?,
                            _ => metadata.insert(key, "a value that stays")?,
                        }
                    }
                    client.unary(request).await?;
                }
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}
