//! What a build script gets: cargo's instructions, files in their places, `include_proto!`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use rpc_codegen::Builder;

/// Set in the process that plays the build script.
const PLAYS: &str = "RPC_CODEGEN_PLAYS_BUILD_SCRIPT";

/// The build script of the test below; without it, nothing.
#[test]
fn build_script() {
    if std::env::var_os(PLAYS).is_some() {
        rpc_codegen::compile(&["imports/store.proto", "well_known.proto"], &["."]).unwrap();
    }
}

#[test]
fn cargo_is_told_of_each_file_that_was_read() {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "build_script::build_script", "--nocapture"])
        .env(PLAYS, "1")
        .env("OUT_DIR", out.path())
        .current_dir(super::files::folder())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let told: BTreeSet<&str> = text
        .lines()
        // The harness does not end its own line first.
        .filter_map(|line| line.split_once("cargo:rerun-if-changed="))
        .map(|(_, path)| path)
        .collect();
    // Imported ones by way of others too, and no bundled ones.
    let expected = [
        "./imports/common.proto",
        "./imports/deep.proto",
        "./imports/item.proto",
        "./imports/store.proto",
        "./well_known.proto",
    ];
    assert_eq!(told, BTreeSet::from(expected));
    assert!(out.path().join("imports.store.rs").is_file());
    assert!(out.path().join("well_known.rs").is_file());
}

#[test]
fn without_a_build_script_there_is_no_folder_to_write_to() {
    // Tests run without OUT_DIR, this package having no build script.
    assert_eq!(std::env::var_os("OUT_DIR"), None);
    let folder = super::files::folder();
    let error = rpc_codegen::compile(&[folder.join("bytes.proto")], &[&folder]).unwrap_err();
    assert!(error.to_string().contains("OUT_DIR"), "{error}");
}

#[test]
fn a_file_that_is_as_it_should_be_keeps_its_time() {
    let out = tempfile::tempdir().unwrap();
    let folder = super::files::folder();
    let path = out.path().join("bytes.rs");
    let compile = || {
        let builder = Builder::new().out_dir(out.path());
        builder
            .compile(&[folder.join("bytes.proto")], &[&folder])
            .unwrap();
        std::fs::metadata(&path).unwrap().modified().unwrap()
    };
    compile();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(long_ago).unwrap();
    assert_eq!(compile(), long_ago);
    std::fs::write(&path, "something else").unwrap();
    assert_ne!(compile(), long_ago);
}

/// All files of the set, imported and bundled ones, each after what it imports.
#[test]
fn the_descriptor_set_is_whole() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("set.bin");
    let folder = super::files::folder();
    Builder::new()
        .out_dir(out.path())
        .file_descriptor_set_path(&path)
        .compile(&["imports/store.proto", "well_known.proto"], &[&folder])
        .unwrap();
    let set = FileDescriptorSet::decode(&*std::fs::read(&path).unwrap()).unwrap();
    let names: Vec<&str> = set.file.iter().map(|file| file.name()).collect();
    let at = |name| names.iter().position(|&found| found == name).unwrap();
    assert!(at("imports/common.proto") < at("imports/store.proto"));
    assert!(at("google/protobuf/any.proto") < at("well_known.proto"));
    let store = &set.file[at("imports/store.proto")];
    assert_eq!(store.service[0].method[1].name(), "Dig");
    let comments = &store.source_code_info.as_ref().unwrap().location;
    assert!(!comments.is_empty());
}

/// Comments in the set are those of the file; only rustdoc's are made safe.
#[test]
fn the_descriptor_set_has_comments_as_they_are() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("set.bin");
    let folder = super::files::folder();
    Builder::new()
        .out_dir(out.path())
        .file_descriptor_set_path(&path)
        .compile(&["comments.proto"], &[&folder])
        .unwrap();
    let set = FileDescriptorSet::decode(&*std::fs::read(&path).unwrap()).unwrap();
    let info = set.file[0].source_code_info.as_ref().unwrap();
    let comments = info
        .location
        .iter()
        .filter_map(|at| at.leading_comments.as_ref());
    assert!(
        comments
            .into_iter()
            .any(|text| text.contains("an [x] link, a <T> tag"))
    );
}

/// Options that this crate knows nothing of, such as those of HTTP gateways, stay in the set.
#[test]
fn the_descriptor_set_has_custom_options() {
    let out = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(out.path().join(name), text).unwrap();
    write(
        "option.proto",
        "syntax = \"proto3\"; import \"google/protobuf/descriptor.proto\"; package o; \
         extend google.protobuf.MethodOptions { string route = 50001; }",
    );
    write(
        "service.proto",
        "syntax = \"proto3\"; import \"option.proto\"; package s; message A {} \
         service S { rpc Get(A) returns (A) { option (o.route) = \"/v1/the-route\"; } }",
    );
    let path = out.path().join("set.bin");
    Builder::new()
        .out_dir(out.path())
        .file_descriptor_set_path(&path)
        .compile(&[out.path().join("service.proto")], &[out.path()])
        .unwrap();
    let set = std::fs::read(&path).unwrap();
    let wanted = b"/v1/the-route";
    assert!(set.windows(wanted.len()).any(|window| window == wanted));
}

/// The macro includes the file of a package; rustc is asked, with an `OUT_DIR` as cargo would set it.
#[test]
fn include_proto_includes_the_file_of_a_package() {
    let source = include_str!("../../../rpc-core/src/lib.rs");
    let (_, definition) = source.split_once("macro_rules! include_proto {").unwrap();
    let (definition, _) = definition.split_once("\n}\n").unwrap();
    let out = tempfile::tempdir().unwrap();
    std::fs::write(out.path().join("my.package.rs"), "pub struct Included;").unwrap();
    let main = out.path().join("main.rs");
    let text = format!(
        "macro_rules! include_proto {{{definition}\n}}\n\
         mod proto {{ include_proto!(\"my.package\"); }}\n\
         pub fn included() -> proto::Included {{ proto::Included }}"
    );
    std::fs::write(&main, text).unwrap();
    assert!(
        compiles(&main, out.path()),
        "include_proto! does not find the file"
    );
}

fn compiles(main: &Path, out: &Path) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args([
            "--edition=2024",
            "--crate-type=lib",
            "--emit=metadata",
            "--out-dir",
        ])
        .args([out, main])
        .env("OUT_DIR", out)
        .output()
        .unwrap();
    output.status.success()
}
