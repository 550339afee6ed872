//! Many attackers at once, and clients that mean well for long.

use std::io;
use std::time::{Duration, Instant};

use rpc_testkit::promises::Promises;
use rpc_testkit::raw::{Ended, RawClient};
use tokio::task::JoinSet;

use crate::acts::{self, Went};
use crate::scene::Scene;
use crate::table::Row;
use crate::{ENHANCE_YOUR_CALM, GROWTH, Outcome, STREAMS, Size};

/// S1 from many connections at once.
pub(crate) async fn rapid_resets(size: Size, promises: &mut Promises) -> Outcome<()> {
    let connections: u64 = size.of(10, 100);
    let mut scene = Scene::begin(&[]).await?;
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let address = scene.victim.address.clone();
        tasks.spawn(async move { acts::rapid_reset(&address).await });
    }
    let (mut seen, mut calm, mut took) = (0, 0, Duration::ZERO);
    while let Some(went) = tasks.join_next().await {
        let went = went??;
        seen += u64::from(went.seen);
        took = took.max(went.took);
        calm += u64::from(went.ended == Ended::GoAway(ENHANCE_YOUR_CALM));
    }
    scene.attacked()?;
    let found = scene.end(()).await?;
    let row = Row {
        id: "S1m",
        name: &format!("rapid reset on {connections} connections"),
        ended: format!("{calm} GoAway(11)"),
        count: Some(seen),
        most: Some(1_500 * connections),
        took,
        within: Some(Duration::from_secs(2)),
        growth: Some(GROWTH),
        handlers: STREAMS * connections,
        twin: "-".to_owned(),
        off: "-".to_owned(),
        known: &[],
    };
    let checks = [(
        calm == connections,
        "not every connection was ended with ENHANCE_YOUR_CALM",
    )];
    row.print(&found, &checks, promises);
    Ok(())
}

/// S20: callers that give up all their calls. They mean well, and are their own twin.
pub(crate) async fn callers_give_up(size: Size, promises: &mut Promises) -> Outcome<()> {
    let calls = size.of(5_000, 60_000);
    for (tells, name) in [
        (false, "callers that give up every call"),
        (true, "the same, with deadlines"),
    ] {
        let mut scene = Scene::begin(&[]).await?;
        let went = acts::give_up(&scene.victim.address, calls, tells).await?;
        scene.attacked()?;
        let attack = acts::rapid_reset(&scene.victim.address).await?;
        let found = scene.end(()).await?;
        let row = Row {
            id: "S20",
            name,
            ended: format!("{:?}", went.ended),
            count: Some(went.acts.into()),
            most: None,
            took: went.took,
            within: None,
            growth: Some(GROWTH),
            handlers: 2 * STREAMS,
            twin: "itself".to_owned(),
            off: format!("S1 {:?} {}", attack.ended, attack.seen),
            known: &[],
        };
        let checks = [
            (
                went.ended == Ended::Not && went.acts == calls,
                "callers that mean well lost their connection",
            ),
            (
                attack.ended == Ended::GoAway(ENHANCE_YOUR_CALM),
                "rapid reset is not ended any more",
            ),
        ];
        row.print(&found, &checks, promises);
    }
    Ok(())
}

/// The twins of S1 and S2 for ten minutes: 4,000 calls a second of which a quarter is given up, and
/// 1,000,000 calls of which one in twenty is a stream that is given up.
pub(crate) async fn honest_cancels(promises: &mut Promises) -> Outcome<()> {
    const LONG: Duration = Duration::from_secs(600);
    let scene = Scene::begin(&[]).await?;
    let address = &scene.victim.address;
    let (cancels, abandoned) = tokio::join!(
        steadily(address, 400, LONG, acts::some_cancel),
        steadily(address, 167, LONG, acts::some_abandoned),
    );
    let (cancels, abandoned) = (cancels?, abandoned?);
    let found = scene.end(()).await?;
    for (id, name, went, calls) in [
        ("S1h", "a quarter of calls given up", cancels, 2_400_000),
        ("S2h", "streams given up", abandoned, 1_000_000),
    ] {
        let row = Row {
            id,
            name,
            ended: format!("{:?}", went.ended),
            count: Some(went.acts.into()),
            most: None,
            took: went.took,
            within: None,
            growth: Some(GROWTH),
            handlers: STREAMS,
            twin: "itself".to_owned(),
            off: "-".to_owned(),
            known: &[],
        };
        let checks = [
            (
                went.ended == Ended::Not,
                "a client that means well was ended",
            ),
            (went.acts >= calls, "not every call was made"),
        ];
        row.print(&found, &checks, promises);
    }
    Ok(())
}

/// So many calls each tenth of a second.
async fn steadily(
    address: &str,
    calls: u32,
    long: Duration,
    next: fn(&mut RawClient, u32) -> (Vec<u8>, bool),
) -> io::Result<Went> {
    const TICK: Duration = Duration::from_millis(100);
    let (mut client, mut reader) = RawClient::connect(address, &acts::PLENTY).await?;
    let (start, mut acts) = (Instant::now(), 0);
    let mut ticks = tokio::time::interval(TICK);
    let mut ended = Ended::Not;
    for _ in 0..long.as_millis() / TICK.as_millis() {
        ticks.tick().await;
        let mut round = acts;
        let one = |client: &mut RawClient| {
            round += 1;
            next(client, round)
        };
        let went = acts::converse(&mut client, &mut reader, calls, one).await;
        acts += went.acts;
        ended = went.ended;
        if ended != Ended::Not {
            break;
        }
    }
    Ok(Went {
        acts,
        seen: acts,
        ended,
        took: start.elapsed(),
    })
}
