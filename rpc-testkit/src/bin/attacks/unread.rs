//! Streams that nobody reads, and one beside them that is read.

use std::io;
use std::time::{Duration, Instant};

use rpc_core::client::RequestStream;
use rpc_core::{Channel, RecvStream, Status};
use rpc_http2::frame::{flag, kind, setting};
use rpc_testkit::promises::Promises;
use rpc_testkit::proto::{Message, StreamRequest, TestClient};
use rpc_testkit::raw::{RawClient, RawReader, frame};

use crate::acts::{MANY, STREAM};
use crate::scene::Scene;
use crate::table::{MEMORY, Row};
use crate::{Outcome, STREAMS};

/// What a stream costs that its handler does not read, in KiB: its window.
const WINDOW: u64 = 256;
/// What the windows of a connection may have grown by while its streams were read, in KiB.
const GROWN: u64 = 24 * 1024;
/// Slow receivers: there is a place for one that reads, also while the last one is let go of.
const SLOW: u64 = STREAMS - 16;
/// What a connection costs besides, in KiB.
const CONNECTION: u64 = 4 * 1024;
/// How fast a stream is beside those that nobody reads, compared with alone.
const RATE: f64 = 0.9;
/// How often the rate is measured; the best one counts.
const ROUNDS: u32 = 5;
/// How many octets are read in a round.
const ROUND: usize = 16 << 20;

/// A stream of which neither side reads anything.
struct Unread {
    requests: RequestStream<Message>,
    responses: RecvStream<Message>,
    /// How many messages were sent on it.
    sent: usize,
}

impl Unread {
    /// Sends until there is no room: for the handler's answers, which this side does not take, and then
    /// for its requests, which the handler does not take.
    async fn open(test: &TestClient) -> Result<Self, Status> {
        const FULL: Duration = Duration::from_millis(20);
        let (mut requests, responses) = test.chat(());
        let mut sent = 0;
        loop {
            let message = Message {
                body: vec![7; 16 * 1024],
                ..Message::default()
            };
            match tokio::time::timeout(FULL, requests.send(message)).await {
                Ok(done) => done?,
                Err(_) => break,
            }
            sent += 1;
        }
        Ok(Self {
            requests,
            responses,
            sent,
        })
    }

    /// Reads all that was sent, from then on.
    async fn read(mut self) -> Result<bool, Status> {
        let finished = tokio::spawn(self.requests.finish());
        let mut read = 0;
        while self.responses.recv().await?.is_some() {
            read += 1;
        }
        Ok(matches!(finished.await, Ok(Ok(()))) && read == self.sent)
    }
}

