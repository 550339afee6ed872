//! A service as the generators of its parts see it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use proc_macro2::{Ident, TokenStream};
use prost_build::Module;
use prost_types::method_options::IdempotencyLevel;
use quote::{format_ident, quote};

use crate::naming::{self, Names};
use crate::{Error, client, docs, server};

/// Which parts are generated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides {
    pub(crate) client: bool,
    pub(crate) server: bool,
}

pub(crate) struct Service {
    pub(crate) name: Ident,
    pub(crate) server: Ident,
    pub(crate) client: Ident,
    module: Ident,
    pub(crate) full_name: String,
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
    pub(crate) methods: Vec<Method>,
}

pub(crate) struct Method {
    pub(crate) function: Ident,
    pub(crate) constant: Ident,
    path: String,
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
    idempotency: TokenStream,
    pub(crate) request: syn::Type,
    pub(crate) response: syn::Type,
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
    pub(crate) fn function(self) -> Ident {
        format_ident!(
            "{}",
            match self {
                Self::Unary => "unary",
                Self::ServerStreaming => "server_streaming",
                Self::ClientStreaming => "client_streaming",
                Self::BidiStreaming => "bidi_streaming",
            }
        )
    }
}

/// The text of the services of each module, or why there is none.
pub(crate) type Modules = Rc<RefCell<BTreeMap<Module, Result<String, Error>>>>;

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
        let text = Service::new(&service, full_name, names)
            .and_then(|service| service.text(self.sides))
            .map_err(|error| Error::new(format!("generating {}: {error}", service.proto_name)));
        let mut modules = self.modules.borrow_mut();
        let all = modules.entry(module).or_insert_with(|| Ok(String::new()));
        match (all, text) {
            (Ok(all), Ok(text)) => all.push_str(&text),
            (all @ Ok(_), error) => *all = error,
            (Err(_), _) => {}
        }
    }
}

impl Service {
    fn new(
        service: &prost_build::Service,
        full_name: String,
        names: &Names,
    ) -> Result<Self, syn::Error> {
        let mut functions = naming::Methods::new();
        let methods = service
            .methods
            .iter()
            .map(|method| Method::new(method, &full_name, &mut functions))
            .collect::<Result<_, _>>()?;
        let name: Ident = syn::parse_str(&names.name)?;
        Ok(Self {
            server: format_ident!("{name}Server"),
            client: format_ident!("{name}Client"),
            name,
            module: syn::parse_str(&names.module)?,
            docs: docs::of(&service.comments, &format!("The service `{full_name}`.")),
            deprecated: service.options.deprecated(),
            full_name,
            methods,
        })
    }

    /// The service's module, and what of it stands beside the package's messages.
    fn text(&self, sides: Sides) -> Result<String, syn::Error> {
        let Self { module, .. } = self;
        let docs = format!(
            " The methods of `{}`, its server and its client.",
            self.full_name
        );
        let constants = self.methods.iter().map(Method::constant);
        let mut exports = Vec::new();
        let server = sides.server.then(|| {
            exports.extend([&self.name, &self.server]);
            server::generate(self)
        });
        let client = sides.client.then(|| {
            exports.push(&self.client);
            client::generate(self)
        });
        exports.sort();
        let deprecated = self.deprecated.then(|| quote!(deprecated,));
        // A binary may use one side only, or some methods. The short names cannot be messages'
        // names: those are one module further out.
        let file = syn::parse2(quote! {
            #[doc = #docs]
            #[allow(clippy::all, clippy::pedantic, dead_code)]
            pub mod #module {
                use ::rpc_core::codegen::*;
                #(#constants)*
                #server
                #client
            }
            #[allow(#deprecated unused_imports)]
            pub use #module::{#(#exports),*};
        })?;
        Ok(prettyplease::unparse(&file))
    }
}

impl Method {
    fn new(
        method: &prost_build::Method,
        service: &str,
        functions: &mut naming::Methods,
    ) -> Result<Self, syn::Error> {
        let path = format!("/{service}/{}", method.proto_name);
        let kind = match (method.client_streaming, method.server_streaming) {
            (false, false) => Kind::Unary,
            (false, true) => Kind::ServerStreaming,
            (true, false) => Kind::ClientStreaming,
            (true, true) => Kind::BidiStreaming,
        };
        let (function, constant) = functions.name(&method.name);
        Ok(Self {
            function: syn::parse_str(&function)?,
            constant: syn::parse_str(&constant)?,
            docs: docs::of(&method.comments, &format!("Calls `{path}`.")),
            path,
            deprecated: method.options.deprecated(),
            idempotency: match method.options.idempotency_level() {
                IdempotencyLevel::IdempotencyUnknown => quote!(),
                IdempotencyLevel::Idempotent => quote!(.idempotent()),
                IdempotencyLevel::NoSideEffects => quote!(.no_side_effects()),
            },
            request: syn::parse_str(&from_module(&method.input_type))?,
            response: syn::parse_str(&from_module(&method.output_type))?,
            kind,
        })
    }

    /// The constant that describes the method.
    fn constant(&self) -> TokenStream {
        let Self {
            constant,
            path,
            request,
            response,
            idempotency,
            ..
        } = self;
        let kind = format_ident!("prost_{}", self.kind.function());
        let docs = format!(" `{path}`");
        quote! {
            #[doc = #docs]
            pub const #constant: Method<#request, #response> = Method::#kind(#path)#idempotency;
        }
    }
}

/// The attributes of a comment.
pub(crate) fn documentation(lines: &[String]) -> TokenStream {
    let lines = lines.iter().map(|line| match line.as_str() {
        "" => String::new(),
        line => format!(" {line}"),
    });
    quote!(#(#[doc = #lines])*)
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
