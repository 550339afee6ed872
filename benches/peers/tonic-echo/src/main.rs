//! The Echo service on tonic, as its documentation has it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Instant;

use bench_driver::{Can, Client, DEADLINE, Error, Meter, Server, Settings};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

mod proto {
    tonic::include_proto!("bench");
}

use proto::echo_client::EchoClient;
use proto::echo_server::{Echo, EchoServer};
use proto::{Payload, StreamRequest};

struct Service;

type Messages = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Service {
    type ServerStreamStream = Messages;
    type PingPongStream = Messages;

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
        let size = request.get_ref().size as usize;
        let messages = std::iter::repeat_with(move || {
            Ok(Payload {
                body: vec![7; size],
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn ping_pong(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Messages>, Status> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }
}

struct Tonic;

#[cfg(not(feature = "tls"))]
fn builder(_: &Settings) -> Result<tonic::transport::Server, Error> {
    Ok(tonic::transport::Server::builder())
}

#[cfg(feature = "tls")]
fn builder(settings: &Settings) -> Result<tonic::transport::Server, Error> {
    use tonic::transport::{Identity, Server, ServerTlsConfig};
    let server = Server::builder();
    Ok(match &settings.tls {
        None => server,
        Some(tls) => {
            let identity = Identity::from_pem(&tls.certificate, &tls.key);
            server.tls_config(ServerTlsConfig::new().identity(identity))?
        }
    })
}

#[cfg(not(feature = "tls"))]
fn endpoint(address: SocketAddr, _: &Settings) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?)
}

#[cfg(feature = "tls")]
fn endpoint(address: SocketAddr, settings: &Settings) -> Result<Endpoint, Error> {
    use tonic::transport::{Certificate, ClientTlsConfig};
    Ok(match &settings.tls {
        None => Endpoint::from_shared(format!("http://{address}"))?,
        Some(tls) => {
            let root = Certificate::from_pem(&tls.certificate);
            Endpoint::from_shared(format!("https://{address}"))?
                .tls_config(ClientTlsConfig::new().ca_certificate(root))?
        }
    })
}

impl Server for Tonic {
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
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        listening(listener.local_addr()?);
        // What tonic's own `serve` does to its sockets.
        let connections = TcpListenerStream::new(listener).map(|stream| {
            let stream = stream?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        });
        builder(settings)?
            .max_concurrent_streams(settings.max_streams)
            .add_service(EchoServer::new(Service))
            .serve_with_incoming(connections)
            .await?;
        Ok(())
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

impl Client for EchoClient<Channel> {
    async fn connect(address: SocketAddr, settings: &Settings) -> Result<Self, Error> {
        let channel = endpoint(address, settings)?.connect().await?;
        Ok(EchoClient::new(channel))
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
        let answer = EchoClient::server_stream(self, request(StreamRequest { size })).await?;
        let mut messages = answer.into_inner();
        let mut last = Instant::now();
        while messages.message().await?.is_some() {
            meter.done(last);
            last = Instant::now();
        }
        Ok(())
    }

    async fn ping_pong(&mut self, body: Vec<u8>, meter: &Meter) -> Result<(), Error> {
        let (out, messages) = mpsc::channel(1);
        out.send(Payload { body: body.clone() }).await?;
        let answer = EchoClient::ping_pong(self, request(ReceiverStream::new(messages))).await?;
        let mut back = answer.into_inner();
        let mut started = Instant::now();
        loop {
            if back.message().await?.is_none() {
                return Err("the server has ended the stream".into());
            }
            meter.done(started);
            started = Instant::now();
            out.send(Payload { body: body.clone() }).await?;
        }
    }

    async fn hold(&mut self, opened: impl FnOnce() + Send) -> Result<(), Error> {
        let (out, messages) = mpsc::channel(1);
        out.send(Payload::default()).await?;
        // Without a deadline, which would be a timer for each stream.
        let messages = Request::new(ReceiverStream::new(messages));
        let mut back = EchoClient::ping_pong(self, messages).await?.into_inner();
        back.message().await?;
        opened();
        back.message().await?;
        Err("the server has ended the stream".into())
    }
}

fn main() -> ExitCode {
    bench_driver::main::<Tonic, EchoClient<Channel>>()
}
