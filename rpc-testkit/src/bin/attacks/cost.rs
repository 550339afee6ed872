//! What attacks cost the server in time.

use std::time::Duration;

use rpc_http2::frame::{flag, kind, setting};
use rpc_testkit::promises::Promises;
use rpc_testkit::raw::{Ended, RawClient, frame, message};

use crate::acts::{self, CHAT, Pace};
use crate::scene::Scene;
use crate::table::Row;
use crate::victim::Victim;
use crate::{ENHANCE_YOUR_CALM, Outcome, answers};

/// S4: what a connection costs whose header block does not end. No bystander, whose calls would count.
pub(crate) async fn of_header_blocks(promises: &mut Promises) -> Outcome<()> {
    const CONNECTIONS: u32 = 50;
    const MOST: Duration = Duration::from_millis(1);
    for size in [0, 1, 16_384] {
        let victim = Victim::start(&[])?;
        acts::continuations(&victim.address, size, Pace::FAST).await?;
        let before = victim.cpu()?;
        let mut ended = 0;
        for _ in 0..CONNECTIONS {
            let went = acts::continuations(&victim.address, size, Pace::FAST).await?;
            // A socket that is full of what came after the end may lose the word for it.
            ended += u32::from(matches!(
                went.ended,
                Ended::GoAway(ENHANCE_YOUR_CALM) | Ended::Closed
            ));
        }
        let each = victim.cpu()?.saturating_sub(before) / CONNECTIONS;
        promises.keep(
            ended == CONNECTIONS && each <= MOST,
            format!(
                "S4d  1,000 CONTINUATION frames of {size} octets at once: {ended} of {CONNECTIONS} ended, {each:.0?} CPU a connection of {MOST:?}"
            ),
        );
    }
    Ok(())
}

/// S9: messages whose every octet is a frame, for a reader that does not read yet. It means well, and
/// is its own twin.
pub(crate) async fn of_small_frames(promises: &mut Promises) -> Outcome<()> {
    const FRAMES: u32 = 250_000;
    // As much as the server has a window for, which is 256 KiB, and a tenth; the handler has answered
    // what came first, and 400 KiB of that may wait to be sent.
    const MOST: u64 = 256 + 256 / 10 + 400;
    const EACH: Duration = Duration::from_micros(10);
    let mut scene = Scene::begin(&[]).await?;
    // The handler's answers have no window, so that it waits and reads no more.
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
    let (mut client, mut reader) = RawClient::connect(&scene.victim.address, &settings).await?;
    let (stream, head) = client.head(CHAT, false);
    client.write(&head).await?;
    let body = message(&[]);
    let five: Vec<u8> = body
        .iter()
        .flat_map(|octet| frame(kind::DATA, 0, stream, &[*octet]))
        .collect();
    let many = five.repeat(1_000);
    let before = scene.victim.cpu()?;
    for _ in 0..FRAMES / 5_000 {
        client.write(&many).await?;
    }
    let taken_in = answers::taken_in(&mut client, &mut reader).await;
    let each = scene.victim.cpu()?.saturating_sub(before) / FRAMES;
    scene.attacked()?;
    // It wakes.
    let window = [
        &setting::INITIAL_WINDOW_SIZE.to_be_bytes()[..],
        &[0x7f, 0xff, 0xff, 0xff],
    ];
    let awake = [
        frame(kind::SETTINGS, 0, 0, &window.concat()),
        frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes()),
        frame(kind::DATA, flag::END_STREAM, stream, &[]),
    ];
    client.write(&awake.concat()).await?;
    let (mut octets, mut ended) = (0, Ended::Closed);
    let reading = async {
        while let Some(next) = reader.next().await {
            match next.header.kind {
                kind::DATA => octets += next.header.length,
                kind::HEADERS if next.header.has(flag::END_STREAM) => {
                    ended = Ended::Not;
                    return;
                }
                kind::GOAWAY => {
                    ended = Ended::of(&next);
                    return;
                }
                _ => {}
            }
        }
    };
    // What is missing says when it took too long.
    let _ = tokio::time::timeout(Duration::from_secs(20), reading).await;
    let found = scene.end((client, reader)).await?;
    let row = Row {
        id: "S9b",
        name: "DATA of 1 octet, a stalled reader",
        ended: format!("{ended:?}"),
        count: Some(FRAMES.into()),
        most: None,
        took: found.took,
        within: None,
        growth: Some(MOST),
        handlers: 0,
        twin: format!("{:.2} us CPU a frame", each.as_secs_f64() * 1e6),
        off: "-".to_owned(),
        known: &[],
    };
    let checks = [
        (taken_in, "the server did not take all of it in"),
        (each <= EACH, "a frame took too much time"),
        (
            ended == Ended::Not && octets == FRAMES,
            "not every message came back once it was read",
        ),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}
