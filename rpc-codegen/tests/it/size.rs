//! How much a user finds when they look into generated code.

use rpc_codegen::Builder;

/// Lines of the services in a file of `tests/golden`, without comments and blank lines.
fn lines(text: &str) -> usize {
    let (_, services) = text.split_once("/// The methods of `").unwrap();
    let code = services.lines().skip(1).map(str::trim);
    code.filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

fn generated(methods: &str) -> usize {
    let proto = format!(
        "syntax = \"proto3\"; package store.v1; message Request_ {{}} message Response_ {{}} \
         service StoreService {{ {methods} }}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.proto");
    std::fs::write(&path, proto).unwrap();
    let builder = Builder::new().out_dir(folder.path());
    builder.compile(&[&path], &[folder.path()]).unwrap();
    lines(&std::fs::read_to_string(folder.path().join("store.v1.rs")).unwrap())
}

/// At most 25 lines a method, the service's own lines counted in.
#[test]
fn route_guide_is_short() {
    let files = super::files::generate(Builder::new(), &["route_guide.proto"]);
    let lines = lines(&files[0].1);
    assert!(lines <= 4 * 25, "{lines} lines for 4 methods");
}

/// What one more method of each kind adds. Where names are so long that few things fit on a line
/// with others, it is up to six more.
#[test]
fn a_method_is_short() {
    for (request, response) in [
        ("", ""),
        ("", "stream "),
        ("stream ", ""),
        ("stream ", "stream "),
    ] {
        let method =
            |name: &str| format!("rpc {name}({request}Request_) returns ({response}Response_);");
        let one = method("ListItemsInStore");
        let other = method("ListShelvesInStore");
        let more = generated(&format!("{one}{other}")) - generated(&one);
        assert!(more <= 25, "{more} lines for one more `{one}`");
    }
}
