//! The Echo service on connectrpc, as its documentation has it, over gRPC and without compression.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bench_driver::{Can, Client, DEADLINE, Error, Meter, Server, Settings};
use connectrpc::client::{ClientConfig, SharedHttp2Connection};
use connectrpc::{
    ConnectRpcService, InboundStream, Protocol, RequestContext, Response, ServiceRequest,
    ServiceResult, ServiceStream,
};
use futures_util::StreamExt;

mod transport;

mod proto {
    connectrpc::include_generated!();
}

use proto::bench::{Echo, EchoClient, EchoServer, Payload, StreamRequest};

struct Service;

fn payload(body: Vec<u8>) -> Payload {
    Payload {
        body,
        ..Payload::default()
    }
}

// The trait promises an encodable answer; every caller here wants the message itself.
#[allow(refining_impl_trait)]
impl Echo for Service {
    async fn unary(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, Payload>,
    ) -> ServiceResult<Payload> {
        Response::ok(payload(request.body.to_vec()))
    }

    async fn unary_wait(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, Payload>,
    ) -> ServiceResult<Payload> {
        tokio::task::yield_now().await;
        Response::ok(payload(request.body.to_vec()))
    }

    async fn server_stream(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, StreamRequest>,
    ) -> ServiceResult<ServiceStream<Payload>> {
        let size = request.size as usize;
        let messages = std::iter::repeat_with(move || Ok(payload(vec![7; size])));
        Response::stream_ok(futures_util::stream::iter(messages))
    }

    async fn ping_pong(
        &self,
        _: RequestContext,
        requests: InboundStream<Payload>,
    ) -> ServiceResult<ServiceStream<Payload>> {
        Response::stream_ok(requests.map(|message| Ok(payload(message?.view().body.to_vec()))))
    }
}

struct Connect;

impl Server for Connect {
    fn can() -> Can {
        Can {
            tls: cfg!(feature = "tls"),
            ..Can::all()
        }
    }

    async fn serve(
        settings: &Settings,
        listening: impl FnOnce(SocketAddr) + Send,
    ) -> Result<(), Error> {
        // It disables Nagle's algorithm itself.
        let server = connectrpc::server::Server::bind("127.0.0.1:0").await?;
        let server = transport::secure(server, settings)?;
        listening(server.local_addr()?);
        let service = ConnectRpcService::new(EchoServer::new(Service));
        server.serve_with_service(service).await
    }
}

#[derive(Clone)]
struct ConnectClient(Arc<EchoClient<SharedHttp2Connection>>);

impl Client for ConnectClient {
    async fn connect(address: SocketAddr, settings: &Settings) -> Result<Self, Error> {
        let (uri, connection) = transport::connect(address, settings).await?;
        let config = ClientConfig::new(uri)
            .with_protocol(Protocol::Grpc)
            .with_default_timeout(DEADLINE);
        Ok(Self(Arc::new(EchoClient::new(
            connection.shared(1024),
            config,
        ))))
    }

    async fn unary(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        Ok(self.0.unary(payload(body)).await?.view().body.len())
    }

    async fn unary_wait(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        Ok(self.0.unary_wait(payload(body)).await?.view().body.len())
    }

    async fn server_stream(&mut self, size: u32, meter: &Meter) -> Result<(), Error> {
        let request = StreamRequest {
            size,
            ..StreamRequest::default()
        };
        let mut messages = self.0.server_stream(request).await?;
        let mut last = Instant::now();
        while messages.message().await?.is_some() {
            meter.done(last);
            last = Instant::now();
        }
        Ok(())
    }

    async fn ping_pong(&mut self, body: Vec<u8>, meter: &Meter) -> Result<(), Error> {
        let mut stream = self.0.ping_pong().await?;
        loop {
            let started = Instant::now();
            stream.send(payload(body.clone())).await?;
            if stream.message().await?.is_none() {
                return Err("the server has ended the stream".into());
            }
            meter.done(started);
        }
    }
}

fn main() -> ExitCode {
    bench_driver::main::<Connect, ConnectClient>()
}
