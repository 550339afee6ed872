//! The files in `tests/golden`.

use std::fs;
use std::path::{Path, PathBuf};

use rpc_codegen::Builder;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Generates from files of the folder; the names of the generated files and their texts.
pub(crate) fn generate(builder: Builder, protos: &[&str]) -> Vec<(String, String)> {
    let out = tempfile::tempdir().unwrap();
    let protos: Vec<PathBuf> = protos.iter().map(|proto| folder().join(proto)).collect();
    builder
        .out_dir(out.path())
        .compile(&protos, &[folder()])
        .unwrap_or_else(|error| panic!("{error}"));
    let mut files: Vec<(String, String)> = fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}
