//! Corpora between one file each, as they are kept, and one file an input, as a fuzzer wants them.
//!
//! `corpus unpack DIRECTORY` writes what is kept, and seeds, to `DIRECTORY/<target>/`;
//! `corpus pack DIRECTORY` keeps what is there, the smallest inputs first, up to 200 KiB a target.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io};

use rpc_http2::frame::{FrameHeader, flag, kind};
use rpc_http2::hpack::{Encoder, Template};
use rpc_http2::{Config, Connection, Fields, Output, Payload, Role};

/// The most that is kept of one corpus.
const KEPT: usize = 200 * 1024;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(|word| &**word).collect::<Vec<_>>()[..] {
        ["unpack", directory] => unpack(Path::new(directory)),
        ["pack", directory] => pack(Path::new(directory)),
        _ => Err(io::Error::other("corpus unpack|pack DIRECTORY")),
    }
}

fn packed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{name}.packed"))
}

fn unpack(directory: &Path) -> io::Result<()> {
    for (name, _) in fuzz_checks::CHECKS {
        let place = directory.join(name);
        fs::create_dir_all(&place)?;
        let mut inputs = seeds(name);
        let kept = fs::read(packed(name)).unwrap_or_default();
        let mut rest = &*kept;
        while let Some((length, more)) = rest.split_first_chunk() {
            let (input, more) = more.split_at(u32::from_be_bytes(*length) as usize);
            inputs.push(input.to_vec());
            rest = more;
        }
        for (number, input) in inputs.iter().enumerate() {
            fs::write(place.join(format!("kept-{number:04}")), input)?;
        }
    }
    Ok(())
}

fn pack(directory: &Path) -> io::Result<()> {
    for (name, _) in fuzz_checks::CHECKS {
        let mut inputs = Vec::new();
        for file in fs::read_dir(directory.join(name))? {
            inputs.push(fs::read(file?.path())?);
        }
        inputs.sort_by_key(|input| (input.len(), input.clone()));
        inputs.dedup();
        let mut kept = Vec::new();
        for input in inputs {
            let length = u32::try_from(input.len()).unwrap();
            if kept.len() + input.len() > KEPT {
                break;
            }
            kept.extend_from_slice(&length.to_be_bytes());
            kept.extend_from_slice(&input);
        }
        fs::write(packed(name), kept)?;
    }
    Ok(())
}

/// What the fuzzer begins with: pieces of what real machines say to each other.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let (requests, answers) = exchange();
    let fed = |first: u8, octets: &[u8]| {
        let mut seed = vec![first];
        for piece in octets.chunks(4000) {
            seed.push(0);
            seed.extend(numbered(piece));
        }
        // Open, answer, send, end, write, wait, let go.
        seed.extend([
            2, 0, 0, 3, 0, 0, 2, 1, 200, 0, 99, 3, 2, 0, 2, 7, 0, 2, 5, 0, 1, 0, 2, 4, 0,
        ]);
        seed
    };
    let block = b"\x83\x86\x04\x02/a\x40\x01x\x01y\xbe\x0f\x10\x84\xf1\xe3\xc2\xe5";
    match name {
        // Behind the greetings, and with them.
        "server_machine" => vec![
            fed(1, &requests[24..]),
            fed(0, &requests),
            fed(13, &requests[24..]),
            fed(13, &too_much_data()),
        ],
        "client_machine" => vec![
            [&[1, 2, 0, 0, 2, 0, 0][..], &fed(1, &answers)[1..]].concat(),
            fed(0, &answers),
        ],
        "frame_reader" => (0..24)
            .map(|kind| [kind, 4, 1, 3, 1, 2, 3, kind / 12, 5, 1, 0, 1, 4, 1, 0].repeat(3))
            .collect(),
        "hpack_decode" => vec![
            [&[16, 0][..], &numbered(block), &numbered(block)].concat(),
            [&[0, 0][..], &numbered(&[0x20, 0x82, 0xbe])].concat(),
            [&[0, 0][..], &padded_texts()].concat(),
            [&[0, 0][..], &evicting_blocks()].concat(),
        ],
        "hpack_differential" => vec![
            [numbered(block), numbered(block)].concat(),
            [numbered(&[0x20, 0x3f, 0xe1, 0x1f, 0x82]), numbered(block)].concat(),
            padded_texts(),
            evicting_blocks(),
        ],
        "two_machines" => (0..16u8)
            .map(|seed| {
                (0..64)
                    .map(|place: u8| place.wrapping_mul(37) ^ seed)
                    .collect()
            })
            .collect(),
        _ => {
            let messages = b"\x00\x00\x00\x00\x03abc\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01z";
            let gzip = b"\x01\x00\x00\x00\x17\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\x4c\x4a\x06\x00\xc2\x41\x24\x35\x03\x00\x00\x00";
            vec![
                [&[0; 9][..], messages].concat(),
                [&[0, 3, 1, 9, 200, 3, 1, 9, 200][..], messages].concat(),
                [&[1, 3, 1, 9, 200, 3, 1, 9, 200][..], gzip, messages].concat(),
            ]
        }
    }
}

