//! The Echo service on volo, as its documentation has it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use bench_driver::{Can, Client, DEADLINE, Error, Meter, Server, Settings};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use volo::net::incoming::DefaultIncoming;
use volo_grpc::server::ServiceBuilder;
use volo_grpc::{BoxStream, RecvStream, Request, Response, Status};

#[allow(warnings, clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/echo.rs"));
}

use generated::echo::bench::{
    Echo, EchoClient, EchoClientBuilder, EchoServer, Payload, StreamRequest,
};

struct Service;

type Messages = BoxStream<'static, Result<Payload, Status>>;

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
    ) -> Result<Response<Messages>, Status> {
        let size = usize::try_from(request.get_ref().size).unwrap_or_default();
        let messages = std::iter::repeat_with(move || payload(vec![7; size])).map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn ping_pong(
        &self,
        request: Request<RecvStream<Payload>>,
    ) -> Result<Response<Messages>, Status> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }
}

struct Volo;

impl Server for Volo {
    fn can() -> Can {
        Can::all()
    }

    async fn serve(_: &Settings, listening: impl FnOnce(SocketAddr) + Send) -> Result<(), Error> {
        // It disables Nagle's algorithm itself.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        listening(listener.local_addr()?);
        volo_grpc::server::Server::new()
            .add_service(ServiceBuilder::new(EchoServer::new(Service)).build())
            .run(DefaultIncoming::from(listener))
            .await
    }
}

fn payload(body: Vec<u8>) -> Payload {
    Payload { body: body.into() }
}

#[derive(Clone)]
struct VoloClient(EchoClient);

impl Client for VoloClient {
    async fn connect(address: SocketAddr, _: &Settings) -> Result<Self, Error> {
        let client = EchoClientBuilder::new("echo")
            .address(address)
            .rpc_timeout(Some(DEADLINE))
            .build();
        // It connects at the first call.
        client.unary(Payload::default()).await?;
        Ok(Self(client))
    }

    async fn unary(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        Ok(self.0.unary(payload(body)).await?.get_ref().body.len())
    }

    async fn unary_wait(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        Ok(self.0.unary_wait(payload(body)).await?.get_ref().body.len())
    }

    async fn server_stream(&mut self, size: u32, meter: &Meter) -> Result<(), Error> {
        let request = StreamRequest { size };
        let mut messages = self.0.server_stream(request).await?.into_inner();
        let mut last = Instant::now();
        while let Some(message) = messages.next().await {
            message?;
            meter.done(last);
            last = Instant::now();
        }
        Ok(())
    }

    async fn ping_pong(&mut self, body: Vec<u8>, meter: &Meter) -> Result<(), Error> {
        let (out, messages) = mpsc::channel(1);
        out.send(payload(body.clone())).await?;
        let answer = self.0.ping_pong(ReceiverStream::new(messages)).await?;
        let mut back = answer.into_inner();
        let mut started = Instant::now();
        loop {
            match back.next().await {
                None => return Err("the server has ended the stream".into()),
                Some(message) => message?,
            };
            meter.done(started);
            started = Instant::now();
            out.send(payload(body.clone())).await?;
        }
    }
}

fn main() -> ExitCode {
    bench_driver::main::<Volo, VoloClient>()
}
