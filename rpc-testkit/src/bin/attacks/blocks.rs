//! Header blocks that have brought decoders down.

use std::io;
use std::time::Duration;

use rpc_http2::frame::{flag, kind};
use rpc_testkit::promises::Promises;
use rpc_testkit::raw::{Ended, RawClient, frame};

use crate::acts::ECHO;
use crate::scene::Scene;
use crate::table::Row;
use crate::victim::Victim;
use crate::{ENHANCE_YOUR_CALM, GROWTH, Outcome};

const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

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
    let control = Victim::start(&["header_block"])?;
    let mut wrong = Vec::new();
    for (name, block, codes) in &blocks {
        let (answered, ended) = send(&scene.victim.address, block).await?;
        let as_wanted = match ended {
            Ended::GoAway(code) => codes.contains(&code),
            _ => codes.is_empty() && answered,
        };
        if !as_wanted {
            wrong.push(format!("{name} ended with {ended:?}"));
        }
    }
    // The first is stopped by the limit before it is decoded.
    let (_, off) = send(&control.address, &blocks[0].1).await?;
    let found = scene.end(()).await?;
    let row = Row {
        id: "S7",
        name: "blocks that no decoder may trust",
        ended: format!("{} as named", blocks.len() - wrong.len()),
        count: Some(blocks.len() as u64),
        most: None,
        took: found.took,
        within: None,
        growth: Some(GROWTH),
        handlers: 0,
        twin: "-".to_owned(),
        off: format!("{off:?}"),
        known: &[],
    };
    let wrong = wrong.join(", ");
    let checks = [
        (wrong.is_empty(), &*wrong),
        (
            off != Ended::GoAway(ENHANCE_YOUR_CALM),
            "it is ended without the limit too",
        ),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}

/// Sends a header block; whether it was answered by a head alone, and how the connection ended.
async fn send(address: &str, block: &[u8]) -> io::Result<(bool, Ended)> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let stream = client.stream();
    let flags = flag::END_HEADERS | flag::END_STREAM;
    // The server may end the connection before all of it is written.
    let _ = client
        .write(&frame(kind::HEADERS, flags, stream, block))
        .await;
    let answer = async {
        while let Some(next) = reader.next().await {
            match next.header.kind {
                kind::GOAWAY => return (false, Ended::of(&next)),
                kind::HEADERS if next.header.has(flag::END_STREAM) => return (true, Ended::Not),
                _ => {}
            }
        }
        (false, Ended::Closed)
    };
    Ok(tokio::time::timeout(Duration::from_secs(2), answer)
        .await
        .unwrap_or((false, Ended::Not)))
}

/// A header block that uses no dynamic table, so that more can be put behind it.
pub(crate) fn block(path: &str) -> Vec<u8> {
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
