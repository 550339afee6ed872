//! The Echo service on this framework.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use bench_driver::{Client, DEADLINE, Error, Meter, Server};
use rpc_core::server::BoundAddr;
use rpc_core::{Channel, RecvStream, Request, Response, SendStream, Status};

#[allow(missing_docs, unreachable_pub)]
mod proto {
    rpc_core::include_proto!("bench");
}

use proto::{Echo, EchoClient, EchoServer, Payload, StreamRequest};

struct Service;

impl Echo for Service {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn unary_wait(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        tokio::task::yield_now().await;
        Ok(Response::new(request.into_inner()))
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
        responses: &mut SendStream<Payload>,
    ) -> Result<(), Status> {
        let size = request.get_ref().size as usize;
        loop {
            responses
                .send(Payload {
                    body: vec![7; size],
                })
                .await?;
        }
    }

    async fn ping_pong(
        &self,
        request: Request<RecvStream<Payload>>,
        responses: &mut SendStream<Payload>,
    ) -> Result<(), Status> {
        let mut requests = request.into_inner();
        while let Some(message) = requests.recv().await? {
            responses.send(message).await?;
        }
        Ok(())
    }
}

struct Ours;

impl Server for Ours {
    async fn serve(listening: impl FnOnce(SocketAddr) + Send) -> Result<(), Error> {
        let server = rpc_core::Server::builder()
            .add_service(EchoServer::new(Service))
            .bind("127.0.0.1:0")
            .await?;
        if let BoundAddr::Tcp(address) = server.local_addr() {
            listening(*address);
        }
        Ok(server.serve().await?)
    }
}

fn request<T>(message: T) -> Request<T> {
    Request::new(message).with_timeout(DEADLINE)
}

impl Client for EchoClient {
    async fn connect(address: SocketAddr) -> Result<Self, Error> {
        Ok(Self::new(
            Channel::connect(&format!("http://{address}")).await?,
        ))
    }

    async fn unary(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        let answer = EchoClient::unary(self, request(Payload { body })).await?;
        Ok(answer.get_ref().body.len())
    }

    async fn unary_wait(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        let answer = EchoClient::unary_wait(self, request(Payload { body })).await?;
        Ok(answer.get_ref().body.len())
    }

    async fn server_stream(&mut self, size: u32, meter: &Meter) -> Result<(), Error> {
        let mut messages = EchoClient::server_stream(self, request(StreamRequest { size }));
        let mut last = Instant::now();
        while messages.recv().await?.is_some() {
            meter.done(last);
            last = Instant::now();
        }
        Ok(())
    }

    async fn ping_pong(&mut self, body: Vec<u8>, meter: &Meter) -> Result<(), Error> {
        let (mut out, mut back) = EchoClient::ping_pong(self, request(()));
        loop {
            let started = Instant::now();
            out.send(Payload { body: body.clone() }).await?;
            if back.recv().await?.is_none() {
                return Err("the server has ended the stream".into());
            }
            meter.done(started);
        }
    }
}

fn main() -> ExitCode {
    bench_driver::main::<Ours, EchoClient>()
}
