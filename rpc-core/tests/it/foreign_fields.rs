//! Fields that others send and this crate would not: one rule for heads and trailers of both roles, and
//! the call goes on.

use bytes::Bytes;
use rpc_core::server::{Router, Service};
use rpc_core::{Channel, Code, Codec, Metadata, MetadataValue, Method, Request, Response, Server};
use rpc_http2::Fields;
use rpc_http2::frame::{FrameHeader, HEADER, PREFACE, flag, kind};
use rpc_http2::hpack::{Encoder, Template};
use rpc_testkit::raw::{RawClient, RawReader, frame, message};
use rpc_testkit::{Running, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SEE: Method<Bytes, Bytes> = Method::unary("/demo.Fields/See", Codec::raw(), Codec::raw());

/// What is sent, and what is to be seen of it.
const SENT: [(&str, &[u8], Option<&str>); 14] = [
    ("x-plain", b"v w", Some("v w")),
    ("x-front", b"  v", Some("v")),
    ("x-back", b"v\t ", Some("v")),
    ("x-blank", b" ", Some("")),
    ("x-high", b"v\xff", None),
    ("x-utf8", "\u{fc}".as_bytes(), None),
    ("x-tab", b"a\tb", None),
    ("x-escape", b"\x1b[31m", None),
    ("x-first", b"\x01", None),
    ("x-del", b"\x7f", None),
    ("x-padded-bin", b" AQ== ", Some("[1]")),
    ("x-joined-bin", b"Ag, *,Aw==", Some("[2][3]")),
    ("x-bad-bin", b"*", None),
    ("x-last", b"1", Some("1")),
];

/// What HTTP/1.1 and the h2 crate cannot carry, no test need send over them.
fn is_of_http(value: &[u8]) -> bool {
    !value
        .iter()
        .any(|octet| *octet < 0x20 && *octet != b'\t' || *octet == 0x7f)
}

fn push_sent(fields: &mut Fields) {
    for (name, value, _) in SENT {
        fields.push(name, value);
    }
}

fn expected() -> String {
    let lines = SENT
        .iter()
        .filter_map(|(name, _, kept)| Some(format!("{name}={}\n", (*kept)?)));
    lines.collect()
}

/// What there is of the fields that were sent.
fn seen(metadata: &Metadata) -> String {
    let mut lines = String::new();
    for (name, _, _) in SENT {
        let values = metadata.iter().filter(|(key, _)| *key == name);
        let text: Vec<_> = values
            .map(|(_, value)| match value {
                MetadataValue::Text(text) => text.to_owned(),
                MetadataValue::Binary(bytes) => format!("{bytes:?}"),
            })
            .collect();
        if !text.is_empty() {
            lines += &format!("{name}={}\n", text.concat());
        }
    }
    lines
}

/// A server that answers with the metadata that its handler sees.
async fn serve() -> (String, Running) {
    let service = Service::new("demo.Fields").unary(
        &SEE,
        &std::sync::Arc::new(()),
        |_, request: Request<Bytes>| async move {
            Ok(Response::new(Bytes::from(seen(request.metadata()))))
        },
    );
    let server = Server::builder()
        .router(Router::new().add_service(service))
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    (server.local_addr().to_string(), run(server))
}

/// A header block without entries of the dynamic table, so that it can be sent by anybody.
fn block(fields: Fields) -> Vec<u8> {
    let (mut block, mut encoder) = (Vec::new(), Encoder::default());
    encoder.set_max_table_size(0);
    encoder.begin(&mut block);
    encoder.template(&mut Template::new(fields), &mut block);
    block
}

fn list(fields: &[(&str, &str)]) -> Fields {
    fields.iter().copied().collect()
}

/// The message of the answer to a whole call with these fields.
async fn answer(client: &mut RawClient, reader: &mut RawReader, fields: Fields) -> String {
    let stream = client.stream();
    let frames = [
        frame(kind::HEADERS, flag::END_HEADERS, stream, &block(fields)),
        frame(kind::DATA, flag::END_STREAM, stream, &message(&[])),
    ];
    client.write(&frames.concat()).await.unwrap();
    let mut body = Vec::new();
    while let Some(frame) = reader.next().await {
        assert_ne!(frame.header.kind, kind::RST_STREAM, "{frame:?}");
        assert_ne!(frame.header.kind, kind::GOAWAY, "{frame:?}");
        if frame.header.stream == stream && frame.header.kind == kind::DATA {
            body.extend(frame.payload);
        } else if frame.header.stream == stream && frame.header.has(flag::END_STREAM) {
            break;
        }
    }
    String::from_utf8(body.get(5..).unwrap_or_default().to_vec()).unwrap()
}

#[tokio::test]
async fn a_server_takes_the_fields_of_others() {
    let (address, _server) = serve().await;
    let (mut client, mut reader) = RawClient::connect(&address, &[]).await.unwrap();
    // As often as it takes for the connection to be ended, were each a mistake.
    for round in 0..300 {
        let mut fields = list(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", SEE.path()),
            (":authority", "localhost"),
            (
                "te",
                if round % 2 == 0 {
                    "Trailers"
                } else {
                    " trailers "
                },
            ),
            ("content-type", " application/grpc"),
            ("grpc-timeout", "1M "),
        ]);
        push_sent(&mut fields);
        let answer = answer(&mut client, &mut reader, fields).await;
        assert_eq!(answer, expected(), "round {round}");
    }
}

