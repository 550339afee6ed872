//! Attacks that do not want to end: what they make the server hold is what counts.

use std::io::{self, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use rpc_http2::frame::{flag, kind, setting};
use rpc_testkit::promises::Promises;
use rpc_testkit::raw::{Ended, RawClient, RawReader, frame, message};

use crate::bystander::{Bystander, Seen};
use crate::vectors::{self, ECHO, STREAM};
use crate::victim::Victim;
use crate::{ENHANCE_YOUR_CALM, GROWTH, Outcome, STREAMS, Size};

const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

/// A victim and a bystander, and what was before.
pub(crate) struct Scene {
    pub(crate) victim: Victim,
    bystander: Bystander,
    before: u64,
}

/// What it came to.
pub(crate) struct Found {
    pub(crate) grew: u64,
    pub(crate) seen: Seen,
}

impl Scene {
    pub(crate) async fn begin(limits: &[&str]) -> Outcome<Self> {
        Self::of(Victim::start(limits)?).await
    }

    pub(crate) async fn of(victim: Victim) -> Outcome<Self> {
        let bystander = Bystander::start(&victim).await?;
        let before = victim.memory()?;
        Ok(Self {
            victim,
            bystander,
            before,
        })
    }

    /// Lets go of what the attack holds, and looks whether the server comes to rest.
    pub(crate) async fn end<T>(self, held: T, id: &str, promises: &mut Promises) -> Outcome<Found> {
        let grew = self.victim.memory()?.saturating_sub(self.before);
        let seen = self.bystander.stop().await?;
        drop(held);
        if !self.victim.is_quiet().await {
            promises.keep(false, format!("{id}: whether the server came to rest"));
        }
        Ok(Found { grew, seen })
    }
}

impl Found {
    pub(crate) fn is_within(&self, growth: u64) -> bool {
        self.grew <= growth && self.seen.is_undisturbed()
    }

    pub(crate) fn text(&self, growth: u64) -> String {
        let Self { grew, seen } = self;
        format!(
            "grew {grew} KiB of {growth}; bystander {}/{}, p99 {:.1} ms",
            seen.failed,
            seen.calls,
            seen.p99.as_secs_f64() * 1e3
        )
    }
}

/// A header block that uses no dynamic table, so that more can be put behind it.
fn block(path: &str) -> Vec<u8> {
    let literal = |octets: &mut Vec<u8>, text: &str| {
        octets.push(u8::try_from(text.len()).unwrap_or(0x7e));
        octets.extend(text.as_bytes());
    };
    // RFC 7541 appendix A: POST, http, the names :path, :authority and content-type.
    let mut block = vec![0x83, 0x86, 0x04];
    literal(&mut block, path);
    block.push(0x01);
    literal(&mut block, "attacker");
    block.extend([0x0f, 0x10]);
    literal(&mut block, "application/grpc");
    block.push(0x00);
    literal(&mut block, "te");
    literal(&mut block, "trailers");
    block
}

/// S3: a client that says that it takes no header list; what it says is advice.
pub(crate) async fn tiny_header_list(promises: &mut Promises) -> Outcome<()> {
    let scene = Scene::begin(&[]).await?;
    let mut went = Vec::new();
    // The twin's list has room.
    for list in [1, 8192] {
        let settings = [(setting::MAX_HEADER_LIST_SIZE, list)];
        let (mut client, mut reader) = RawClient::connect(&scene.victim.address, &settings).await?;
        let calls = |client: &mut RawClient| (client.call(ECHO, &[]).1, true);
        went.push(vectors::converse(&mut client, &mut reader, 10_000, calls).await);
    }
    let found = scene.end((), "S3", promises).await?;
    promises.keep(
        went.iter()
            .all(|went| went.ended == Ended::Not && went.acts == 10_000)
            && found.is_within(GROWTH),
        format!(
            "S3  a header list of 1 octet: {} of 10000 calls answered, {} of its twin's; {}",
            went[0].acts,
            went[1].acts,
            found.text(GROWTH)
        ),
    );
    Ok(())
}

/// S5: one field of the table, referred to 16,000 times in each of 250 blocks of a connection that
/// takes no answer.
pub(crate) async fn referenced_fields(size: Size, promises: &mut Promises) -> Outcome<()> {
    let connections = size.of(10, 100);
    let scene = Scene::begin(&[]).await?;
    let mut held = Vec::new();
    for _ in 0..connections {
        let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
        let (mut client, reader) = RawClient::connect(&scene.victim.address, &settings).await?;
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
        held.push((client, reader));
    }
    let found = scene.end(held, "S5", promises).await?;
    let growth = connections * 4 * 1024;
    let growth = growth.min(256 * 1024);
    promises.keep(
        found.is_within(growth) && found.seen.live == 0,
        format!(
            "S5  4,000,000 references to a field on each of {connections} connections: {} handlers; {}",
            found.seen.live,
            found.text(growth)
        ),
    );
    Ok(())
}

/// S5: answers that are pinned by a window of nothing and an octet now and then.
pub(crate) async fn dripped_windows(size: Size, promises: &mut Promises) -> Outcome<()> {
    let (limit, stall) = size.of((&["stall=4"][..], 4), (&[][..], 60));
    let wait = Duration::from_secs(stall * 3 / 2);
    let scene = Scene::begin(limit).await?;
    let control = Victim::start(&["stall"])?;
    let address = &scene.victim.address;
    let (reset, kept, off) = tokio::join!(
        drip(address, 250, 1, Duration::from_secs(1), wait),
        // 2 KiB/s is slow, and no attack.
        drip(address, 1, 512, Duration::from_millis(250), wait * 2),
        drip(&control.address, 250, 1, Duration::from_secs(1), wait),
    );
    let (reset, kept, off) = (reset?, kept?, off?);
    let found = scene.end((), "S5", promises).await?;
    promises.keep(
        reset == 250 && kept == 0 && off == 0 && found.is_within(GROWTH),
        format!(
            "S5  250 streams that take an octet a second: {reset} reset within {wait:?}, {kept} of a slow reader's, {off} without the limit; {}",
            found.text(GROWTH)
        ),
    );
    Ok(())
}

/// Opens streams of responses, gives each so many octets of window again and again, and counts those
/// that are reset.
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
    let mut reset = 0;
    let counting = async {
        while let Some(frame) = reader.next().await {
            reset += u32::from(frame.header.kind == kind::RST_STREAM);
            if reset == streams {
                return;
            }
        }
    };
    let dripping = async {
        loop {
            tokio::time::sleep(pause).await;
            for id in &ids {
                let update = frame(kind::WINDOW_UPDATE, 0, *id, &octets.to_be_bytes());
                if client.write(&update).await.is_err() {
                    return;
                }
            }
        }
    };
    // All were reset, the connection ended, or the time is over.
    let _ = tokio::time::timeout(wait, async {
        tokio::select! {
            () = counting => {}
            () = dripping => {}
        }
    })
    .await;
    Ok(reset)
}

