//! Peers that stop in the middle of a frame: calls end by their deadlines, the connection soon after.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::client::FinishedCall;
use rpc_core::{Channel, Code, Request, Server, Status, inside};
use rpc_http2::frame::{HEADER, PREFACE, flag, kind};
use rpc_testkit::TestService;
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::raw::{frame, message};
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::pipes::{self, pipes, read_frames, read_to_end};

/// So late a call may end after its deadline.
const LATE: Duration = Duration::from_millis(100);
/// So long a connection may live whose peer has stopped in the middle of a frame.
const CONNECTION: Duration = Duration::from_secs(15);

/// What a peer says before it stops, and the frame that it stops in.
struct Stall {
    name: &'static str,
    before: Vec<u8>,
    frame: Vec<u8>,
}

/// One of each type, on a stream that is open.
fn stalls(stream: u32, head: &[u8]) -> Vec<Stall> {
    let stall = |name, frame| Stall {
        name,
        before: Vec::new(),
        frame,
    };
    let whole = frame(kind::HEADERS, flag::END_HEADERS, stream, head);
    let (first, rest) = head.split_at(head.len() / 2);
    vec![
        stall("HEADERS", whole),
        Stall {
            name: "CONTINUATION",
            before: frame(kind::HEADERS, 0, stream, first),
            frame: frame(kind::CONTINUATION, flag::END_HEADERS, stream, rest),
        },
        stall("SETTINGS", frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])),
        stall("PING", frame(kind::PING, 0, 0, &[7; 8])),
        stall("GOAWAY", frame(kind::GOAWAY, 0, 0, &[0; 20])),
        stall(
            "WINDOW_UPDATE",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]),
        ),
        stall(
            "RST_STREAM",
            frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ),
        stall("PRIORITY", frame(kind::PRIORITY, 0, stream, &[0; 5])),
        stall("an unknown one", frame(0x55, 0, 0, &[7; 40])),
    ]
}

/// A part of a message with its padding around it.
fn padded() -> Vec<u8> {
    [&[20], &message(&[7; 100])[..50], &[0; 20]].concat()
}

