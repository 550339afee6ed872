//! Names that are watched at a registry and never registered.

use std::time::{Duration, Instant};

use rpc_core::client::Address;
use rpc_core::{Code, Status};
use rpc_registry::Registry;
use rpc_testkit::promises::Promises;
use tokio::task::JoinSet;

use crate::scene::Scene;
use crate::table::Row;
use crate::{GROWTH, Outcome, Size};

/// The watches that a registry takes from one connection.
const WATCHES: u64 = 4_096;
/// How many more are asked for.
const TOO_MANY: u64 = 400;

/// S16: long names, as many as a registry takes and more, by each of some connections.
pub(crate) async fn never_registered(size: Size, promises: &mut Promises) -> Outcome<()> {
    let connections = size.of(1, 3);
    let mut scene = Scene::begin(&[]).await?;
    let uri = format!("registry://{}", scene.victim.address);
    let start = Instant::now();
    let mut held = Vec::new();
    let mut waiting = JoinSet::new();
    for connection in 0..connections {
        let registry = Registry::connect(&uri)?;
        for number in 0..WATCHES + TOO_MANY {
            let mut name = format!("{connection}-{number}-");
            name.extend(std::iter::repeat_n('n', 200));
            let mut resolver = registry.resolver(&name);
            waiting.spawn(async move {
                let first = resolver.next().await;
                (first.map(|list| list.len()), resolver)
            });
        }
        held.push(registry);
    }
    let twin = found_by_name(&uri).await;
    let (mut empty, mut refused, mut resolvers) = (0, 0, Vec::new());
    // A registry that has just started answers once its servers have had time to come back.
    let all = async {
        while let Some(done) = waiting.join_next().await {
            let (first, resolver) = done?;
            empty += u64::from(matches!(first, Ok(0)));
            refused +=
                u64::from(first.is_err_and(|status| status.code() == Code::ResourceExhausted));
            resolvers.push(resolver);
        }
        Ok::<_, tokio::task::JoinError>(())
    };
    let answered = tokio::time::timeout(Duration::from_secs(60), all).await;
    scene.attacked()?;
    let found = scene.end((resolvers, held)).await?;
    let row = Row {
        id: "S16",
        name: "names watched, never registered",
        ended: "refused".to_owned(),
        count: Some(empty),
        most: Some(connections * WATCHES),
        took: start.elapsed(),
        within: None,
        growth: Some(GROWTH),
        handlers: 0,
        twin: match &twin {
            Ok(took) => format!("found after {} ms", took.as_millis()),
            Err(status) => status.to_string(),
        },
        // How many there may be cannot be turned off.
        off: "-".to_owned(),
        known: &[],
    };
    let checks = [
        (
            matches!(answered, Ok(Ok(()))),
            "not every watch was answered",
        ),
        (empty == connections * WATCHES, "it took fewer than it says"),
        (
            refused == connections * TOO_MANY,
            "it did not refuse the others",
        ),
        (twin.is_ok(), "a server was not found by its name meanwhile"),
    ];
    row.print(&found, &checks, promises);
    Ok(())
}

/// Its twin: a server that registers and is found; how long that took.
async fn found_by_name(uri: &str) -> Result<Duration, Status> {
    let start = Instant::now();
    let registry = Registry::connect(uri)?;
    let address: Address = "127.0.0.1:9"
        .parse()
        .map_err(|error| Status::internal("a constant is an address").with_source(error))?;
    let lease = registry.register("found", address)?;
    let mut resolver = registry.resolver("found");
    let found = async {
        lease.ready().await?;
        while resolver.next().await?.is_empty() {}
        lease.deregister().await
    };
    tokio::time::timeout(Duration::from_secs(20), found)
        .await
        .map_err(|_| Status::deadline_exceeded("not within 20 s"))??;
    Ok(start.elapsed())
}
