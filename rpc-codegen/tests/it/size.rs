//! How much a user finds when they look into generated code.

use rpc_codegen::Builder;

/// Lines of the services in a file of `tests/golden`, without comments and blank lines.
fn lines(text: &str) -> usize {
    let (_, services) = text.split_once("/// The methods of `").unwrap();
    let code = services.lines().skip(1).map(str::trim);
    code.filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

/// Lines of a service with these methods, all of the same kind and types.
fn generated(methods: &[&str], types: &str, request: &str, response: &str) -> usize {
    let methods = methods.iter().map(|name| {
        format!("rpc {name}({request}{types}Request) returns ({response}{types}Response); ")
    });
    let proto = format!(
        "syntax = \"proto3\"; package store.v1; message {types}Request {{}} \
         message {types}Response {{}} service StoreService {{ {} }}",
        methods.collect::<String>()
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

/// What one more method of each kind adds: short, as style guides name it, and of a name longer than
/// most.
#[test]
fn a_method_is_short() {
    for (name, types) in [
        ("Get", "Get"),
        ("ListAppointments", "ListAppointments"),
        ("ListEverythingThatIsInTheStore", "Store"),
    ] {
        for (request, response) in [
            ("", ""),
            ("", "stream "),
            ("stream ", ""),
            ("stream ", "stream "),
        ] {
            let lines = |methods: &[&str]| generated(methods, types, request, response);
            let more = lines(&[name, &format!("{name}2")]) - lines(&[name]);
            assert!(
                more <= 25,
                "{more} lines for one more {name} ({request}) -> ({response})"
            );
        }
    }
}