/// The places to stop at: in the header, behind it, in the payload.
fn cuts(frame: &[u8]) -> Vec<usize> {
    let end = frame.len();
    let mut cuts = vec![
        1,
        5,
        HEADER - 1,
        HEADER,
        HEADER + 1,
        end.saturating_sub(15),
        end - 1,
    ];
    cuts.retain(|cut| *cut > 0);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// A call's end, and when it was.
async fn ended<T>(call: impl Future<Output = Result<T, Status>>) -> (Duration, Status) {
    let start = Instant::now();
    let status = call.await.map(|_| "an answer").unwrap_err();
    (start.elapsed(), status)
}

/// Writes, octet by octet when it is to be slow.
async fn write(pipe: &mut (impl tokio::io::AsyncWrite + Unpin), octets: &[u8], pause: Duration) {
    for octet in octets {
        // Whoever has closed the connection does not need the rest.
        if pipe.write_all(&[*octet]).await.is_err() {
            return;
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Four calls to a server that stops; says how long the connection lived then.
async fn server_stops(before: &[u8], part: &[u8], pause: Duration) -> [(Duration, Status); 4] {
    let (connector, mut ends) = pipes();
    let channel = Channel::builder()
        .connector(connector)
        .lazy("http://test:1")
        .unwrap();
    let (before, part) = (before.to_vec(), part.to_vec());
    let server = tokio::spawn(async move {
        let pipe: DuplexStream = ends.recv().await.unwrap();
        drop(ends);
        let (mut read, mut write_half) = tokio::io::split(pipe);
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        write_half.write_all(&settings).await.unwrap();
        // The preface is as long as it is.
        tokio::io::AsyncReadExt::read_exact(&mut read, &mut [0; PREFACE.len()])
            .await
            .unwrap();
        read_frames(&mut read, kind::HEADERS, 4).await;
        write_half.write_all(&before).await.unwrap();
        let stopped = Instant::now();
        let dripping = write(&mut write_half, &part, pause);
        tokio::join!(read_to_end(&mut read), dripping);
        stopped.elapsed()
    });
    let test = TestClient::new(channel);
    let within =
        |seconds| Request::new(Message::default()).with_timeout(Duration::from_secs(seconds));
    let calls = async {
        let (short, long) = (test.echo(within(3)), test.hang(within(60)));
        let none = test.hang(Message::default());
        let (_requests, mut responses) = test.chat(());
        tokio::join!(
            ended(short),
            ended(long),
            ended(none),
            ended(async { responses.recv().await })
        )
    };
    let (one, two, three, four) = calls.await;
    drop(test);
    let lived = server.await.unwrap();
    assert!(lived <= CONNECTION + LATE, "the connection lived {lived:?}");
    [one, two, three, four]
}

fn check(what: &str, outcome: &[(Duration, Status); 4]) {
    let [(elapsed, status), rest @ ..] = outcome;
    let deadline = Duration::from_secs(3);
    assert_eq!(status.code(), Code::DeadlineExceeded, "{what}: {status}");
    assert!(*elapsed <= deadline + LATE, "{what}: {elapsed:?}");
    for (elapsed, status) in rest {
        assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
        assert!(*elapsed <= CONNECTION + LATE, "{what}: {elapsed:?}");
        let text = status.to_string();
        let says = ["did not end in time", "stood still"];
        assert!(says.iter().any(|why| text.contains(why)), "{what}: {text}");
    }
}

fn of_server() -> Vec<Stall> {
    let head = pipes::response();
    let mut all = stalls(3, &head);
    all.push(Stall {
        name: "DATA",
        before: frame(kind::HEADERS, flag::END_HEADERS, 3, &head),
        frame: frame(kind::DATA, 0, 3, &message(&[7; 100])),
    });
    all.push(Stall {
        name: "padded DATA",
        before: frame(kind::HEADERS, flag::END_HEADERS, 3, &head),
        frame: frame(kind::DATA, flag::PADDED, 3, &padded()),
    });
    all
}

#[tokio::test(start_paused = true)]
async fn calls_end_in_time_when_a_server_stops_inside_any_frame() {
    for Stall {
        name,
        before,
        frame,
    } in of_server()
    {
        for cut in cuts(&frame) {
            let outcome = server_stops(&before, &frame[..cut], Duration::ZERO).await;
            check(&format!("{name} cut at {cut}"), &outcome);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_end_in_time_when_the_frame_of_a_server_drips() {
    for Stall {
        name,
        before,
        frame,
    } in of_server()
    {
        if frame.len() < 20 || name.ends_with("DATA") || name == "an unknown one" {
            continue;
        }
        let outcome = server_stops(&before, &frame, Duration::from_secs(1)).await;
        check(&format!("{name} that drips"), &outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_may_drip() {
    let (connector, mut ends) = pipes();
    let channel = Channel::builder()
        .connector(connector)
        .lazy("http://test:1")
        .unwrap();
    tokio::spawn(async move {
        let (mut read, mut out) = tokio::io::split(ends.recv().await.unwrap());
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        out.write_all(&settings).await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut read, &mut [0; PREFACE.len()])
            .await
            .unwrap();
        for stream in [1, 3] {
            read_frames(&mut read, kind::HEADERS, 1).await;
            let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &pipes::response());
            out.write_all(&head).await.unwrap();
            let data = frame(kind::DATA, 0, stream, &message(&[]));
            write(&mut out, &data, Duration::from_secs(1)).await;
            let unknown = frame(0x55, 0, 0, &[1; 5]);
            write(&mut out, &unknown, Duration::from_millis(500)).await;
            let flags = flag::END_HEADERS | flag::END_STREAM;
            let trailers = pipes::block(&[("grpc-status", "0")]);
            let trailers = frame(kind::HEADERS, flags, stream, &trailers);
            out.write_all(&trailers).await.unwrap();
        }
        read_to_end(&mut read).await;
    });
    let test = TestClient::new(channel);
    for _ in 0..2 {
        let start = Instant::now();
        test.echo(Message::default()).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(14));
    }
}

/// A call that a server has seen the end of.
type Seen = Arc<Mutex<Vec<(String, Code, Duration)>>>;

/// Four calls of a client that stops; how they ended for the server.
async fn client_stops(what: &str, before: &[u8], part: &[u8], pause: Duration) {
    let (client, io) = tokio::io::duplex(1 << 20);
    let start = Instant::now();
    let seen = Seen::default();
    let observer = {
        let seen = Arc::clone(&seen);
        move |call: &FinishedCall<'_>| {
            let call = (call.path.to_owned(), call.code, start.elapsed());
            seen.lock().unwrap().push(call);
        }
    };
    let builder = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .observer(observer);
    let (_shutdown, serving) = inside::serve(builder, io);
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        serving.await;
        let _ = end.send(start.elapsed());
    });
    let (mut read, mut out) = tokio::io::split(client);
    let empty = message(&[]);
    let head = |stream, path, more: &[_]| {
        frame(
            kind::HEADERS,
            flag::END_HEADERS,
            stream,
            &pipes::request(path, more),
        )
    };
    let begin = [
        PREFACE.to_vec(),
        frame(kind::SETTINGS, 0, 0, &[]),
        head(1, "/testkit.v1.Test/Hang", &[("grpc-timeout", "3S")]),
        frame(kind::DATA, flag::END_STREAM, 1, &empty),
        head(3, "/testkit.v1.Test/Hang", &[]),
        frame(kind::DATA, flag::END_STREAM, 3, &empty),
        head(5, "/testkit.v1.Test/Echo", &[("grpc-timeout", "4S")]),
        frame(kind::DATA, 0, 5, &message(&[7; 50])[..20]),
        head(7, "/testkit.v1.Test/Chat", &[]),
        before.to_vec(),
    ];
    out.write_all(&begin.concat()).await.unwrap();
    let dripping = write(&mut out, part, pause);
    let (_, _, ended) = tokio::join!(read_to_end(&mut read), dripping, ended);
    let lived = ended.unwrap();
    assert!(
        lived <= CONNECTION + LATE,
        "{what}: the connection lived {lived:?}"
    );
    let seen = seen.lock().unwrap();
    let of = |path: &str| -> Vec<_> {
        let calls = seen.iter().filter(|call| call.0.ends_with(path));
        calls.map(|call| (call.1, call.2)).collect()
    };
    let seconds = Duration::from_secs;
    let (hang, echo, chat) = (of("Hang"), of("Echo"), of("Chat"));
    assert_eq!((hang.len(), echo.len()), (2, 1), "{what}: {seen:?}");
    // A whole head may have opened one more.
    assert!(!chat.is_empty() && chat.len() <= 2, "{what}: {seen:?}");
    let passed = [(hang[0], seconds(3)), (echo[0], seconds(4))];
    for ((code, elapsed), deadline) in passed {
        assert_eq!(code, Code::DeadlineExceeded, "{what}: {seen:?}");
        assert!(elapsed <= deadline + LATE, "{what}: {seen:?}");
    }
    for (code, elapsed) in [hang[1], chat[0]] {
        assert_eq!(code, Code::Cancelled, "{what}: {seen:?}");
        assert!(elapsed <= CONNECTION + LATE, "{what}: {seen:?}");
    }
}

fn of_client() -> Vec<Stall> {
    let head = pipes::request("/testkit.v1.Test/Chat", &[]);
    let mut all = stalls(9, &head);
    // On a stream that is open.
    all.retain(|stall| !matches!(stall.name, "RST_STREAM" | "PRIORITY"));
    all.extend(
        stalls(7, &head)
            .into_iter()
            .filter(|stall| matches!(stall.name, "RST_STREAM" | "PRIORITY")),
    );
    all.push(Stall {
        name: "DATA",
        before: Vec::new(),
        frame: frame(kind::DATA, 0, 7, &message(&[7; 100])),
    });
    all.push(Stall {
        name: "padded DATA",
        before: Vec::new(),
        frame: frame(kind::DATA, flag::PADDED, 7, &padded()),
    });
    all
}

#[tokio::test(start_paused = true)]
async fn calls_end_in_time_when_a_client_stops_inside_any_frame() {
    for Stall {
        name,
        before,
        frame,
    } in of_client()
    {
        for cut in cuts(&frame) {
            let what = format!("{name} cut at {cut}");
            client_stops(&what, &before, &frame[..cut], Duration::ZERO).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_end_in_time_when_the_frame_of_a_client_drips() {
    for Stall {
        name,
        before,
        frame,
    } in of_client()
    {
        if frame.len() < 20 || name.ends_with("DATA") || name == "an unknown one" {
            continue;
        }
        let what = format!("{name} that drips");
        client_stops(&what, &before, &frame, Duration::from_secs(1)).await;
    }
}