/// How many octets a second a stream of responses brings.
async fn rate(channel: &Channel) -> Result<f64, Status> {
    const SIZE: usize = 64 * 1024;
    let test = TestClient::new(channel.clone());
    let mut best: f64 = 0.0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut responses = test.server_stream(StreamRequest {
            count: (ROUND / SIZE) as i64,
            size: SIZE as i64,
            ..StreamRequest::default()
        });
        while responses.recv().await?.is_some() {}
        best = best.max(ROUND as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// S18: 1 to 200 streams that nobody reads, on either side, beside a fast one.
pub(crate) async fn unread_streams(promises: &mut Promises) -> Outcome<()> {
    const COUNT: usize = 200;
    let mut scene = Scene::begin(&[]).await?;
    let channel = scene.victim.channel().await?;
    let test = TestClient::new(channel.clone());
    let alone = rate(&channel).await?;
    let mut unread = Vec::new();
    let mut slowest = f64::MAX;
    for count in [1, 4, 20, COUNT] {
        while unread.len() < count {
            unread.push(Unread::open(&test).await?);
        }
        let beside = tokio::time::timeout(Duration::from_secs(30), rate(&channel)).await;
        slowest = slowest.min(beside.unwrap_or(Ok(0.0))? / alone);
    }
    scene.attacked()?;
    let mut read = 0;
    for stream in unread {
        let all = tokio::time::timeout(Duration::from_secs(30), stream.read()).await;
        read += usize::from(all.unwrap_or(Ok(false))?);
    }
    drop((test, channel));
    let found = scene.end(()).await?;
    let row = Row {
        id: "S18",
        name: "200 streams unread on both sides",
        ended: format!("{slowest:.2} of alone"),
        count: Some(COUNT as u64),
        most: None,
        took: found.took,
        within: None,
        // A handler takes all messages that are there at once. Those that it has not looked at are no
        // more in the window, so that as much may lie behind them.
        growth: Some(2 * (COUNT as u64 * WINDOW + GROWN) + CONNECTION),
        handlers: 0,
        twin: format!("{read} read later"),
        // What the window of a stream bounds cannot be turned off.
        off: "-".to_owned(),
        // What handlers have taken of messages and not looked at is outside of the windows: 127 to 159
        // MiB, and the rate goes from 0.67 to 1.03 with it.
        known: &[MEMORY, "the stream that is read was slowed down"],
    };
    let checks = [
        (slowest >= RATE, "the stream that is read was slowed down"),
        (
            read == COUNT,
            "streams that are read later have lost messages",
        ),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}

/// A connection whose streams begin without a window.
async fn closed(address: &str) -> io::Result<(RawClient, RawReader)> {
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
    let (mut client, reader) = RawClient::connect(address, &settings).await?;
    client.write(&update(0, 0x7fff_0000)).await?;
    Ok((client, reader))
}

fn update(stream: u32, octets: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &octets.to_be_bytes())
}

/// How many octets a second a new stream brings that is read with a window of 128 KiB, and how many
/// others have ended meanwhile.
async fn pull(client: &mut RawClient, reader: &mut RawReader) -> io::Result<(f64, u32)> {
    const OPEN: u32 = 128 * 1024;
    let (mut best, mut ended): (f64, u32) = (0.0, 0);
    for _ in 0..ROUNDS {
        let (stream, call) = client.call(STREAM, &MANY);
        client.write(&call).await?;
        client.write(&update(stream, OPEN)).await?;
        let start = Instant::now();
        let (mut received, mut returned) = (0, 0);
        while received < ROUND {
            let Some(next) = reader.next().await else {
                return Err(io::Error::other("the connection has ended"));
            };
            let over = next.header.kind == kind::RST_STREAM
                || (next.header.kind == kind::HEADERS && next.header.has(flag::END_STREAM));
            if over && next.header.stream == stream {
                return Ok((0.0, ended + 1));
            }
            ended += u32::from(over);
            if next.header.stream == stream && next.header.kind == kind::DATA {
                received += next.payload.len();
                if received - returned >= OPEN as usize / 4 {
                    let more = u32::try_from(received - returned).unwrap_or(OPEN);
                    client.write(&update(stream, more)).await?;
                    returned = received;
                }
            }
        }
        best = best.max(ROUND as f64 / start.elapsed().as_secs_f64());
        client.write(&rpc_testkit::raw::reset(stream, 8)).await?;
    }
    Ok((best, ended))
}

/// S14: receivers whose windows are shut, beside one on the same connection that reads.
pub(crate) async fn slow_receivers(promises: &mut Promises) -> Outcome<()> {
    let mut scene = Scene::begin(&[]).await?;
    let address = &scene.victim.address;
    let (mut client, mut reader) = closed(address).await?;
    let (alone, _) = pull(&mut client, &mut reader).await?;
    drop((client, reader));
    let (mut client, mut reader) = closed(address).await?;
    let (mut slowest, mut ended, mut slow) = (f64::MAX, 0, 0);
    for count in [5, SLOW] {
        while slow < count {
            let call = client.call(STREAM, &MANY).1;
            client.write(&call).await?;
            slow += 1;
        }
        // Their handlers fill what they may fill.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let pulling = pull(&mut client, &mut reader);
        let pulled = tokio::time::timeout(Duration::from_secs(30), pulling).await;
        let (beside, over) = pulled.unwrap_or(Ok((0.0, 0)))?;
        slowest = slowest.min(beside / alone);
        ended += over;
    }
    scene.attacked()?;
    let found = scene.end((client, reader)).await?;
    let row = Row {
        id: "S14b",
        name: "240 slow receivers and a fast one",
        ended: format!("{slowest:.2} of alone"),
        count: Some(slow),
        most: None,
        took: found.took,
        within: None,
        growth: Some(CONNECTION),
        handlers: 0,
        twin: format!("{ended} ended"),
        // How much may be unsent cannot be turned off.
        off: "-".to_owned(),
        // A sender whose client opens its window in small steps refills it from 64 KiB, 400 KiB when
        // alone: 0.7 to 0.9 of the rate.
        known: &["the receiver that reads was slowed down"],
    };
    let checks = [
        (slowest >= RATE, "the receiver that reads was slowed down"),
        (ended == 0, "streams were ended while there was memory"),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}
