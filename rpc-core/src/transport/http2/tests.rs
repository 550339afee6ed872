//! What a client's connection holds, and how it hears of a peer that is gone.

use rpc_http2::frame::{FrameHeader, kind, setting};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::client::{self, Connection};
use crate::wire::head::RequestHead;

/// A frame of a server.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        length: payload.len() as u32,
        kind,
        flags,
        stream,
    };
    [&header.encode()[..], payload].concat()
}

fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let entries = list.iter().flat_map(|(identifier, value)| {
        [&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat()
    });
    frame(kind::SETTINGS, 0, 0, &entries.collect::<Vec<_>>())
}

/// A connection to a server that has said these settings, and the server's side of it.
async fn connect(list: &[(u16, u32)]) -> (Connection, DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(&settings(list)).await.unwrap();
    let config = rpc_http2::Config::default();
    let connection = client::connect(Box::new(ours), "a", false, 1000, config).await;
    (connection.unwrap(), theirs)
}

#[tokio::test]
async fn tables_of_a_client_get_small_again_while_a_call_goes_on() {
    let (connection, mut server) = connect(&[(setting::MAX_CONCURRENT_STREAMS, 1)]).await;
    tokio::spawn(async move { while server.read(&mut [0; 1 << 16]).await.is_ok_and(|n| n > 0) {} });
    let head = RequestHead {
        path: "/a.B/C".into(),
        deadline: Some(crate::Deadline::after(std::time::Duration::from_secs(3600))),
        ..RequestHead::default()
    };
    let open = || connection.open(&head).unwrap();
    let long = open();
    let crowd: Vec<_> = (0..10_000).map(|_| open()).collect();
    assert!(connection.table_sizes().iter().all(|size| *size > 10_000));
    drop(crowd);
    assert!(connection.table_sizes().iter().all(|size| *size <= 64));
    drop(long);
}
