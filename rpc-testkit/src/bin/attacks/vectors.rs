//! What the attackers do, and what clients do that look alike and mean well.

use std::io;
use std::time::Duration;

use rpc_core::BoxFuture;
use rpc_http2::frame::{flag, kind, setting};
use rpc_testkit::raw::{Ended, RawClient, RawReader, frame, message, reset};

pub(crate) const ECHO: &str = "/testkit.v1.Test/Echo";
pub(crate) const HANG: &str = "/testkit.v1.Test/Hang";
pub(crate) const STREAM: &str = "/testkit.v1.Test/ServerStream";
const CHAT: &str = "/testkit.v1.Test/Chat";
const CANCEL: u32 = 8;
/// How long a connection has to end once the attack is over.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a connection went.
pub(crate) struct Went {
    /// What it did before it ended.
    pub(crate) acts: u32,
    pub(crate) ended: Ended,
}

type Act = fn(String) -> BoxFuture<'static, io::Result<Went>>;

/// An attack, and what it is measured by.
pub(crate) struct Vector {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    /// The limits that stop it.
    pub(crate) limits: &'static [&'static str],
    pub(crate) attack: Act,
    /// What looks alike and has to be let through.
    pub(crate) twin: Act,
    /// Whether the connection has to end; otherwise it may.
    pub(crate) ends: bool,
    /// After how many acts at most.
    pub(crate) within: u32,
}

macro_rules! act {
    ($function:expr) => {
        |address| Box::pin(async move { $function(&address).await })
    };
}

pub(crate) const VECTORS: &[Vector] = &[
    Vector {
        id: "S1",
        name: "rapid reset",
        limits: &["early_resets"],
        attack: act!(rapid_reset),
        twin: act!(some_cancels),
        ends: true,
        // What is on its way when the server has seen enough.
        within: 8_000,
    },
    Vector {
        id: "S2a",
        name: "WINDOW_UPDATE of 0",
        limits: &["caused_resets"],
        attack: act!(|address| induced(address, |stream| {
            frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])
        })),
        twin: act!(abandoned_streams),
        ends: true,
        within: 4_000,
    },
    Vector {
        id: "S2b",
        name: "WINDOW_UPDATE overflow",
        limits: &["caused_resets"],
        attack: act!(|address| induced(address, |stream| {
            frame(
                kind::WINDOW_UPDATE,
                0,
                stream,
                &0x7fff_ffffu32.to_be_bytes(),
            )
        })),
        twin: act!(abandoned_streams),
        ends: true,
        within: 4_000,
    },
    Vector {
        id: "S2c",
        name: "PRIORITY too short",
        limits: &["caused_resets"],
        attack: act!(|address| induced(address, |stream| {
            frame(kind::PRIORITY, 0, stream, &[0; 4])
        })),
        twin: act!(abandoned_streams),
        ends: true,
        within: 4_000,
    },
    Vector {
        id: "S2d",
        name: "PRIORITY on itself",
        limits: &["unsent_answers"],
        attack: act!(|address| induced(address, |stream| {
            frame(
                kind::PRIORITY,
                0,
                stream,
                &[&stream.to_be_bytes()[..], &[0]].concat(),
            )
        })),
        twin: act!(abandoned_streams),
        // RFC 9113 ignores what PRIORITY says; what may end it is the number of its streams.
        ends: false,
        within: u32::MAX,
    },
    Vector {
        id: "S2e",
        name: "HEADERS after the end",
        limits: &["caused_resets"],
        attack: act!(|address| after_end(address, |client, stream| {
            let block = client.block(HANG, &[]);
            frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::END_STREAM,
                stream,
                &block,
            )
        })),
        twin: act!(abandoned_streams),
        ends: true,
        within: 4_000,
    },
    Vector {
        id: "S2f",
        name: "DATA after the end",
        limits: &["caused_resets"],
        attack: act!(|address| after_end(address, |_, stream| {
            frame(kind::DATA, 0, stream, &[0])
        })),
        twin: act!(abandoned_streams),
        ends: true,
        within: 4_000,
    },
    Vector {
        id: "S4a",
        name: "CONTINUATION of nothing",
        limits: &["header_block"],
        attack: act!(|address| continuations(address, 0)),
        twin: act!(split_metadata),
        ends: true,
        within: 4_000,
    },
    Vector {
        id: "S4b",
        name: "CONTINUATION of 16 KiB",
        limits: &["header_block"],
        attack: act!(|address| continuations(address, 16_384)),
        twin: act!(split_metadata),
        ends: true,
        within: 4_000,
    },
    Vector {
        id: "S6a",
        name: "PING flood, unread",
        limits: &["unsent_answers", "idle_frames"],
        attack: act!(|address| flood(address, frame(kind::PING, 0, 0, &[7; 8]))),
        twin: act!(pings),
        ends: true,
        within: 600_000,
    },
    Vector {
        id: "S6b",
        name: "SETTINGS flood, unread",
        limits: &["unsent_answers", "idle_frames"],
        attack: act!(|address| flood(address, frame(kind::SETTINGS, 0, 0, &[]))),
        twin: act!(pings),
        ends: true,
        within: 600_000,
    },
    Vector {
        id: "S6c",
        name: "PRIORITY flood",
        limits: &["idle_frames"],
        attack: act!(|address| flood(address, frame(kind::PRIORITY, 0, 1, &[0; 5]))),
        twin: act!(pings),
        ends: true,
        within: 600_000,
    },
    Vector {
        id: "S6d",
        name: "unknown frames",
        limits: &["idle_frames"],
        attack: act!(|address| flood(address, frame(0xee, 0, 0, &[]))),
        twin: act!(pings),
        ends: true,
        within: 600_000,
    },
    Vector {
        id: "S9",
        name: "empty DATA",
        limits: &["empty_data"],
        attack: act!(empty_data),
        twin: act!(small_data),
        ends: true,
        within: 8_000,
    },
];

