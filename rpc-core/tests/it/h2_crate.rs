//! The h2 crate as client and as server, over a wire that cuts what it carries anywhere, with windows
//! from none to large.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use rpc_core::{Channel, Codec, Method, MethodKind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A socket that takes and gives a random number of octets at a time, and sometimes none yet.
pub(super) struct Sliced {
    socket: TcpStream,
    random: fastrand::Rng,
    most: usize,
}

impl Sliced {
    pub(super) fn new(socket: TcpStream, seed: u64) -> Self {
        socket.set_nodelay(true).unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        let most = [1, 9, 100, 1000, 20_000][random.usize(..5)];
        // Octet by octet takes long, and what is small has been cut everywhere already.
        Self {
            socket,
            random,
            most: most.max(7),
        }
    }

    fn slice(&mut self, cx: &Context<'_>) -> Option<usize> {
        if self.random.u8(..10) == 0 {
            cx.waker().wake_by_ref();
            return None;
        }
        Some(self.random.usize(1..=self.most))
    }
}

impl AsyncRead for Sliced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(most) = self.slice(cx) else {
            return Poll::Pending;
        };
        let mut part = vec![0; most.min(buffer.remaining())];
        let mut part = ReadBuf::new(&mut part);
        let result = Pin::new(&mut self.socket).poll_read(cx, &mut part);
        buffer.put_slice(part.filled());
        result
    }
}

impl AsyncWrite for Sliced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(most) = self.slice(cx) else {
            return Poll::Pending;
        };
        let most = most.min(data.len());
        Pin::new(&mut self.socket).poll_write(cx, &data[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// What the h2 crate allows its peer to send.
pub(super) fn window(random: &mut fastrand::Rng) -> u32 {
    [1, 100, 5_000, 65_535, 1 << 20][random.usize(..5)]
}

fn bodies(random: &mut fastrand::Rng, window: u32) -> Vec<Bytes> {
    let most = if window < 100 { 300 } else { 40_000 };
    (0..20)
        .map(|_| {
            let below = [1, 50, most][random.usize(..3)];
            let size = 1 + random.usize(..below);
            let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
                .take(size)
                .collect();
            message(&body)
        })
        .collect()
}

/// A `Message` with such a body.
fn message(body: &[u8]) -> Bytes {
    let mut message = vec![0x1a];
    let mut length = body.len();
    while length >= 0x80 {
        message.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap());
    message.extend_from_slice(body);
    message.into()
}

pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

pub(super) async fn read_all(mut body: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    (all, body.trailers().await.unwrap())
}

/// Sends as much as there is room for at a time.
pub(super) async fn send_all(stream: &mut h2::SendStream<Bytes>, mut data: Bytes, end: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let part = data.split_to(room.unwrap().unwrap().min(data.len()));
        stream.send_data(part, end && data.is_empty()).unwrap();
    }
}

/// The h2 crate's client of a server, with windows and frames of some size.
pub(super) async fn h2_client(
    uri: &str,
    window: u32,
    random: &mut fastrand::Rng,
) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(uri.trim_start_matches("http://"))
        .await
        .unwrap();
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(window.max(65_535))
        .max_frame_size([16_384, 100_000][random.usize(..2)])
        .max_header_list_size(8_000)
        .header_table_size([0, 100, 4096][random.usize(..3)])
        .handshake(Sliced::new(socket, random.u64(..)))
        .await
        .unwrap();
    tokio::spawn(connection);
    requests
}

/// A channel to a server of the h2 crate, which answers each request by a task.
pub(super) async fn h2_server<F: Future<Output = ()> + Send + 'static>(
    window: u32,
    random: &mut fastrand::Rng,
    mut answer: impl FnMut(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F
    + Send
    + 'static,
) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(window.max(65_535))
        .max_concurrent_streams([1, 3, 1000][random.usize(..3)])
        .max_frame_size([16_384, 100_000][random.usize(..2)])
        .header_table_size([0, 100, 4096][random.usize(..3)]);
    let seed = random.u64(..);
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = builder
            .handshake::<_, Bytes>(Sliced::new(socket, seed))
            .await
            .unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(answer(request, respond));
        }
    });
    Channel::connect(&uri).await.unwrap()
}

/// Waits for all calls.
pub(super) async fn join(mut calls: JoinSet<()>) {
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

async fn h2_calls_us(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let server = rpc_testkit::serve().await;
    let window = window(&mut random);
    let requests = h2_client(&server.uri, window, &mut random).await;
    let mut calls = JoinSet::new();
    for body in bodies(&mut random, window) {
        let mut requests = requests.clone();
        calls.spawn(async move {
            let request = Request::post("http://localhost/testkit.v1.Test/Echo")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("x-length", body.len());
            std::future::poll_fn(|cx| requests.poll_ready(cx))
                .await
                .unwrap();
            let (response, mut stream) = requests
                .send_request(request.body(()).unwrap(), false)
                .unwrap();
            send_all(&mut stream, framed(&body), true).await;
            let (all, trailers) = read_all(response.await.unwrap().into_body()).await;
            assert_eq!(trailers.unwrap()["grpc-status"], "0");
            assert_eq!(all, framed(&body), "seed {seed}");
        });
    }
    join(calls).await;
}

async fn we_call_h2(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let window = window(&mut random);
    let channel = h2_server(window, &mut random, |request, respond| {
        echo(request.into_body(), respond)
    })
    .await;
    let method: Method<Bytes, Bytes> = Method::dynamic(
        "/any.Service/Echo",
        MethodKind::Unary,
        Codec::raw(),
        Codec::raw(),
    );
    let mut calls = JoinSet::new();
    for body in bodies(&mut random, window) {
        let (channel, method) = (channel.clone(), method.clone());
        calls.spawn(async move {
            let request = rpc_core::Request::new(body.clone());
            let reply = channel.unary(&method, request).await.unwrap();
            assert_eq!(reply.into_inner(), body, "seed {seed}");
        });
    }
    join(calls).await;
}

/// Sends back what comes while it comes.
async fn echo(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    let response = Response::builder().header("content-type", "application/grpc");
    let mut stream = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        send_all(&mut stream, data, false).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers).unwrap();
}

const SEEDS: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_client_calls_our_server() {
    for seed in 0..SEEDS {
        let calls = h2_calls_us(seed);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), calls).await;
        ended.unwrap_or_else(|_| panic!("seed {seed} hangs"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_calls_its_server() {
    for seed in 0..SEEDS {
        let calls = we_call_h2(seed);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), calls).await;
        ended.unwrap_or_else(|_| panic!("seed {seed} hangs"));
    }
}
