//! Connections and streams that are open and do nothing.

use std::io::{Read, Write};
use std::net::SocketAddr;

use tokio::sync::oneshot;

use crate::{Client, Error, Settings};

/// How many streams of a connection are opened at once, so that none of the limits of a server that
/// has just begun to serve is in the way.
const AT_ONCE: usize = 100;

/// What is done with a stream that lies open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Open {
    /// Nothing.
    Idle,
    /// It is sent to until there is no room, and neither side reads.
    Unread,
}

/// Opens connections and streams on each.
pub(crate) async fn open<C: Client>(
    address: SocketAddr,
    connections: usize,
    streams: usize,
    settings: Settings,
) -> Result<Vec<C>, Error> {
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut client = C::connect(address, &settings).await?;
        for _ in 0..settings.calls {
            client.unary(vec![7; settings.body]).await?;
        }
        occupy(&client, streams, Open::Idle).await?;
        clients.push(client);
    }
    Ok(clients)
}

/// Opens so many streams on a connection, which stay open.
pub(crate) async fn occupy<C: Client>(client: &C, streams: usize, how: Open) -> Result<(), Error> {
    let mut left = streams;
    while left > 0 {
        let batch: Vec<_> = (0..left.min(AT_ONCE))
            .map(|_| {
                let mut client = client.clone();
                let (opened, is_open) = oneshot::channel();
                tokio::spawn(async move {
                    let opened = move || {
                        // Who waits for it is gone when the program ends.
                        let _ = opened.send(());
                    };
                    let held = match how {
                        Open::Idle => client.hold(opened).await,
                        Open::Unread => client.fill(opened).await,
                    };
                    if let Err(error) = held {
                        eprintln!("a stream that lies open: {error}");
                        std::process::exit(1);
                    }
                });
                is_open
            })
            .collect();
        left -= batch.len();
        for is_open in batch {
            is_open.await?;
        }
    }
    Ok(())
}

/// Says that all is open and waits for the end of the standard input.
pub(crate) fn keep() -> Result<(), Error> {
    let mut out = std::io::stdout();
    writeln!(out, "open")?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