const PLENTY: [(u16, u32); 1] = [(setting::INITIAL_WINDOW_SIZE, 1 << 20)];

/// Repeats an act until the connection takes no more, and looks how it ended.
async fn repeat(
    client: &mut RawClient,
    reader: &mut RawReader,
    times: u32,
    mut next: impl FnMut(&mut RawClient) -> Vec<u8>,
) -> Went {
    let mut acts = 0;
    let writing = async {
        while acts < times {
            let octets = next(client);
            if client.write(&octets).await.is_err() {
                return;
            }
            acts += 1;
        }
    };
    let reading = reader.end(Duration::from_secs(20));
    tokio::pin!(reading);
    let early = tokio::select! {
        ended = &mut reading => Some(ended),
        () = writing => None,
    };
    let ended = match early {
        Some(ended) => ended,
        None => tokio::time::timeout(PATIENCE, reading)
            .await
            .unwrap_or(Ended::Not),
    };
    Went { acts, ended }
}

/// How many calls a client that means well has in flight.
const IN_FLIGHT: u32 = 64;

/// Makes calls as a client does that waits for its answers; what comes back says whether there will
/// be one.
pub(crate) async fn converse(
    client: &mut RawClient,
    reader: &mut RawReader,
    times: u32,
    mut next: impl FnMut(&mut RawClient) -> (Vec<u8>, bool),
) -> Went {
    let (mut acts, mut open) = (0, 0);
    while acts < times || open > 0 {
        if acts < times && open < IN_FLIGHT {
            let (octets, answered) = next(client);
            if client.write(&octets).await.is_err() {
                let ended = reader.end(PATIENCE).await;
                return Went { acts, ended };
            }
            acts += 1;
            open += u32::from(answered);
            continue;
        }
        let Ok(Some(frame)) = tokio::time::timeout(PATIENCE, reader.next()).await else {
            let ended = Ended::Closed;
            return Went { acts, ended };
        };
        let header = frame.header;
        if header.kind == kind::GOAWAY {
            let ended = Ended::of(&frame);
            return Went { acts, ended };
        }
        let last =
            matches!(header.kind, kind::DATA | kind::HEADERS) && header.has(flag::END_STREAM);
        open -= u32::from(last);
    }
    let ended = Ended::Not;
    Went { acts, ended }
}

async fn rapid_reset(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(repeat(&mut client, &mut reader, 20_000, |client| {
        let (stream, mut frames) = client.head(HANG, false);
        frames.extend(reset(stream, CANCEL));
        frames
    })
    .await)
}

/// One call in four is given up at once.
async fn some_cancels(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let mut round = 0;
    Ok(converse(&mut client, &mut reader, 8_000, move |client| {
        round += 1;
        if round % 4 > 0 {
            return (client.call(ECHO, &[]).1, true);
        }
        let (stream, mut frames) = client.head(HANG, false);
        frames.extend(reset(stream, CANCEL));
        (frames, false)
    })
    .await)
}

