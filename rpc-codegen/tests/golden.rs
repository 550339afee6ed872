//! Generated code against the files in `tests/golden`, which reviewers read.
//!
//! When the generator's output changes on purpose, rewrite them and look at what git says:
//!
//! ```sh
//! BLESS=1 cargo test -p rpc-codegen --test golden
//! git diff rpc-codegen/tests/golden
//! ```
//!
//! A new case is a `.proto` file in that folder and a test here; `tests/it/generated.rs` includes the
//! results, so they also have to compile: this is a target of its own, so that it can write them first.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "it/files.rs"]
mod files;

use std::collections::BTreeSet;
use std::fs;

use rpc_codegen::Builder;

use files::{folder, generate};

/// The first lines that differ, as many of each side as fit on a screen.
fn difference(expected: &str, generated: &str) -> Option<String> {
    let (expected, generated): (Vec<_>, Vec<_>) =
        (expected.lines().collect(), generated.lines().collect());
    if expected == generated {
        return None;
    }
    let same = expected
        .iter()
        .zip(&generated)
        .take_while(|(one, other)| one == other)
        .count();
    let shown = |sign: &str, lines: &[&str]| -> String {
        let lines = lines.iter().skip(same).take(8);
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    Some(format!(
        "from line {}:\n{}{}",
        same + 1,
        shown("-", &expected),
        shown("+", &generated)
    ))
}

fn check(builder: Builder, protos: &[&str], expected: &[&str]) {
    let files = generate(builder, protos);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, expected);
    for (name, generated) in &files {
        let path = folder().join(name);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, generated).unwrap();
            continue;
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        if let Some(difference) = difference(&golden, generated) {
            panic!(
                "{} is not what is generated, {difference}\
                 If the change is meant: BLESS=1 cargo test -p rpc-codegen --test golden",
                path.display()
            );
        }
    }
}

macro_rules! golden {
    ($($name:ident: $builder:expr, $protos:expr => $files:expr;)*) => {
        $(#[test]
        fn $name() {
            check($builder, &$protos, &$files);
        })*

        /// No file is left over from a case that is gone.
        #[test]
        fn every_file_is_of_a_case() {
            let mut known = BTreeSet::new();
            $(known.extend($files.map(str::to_owned));)*
            let found: BTreeSet<String> = fs::read_dir(folder())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.ends_with(".rs"))
                .collect();
            if std::env::var_os("BLESS").is_none() {
                assert_eq!(found, known);
            }
        }
    };
}

golden! {
    the_four_kinds: Builder::new(), ["route_guide.proto"] => ["route_guide.rs"];
    keywords: Builder::new(), ["keywords.proto"] => ["keywords.r#type.r#match.rs"];
    names_of_methods: Builder::new(), ["methods.proto"] => ["methods.rs"];
    services_and_messages_of_one_name: Builder::new(), ["same_name.proto"] => ["same_name.rs"];
    no_package: Builder::new(), ["empty_package.proto"] => ["_.rs"];
    imports: Builder::new(), ["imports/store.proto"] =>
        ["imports.common.rs", "imports.store.deep.down.rs", "imports.store.rs"];
    well_known: Builder::new(), ["well_known.proto"] => ["well_known.rs"];
    deprecated: Builder::new(), ["deprecated.proto"] => ["deprecated.rs"];
    idempotency: Builder::new(), ["idempotency.proto"] => ["idempotency.rs"];
    client_only: Builder::new().client_only(), ["client_only.proto"] => ["client_only.rs"];
    server_only: Builder::new().server_only(), ["server_only.proto"] => ["server_only.rs"];
    extern_path: Builder::new()
        .extern_path(".imports.common", "crate::generated::imports::common")
        .extern_path(".extern_path.Mine", "crate::generated::Mine")
        .extern_path(".extern_path.Theirs", "::rpc_core::prost_types::Any"),
        ["extern_path.proto"] => ["extern_path.rs"];
    bytes_and_attributes: Builder::new()
        .bytes(".bytes.Blob.shared")
        .type_attribute(".bytes.Blob", "#[derive(PartialOrd, Ord)]")
        .type_attribute(".bytes.Colour", "#[non_exhaustive]")
        .field_attribute(".bytes.Blob.owned", "#[allow(dead_code)]"),
        ["bytes.proto"] => ["bytes.rs"];
    proto2: Builder::new(), ["proto2.proto"] => ["proto2.rs"];
    comments: Builder::new(), ["comments.proto"] => ["comments.rs"];
}

#[test]
fn a_difference_names_the_first_line() {
    assert_eq!(difference("a\nb\n", "a\nb\n"), None);
    assert_eq!(
        difference("a\nb\nc\n", "a\nx\nc\n").unwrap(),
        "from line 2:\n- b\n- c\n+ x\n+ c\n"
    );
}
