//! The checked-in code is what the generator makes of `proto/`.

use std::path::Path;

const FILE: &str = "rpc.registry.v1.rs";

#[test]
fn generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    let proto = root.join("proto");
    let files =
        ["registry", "state"].map(|name| proto.join(format!("rpc/registry/v1/{name}.proto")));
    rpc_codegen::Builder::new()
        .out_dir(directory.path())
        .compile(&files, &[proto])
        .unwrap();
    let made = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
    let checked_in = root.join("src/generated").join(FILE);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&checked_in, &made).unwrap();
    }
    let found = std::fs::read_to_string(&checked_in).unwrap_or_default();
    assert!(
        found == made,
        "{} is stale: BLESS=1 cargo test -p rpc-registry --test generated",
        checked_in.display()
    );
}