#[tokio::test]
async fn a_server_takes_the_fields_of_others_over_http_1() {
    let (address, _server) = serve().await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let mut request = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-type: application/grpc\r\nconnection: close\r\ncontent-length: 5\r\n",
        SEE.path()
    )
    .into_bytes();
    for (name, value, _) in SENT.iter().filter(|(_, value, _)| is_of_http(value)) {
        request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    request.extend(b"\r\n\0\0\0\0\0");
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains(&expected()), "{answer}");
    assert!(answer.contains("grpc-status: 0"), "{answer}");
}

/// A server of one call, which answers with these frames on stream 1; what a client connects to.
async fn answering(frames: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        stream.write_all(&settings).await.unwrap();
        let mut header = [0; HEADER];
        while stream.read_exact(&mut header).await.is_ok() {
            let header = FrameHeader::parse(&header);
            let mut payload = vec![0; header.length as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if header.kind == kind::SETTINGS && !header.has(flag::ACK) {
                let acknowledgement = frame(kind::SETTINGS, flag::ACK, 0, &[]);
                stream.write_all(&acknowledgement).await.unwrap();
            }
            if header.stream == 1 && header.has(flag::END_STREAM) {
                stream.write_all(&frames).await.unwrap();
            }
        }
    });
    uri
}

fn head_frame(fields: Fields, end: bool) -> Vec<u8> {
    let end = if end { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flag::END_HEADERS | end, 1, &block(fields))
}

const RESPONSE: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];

#[tokio::test]
async fn a_client_takes_the_fields_of_others_in_heads_and_trailers() {
    let mut head = list(&RESPONSE);
    push_sent(&mut head);
    let mut trailers = list(&[("grpc-status", " 0 ")]);
    push_sent(&mut trailers);
    let frames = [
        head_frame(head, false),
        frame(kind::DATA, 0, 1, &message(b"m")),
        head_frame(trailers, true),
    ];
    let channel = Channel::connect(&answering(frames.concat()).await).await;
    let response = channel
        .unwrap()
        .unary(&SEE, Request::new(Bytes::new()))
        .await
        .unwrap();
    assert_eq!(seen(response.metadata()), expected());
    assert_eq!(seen(response.trailers()), expected());
    assert_eq!(response.into_inner(), "m");
}

#[tokio::test]
async fn a_client_takes_the_fields_of_others_in_trailers_only() {
    let mut fields = list(&RESPONSE);
    fields.push("grpc-status", "5");
    fields.push("grpc-message", " as it is ");
    fields.push("grpc-status-details-bin", "*");
    push_sent(&mut fields);
    let channel = Channel::connect(&answering(head_frame(fields, true)).await).await;
    let status = channel
        .unwrap()
        .unary(&SEE, Request::new(Bytes::new()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert!(status.message().contains(" as it is "), "{status}");
    assert!(status.details().is_empty());
    assert_eq!(seen(status.metadata()), expected());
}

#[tokio::test]
async fn what_http_forbids_ends_the_stream_only() {
    let (address, _server) = serve().await;
    let (mut client, mut reader) = RawClient::connect(&address, &[]).await.unwrap();
    let head = || {
        list(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", SEE.path()),
            ("content-type", "application/grpc"),
        ])
    };
    for value in ["a\0b", "a\rb", "a\nb"] {
        let mut fields = head();
        fields.push("x-plain", value);
        let stream = client.stream();
        let request = frame(kind::HEADERS, flag::END_HEADERS, stream, &block(fields));
        client.write(&request).await.unwrap();
        let reset = loop {
            let frame = reader.next().await.expect("the connection goes on");
            if frame.header.stream == stream {
                break frame;
            }
        };
        assert_eq!(reset.header.kind, kind::RST_STREAM);
        assert_eq!(reset.payload, [0, 0, 0, 1]);
    }
    assert_eq!(answer(&mut client, &mut reader, head()).await, "");
}
