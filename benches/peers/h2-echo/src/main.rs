//! The `h2` crate alone: requests with a body of a message's size, echoed, without gRPC. The streams
//! of a connection are handled by the one task that also drives it, and what they answer in a turn is
//! flushed together. What this costs is the share of HTTP/2 in the cost of every stack on `h2`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::Instant;

use bench_driver::{Can, Client, Error, Meter, Server, Settings};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, Stream};
use h2::RecvStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::net::{TcpListener, TcpStream};

/// The bodies are as long as a gRPC message with its prefix and its one field.
const OVERHEAD: usize = 5 + 2;

/// The windows of the other stacks. With those of HTTP/2 itself, `h2` takes a few hundred small answers
/// in one read for an attack.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

struct Exchange {
    request: RecvStream,
    respond: SendResponse<Bytes>,
    body: Option<Bytes>,
}

impl Exchange {
    /// Reads what there is; answers once that was all.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while let Poll::Ready(data) = self.request.poll_data(cx) {
            let Some(data) = data else {
                let mut response = Response::new(());
                response.headers_mut().insert(
                    http::header::CONTENT_TYPE,
                    HeaderValue::from_static("application/octet-stream"),
                );
                let mut stream = self.respond.send_response(response, false)?;
                stream.send_data(self.body.take().unwrap_or_default(), false)?;
                stream.send_trailers(trailers())?;
                return Poll::Ready(Ok(()));
            };
            let data = data?;
            self.request.flow_control().release_capacity(data.len())?;
            self.body = Some(match self.body.take() {
                None => data,
                Some(before) => {
                    let mut both = BytesMut::from(before);
                    both.extend_from_slice(&data);
                    both.freeze()
                }
            });
        }
        Poll::Pending
    }
}

/// An answer ends as one of gRPC does, so that there are as many frames.
fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("status", HeaderValue::from_static("0"));
    trailers
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(stream)
        .await?;
    let mut open: Vec<Exchange> = Vec::new();
    poll_fn(|cx| {
        loop {
            // All that has come in first; each of these calls also flushes.
            loop {
                match connection.poll_accept(cx) {
                    Poll::Pending => break,
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Ready(Some(accepted)) => {
                        let (request, respond) = accepted?;
                        open.push(Exchange {
                            request: request.into_body(),
                            respond,
                            body: None,
                        });
                    }
                }
            }
            let before = open.len();
            // A stream that the client has reset is as good as answered.
            open.retain_mut(|exchange| exchange.advance(cx).is_pending());
            if open.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await
}

struct H2;

impl Server for H2 {
    fn can() -> Can {
        Can::floor()
    }

    async fn serve(_: &Settings, listening: impl FnOnce(SocketAddr) + Send) -> Result<(), Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        listening(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            // A client that goes away is no failure of the server's.
            tokio::spawn(async { drop(echo(stream).await) });
        }
    }
}

/// Sends a request and waits for the end of its answer; when it began and how long the answer was.
async fn call(
    mut requests: SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
) -> Result<(Instant, usize), Error> {
    let started = Instant::now();
    let (answer, mut stream) = requests.send_request(request, false)?;
    stream.send_data(body, true)?;
    let mut answer = answer.await?.into_body();
    let mut length = 0;
    while let Some(data) = answer.data().await {
        let data = data?;
        answer.flow_control().release_capacity(data.len())?;
        length += data.len();
    }
    if answer.trailers().await?.is_none() {
        return Err("an answer without an end came back".into());
    }
    Ok((started, length))
}

#[derive(Clone, Copy)]
struct H2Client(SocketAddr);

impl Client for H2Client {
    const BATCHES: bool = true;

    async fn connect(address: SocketAddr, _: &Settings) -> Result<Self, Error> {
        Ok(Self(address))
    }

    async fn batch(&mut self, in_flight: usize, body: Vec<u8>, meter: &Meter) -> Result<(), Error> {
        let stream = TcpStream::connect(self.0).await?;
        stream.set_nodelay(true)?;
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await?;
        let mut message = BytesMut::with_capacity(OVERHEAD + body.len());
        message.put_bytes(0, OVERHEAD);
        message.extend_from_slice(&body);
        let message = message.freeze();
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("http://{}/bench.Echo/Unary", self.0).parse()?;
        let mut calls = FuturesUnordered::new();
        // What is due is started together, so that the connection flushes it together.
        let mut due = in_flight;
        poll_fn(|cx| {
            loop {
                for _ in 0..std::mem::take(&mut due) {
                    calls.push(call(requests.clone(), request.clone(), message.clone()));
                }
                // The calls write to the connection and read from it only when it is polled between.
                due += answered(&mut calls, message.len(), meter, cx)?;
                if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                    ended?;
                    return Poll::Ready(Err("the server has closed the connection".into()));
                }
                due += answered(&mut calls, message.len(), meter, cx)?;
                if due == 0 {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// Polls the calls that have something to do and counts those that are done.
fn answered<S>(
    calls: &mut S,
    expected: usize,
    meter: &Meter,
    cx: &mut Context<'_>,
) -> Result<usize, Error>
where
    S: Stream<Item = Result<(Instant, usize), Error>> + Unpin,
{
    let mut count = 0;
    while let Poll::Ready(Some(back)) = Pin::new(&mut *calls).poll_next(cx) {
        let (started, length) = back?;
        if length != expected {
            return Err(format!("an answer of {length} bytes came back").into());
        }
        meter.done(started);
        count += 1;
    }
    Ok(count)
}

fn main() -> ExitCode {
    bench_driver::main::<H2, H2Client>()
}
