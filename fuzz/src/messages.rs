//! Messages in a stream of octets.

use bytes::{Bytes, BytesMut};
use rpc_core::Encoding;
use rpc_core::inside::Messages;

use crate::reader::Reader;

const LIMIT: usize = 4096;

/// Whatever the pieces are that a stream comes in, its messages are the same, and none is larger than
/// the limit.
pub fn message_framer(input: &[u8]) {
    let mut reader = Reader(input);
    let gzip = reader.octet() % 2 == 1;
    let cuts: Vec<usize> = (0..8).map(|_| usize::from(reader.octet()) + 1).collect();
    let stream = reader.0;
    let whole = decode(gzip, std::iter::once(stream));
    let mut rest = Reader(stream);
    let mut pieces = Vec::new();
    for cut in cuts.into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        pieces.push(rest.piece(cut));
    }
    assert_eq!(decode(gzip, pieces.into_iter()), whole);
    assert!(whole.0.iter().all(|message| message.len() <= LIMIT));
    // What comes out is what went in, where nothing is compressed.
    if !gzip {
        let mut again = BytesMut::new();
        for message in &whole.0 {
            again.extend_from_slice(&[0]);
            again.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            again.extend_from_slice(message);
        }
        assert!(stream.starts_with(&again));
    }
}

/// The messages, and whether the stream ends behind one of them.
fn decode<'a>(gzip: bool, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Bytes>, bool) {
    let encoding = if gzip {
        Encoding::Gzip
    } else {
        Encoding::Identity
    };
    let mut decoder = Messages::new(encoding, LIMIT);
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.take() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, false),
            }
        }
    }
    let whole = decoder.finish().is_ok();
    (messages, whole)
}