/// A million messages of 16 KiB: fields 1 and 2 of `StreamRequest`.
const MANY: [u8; 8] = [8, 0xc0, 0x84, 0x3d, 16, 0x80, 0x80, 1];

/// S7 and S8: header blocks that have brought decoders down.
pub(crate) async fn broken_blocks(promises: &mut Promises) -> Outcome<()> {
    let fields = |count: u32| {
        let mut fields = block(ECHO);
        for number in 0..count {
            fields.extend([0x00, 5]);
            fields.extend(format!("{number:05}").as_bytes());
            fields.extend([1, b'v']);
        }
        fields
    };
    let with = |more: &[u8]| [&block(ECHO)[..], more].concat();
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let blocks: [(&str, Vec<u8>, &[u32]); 10] = [
        ("20,000 fields", fields(20_000), &[ENHANCE_YOUR_CALM]),
        // A frame of more than 256 KiB.
        ("30,000 fields", fields(30_000), &[FRAME_SIZE_ERROR]),
        ("7,000 fields", fields(7_000), &[]),
        (
            "an index of 4 G",
            with(&[&[0xff][..], &huge].concat()),
            &[COMPRESSION_ERROR],
        ),
        (
            "an endless integer",
            with(&[&[0xff][..], &[0x80; 60_000]].concat()),
            &[COMPRESSION_ERROR],
        ),
        (
            "a string of 4 GiB",
            with(&[&[0x00, 0x7f][..], &huge, b"aaaa"].concat()),
            &[COMPRESSION_ERROR],
        ),
        (
            "a Huffman string of 4 GiB",
            with(&[&[0x00, 0xff][..], &huge, b"aaaa"].concat()),
            &[COMPRESSION_ERROR],
        ),
        (
            "a table of 4 GiB",
            [&[0x3f][..], &huge, &block(ECHO)].concat(),
            &[COMPRESSION_ERROR],
        ),
        (
            "the end-of-string symbol",
            with(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'v']),
            &[COMPRESSION_ERROR],
        ),
        (
            "an index past the table",
            with(&[0xfe]),
            &[COMPRESSION_ERROR],
        ),
    ];
    let scene = Scene::begin(&[]).await?;
    for (name, block, codes) in blocks {
        let (mut client, mut reader) = RawClient::connect(&scene.victim.address, &[]).await?;
        let stream = client.stream();
        let flags = flag::END_HEADERS | flag::END_STREAM;
        // The server may end the connection before all of it is written.
        let _ = client
            .write(&frame(kind::HEADERS, flags, stream, &block))
            .await;
        let as_wanted = if codes.is_empty() {
            let answered = async {
                while let Some(frame) = reader.next().await {
                    if frame.header.stream == stream {
                        return frame.header.kind == kind::HEADERS
                            && frame.header.has(flag::END_STREAM);
                    }
                }
                false
            };
            tokio::time::timeout(Duration::from_secs(2), answered)
                .await
                .unwrap_or(false)
        } else {
            let ended = reader.end(Duration::from_secs(2)).await;
            codes.iter().any(|code| ended == Ended::GoAway(*code))
        };
        if !as_wanted {
            promises.keep(false, format!("S7  {name}: how the connection ended"));
        }
    }
    let found = scene.end((), "S7", promises).await?;
    promises.keep(
        found.is_within(GROWTH),
        format!(
            "S7  10 header blocks that no decoder may trust; {}",
            found.text(GROWTH)
        ),
    );
    Ok(())
}

