//! A service as the generators of its parts see it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use proc_macro2::{Ident, TokenStream};
use prost_types::method_options::IdempotencyLevel;
use quote::{format_ident, quote};

use crate::naming::{self, Names};
use crate::{client, docs, server};

/// Which parts are generated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides {
    pub(crate) client: bool,
    pub(crate) server: bool,
}

pub(crate) struct Service {
    pub(crate) name: Ident,
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
    idempotency: IdempotencyLevel,
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
    /// The function of that kind, which `Channel` has; `Method` and `Service` have it with a suffix.
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

pub(crate) type Services = Rc<RefCell<Vec<prost_build::Service>>>;

/// Takes the services out of prost's hands: they are generated once the messages are.
pub(crate) struct Collector(pub(crate) Services);

impl prost_build::ServiceGenerator for Collector {
    fn generate(&mut self, service: prost_build::Service, _messages: &mut String) {
        self.0.borrow_mut().push(service);
    }
}

impl Service {
    /// Fails for a type of `extern_path` that is no Rust.
    pub(crate) fn new(
        service: &prost_build::Service,
        names: &HashMap<String, Names>,
    ) -> syn::Result<Self> {
        let full_name = naming::full_name(&service.package, &service.proto_name);
        let Names { name, module } = &names[&full_name];
        let mut functions = naming::Methods::new();
        let methods = service
            .methods
            .iter()
            .map(|method| Method::new(method, &full_name, &mut functions))
            .collect::<syn::Result<_>>()?;
        Ok(Self {
            name: format_ident!("{name}"),
            module: format_ident!("{module}"),
            docs: docs::of(&service.comments, &format!("The service `{full_name}`.")),
            deprecated: service.options.deprecated(),
            full_name,
            methods,
        })
    }

    pub(crate) fn client(&self) -> Ident {
        format_ident!("{}Client", self.name)
    }

    pub(crate) fn server(&self) -> Ident {
        format_ident!("{}Server", self.name)
    }

    /// The service's module, and what of it stands beside the package's messages.
    pub(crate) fn text(&self, sides: Sides) -> syn::Result<String> {
        let file = syn::parse2(self.tokens(sides))?;
        Ok(prettyplease::unparse(&file))
    }

    fn tokens(&self, sides: Sides) -> TokenStream {
        let Self { name, module, .. } = self;
        let module_docs = format!(
            " The methods of `{}`, its server and its client.",
            self.full_name
        );
        let constants = self.methods.iter().map(Method::constant);
        let server = sides.server.then(|| server::generate(self));
        let client = sides.client.then(|| client::generate(self));
        let of_std = sides.server.then(|| {
            quote!(
                use ::std::{future::Future, sync::Arc};
            )
        });
        let mut exports = Vec::new();
        if sides.server {
            exports.extend([name.clone(), self.server()]);
        }
        if sides.client {
            exports.push(self.client());
        }
        exports.sort();
        let exports = match exports.as_slice() {
            [only] => quote!(#only),
            _ => quote!({#(#exports),*}),
        };
        let deprecated = self.deprecated.then(|| quote!(deprecated,));
        // A binary may use one side only, or some methods; short names of `rpc_core` are none that
        // messages could take, which are one module further out.
        quote! {
            #[doc = #module_docs]
            #[allow(clippy::all, clippy::pedantic, dead_code, unreachable_pub, unused_imports)]
            pub mod #module {
                use ::rpc_core::*;
                #of_std
                #(#constants)*
                #server
                #client
            }
            #[allow(#deprecated unreachable_pub, unused_imports)]
            pub use #module::#exports;
        }
    }
}

impl Method {
    fn new(
        method: &prost_build::Method,
        service: &str,
        functions: &mut naming::Methods,
    ) -> syn::Result<Self> {
        let path = format!("/{service}/{}", method.proto_name);
        let kind = match (method.client_streaming, method.server_streaming) {
            (false, false) => Kind::Unary,
            (false, true) => Kind::ServerStreaming,
            (true, false) => Kind::ClientStreaming,
            (true, true) => Kind::BidiStreaming,
        };
        let (function, constant) = functions.name(&method.name);
        Ok(Self {
            function: format_ident!("{function}"),
            constant: format_ident!("{constant}"),
            docs: docs::of(&method.comments, &format!("Calls `{path}`.")),
            path,
            deprecated: method.options.deprecated(),
            idempotency: method.options.idempotency_level(),
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
            ..
        } = self;
        let docs = format!(" `{path}`");
        let function = format_ident!("{}_prost", self.kind.function());
        let idempotency = match self.idempotency {
            IdempotencyLevel::IdempotencyUnknown => quote!(),
            IdempotencyLevel::Idempotent => quote!(.idempotent()),
            IdempotencyLevel::NoSideEffects => quote!(.no_side_effects()),
        };
        quote! {
            #[doc = #docs]
            pub const #constant: Method<#request, #response> = Method::#function(#path)#idempotency;
        }
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
