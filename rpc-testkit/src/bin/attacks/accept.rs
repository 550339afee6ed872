//! Sockets that are too many, or gone before they are accepted.

use std::time::{Duration, Instant};

use rpc_core::Request;
use rpc_testkit::promises::Promises;
use rpc_testkit::proto::{Message, TestClient};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::scene::Scene;
use crate::table::Row;
use crate::victim::Victim;
use crate::{GROWTH, Outcome, Size};

/// How long the first new call may take afterwards.
const NEXT: Duration = Duration::from_secs(1);

/// Makes a call on a connection of its own; how long both took.
async fn new_call(victim: &Victim) -> Outcome<Duration> {
    let start = Instant::now();
    let channel = victim.channel().await?;
    let request = Request::new(Message::default()).with_timeout(Duration::from_secs(5));
    TestClient::new(channel).echo(request).await?;
    Ok(start.elapsed())
}

/// Connections that come one after the other and each make a call; how many were served.
async fn newcomers(victim: &Victim, count: u32) -> u32 {
    let mut served = 0;
    for _ in 0..count {
        served += u32::from(new_call(victim).await.is_ok());
    }
    served
}

/// S15: a server that has no descriptors left goes on, and takes the next connection once it has.
pub(crate) async fn no_descriptors(size: Size, promises: &mut Promises) -> Outcome<()> {
    let hold = size.of(Duration::from_secs(2), Duration::from_secs(60));
    let mut scene = Scene::of(Victim::with_descriptors(64)?).await?;
    // The twin's connections fit.
    let twin = newcomers(&scene.victim, 40).await;
    let mut hogs = Vec::new();
    for _ in 0..100 {
        hogs.push(TcpStream::connect(&scene.victim.address).await?);
    }
    let busy = scene.victim.cpu()?;
    tokio::time::sleep(hold).await;
    let busy = scene.victim.cpu()?.saturating_sub(busy);
    drop(hogs);
    let took = new_call(&scene.victim).await?;
    scene.attacked()?;
    let found = scene.end(()).await?;
    let row = Row {
        id: "S15a",
        name: &format!("no descriptor left for {hold:?}"),
        ended: format!("{busy:.0?} CPU"),
        count: Some(100),
        most: None,
        took,
        within: Some(NEXT),
        growth: Some(GROWTH),
        handlers: 0,
        twin: format!("{twin} of 40 served"),
        off: "-".to_owned(),
        known: &[],
    };
    let checks = [
        // The bystander's 200 calls a second are in it.
        (busy < hold / 20, "the server was busy with nothing"),
        (
            twin == 40,
            "connections that it had room for were not served",
        ),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}

/// S15: connections that are reset before they are accepted, or speak something else.
pub(crate) async fn reset_on_accept(promises: &mut Promises) -> Outcome<()> {
    // A TLS alert, garbage, and nothing.
    const HELLOS: [&[u8]; 3] = [
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x00\xff\x00\xff\x00\xff",
        b"",
    ];
    let mut scene = Scene::begin(&[]).await?;
    for round in 0..1000 {
        let mut socket = TcpStream::connect(&scene.victim.address).await?;
        socket.write_all(HELLOS[round % HELLOS.len()]).await?;
        socket.set_zero_linger()?;
    }
    let took = new_call(&scene.victim).await?;
    scene.attacked()?;
    let twin = newcomers(&scene.victim, 1_000).await;
    let found = scene.end(()).await?;
    let row = Row {
        id: "S15b",
        name: "connections that are reset at once",
        ended: "served".to_owned(),
        count: Some(1_000),
        most: None,
        took,
        within: Some(NEXT),
        growth: Some(GROWTH),
        handlers: 0,
        twin: format!("{twin} of 1000 served"),
        off: "-".to_owned(),
        known: &[],
    };
    let checks = [(twin == 1_000, "connections that mean well were not served")];
    row.print(&found, &checks, promises);
    Ok(())
}
