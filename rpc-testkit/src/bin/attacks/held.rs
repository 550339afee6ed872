//! Attacks that do not want to end: what they make the server hold is what counts.

use std::io;
use std::time::Duration;

use rpc_core::{Channel, Request};
use rpc_http2::frame::{flag, kind, setting};
use rpc_testkit::promises::Promises;
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::raw::{Ended, RawClient, frame};

use crate::acts::{self, ECHO, MANY, STREAM};
use crate::answers::{self, Caller, OK};
use crate::blocks::block;
use crate::scene::Scene;
use crate::table::Row;
use crate::victim::Victim;
use crate::{GROWTH, Outcome, STREAMS, Size};

/// What a connection that reads nothing may take, in KiB.
const CONNECTION: u64 = 4 * 1024;

/// S3: a client that says that it takes no header list; what it says is advice.
pub(crate) async fn tiny_header_list(promises: &mut Promises) -> Outcome<()> {
    let mut scene = Scene::begin(&[]).await?;
    let mut went = Vec::new();
    // The twin's list has room.
    for list in [1, 8192] {
        let settings = [(setting::MAX_HEADER_LIST_SIZE, list)];
        let (mut client, mut reader) = RawClient::connect(&scene.victim.address, &settings).await?;
        let calls = |client: &mut RawClient| (client.call(ECHO, &[]).1, true);
        went.push(acts::converse(&mut client, &mut reader, 10_000, calls).await);
        if list == 1 {
            scene.attacked()?;
        }
    }
    let found = scene.end(()).await?;
    let row = Row {
        id: "S3",
        name: "a header list of 1 octet",
        ended: format!("{:?}", went[0].ended),
        count: Some(went[0].acts.into()),
        most: None,
        took: found.took,
        within: None,
        growth: Some(GROWTH),
        handlers: 0,
        twin: format!("{} answered", went[1].acts),
        off: "-".to_owned(),
        known: &[],
    };
    let answered = |place: usize| went[place].ended == Ended::Not && went[place].acts == 10_000;
    let checks = [
        (answered(0), "not every call was answered"),
        (answered(1), "not every call of its twin was answered"),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}

/// S5: one field of the table, referred to 16,000 times in each of 250 blocks of a connection that
/// takes no answer.
pub(crate) async fn referenced_fields(size: Size, promises: &mut Promises) -> Outcome<()> {
    let connections = size.of(10, 100);
    let mut scene = Scene::begin(&[]).await?;
    let mut held = Vec::new();
    let mut taken_in = true;
    for _ in 0..connections {
        let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
        let (mut client, mut reader) = RawClient::connect(&scene.victim.address, &settings).await?;
        let mut first = block(ECHO);
        first.extend([0x40, 1, b'a', 0]);
        for fields in std::iter::once(first).chain(std::iter::repeat_n(block(ECHO), 249)) {
            let mut fields = fields;
            fields.resize(16_000, 0xbe);
            let stream = client.stream();
            let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &fields);
            client.write(&head).await?;
            let update = frame(kind::WINDOW_UPDATE, 0, stream, &1u32.to_be_bytes());
            client.write(&update).await?;
        }
        taken_in &= answers::taken_in(&mut client, &mut reader).await;
        held.push((client, reader));
    }
    scene.attacked()?;
    let twin = many_fields(scene.victim.channel().await?).await;
    let found = scene.end(held).await?;
    let row = Row {
        id: "S5a",
        name: "4,000,000 references to a field",
        ended: "held".to_owned(),
        count: Some(connections),
        most: None,
        took: found.took,
        within: None,
        growth: Some((connections * 4 * 1024).min(256 * 1024)),
        // None of them is a call that a handler sees.
        handlers: 0,
        twin: format!("{twin} of 100 fields back"),
        // How many fields there may be cannot be turned off.
        off: "-".to_owned(),
        known: &[],
    };
    let checks = [
        (taken_in, "the server did not take all of it in"),
        (twin == 100, "its honest twin's fields did not come back"),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}

/// S5's twin: a call with 100 fields of metadata; how many of them come back.
async fn many_fields(channel: Channel) -> usize {
    let mut request = Request::new(Message::default());
    for number in 0..100 {
        // A name that is none is missed in the answer.
        let _ = request
            .metadata_mut()
            .insert(&format!("x-{number}"), "value");
    }
    let answer = TestClient::new(channel).metadata_echo(request).await;
    answer.map_or(0, |answer| {
        let fields = answer.metadata().iter();
        fields.filter(|(key, _)| key.starts_with("x-")).count()
    })
}

/// What the server may hold for all calls where memory is to be short, as a word for it.
const SHORT: &str = "budget=2097152";

/// S5: answers that are pinned by a window of nothing and an octet now and then. They give way once half
/// of the memory budget is used up, and not before.
pub(crate) async fn dripped_windows(size: Size, promises: &mut Promises) -> Outcome<()> {
    let (limits, stall) = size.of((&["stall=4", SHORT][..], 4), (&[SHORT][..], 60));
    let wait = Duration::from_secs(stall * 3 / 2);
    let scene = Scene::begin(limits).await?;
    let control = Victim::start(&["stall", SHORT])?;
    let free = Victim::start(size.of(&["stall=4"], &[]))?;
    let address = &scene.victim.address;
    let second = Duration::from_secs(1);
    let (over, kept, off, free) = tokio::join!(
        drip(address, 250, 1, second, wait),
        // 2 KiB/s is slow, and no attack.
        drip(address, 1, 512, Duration::from_millis(250), wait * 2),
        drip(&control.address, 250, 1, second, wait),
        drip(&free.address, 250, 1, second, wait),
    );
    let (over, kept, off, free) = (over?, kept?, off?, free?);
    let found = scene.end(()).await?;
    let row = Row {
        id: "S5b",
        name: "windows of an octet a second",
        ended: format!("{over} ended"),
        count: Some(250),
        most: None,
        took: wait,
        within: None,
        // The slow reader has a connection of its own, with one stream.
        growth: Some(CONNECTION + 400),
        handlers: 0,
        twin: format!("{kept}, {free} with memory"),
        off: format!("{off} ended"),
        known: &[],
    };
    let checks = [
        (over > 0, "no stream was ended while memory was short"),
        (kept == 0, "the slow reader's stream was ended"),
        (free == 0, "streams are ended while there is memory"),
        (off == 0, "streams are ended without the limit too"),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}

/// Opens streams of responses, gives each so many octets of window again and again, and counts those
/// that are ended.
async fn drip(
    address: &str,
    streams: u32,
    octets: u32,
    pause: Duration,
    wait: Duration,
) -> io::Result<u32> {
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
    let (mut client, mut reader) = RawClient::connect(address, &settings).await?;
    let mut ids = Vec::new();
    for _ in 0..streams {
        let (id, call) = client.call(STREAM, &MANY);
        ids.push(id);
        client.write(&call).await?;
    }
    let mut ended = 0;
    let counting = async {
        while let Some(frame) = reader.next().await {
            let is_end = match frame.header.kind {
                kind::HEADERS => frame.header.has(flag::END_STREAM),
                other => other == kind::RST_STREAM,
            };
            ended += u32::from(is_end);
            if ended == streams {
                return;
            }
        }
    };
    let dripping = async {
        loop {
            tokio::time::sleep(pause).await;
            // A reader gives back the room of its connection as well.
            for id in [0].iter().chain(&ids) {
                let update = frame(kind::WINDOW_UPDATE, 0, *id, &octets.to_be_bytes());
                if client.write(&update).await.is_err() {
                    return;
                }
            }
        }
    };
    // All have ended, the connection has, or the time is over.
    let _ = tokio::time::timeout(wait, async {
        tokio::select! {
            () = counting => {}
            () = dripping => {}
        }
    })
    .await;
    Ok(ended)
}

/// S14: streams of responses that are never read, with windows as large as they can be.
pub(crate) async fn unread_responses(promises: &mut Promises) -> Outcome<()> {
    let mut scene = Scene::begin(&[]).await?;
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)];
    let update = frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes());
    let (mut client, reader) = RawClient::connect(&scene.victim.address, &settings).await?;
    client.write(&update).await?;
    for _ in 0..STREAMS {
        let frames = client.call(STREAM, &MANY).1;
        client.write(&frames).await?;
    }
    // It has filled what it may fill once it does nothing any more.
    let mut busy = Duration::MAX;
    for _ in 0..20 {
        let before = scene.victim.cpu()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        busy = scene.victim.cpu()?.saturating_sub(before);
        if busy < Duration::from_millis(25) {
            break;
        }
    }
    scene.attacked()?;
    // The twin reads: 100 messages of 1 KiB on as many streams.
    let mut other = Caller::connect(&scene.victim.address).await?;
    for _ in 0..STREAMS {
        other.call(STREAM, &[8, 100, 16, 0x80, 8], false).await?;
    }
    let twin = other.answers(STREAMS as usize).await?;
    drop(other);
    let found = scene.end((client, reader)).await?;
    let row = Row {
        id: "S14",
        name: "256 streams that nobody reads",
        ended: "held".to_owned(),
        count: Some(STREAMS),
        most: None,
        took: found.took,
        within: None,
        growth: Some(CONNECTION),
        handlers: 0,
        twin: twin.text(),
        // How much may be unsent cannot be turned off.
        off: "-".to_owned(),
        known: &[],
    };
    let checks = [
        (
            busy < Duration::from_millis(25),
            "the server works on though nobody reads",
        ),
        (
            twin.of(OK) == STREAMS,
            "not every stream of its honest twin came to its end",
        ),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}
