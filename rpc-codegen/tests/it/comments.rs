//! What rustdoc makes of comments in `.proto` files.

use std::process::{Command, Output};

use super::files;

/// The documentation of the generated code on items of its own, so that rustdoc needs no crates.
fn documented() -> String {
    let files = files::generate(rpc_codegen::Builder::new(), &["comments.proto"]);
    let mut text = String::from("//! Comments.\n");
    let mut items = 0;
    let mut in_docs = false;
    for line in files[0].1.lines().chain([""]) {
        let is_doc = line.trim_start().starts_with("///");
        if is_doc && !line.contains("[`Comments`]") {
            text.extend([line.trim_start(), "\n"]);
        } else if in_docs {
            text += &format!("pub struct Item{items};\n");
            items += 1;
        }
        in_docs = is_doc && !line.contains("[`Comments`]");
    }
    assert!(items > 10, "{text}");
    text
}

fn rustdoc(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("commented.rs");
    std::fs::write(&source, documented()).unwrap();
    let rustdoc = std::env::var_os("RUSTDOC").unwrap_or_else(|| "rustdoc".into());
    Command::new(rustdoc)
        .arg("--edition=2024")
        .args(arguments)
        .arg(&source)
        .current_dir(folder.path())
        .output()
        .unwrap()
}

#[test]
fn nothing_in_a_comment_breaks_the_documentation() {
    let output = rustdoc(&["-Dwarnings"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn nothing_in_a_comment_is_run_as_a_test() {
    let output = rustdoc(&["--test"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("running 0 tests"),
        "{text}"
    );
}
