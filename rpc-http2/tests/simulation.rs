//! Two connections joined by a wire that cuts and delays, stepped by a seed.
//!
//! `SEED=7 cargo test -p rpc-http2 --test simulation` plays one seed again.

#![allow(missing_docs, clippy::unwrap_used)]

mod pair;

use pair::{Choices, Pair};

#[test]
fn a_thousand_seeds() {
    if let Some(seed) = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Pair::new(Choices::seeded(seed)).run();
        return;
    }
    for seed in 0..1000 {
        let outcome = std::panic::catch_unwind(|| Pair::new(Choices::seeded(seed)).run());
        assert!(outcome.is_ok(), "SEED={seed} plays it again");
    }
}

#[test]
fn a_seed_plays_the_same_twice() {
    for seed in 0..20 {
        assert_eq!(
            Pair::new(Choices::seeded(seed)).run(),
            Pair::new(Choices::seeded(seed)).run(),
            "seed {seed}"
        );
    }
}
