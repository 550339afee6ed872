//! Names in generated code.

use std::collections::{HashMap, HashSet};

use heck::{ToSnakeCase as _, ToUpperCamelCase as _};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// What a service's module uses by its short name; a service of such a name steps aside.
const USED: [&str; 16] = [
    "Arc",
    "Channel",
    "ClientStream",
    "From",
    "Future",
    "IntoRequest",
    "Method",
    "RecvStream",
    "Request",
    "RequestStream",
    "Response",
    "Result",
    "Send",
    "SendStream",
    "Status",
    "Sync",
];

/// What a service is called in Rust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// The trait; `Client` and `Server` behind it are the structs.
    pub(crate) name: String,
    /// The module of the service.
    pub(crate) module: String,
}

/// The names of all services, by their full names in protobuf.
///
/// protobuf lets a service be called as a message, but for the case of letters, and anything as
/// something in another package; Rust's names have one case, and a package's messages, its services
/// and the packages in it share one module. A service's name gives way, with `Service` behind it.
pub(crate) fn services(descriptors: &FileDescriptorSet) -> HashMap<String, Names> {
    let mut taken: HashMap<&str, HashSet<String>> = HashMap::new();
    for file in &descriptors.file {
        let names = taken.entry(file.package()).or_default();
        let enums = file.enum_type.iter().map(|item| item.name());
        let messages = file.message_type.iter().map(DescriptorProto::name);
        names.extend(enums.chain(messages).map(|name| name.to_upper_camel_case()));
        let with_modules = file
            .message_type
            .iter()
            .filter(|message| has_module(message));
        names.extend(with_modules.map(|message| message.name().to_snake_case()));
        for (at, _) in file.package().match_indices('.') {
            let (outer, inner) = file.package().split_at(at);
            let module = inner.split('.').nth(1).unwrap_or_default().to_snake_case();
            taken.entry(outer).or_default().insert(module);
        }
    }
    let mut names = HashMap::new();
    for file in &descriptors.file {
        let taken = taken.entry(file.package()).or_default();
        for service in &file.service {
            let full_name = full_name(file.package(), service.name());
            names.insert(full_name, choose(service.name(), taken));
        }
    }
    names
}

/// Whether prost makes a module of a message's name.
fn has_module(message: &DescriptorProto) -> bool {
    let map_entry = |nested: &DescriptorProto| {
        nested
            .options
            .as_ref()
            .is_some_and(prost_types::MessageOptions::map_entry)
    };
    !message.enum_type.is_empty()
        || !message.oneof_decl.is_empty()
        || message.nested_type.iter().any(|nested| !map_entry(nested))
}

fn choose(proto_name: &str, taken: &mut HashSet<String>) -> Names {
    let mut name = proto_name.to_upper_camel_case();
    if name == "Self" {
        name.push('_');
    }
    let all = |name: &str| ["", "Client", "Server"].map(|suffix| format!("{name}{suffix}"));
    while USED.contains(&name.as_str()) || all(&name).iter().any(|name| taken.contains(name)) {
        name.push_str("Service");
    }
    let snake = name.to_snake_case();
    let mut module = format!("{}_service", snake.trim_end_matches("_service"));
    while taken.contains(&module) {
        module.push('_');
    }
    taken.extend(all(&name));
    taken.insert(module.clone());
    Names { name, module }
}

/// `package.Name`, or only the name of what is in no package.
pub(crate) fn full_name(package: &str, name: &str) -> String {
    if package.is_empty() {
        name.to_owned()
    } else {
        format!("{package}.{name}")
    }
}

/// The names of a service's methods in Rust, which a service has once each.
#[derive(Debug)]
pub(crate) struct Methods {
    taken: HashSet<String>,
}

impl Methods {
    pub(crate) fn new() -> Self {
        // The client's constructor, and what `client.into(…)` would call before a method of its own.
        let taken = ["new", "into", "try_into"].map(str::to_owned).into();
        Self { taken }
    }

    /// A method's function, by the name that prost gave it, and its constant.
    pub(crate) fn name(&mut self, prost_name: &str) -> (String, String) {
        let mut function = prost_name.to_owned();
        while function.is_empty() || !self.taken.insert(function.clone()) {
            function.push('_');
        }
        let constant = function.trim_start_matches("r#").to_uppercase();
        (function, constant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_steps_aside_for_what_is_there() {
        let mut methods = Methods::new();
        for (name, function, constant) in [
            ("get", "get", "GET"),
            ("get", "get_", "GET_"),
            ("r#match", "r#match", "MATCH"),
            ("self_", "self_", "SELF_"),
            ("new", "new_", "NEW_"),
            ("new", "new__", "NEW__"),
        ] {
            assert_eq!(
                methods.name(name),
                (function.to_owned(), constant.to_owned())
            );
        }
    }

    #[test]
    fn a_service_steps_aside_for_a_message() {
        let chosen = |service: &str, taken: &[&str]| {
            let mut taken = taken.iter().map(|&name| name.to_owned()).collect();
            let Names { name, module } = choose(service, &mut taken);
            (name, module)
        };
        let expected = |name: &str, module: &str| (name.to_owned(), module.to_owned());
        assert_eq!(
            chosen("Echo", &["Echo"]),
            expected("EchoService", "echo_service")
        );
        assert_eq!(
            chosen("Echo", &["EchoClient", "EchoServiceServer"]),
            expected("EchoServiceService", "echo_service")
        );
        assert_eq!(chosen("Echo", &["Other"]), expected("Echo", "echo_service"));
        assert_eq!(
            chosen("Echo", &["echo_service"]),
            expected("Echo", "echo_service_")
        );
        assert_eq!(
            chosen("EchoService", &[]),
            expected("EchoService", "echo_service")
        );
        assert_eq!(
            chosen("HTTPEcho", &[]),
            expected("HttpEcho", "http_echo_service")
        );
        assert_eq!(
            chosen("Status", &[]),
            expected("StatusService", "status_service")
        );
    }
}
