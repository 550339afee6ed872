//! A server that answers as a test says, by the h2 crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpListener;

/// A request with its number, from 0.
pub(crate) struct Asked {
    pub(crate) number: usize,
    pub(crate) headers: HeaderMap,
    pub(crate) body: h2::RecvStream,
    pub(crate) answer: SendResponse<Bytes>,
}

impl Asked {
    /// The next piece of the body.
    pub(crate) async fn data(&mut self) -> Option<Bytes> {
        let data = self.body.data().await?.unwrap();
        self.body
            .flow_control()
            .release_capacity(data.len())
            .unwrap();
        Some(data)
    }

    /// All that is left of the body.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(data) = self.data().await {
            all.extend_from_slice(&data);
        }
        all
    }

    /// Answers with these fields, this body and these trailers.
    pub(crate) fn reply(
        mut self,
        http: u16,
        fields: &[(&str, &str)],
        body: &[u8],
        trailers: &[(&str, &str)],
    ) {
        let mut response = Response::builder().status(http);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let end = body.is_empty() && trailers.is_empty();
        let mut stream = self
            .answer
            .send_response(response.body(()).unwrap(), end)
            .unwrap();
        if end {
            return;
        }
        stream
            .send_data(Bytes::copy_from_slice(body), trailers.is_empty())
            .unwrap();
        if !trailers.is_empty() {
            stream.send_trailers(map(trailers)).unwrap();
        }
    }

    /// Answers with one empty message and OK.
    pub(crate) fn ok(self) {
        self.reply(200, &[GRPC], &[0; 5], &[("grpc-status", "0")]);
    }

    /// Answers with a status alone, and these fields beside it.
    pub(crate) fn fail(self, code: &str, fields: &[(&str, &str)]) {
        let mut all = vec![GRPC, ("grpc-status", code)];
        all.extend_from_slice(fields);
        self.reply(200, &all, &[], &[]);
    }
}

pub(crate) const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

/// Starts a server; what a client connects to.
pub(crate) async fn serve<F, Fut>(answer: F) -> String
where
    F: Fn(Asked) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(answer(asked(number, request, respond)));
                }
            });
        }
    });
    uri
}

fn asked(number: usize, request: Request<h2::RecvStream>, answer: SendResponse<Bytes>) -> Asked {
    let (parts, body) = request.into_parts();
    Asked {
        number,
        headers: parts.headers,
        body,
        answer,
    }
}