/// A request with more data than its window takes when nothing is given back.
fn too_much_data() -> Vec<u8> {
    let head = b"\x83\x86\x04\x02/a";
    let frame = |kind, flags, payload: &[u8]| {
        let header = FrameHeader {
            length: u32::try_from(payload.len()).unwrap(),
            kind,
            flags,
            stream: 1,
        };
        [&header.encode()[..], payload].concat()
    };
    let mut octets = frame(kind::HEADERS, flag::END_HEADERS, head);
    for _ in 0..3 {
        octets.extend(frame(kind::DATA, 0, &[7; 400]));
    }
    octets
}

/// Octets behind their length.
fn numbered(octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).unwrap();
    [&length.to_be_bytes()[..], octets].concat()
}

/// Huffman codes of all lengths that a padding may have (RFC 7541 section 5.2).
fn padded_texts() -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut block = Vec::new();
    encoder.begin(&mut block);
    // Shorter ones are not coded.
    for length in 25..=48 {
        encoder.volatile(b"a", &vec![b'0'; length], &mut block);
    }
    numbered(&block)
}

/// More fields than the table has room for (section 4.4), and an index for each place in it.
fn evicting_blocks() -> Vec<u8> {
    let mut fields = Vec::new();
    for value in 0..120 {
        fields.extend([0x40, 1, b'x', 20]);
        fields.extend([value; 20]);
    }
    let mut blocks = numbered(&fields);
    for index in 62..=140u8 {
        blocks.extend(match index.checked_sub(127) {
            None => numbered(&[0x80 | index]),
            Some(rest) => numbered(&[0xff, rest]),
        });
    }
    blocks
}

/// What a client and a server say in a few calls.
fn exchange() -> (Vec<u8>, Vec<u8>) {
    let now = Instant::now();
    let mut client = Connection::new(Role::Client, Config::default(), now);
    let mut server = Connection::new(Role::Server, Config::default(), now);
    let head = |list: &[(&str, &str)]| Template::new(list.iter().copied().collect());
    let mut request = head(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a"),
        ("te", "trailers"),
    ]);
    let mut answer = head(&[(":status", "200"), ("content-type", "application/grpc")]);
    let mut trailers = head(&[("grpc-status", "0")]);
    let (mut said, mut answered) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let mut rest = Fields::new();
        rest.push("grpc-timeout", format!("{round}S"));
        let key = client.open(&mut request, &rest, now).unwrap();
        client.send(key, Payload::Copied(&[7; 50]), true);
        let octets = written(&mut client, now);
        let mut input = &*octets;
        let mut keys = Vec::new();
        while let Some(event) = server.receive(&mut input, now).unwrap() {
            if let rpc_http2::Event::Head { stream, .. } = event {
                keys.push(stream);
            }
        }
        said.extend(octets);
        for key in keys {
            server.respond(key, &mut answer, &Fields::new(), false);
            server.send(key, Payload::Copied(&[7; 50]), false);
            server.trailers(key, &mut trailers, &Fields::new());
            server.release(key);
        }
        let octets = written(&mut server, now);
        let mut input = &*octets;
        while client.receive(&mut input, now).unwrap().is_some() {}
        client.release(key);
        answered.extend(octets);
    }
    (said, answered)
}

fn written(machine: &mut Connection, now: Instant) -> Vec<u8> {
    let (mut all, mut output) = (Vec::new(), Output::default());
    machine.take_output(&mut output, now);
    all.extend_from_slice(output.plain().unwrap_or_default());
    let length = output.len();
    output.advance(length);
    all
}
