//! A policy of the user's own, and what it is asked with.

use std::sync::{Arc, Mutex};

use rpc_core::Channel;
use rpc_core::client::{Candidate, LoadBalancer, Pick, PickContext, PickFirst, Picker, Update};
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::serve;
use tokio::time::Instant;

/// Picks the first, and writes down the method and the random number of each pick for a call.
#[derive(Default)]
struct Recording {
    inner: PickFirst,
    picks: Arc<Mutex<Vec<(String, u64)>>>,
}

struct RecordingPicker {
    inner: Arc<dyn Picker>,
    picks: Arc<Mutex<Vec<(String, u64)>>>,
}

impl LoadBalancer for Recording {
    fn name(&self) -> &'static str {
        "recording"
    }

    fn update(&mut self, candidates: &[Candidate], now: Instant) -> Update {
        let Update { connect, picker } = self.inner.update(candidates, now);
        let picker = RecordingPicker {
            inner: picker,
            picks: Arc::clone(&self.picks),
        };
        Update {
            connect,
            picker: Arc::new(picker),
        }
    }
}

impl Picker for RecordingPicker {
    fn pick(&self, context: &PickContext<'_>) -> Pick {
        let pick = self.inner.pick(context);
        if matches!(pick, Pick::To(..)) {
            let pick = (context.path.to_owned(), context.random);
            self.picks.lock().unwrap().push(pick);
        }
        pick
    }
}

/// The picks of twenty calls on a channel of this seed.
async fn picks(seed: Option<u64>) -> Vec<(String, u64)> {
    let server = serve().await;
    let recording = Recording::default();
    let picks = Arc::clone(&recording.picks);
    let mut builder = Channel::builder().balancer(recording);
    if let Some(seed) = seed {
        builder = builder.random_seed(seed);
    }
    let test = TestClient::new(builder.connect(&server.uri).await.unwrap());
    picks.lock().unwrap().clear();
    for _ in 0..20 {
        test.echo(Message::default()).await.unwrap();
    }
    picks.lock().unwrap().clone()
}

#[tokio::test]
async fn a_policy_is_asked_once_a_call_with_its_method() {
    let picks = picks(None).await;
    let paths: Vec<_> = picks.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["/testkit.v1.Test/Echo"; 20]);
}

#[tokio::test]
async fn a_seed_makes_the_picks_repeatable_and_without_one_they_differ() {
    // Connecting may take a pick more in one of them, so that the second is a little ahead.
    let common = |one: &[(String, u64)], other: &[(String, u64)]| {
        one.iter().filter(|pick| other.contains(pick)).count()
    };
    let (one, other) = (picks(Some(42)).await, picks(Some(42)).await);
    assert!(common(&one, &other) >= 10, "{one:?} {other:?}");

    let (one, other) = (picks(None).await, picks(None).await);
    assert_eq!(common(&one, &other), 0, "{one:?} {other:?}");
}
