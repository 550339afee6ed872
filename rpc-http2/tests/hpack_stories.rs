//! The stories of the http2jp test vectors: what other encoders made of the same lists of fields.
//!
//! They are not in this repository: `tests/peers/hpack/run` installs them and names their directory
//! in `HPACK_STORIES`.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};

use rpc_http2::Fields;
use rpc_http2::hpack::{Block, Decoder, Encoder, Template};
use serde_json::Value;

/// How many there are: fewer means that some were not found.
const STORIES: usize = 446;
/// How many lists of fields they have together.
const LISTS: usize = 47_142;

/// What one encoder made on one connection.
struct Story {
    name: String,
    cases: Vec<Case>,
}

struct Case {
    /// What SETTINGS_HEADER_TABLE_SIZE is from here on, when it changes.
    table_size: Option<usize>,
    /// The block; the lists that the encoders began with have none.
    wire: Option<Vec<u8>>,
    fields: Fields,
}

#[test]
fn every_story_is_decoded() {
    let Some(paths) = stories() else { return };
    let (mut decoded, mut lists) = (0, 0);
    for path in &paths {
        let story = Story::read(path);
        let mut decoder = story.decoder();
        let before = lists;
        for (place, case) in story.cases.iter().enumerate() {
            let Some(wire) = &case.wire else { continue };
            match decoder.decode(wire) {
                Ok(block) => same(&fields(block), &case.fields, &story.name, place),
                Err(error) => panic!("{} case {place}: {error}", story.name),
            }
            lists += 1;
        }
        decoded += usize::from(lists > before);
    }
    println!("{decoded} stories decoded, {lists} lists of fields");
    assert!(
        decoded >= STORIES && lists >= LISTS,
        "there are {STORIES} stories with {LISTS} lists"
    );
}

#[test]
fn every_list_is_the_same_once_encoded_and_decoded() {
    let Some(paths) = stories() else { return };
    let mut lists = 0;
    for path in &paths {
        let story = Story::read(path);
        story.round_trip(Fields::clone, |encoder, fields, out| {
            encoder.template(&mut Template::new(fields.clone()), out);
        });
        story.round_trip(Fields::clone, |encoder, fields, out| {
            for (name, value) in fields.iter() {
                encoder.stable(name, value, out);
            }
        });
        // This one moves fields, though none past another of its name.
        story.round_trip(by_name, Encoder::rest);
        lists += story.cases.len();
    }
    println!(
        "{} stories encoded and decoded in three ways, {lists} lists of fields",
        paths.len()
    );
    assert!(
        paths.len() >= STORIES && lists >= LISTS,
        "there are {STORIES} stories with {LISTS} lists"
    );
}

impl Story {
    fn read(path: &Path) -> Self {
        let name = path.display().to_string();
        let story: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = story["cases"].as_array().unwrap();
        assert!(!cases.is_empty(), "{name} has no cases");
        let cases = cases.iter().map(Case::of).collect();
        Self { name, cases }
    }

    /// A decoder keeps to one setting: that of a story which changes it allows the largest. The size
    /// that the encoder uses is in its blocks.
    fn decoder(&self) -> Decoder {
        let largest = self.cases.iter().filter_map(|case| case.table_size).max();
        Decoder::new(largest.unwrap_or(4096), usize::MAX >> 1, usize::MAX)
    }

    /// Encodes all lists on one connection and decodes them again; they are compared in an order that
    /// the encoder keeps.
    fn round_trip(
        &self,
        order: impl Fn(&Fields) -> Fields,
        encode: impl Fn(&mut Encoder, &Fields, &mut Vec<u8>),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), self.decoder());
        let mut out = Vec::new();
        for (place, case) in self.cases.iter().enumerate() {
            if let Some(size) = case.table_size {
                encoder.set_max_table_size(size);
            }
            out.clear();
            encoder.begin(&mut out);
            encode(&mut encoder, &case.fields, &mut out);
            let decoded = order(&fields(decoder.decode(&out).unwrap()));
            same(&decoded, &order(&case.fields), &self.name, place);
        }
    }
}

impl Case {
    fn of(case: &Value) -> Self {
        let mut fields = Fields::new();
        for field in case["headers"].as_array().unwrap() {
            let field = field.as_object().unwrap();
            assert_eq!(field.len(), 1, "{field:?} is one field");
            for (name, value) in field {
                fields.push(name, value.as_str().unwrap());
            }
        }
        Self {
            table_size: case["header_table_size"].as_u64().map(|size| size as usize),
            wire: case.get("wire").map(|wire| octets(wire.as_str().unwrap())),
            fields,
        }
    }
}

/// The files of the stories; nothing when nobody said where they are.
fn stories() -> Option<Vec<PathBuf>> {
    let Some(directory) = std::env::var_os("HPACK_STORIES") else {
        // Not by a macro, whose output a test that passes does not show.
        let line = "SKIPPED: the HPACK stories are not here; tests/peers/hpack/run installs them\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return None;
    };
    let mut directories = vec![PathBuf::from(directory)];
    let mut paths = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() {
                directories.push(path);
            } else if name.starts_with("story_") && name.ends_with(".json") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    Some(paths)
}

fn octets(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|place| u8::from_str_radix(&hex[place..place + 2], 16).unwrap())
        .collect()
}

fn fields(block: Block<'_>) -> Fields {
    assert!(!block.oversized);
    collected(block.fields())
}

/// The same fields sorted by name, those of one name in the order they had.
fn by_name(fields: &Fields) -> Fields {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    collected(sorted.into_iter())
}

fn collected<'a>(list: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in list {
        fields.push(name, value);
    }
    fields
}

fn same(found: &Fields, expected: &Fields, story: &str, place: usize) {
    assert_eq!(found, expected, "{story} case {place}");
}