/// S10: streams that announce a message of 4 MiB and send no more of it.
pub(crate) async fn lying_lengths(promises: &mut Promises) -> Outcome<()> {
    const CONNECTIONS: u32 = 40;
    const LIARS: u32 = 250;
    const MOST: u64 = 96 * 1024;
    let scene = Scene::begin(&[]).await?;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut client, reader) = RawClient::connect(&scene.victim.address, &[]).await?;
        for _ in 0..LIARS {
            let (stream, mut frames) = client.head(ECHO, false);
            frames.extend(frame(kind::DATA, 0, stream, &[0, 0, 0x40, 0, 0]));
            client.write(&frames).await?;
        }
        held.push((client, reader));
    }
    let found = scene.end(held, "S10", promises).await?;
    promises.keep(
        found.is_within(MOST),
        format!(
            "S10 {} streams that announce 4 MiB and send none of it; {}",
            CONNECTIONS * LIARS,
            found.text(MOST)
        ),
    );
    Ok(())
}

/// S11: messages that are a thousand times as large as they look.
pub(crate) async fn compressed_bombs(size: Size, promises: &mut Promises) -> Outcome<()> {
    const MOST: u64 = 256 * 1024;
    let (connections, calls, octets) = size.of((10, 10, 64 << 20), (10, 100, 1 << 30));
    let bomb = zipped(octets)?;
    // 4 MiB is the limit; the message around the body takes some octets of it.
    let twin = zipped((4 << 20) - 16)?;
    let scene = Scene::begin(&[]).await?;
    let mut held: Vec<(RawClient, RawReader)> = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (address, bomb) = (scene.victim.address.clone(), bomb.clone());
        tasks.spawn(async move { calls_with(&address, &bomb, calls).await });
    }
    let mut answered = 0;
    while let Some(task) = tasks.join_next().await {
        let (client, reader, count) = task??;
        held.push((client, reader));
        answered += count;
    }
    let (_, _, good) = calls_with(&scene.victim.address, &twin, 20).await?;
    let found = scene.end(held, "S11", promises).await?;
    promises.keep(
        answered == connections * calls && good == 20 && found.is_within(MOST),
        format!(
            "S11 {} messages of {} KiB that are {} MiB: {answered} answered; {good} of 20 that are 4 MiB; {}",
            connections * calls,
            bomb.len() / 1024,
            octets >> 20,
            found.text(MOST)
        ),
    );
    Ok(())
}

