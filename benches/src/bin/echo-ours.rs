//! The Echo service on this framework.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_driver::{Can, Client, DEADLINE, Error, Meter, Server, Settings};
use rpc_core::server::{BoundAddr, Service};
use rpc_core::{
    Channel, ClientTls, Codec, Method, MethodKind, RecvStream, Request, Response, SendStream,
    ServerTls, Status,
};

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
    fn can() -> Can {
        Can {
            tls: true,
            ..Can::all()
        }
    }

    async fn serve(
        settings: &Settings,
        listening: impl FnOnce(SocketAddr) + Send,
    ) -> Result<(), Error> {
        let mut server = rpc_core::Server::builder().add_service(EchoServer::new(EchoService));
        if settings.methods > 0 {
            server = server.add_service(many(settings.methods));
        }
        if let Some(connections) = settings.max_connections {
            server = server.max_connections(connections);
        }
        if let Some(streams) = settings.max_streams {
            server = server.max_concurrent_streams(streams);
        }
        if let Some(size) = settings.max_message {
            server = server.max_receive_message_size(size);
        }
        if let Some(tls) = &settings.tls {
            server = server.tls(ServerTls::from_pem(&tls.certificate, &tls.key)?);
        }
        let server = server.bind("127.0.0.1:0").await?;
        if let BoundAddr::Tcp(address) = server.local_addr() {
            listening(*address);
        }
        Ok(server.serve().await?)
    }
}

/// A method beside those of the Echo service, of a service of its own.
fn method(number: usize) -> Method<Payload, Payload> {
    let path = format!("/bench.Many/Method{number}");
    Method::dynamic(path, MethodKind::Unary, Codec::prost(), Codec::prost())
}

fn many(methods: usize) -> Service {
    let state = Arc::new(());
    (0..methods).fold(Service::new("bench.Many"), |service, number| {
        service.unary(
            &method(number),
            &state,
            |_, request: Request<Payload>| async move { Ok(Response::new(request.into_inner())) },
        )
    })
}

#[derive(Clone)]
struct OurClient {
    client: EchoClient,
    channel: Channel,
    /// What is called in turn, unless there is none.
    methods: Arc<[Method<Payload, Payload>]>,
    metadata: usize,
    calls: usize,
}

impl OurClient {
    fn request<T>(&self, message: T) -> Request<T> {
        Request::new(message).with_timeout(DEADLINE)
    }

    /// A call with metadata or of one of many methods.
    async fn special(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        self.calls += 1;
        let mut request = self.request(Payload { body });
        for entry in 0..self.metadata {
            let name = format!("x-entry-{entry}");
            if entry == 0 {
                request
                    .metadata_mut()
                    .insert(&name, &self.calls.to_string())?;
            } else {
                request.metadata_mut().insert(&name, "a value that stays")?;
            }
        }
        let at = self.calls % self.methods.len().max(1);
        let answer = match self.methods.get(at) {
            Some(method) => self.channel.unary(method, request).await?,
            None => self.client.unary(request).await?,
        };
        Ok(answer.get_ref().body.len())
    }
}

impl Client for OurClient {
    async fn connect(address: SocketAddr, settings: &Settings) -> Result<Self, Error> {
        let mut channel = Channel::builder();
        if let Some(size) = settings.max_message {
            channel = channel.max_receive_message_size(size);
        }
        let target = match &settings.tls {
            None => format!("http://{address}"),
            Some(tls) => {
                channel = channel.tls(ClientTls::from_root_pem(&tls.certificate)?);
                format!("https://{address}")
            }
        };
        let channel = channel.connect(&target).await?;
        Ok(Self {
            client: EchoClient::new(channel.clone()),
            channel,
            methods: (0..settings.methods).map(method).collect(),
            metadata: settings.metadata,
            calls: 0,
        })
    }

    async fn unary(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        if self.metadata > 0 || !self.methods.is_empty() {
            return self.special(body).await;
        }
        let request = self.request(Payload { body });
        Ok(self.client.unary(request).await?.get_ref().body.len())
    }

    async fn unary_wait(&mut self, body: Vec<u8>) -> Result<usize, Error> {
        let request = self.request(Payload { body });
        Ok(self.client.unary_wait(request).await?.get_ref().body.len())
    }

    async fn server_stream(&mut self, size: u32, meter: &Meter) -> Result<(), Error> {
        let request = self.request(StreamRequest { size });
        let mut messages = self.client.server_stream(request);
        let mut last = Instant::now();
        while messages.recv().await?.is_some() {
            meter.done(last);
            last = Instant::now();
        }
        Ok(())
    }

    async fn ping_pong(&mut self, body: Vec<u8>, meter: &Meter) -> Result<(), Error> {
        let (mut out, mut back) = self.client.ping_pong(self.request(()));
        loop {
            let started = Instant::now();
            out.send(Payload { body: body.clone() }).await?;
            if back.recv().await?.is_none() {
                return Err("the server has ended the stream".into());
            }
            meter.done(started);
        }
    }

    async fn hold(&mut self, opened: impl FnOnce() + Send) -> Result<(), Error> {
        // Without a deadline, which would be a timer for each stream.
        let (mut out, mut back) = self.client.ping_pong(());
        out.send(Payload::default()).await?;
        back.recv().await?;
        opened();
        back.recv().await?;
        Err("the server has ended the stream".into())
    }

    async fn fill(&mut self, full: impl FnOnce() + Send) -> Result<(), Error> {
        // Whoever has no room for so long has none.
        const FULL: Duration = Duration::from_millis(200);
        let (mut out, _back) = self.client.ping_pong(());
        let body = vec![7; 1024];
        while let Ok(sent) =
            tokio::time::timeout(FULL, out.send(Payload { body: body.clone() })).await
        {
            sent?;
        }
        full();
        std::future::pending().await
    }
}

fn main() -> ExitCode {
    bench_driver::main::<Ours, OurClient>()
}
