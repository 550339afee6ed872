//! What is said about files that are broken, missing or not supported.

use std::path::{Path, PathBuf};

use rpc_codegen::Builder;

/// The error of generating from `broken.proto`, beside the other files given.
fn error(files: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    compile(folder.path(), &folder.path().join("broken.proto"))
        .unwrap_err()
        .replace(&folder.path().display().to_string(), "")
}

fn compile(folder: &Path, proto: &Path) -> Result<(), String> {
    Builder::new()
        .out_dir(folder)
        .compile(&[proto], &[folder])
        .map_err(|error| error.to_string())
}

/// The error of a file of these lines after `syntax` and `package`.
fn broken(lines: &str) -> String {
    error(&[(
        "broken.proto",
        &format!("syntax = \"proto3\";\npackage p;\n{lines}"),
    )])
}

#[test]
fn neither_side_is_left_whatever_the_order_of_calls() {
    for builder in [
        Builder::new().client_only().server_only(),
        Builder::new().server_only().client_only(),
    ] {
        let error = builder.compile(&["none.proto"], &["."]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "client_only and server_only were both asked for: leave away one of them"
        );
    }
}

#[test]
fn syntax() {
    assert_eq!(
        broken("message A {\n  int32 a 1;\n}\n"),
        "broken.proto:4:11: expected '=', but found '1'"
    );
}

#[test]
fn an_unknown_type() {
    assert_eq!(
        broken("message A {\n  Missing a = 1;\n}\n"),
        "broken.proto:4:3: name 'Missing' is not defined"
    );
}

#[test]
fn an_unknown_type_of_a_method() {
    assert_eq!(
        broken("service S {\n  rpc Get(Missing) returns (Missing);\n}\n"),
        "broken.proto:4:11: name 'Missing' is not defined"
    );
}

#[test]
fn a_field_number_twice() {
    assert_eq!(
        broken("message A {\n  int32 a = 1;\n  int32 b = 1;\n}\n"),
        "broken.proto:5:13: field number '1' is already used"
    );
}

#[test]
fn a_method_twice() {
    assert_eq!(
        broken(
            "message A {}\nservice S {\n  rpc Get(A) returns (A);\n  rpc Get(A) returns (A);\n}\n"
        ),
        "broken.proto:6:7: name 'p.S.Get' is defined twice"
    );
}

#[test]
fn an_import_that_is_missing() {
    assert_eq!(
        broken("import \"missing.proto\";\n"),
        "broken.proto:3:1: import 'missing.proto' not found"
    );
}

#[test]
fn an_import_that_is_broken() {
    let text = error(&[
        (
            "broken.proto",
            "syntax = \"proto3\";\nimport \"other.proto\";\n",
        ),
        ("other.proto", "syntax = \"proto3\";\nmessage {}\n"),
    ]);
    assert_eq!(
        text,
        "other.proto:2:9: expected an identifier, but found '{'"
    );
}

#[test]
fn imports_in_a_circle() {
    let text = error(&[
        (
            "broken.proto",
            "syntax = \"proto3\";\nimport \"other.proto\";\n",
        ),
        (
            "other.proto",
            "syntax = \"proto3\";\nimport \"broken.proto\";\n",
        ),
    ]);
    assert_eq!(
        text,
        "import cycle detected: broken.proto -> other.proto -> broken.proto"
    );
}

#[test]
fn a_file_that_is_not_there() {
    assert_eq!(
        error(&[]),
        "file '/broken.proto' is not there, nor in an include path: "
    );
}

#[test]
fn a_file_outside_of_the_includes() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let proto = other.path().join("a.proto");
    std::fs::write(&proto, "syntax = \"proto3\";").unwrap();
    let text = compile(folder.path(), &proto).unwrap_err();
    assert_eq!(
        text.replace(&proto.display().to_string(), "a.proto"),
        "file 'a.proto' is not in any include path"
    );
}

#[test]
fn a_file_that_is_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let proto = folder.path().join("a.proto");
    std::fs::write(&proto, [0xff, 0xfe]).unwrap();
    assert_eq!(
        compile(folder.path(), &proto).unwrap_err(),
        "file 'a.proto' is not valid utf-8"
    );
}

#[test]
fn a_folder_that_is_not_there() {
    let error = Builder::new()
        .out_dir("/nowhere/at/all")
        .compile(&[golden("route_guide.proto")], &[super::files::folder()])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "writing /nowhere/at/all/route_guide.rs: No such file or directory (os error 2)"
    );
}

#[test]
fn a_path_for_extern_types_that_is_none() {
    let error = Builder::new()
        .extern_path("no.dot", "::no")
        .out_dir(std::env::temp_dir())
        .compile(&[golden("route_guide.proto")], &[super::files::folder()])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "generating code: Protobuf paths must be fully qualified (begin with a leading '.'): no.dot"
    );
}

fn golden(name: &str) -> PathBuf {
    super::files::folder().join(name)
}

#[test]
fn editions_are_refused() {
    let text = error(&[("broken.proto", "// c\nedition = \"2023\";\npackage p;\n")]);
    assert_eq!(
        text,
        "broken.proto:2:1: editions are not supported: syntax = \"proto3\" and \"proto2\" are"
    );
}

/// A type of `extern_path` that is no Rust, where only a service uses it.
#[test]
fn a_rust_path_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.proto");
    let text = "syntax = \"proto3\"; package p; message A {} service S { rpc Get(A) returns (A); }";
    std::fs::write(&path, text).unwrap();
    let error = Builder::new()
        .out_dir(folder.path())
        .extern_path(".p.A", "::their types::A")
        .compile(&[&path], &[folder.path()])
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("generating code: "), "{error}");
}
