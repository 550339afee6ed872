//! The inputs that fuzzing has found, and those that it began with, played again.
//!
//! A corpus is one file of inputs, each behind its length in four octets; `fuzz/run pack` writes it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

#[test]
fn every_input_still_holds() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, check) in fuzz_checks::CHECKS {
        let packed = std::fs::read(corpora.join(format!("{name}.packed"))).unwrap();
        let mut rest = &*packed;
        let mut count = 0;
        while let Some((length, more)) = rest.split_first_chunk() {
            let (input, more) = more.split_at(u32::from_be_bytes(*length) as usize);
            let held = std::panic::catch_unwind(|| check(input));
            assert!(held.is_ok(), "{name}, input {count}: {input:?}");
            rest = more;
            count += 1;
        }
        assert!(count > 10, "{name} has {count} inputs");
    }
}