/// So many zeros as the body of a `Message`, by gzip.
fn zipped(octets: usize) -> io::Result<Vec<u8>> {
    let mut zipped = GzEncoder::new(Vec::new(), Compression::best());
    let mut length = octets;
    zipped.write_all(&[0x1a])?;
    while length >= 0x80 {
        zipped.write_all(&[(length & 0x7f) as u8 | 0x80])?;
        length >>= 7;
    }
    zipped.write_all(&[length as u8])?;
    io::copy(
        &mut io::Read::take(io::repeat(0), octets as u64),
        &mut zipped,
    )?;
    zipped.finish()
}

/// Makes calls with a compressed message; how many of them were answered.
async fn calls_with(
    address: &str,
    zipped: &[u8],
    calls: u32,
) -> io::Result<(RawClient, RawReader, u32)> {
    let settings = [(setting::INITIAL_WINDOW_SIZE, 1 << 30)];
    let (mut client, mut reader) = RawClient::connect(address, &settings).await?;
    let mut body = message(zipped);
    body[0] = 1;
    let fields = [("grpc-encoding", "gzip")];
    for _ in 0..calls {
        let block = client.block(ECHO, &fields);
        let stream = client.stream();
        client
            .write(&frame(kind::HEADERS, flag::END_HEADERS, stream, &block))
            .await?;
        let mut pieces = body.chunks(16 * 1024).peekable();
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() {
                flag::END_STREAM
            } else {
                0
            };
            client.write(&frame(kind::DATA, end, stream, piece)).await?;
        }
    }
    let mut answered = 0;
    let reading = async {
        while answered < calls
            && let Some(next) = reader.next().await
        {
            let header = next.header;
            if header.kind == kind::DATA {
                let update = frame(
                    kind::WINDOW_UPDATE,
                    0,
                    0,
                    &header.length.max(1).to_be_bytes(),
                );
                if client.write(&update).await.is_err() {
                    return;
                }
            }
            let last =
                matches!(header.kind, kind::DATA | kind::HEADERS) && header.has(flag::END_STREAM);
            answered += u32::from(last);
        }
    };
    // The count says when it took too long.
    let _ = tokio::time::timeout(Duration::from_secs(60), reading).await;
    Ok((client, reader, answered))
}

/// S14: streams of responses that are never read, with windows as large as they can be.
pub(crate) async fn unread_responses(promises: &mut Promises) -> Outcome<()> {
    let scene = Scene::begin(&[]).await?;
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)];
    let (mut client, reader) = RawClient::connect(&scene.victim.address, &settings).await?;
    let update = frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes());
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
    let found = scene.end((client, reader), "S14", promises).await?;
    promises.keep(
        busy < Duration::from_millis(25) && found.is_within(GROWTH),
        format!(
            "S14 {STREAMS} streams of responses that nobody reads: {busy:.0?} CPU in half a second; {}",
            found.text(GROWTH)
        ),
    );
    Ok(())
}