/// Opens calls and has the server reset each of them.
async fn induced(address: &str, primitive: impl Fn(u32) -> Vec<u8>) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(repeat(&mut client, &mut reader, 10_000, |client| {
        let (stream, mut frames) = client.head(HANG, false);
        frames.extend(primitive(stream));
        frames
    })
    .await)
}

/// As [`induced`], by what comes after the end of a request.
async fn after_end(
    address: &str,
    primitive: impl Fn(&mut RawClient, u32) -> Vec<u8>,
) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(repeat(&mut client, &mut reader, 10_000, |client| {
        let (stream, mut frames) = client.call(HANG, &[]);
        frames.extend(primitive(client, stream));
        frames
    })
    .await)
}

/// Streams that are given up while data is on its way to their server, which goes on for a while.
async fn abandoned_streams(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &PLENTY).await?;
    let mut round = 0;
    Ok(converse(&mut client, &mut reader, 4_000, move |client| {
        round += 1;
        if round % 20 > 0 {
            return (client.call(ECHO, &[]).1, true);
        }
        let (stream, mut frames) = client.head(CHAT, false);
        frames.extend(frame(kind::DATA, 0, stream, &message(&[])));
        frames.extend(reset(stream, CANCEL));
        // It was on its way when the stream was given up.
        frames.extend(frame(kind::WINDOW_UPDATE, 0, stream, &100u32.to_be_bytes()));
        (frames, false)
    })
    .await)
}

/// A header block that never ends.
async fn continuations(address: &str, size: usize) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let block = client.block(ECHO, &[]);
    let stream = client.stream();
    client
        .write(&frame(kind::HEADERS, 0, stream, &block))
        .await?;
    // Literal fields without indexing, which a decoder has to read.
    let piece: Vec<u8> = [0, 1, b'a', 1, b'b']
        .into_iter()
        .cycle()
        .take(size)
        .collect();
    Ok(repeat(&mut client, &mut reader, 4_000, |_| {
        frame(kind::CONTINUATION, 0, stream, &piece)
    })
    .await)
}

/// 12 KiB of metadata in three frames.
async fn split_metadata(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let long = "x".repeat(4_000);
    Ok(converse(&mut client, &mut reader, 200, |client| {
        let block = client.block(ECHO, &[("a", &long), ("b", &long), ("c", &long)]);
        let stream = client.stream();
        let (first, rest) = block.split_at(block.len() / 3);
        let (second, third) = rest.split_at(rest.len() / 2);
        let frames = [
            frame(kind::HEADERS, 0, stream, first),
            frame(kind::CONTINUATION, 0, stream, second),
            frame(kind::CONTINUATION, flag::END_HEADERS, stream, third),
            frame(kind::DATA, flag::END_STREAM, stream, &message(&[])),
        ];
        (frames.concat(), true)
    })
    .await)
}

/// The same frame as often as the socket takes it, and nothing is read.
async fn flood(address: &str, one: Vec<u8>) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let (many, mut acts) = (one.repeat(100), 0);
    let writing = async {
        while acts < 600_000 && client.write(&many).await.is_ok() {
            acts += 100;
        }
    };
    // A server that is closed does not answer; one that waits for its reader stops reading.
    let _ = tokio::time::timeout(Duration::from_secs(3), writing).await;
    let ended = reader.end(PATIENCE).await;
    Ok(Went { acts, ended })
}

/// A PING every now and then, each of them answered, beside calls.
async fn pings(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(converse(&mut client, &mut reader, 4_000, |client| {
        let mut frames = client.call(ECHO, &[]).1;
        frames.extend(frame(kind::PING, 0, 0, &[1; 8]));
        (frames, true)
    })
    .await)
}

async fn empty_data(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let (stream, head) = client.head(CHAT, false);
    client.write(&head).await?;
    Ok(repeat(&mut client, &mut reader, 20_000, |_| {
        frame(kind::DATA, 0, stream, &[])
    })
    .await)
}

/// Messages octet by octet.
async fn small_data(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &PLENTY).await?;
    let (stream, head) = client.head(CHAT, false);
    client.write(&head).await?;
    let body = message(&[]);
    let mut octets = body.into_iter().cycle();
    Ok(repeat(&mut client, &mut reader, 20_000, |_| {
        let octet: Vec<u8> = octets.by_ref().take(1).collect();
        frame(kind::DATA, 0, stream, &octet)
    })
    .await)
}
