//! A server that is the engine and a test, at the other end of a pipe: it does what it is told, and
//! nothing else.

use std::io;
use std::sync::Mutex;

use rpc_core::client::Address;
use rpc_core::client::ChannelBuilder;
use rpc_core::{BoxFuture, Channel, Connector, Io};
use rpc_http2::hpack::Template;
use rpc_http2::{Config, Connection, ErrorCode, Event, Fields, Output, Payload, Role, StreamKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

struct Pipes(Mutex<Option<DuplexStream>>);

impl Connector for Pipes {
    fn connect<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        let pipe = self.0.lock().unwrap().take();
        Box::pin(async move {
            let pipe = pipe.ok_or(io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(pipe) as Box<dyn Io>)
        })
    }
}

/// What a server is told to do.
type Order = Box<dyn FnOnce(&mut Connection, &[StreamKey]) + Send>;

/// A server of one connection.
pub(crate) struct Engine {
    orders: mpsc::UnboundedSender<Order>,
    calls: mpsc::UnboundedReceiver<()>,
    /// The streams that the client has reset, and when that was heard.
    pub(crate) resets: mpsc::UnboundedReceiver<(ErrorCode, Instant)>,
    /// Ends when the client has closed the connection.
    pub(crate) closed: tokio::task::JoinHandle<()>,
}

impl Engine {
    /// Connects a channel to a new server.
    pub(crate) async fn connect(config: Config) -> (Channel, Self) {
        Self::connect_with(config, Channel::builder()).await
    }

    /// Connects a channel with settings of its own to a new server.
    pub(crate) async fn connect_with(config: Config, channel: ChannelBuilder) -> (Channel, Self) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (orders, told) = mpsc::unbounded_channel();
        let (call, calls) = mpsc::unbounded_channel();
        let (reset, resets) = mpsc::unbounded_channel();
        let closed = tokio::spawn(serve(theirs, config, told, call, reset));
        let channel = channel
            .connector(Pipes(Mutex::new(Some(ours))))
            .connect("http://test:1")
            .await
            .unwrap();
        let engine = Self {
            orders,
            calls,
            resets,
            closed,
        };
        (channel, engine)
    }

    /// Waits until another call has arrived.
    pub(crate) async fn called(&mut self) {
        assert!(self.calls.recv().await.is_some(), "the server is gone");
    }

    /// Does something; the calls are in the order in which they came.
    pub(crate) fn act(&self, act: impl FnOnce(&mut Connection, &[StreamKey]) + Send + 'static) {
        assert!(
            self.orders.send(Box::new(act)).is_ok(),
            "the server is gone"
        );
    }
}

/// Answers a call with OK and nothing else, and leaves its stream as it is.
pub(crate) fn ok(machine: &mut Connection, key: StreamKey) {
    let head = [(":status", "200"), ("content-type", "application/grpc")];
    let mut head = Template::new(head.into_iter().collect());
    machine.respond(key, &mut head, &Fields::new(), false);
    let mut trailers = Template::new([("grpc-status", "0")].into_iter().collect());
    machine.trailers(key, &mut trailers, &Fields::new());
}

/// Sends the head of a response with these fields beside those that it has to have.
pub(crate) fn head(machine: &mut Connection, key: StreamKey, fields: &[(&str, &str)], end: bool) {
    let all = [(":status", "200"), ("content-type", "application/grpc")];
    let mut all = Template::new(all.iter().chain(fields).copied().collect());
    machine.respond(key, &mut all, &Fields::new(), end);
}

/// Sends a message.
pub(crate) fn message(machine: &mut Connection, key: StreamKey, message: &[u8]) {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0], &length[..], message].concat();
    machine.send(key, Payload::Copied(&framed), false);
}

/// Ends a response with these fields.
pub(crate) fn trailers(machine: &mut Connection, key: StreamKey, fields: &[(&str, &str)]) {
    let mut all = Template::new(fields.iter().copied().collect());
    machine.trailers(key, &mut all, &Fields::new());
}

/// A server that is not told anything.
pub(crate) async fn idle(pipe: DuplexStream, config: Config) {
    let (_orders, told) = mpsc::unbounded_channel();
    let (call, _calls) = mpsc::unbounded_channel();
    let (reset, _resets) = mpsc::unbounded_channel();
    serve(pipe, config, told, call, reset).await;
}

async fn serve(
    mut pipe: DuplexStream,
    config: Config,
    mut orders: mpsc::UnboundedReceiver<Order>,
    calls: mpsc::UnboundedSender<()>,
    resets: mpsc::UnboundedSender<(ErrorCode, Instant)>,
) {
    let mut machine = Connection::new(Role::Server, config, Instant::now().into_std());
    let (mut input, mut keys, mut output) = (Vec::new(), Vec::new(), Output::default());
    let mut greeted = false;
    loop {
        // As over a network, the client has to wait for the settings.
        while greeted && machine.has_output() {
            machine.take_output(&mut output, Instant::now().into_std());
            let mut octets = Vec::new();
            while !output.is_empty() {
                let mut slices = [io::IoSlice::new(&[]); 16];
                let filled = output.slices(&mut slices);
                let before = octets.len();
                slices[..filled]
                    .iter()
                    .for_each(|slice| octets.extend_from_slice(slice));
                let count = octets.len() - before;
                output.advance(count);
            }
            if pipe.write_all(&octets).await.is_err() {
                return;
            }
        }
        let mut read = [0; 16 * 1024];
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => order(&mut machine, &keys),
                None => std::future::pending().await,
            },
            count = pipe.read(&mut read) => {
                let count = count.unwrap_or(0);
                if count == 0 {
                    return;
                }
                greeted = true;
                input.extend_from_slice(&read[..count]);
                let mut rest = &*input;
                while let Some(event) = machine.receive(&mut rest, Instant::now().into_std()).unwrap() {
                    match event {
                        Event::Head { stream, .. } => {
                            keys.push(stream);
                            let _ = calls.send(());
                        }
                        Event::Reset { code, .. } => {
                            let _ = resets.send((code, Instant::now()));
                        }
                        _ => {}
                    }
                }
                input = rest.to_vec();
            }
        }
    }
}
