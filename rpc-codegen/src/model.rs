//! A service as the generators of its parts see it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use prost_build::Module;
use prost_types::method_options::IdempotencyLevel;

use crate::naming::{self, Names};
use crate::text::Text;
use crate::{client, docs, server};

/// Which parts are generated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides {
    pub(crate) client: bool,
    pub(crate) server: bool,
}

pub(crate) struct Service {
    pub(crate) name: String,
    module: String,
    pub(crate) full_name: String,
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
    pub(crate) methods: Vec<Method>,
}

pub(crate) struct Method {
    pub(crate) function: String,
    pub(crate) constant: String,
    path: String,
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
    idempotency: &'static str,
    pub(crate) request: String,
    pub(crate) response: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ServerStreaming,
    ClientStreaming,
    BidiStreaming,
}

impl Kind {
    /// The function of that kind, which `Method`, `Service` and `Channel` all have.
    pub(crate) fn function(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStreaming => "server_streaming",
            Self::ClientStreaming => "client_streaming",
            Self::BidiStreaming => "bidi_streaming",
        }
    }
}

/// The text of the services of each module.
pub(crate) type Modules = Rc<RefCell<BTreeMap<Module, String>>>;

/// Writes services. They do not go behind the messages at once: prost formats those.
pub(crate) struct Generator {
    pub(crate) sides: Sides,
    pub(crate) names: HashMap<String, Names>,
    pub(crate) modules: Modules,
}

impl prost_build::ServiceGenerator for Generator {
    fn generate(&mut self, service: prost_build::Service, _messages: &mut String) {
        let module = Module::from_protobuf_package_name(&service.package);
        let full_name = naming::full_name(&service.package, &service.proto_name);
        let Some(names) = self.names.get(&full_name) else {
            return;
        };
        let text = Service::new(&service, full_name, names).text(self.sides);
        let mut modules = self.modules.borrow_mut();
        modules.entry(module).or_default().push_str(&text);
    }
}

impl Service {
    fn new(service: &prost_build::Service, full_name: String, names: &Names) -> Self {
        let mut functions = naming::Methods::new();
        let methods = service
            .methods
            .iter()
            .map(|method| Method::new(method, &full_name, &mut functions))
            .collect();
        Self {
            name: names.name.clone(),
            module: names.module.clone(),
            docs: docs::of(&service.comments, &format!("The service `{full_name}`.")),
            deprecated: service.options.deprecated(),
            full_name,
            methods,
        }
    }

    /// The service's module, and what of it stands beside the package's messages.
    fn text(&self, sides: Sides) -> String {
        let Self { name, module, .. } = self;
        let mut text = Text::default();
        text.line(&format!(
            "/// The methods of `{}`, its server and its client.",
            self.full_name
        ));
        // A binary may use one side only, or some methods.
        text.line("#[allow(clippy::all, clippy::pedantic, dead_code)]");
        text.open(&format!("pub mod {module} {{"));
        // Short names, which messages cannot take: they are one module further out.
        text.line("use ::rpc_core::*;");
        text.line("");
        for method in &self.methods {
            method.constant(&mut text);
        }
        let mut exports = Vec::new();
        if sides.server {
            server::generate(self, &mut text);
            exports.extend([name.clone(), format!("{name}Server")]);
        }
        if sides.client {
            client::generate(self, &mut text);
            exports.push(format!("{name}Client"));
        }
        text.close("}");
        exports.sort();
        text.line(if self.deprecated {
            "#[allow(deprecated, unused_imports)]"
        } else {
            "#[allow(unused_imports)]"
        });
        let exports: Vec<&str> = exports.iter().map(String::as_str).collect();
        text.export(module, &exports);
        text.finish()
    }
}

impl Method {
    fn new(method: &prost_build::Method, service: &str, functions: &mut naming::Methods) -> Self {
        let path = format!("/{service}/{}", method.proto_name);
        let kind = match (method.client_streaming, method.server_streaming) {
            (false, false) => Kind::Unary,
            (false, true) => Kind::ServerStreaming,
            (true, false) => Kind::ClientStreaming,
            (true, true) => Kind::BidiStreaming,
        };
        let (function, constant) = functions.name(&method.name);
        Self {
            function,
            constant,
            docs: docs::of(&method.comments, &format!("Calls `{path}`.")),
            path,
            deprecated: method.options.deprecated(),
            idempotency: match method.options.idempotency_level() {
                IdempotencyLevel::IdempotencyUnknown => "",
                IdempotencyLevel::Idempotent => ".idempotent()",
                IdempotencyLevel::NoSideEffects => ".no_side_effects()",
            },
            request: from_module(&method.input_type),
            response: from_module(&method.output_type),
            kind,
        }
    }

    /// The constant that describes the method.
    fn constant(&self, text: &mut Text) {
        let Self {
            constant,
            path,
            request,
            response,
            ..
        } = self;
        text.line(&format!("/// `{path}`"));
        text.assign(
            &format!("pub const {constant}: Method<{request}, {response}>"),
            &format!("Method::{}", self.kind.function()),
            &[&format!("\"{path}\""), "Codec::prost()", "Codec::prost()"],
            self.idempotency,
        );
    }
}

/// The same type seen from one module further in.
fn from_module(path: &str) -> String {
    // Wrapper types are Rust's own, such as `()` and `bool`.
    let absolute = ["::", "crate::", "("]
        .iter()
        .any(|start| path.starts_with(start))
        || path.chars().next().is_some_and(char::is_lowercase) && !path.contains("::");
    if absolute {
        path.to_owned()
    } else {
        format!("super::{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::from_module;

    #[test]
    fn types_are_seen_from_the_service() {
        for (package, service) in [
            ("Point", "super::Point"),
            ("super::common::Id", "super::super::common::Id"),
            ("point::Part", "super::point::Part"),
            (
                "::rpc_core::prost_types::Any",
                "::rpc_core::prost_types::Any",
            ),
            ("crate::types::Id", "crate::types::Id"),
            ("()", "()"),
            ("bool", "bool"),
        ] {
            assert_eq!(from_module(package), service);
        }
    }
}
