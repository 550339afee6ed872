//! One pick, out of ten endpoints and out of a thousand.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use rpc_core::client::{
    Address, Candidate, ConnectivityState, Endpoint, LoadBalancer, PickContext, Subchannel, Updates,
};
use rpc_registry::balance::{LeastRequest, RoundRobin};
use tokio::time::Instant;

fn candidates(count: u16) -> Vec<Candidate> {
    (1..=count)
        .map(|port| {
            let endpoint = Endpoint::new(Address::Tcp {
                host: "127.0.0.1".into(),
                port,
            });
            Candidate {
                id: port.into(),
                subchannel: Subchannel::detached(endpoint.clone(), true),
                endpoint: Arc::new(endpoint),
                state: ConnectivityState::Ready,
                last_error: None,
            }
        })
        .collect()
}

fn pick(criterion: &mut Criterion) {
    for count in [10, 1_000] {
        let policies: [Box<dyn LoadBalancer>; 2] =
            [Box::new(RoundRobin::new()), Box::new(LeastRequest::new())];
        for mut policy in policies {
            let picker = policy.update(&candidates(count), Instant::now()).picker;
            let mut random = fastrand::Rng::with_seed(7);
            let updates = Updates::default();
            criterion.bench_function(&format!("pick/{}/{count}", policy.name()), |bench| {
                bench.iter(|| {
                    let context = PickContext {
                        path: "/bench.Echo/Unary",
                        hash_key: None,
                        avoid: &[],
                        random: random.u64(..),
                        now: Instant::now(),
                        updates: &updates,
                    };
                    black_box(picker.pick(&context))
                });
            });
        }
    }
}

criterion_group!(benches, pick);
criterion_main!(benches);
