//! Clients that are connected and do nothing, or are gone.

use std::time::{Duration, Instant};

use rpc_core::Request;
use rpc_testkit::promises::Promises;
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::raw::{RawClient, RawReader};

use crate::scene::Scene;
use crate::table::Row;
use crate::victim::Victim;
use crate::{Outcome, Size};

/// Within which time a client that means well is served.
const SERVED: Duration = Duration::from_secs(1);
/// Keepalive of the second victim: its time and its time-out.
const GONE: Duration = Duration::from_secs(2);
/// How late it may be.
const SLACK: Duration = Duration::from_secs(2);
/// What one of them may cost, in KiB.
const EACH: u64 = 24;

/// Clients that greet, and then say nothing.
async fn connect(victim: &Victim, count: usize) -> Outcome<Vec<(RawClient, RawReader)>> {
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        idle.push(RawClient::connect(&victim.address, &[]).await?);
    }
    Ok(idle)
}

/// Each process has two descriptors for a connection to itself, and some more.
fn raise_descriptors() -> Outcome<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// S21: idle clients hold all places of a server, and clients that mean well come.
pub(crate) async fn hold_every_place(size: Size, promises: &mut Promises) -> Outcome<()> {
    const NEWCOMERS: u32 = 20;
    let descriptors = raise_descriptors()?.saturating_sub(200);
    let places = size.of(500, 10_000).min(usize::try_from(descriptors)?);
    let word = format!("connections={places}");
    let mut scene = Scene::of(Victim::start(&[&word])?).await?;
    // The bystander has one.
    let idle = connect(&scene.victim, places - 1).await?;
    let (mut served, mut longest) = (0, Duration::ZERO);
    for _ in 0..NEWCOMERS {
        let start = Instant::now();
        let channel = scene.victim.channel().await?;
        let request = Request::new(Message::default()).with_timeout(Duration::from_secs(5));
        served += u32::from(TestClient::new(channel).echo(request).await.is_ok());
        longest = longest.max(start.elapsed());
    }
    scene.attacked()?;
    let found = scene.end(idle).await?;
    let row = Row {
        id: "S21a",
        name: &format!("{places} idle clients, every place"),
        ended: "asked to go".to_owned(),
        count: Some(places as u64),
        most: None,
        took: longest,
        within: Some(SERVED),
        growth: Some(EACH * places as u64),
        handlers: 0,
        twin: format!("{served} of {NEWCOMERS} served"),
        off: "-".to_owned(),
        known: &[],
    };
    let checks = [(
        served == NEWCOMERS,
        "clients that mean well were not served",
    )];
    row.print(&found, &checks, promises);
    Ok(())
}

/// S21: clients that are gone without a word, and with calls under way.
pub(crate) async fn vanish(size: Size, promises: &mut Promises) -> Outcome<()> {
    let count = size.of(100, 400);
    let words = ["keepalive=1"];
    let mut scene = Scene::of(Victim::start(&words)?).await?;
    let quiet = scene.victim.descriptors()?;
    let start = Instant::now();
    let mut gone = connect(&scene.victim, count).await?;
    for (client, _) in gone.iter_mut().step_by(2) {
        let (_, call) = client.call(crate::acts::HANG, &[]);
        client.write(&call).await?;
    }
    while scene.victim.descriptors()? > quiet && start.elapsed() < 2 * (GONE + SLACK) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = start.elapsed();
    scene.attacked()?;
    let found = scene.end(gone).await?;
    // The same without keepalive, where nobody finds out.
    let control = Victim::start(&["keepalive=off"])?;
    let before = control.descriptors()?;
    let gone = connect(&control, count).await?;
    tokio::time::sleep(GONE + SLACK).await;
    let kept = control.descriptors()?.saturating_sub(before);
    drop(gone);
    let row = Row {
        id: "S21b",
        name: &format!("{count} clients that are gone"),
        ended: "let go".to_owned(),
        count: Some(count as u64),
        most: None,
        took,
        within: Some(GONE + SLACK),
        growth: Some(EACH * count as u64),
        handlers: count as u64 / 2,
        twin: "the bystander".to_owned(),
        off: format!("{kept} kept"),
        known: &[],
    };
    let checks = [(kept == count, "they are found without keepalive too")];
    row.print(&found, &checks, promises);
    Ok(())
}
