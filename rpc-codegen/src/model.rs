//! A service as the generators of its parts see it.

use proc_macro2::{Ident, Span, TokenStream};
use prost_types::method_options::IdempotencyLevel;
use quote::{format_ident, quote};

use crate::naming::{self, Taken};
use crate::{client, docs, server};

/// Which parts are generated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides {
    pub(crate) client: bool,
    pub(crate) server: bool,
}

pub(crate) struct Service {
    pub(crate) name: Ident,
    pub(crate) full_name: String,
    pub(crate) methods_module: Ident,
    pub(crate) docs: TokenStream,
    pub(crate) methods: Vec<Method>,
}

pub(crate) struct Method {
    pub(crate) function: Ident,
    pub(crate) constant: Ident,
    pub(crate) path: String,
    pub(crate) docs: TokenStream,
    pub(crate) deprecated: bool,
    pub(crate) idempotency: TokenStream,
    pub(crate) request: syn::Type,
    pub(crate) response: syn::Type,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Unary,
    ServerStreaming,
    ClientStreaming,
    BidiStreaming,
}

impl Kind {
    /// The function of that kind, which `Method`, `Service` and `Channel` all have.
    pub(crate) fn function(self) -> Ident {
        let name = match self {
            Self::Unary => "unary",
            Self::ServerStreaming => "server_streaming",
            Self::ClientStreaming => "client_streaming",
            Self::BidiStreaming => "bidi_streaming",
        };
        Ident::new(name, Span::call_site())
    }
}

/// Writes the services of a file behind its messages.
pub(crate) struct Generator {
    pub(crate) sides: Sides,
    pub(crate) taken: Taken,
}

impl prost_build::ServiceGenerator for Generator {
    fn generate(&mut self, service: prost_build::Service, buffer: &mut String) {
        let service = Service::new(&service, &self.taken);
        let methods = service.constants();
        let server = self.sides.server.then(|| server::generate(&service));
        let client = self.sides.client.then(|| client::generate(&service));
        let tokens = quote!(#methods #server #client);
        // What the generators quote is Rust whatever the names are: every name went through an Ident.
        let file = syn::parse2(tokens).expect("generated tokens are a Rust file");
        buffer.push_str(&prettyplease::unparse(&file));
    }
}

impl Service {
    fn new(service: &prost_build::Service, taken: &Taken) -> Self {
        let full_name = match service.package.as_str() {
            "" => service.proto_name.clone(),
            package => format!("{package}.{}", service.proto_name),
        };
        let name = naming::service(&service.name, &service.package, taken);
        let methods = service
            .methods
            .iter()
            .map(|method| Method::new(method, &full_name))
            .collect();
        Self {
            methods_module: format_ident!("{}_methods", naming::snake(&name)),
            docs: docs::of(&service.comments, &format!("The service `{full_name}`.")),
            name: naming::identifier(&name),
            full_name,
            methods,
        }
    }

    /// The constants that describe the methods.
    fn constants(&self) -> TokenStream {
        let module = &self.methods_module;
        let docs = format!(" The methods of `{}`.", self.full_name);
        let constants = self.methods.iter().map(|method| {
            let Method { constant, path, request, response, idempotency, .. } = method;
            let (request, response) = (from_module(request), from_module(response));
            let kind = method.kind.function();
            let docs = format!(" `{path}`");
            quote! {
                #[doc = #docs]
                pub const #constant: ::rpc_core::Method<#request, #response> = ::rpc_core::Method::#kind(
                    #path,
                    ::rpc_core::Codec::prost(),
                    ::rpc_core::Codec::prost(),
                )#idempotency;
            }
        });
        quote! {
            #[doc = #docs]
            pub mod #module {
                #(#constants)*
            }
        }
    }
}

impl Method {
    fn new(method: &prost_build::Method, service: &str) -> Self {
        let path = format!("/{service}/{}", method.proto_name);
        let kind = match (method.client_streaming, method.server_streaming) {
            (false, false) => Kind::Unary,
            (false, true) => Kind::ServerStreaming,
            (true, false) => Kind::ClientStreaming,
            (true, true) => Kind::BidiStreaming,
        };
        let idempotency = match method.options.idempotency_level() {
            IdempotencyLevel::IdempotencyUnknown => quote!(),
            IdempotencyLevel::Idempotent => quote!(.idempotent()),
            IdempotencyLevel::NoSideEffects => quote!(.no_side_effects()),
        };
        let parse = |name: &str| syn::parse_str(name).expect("prost names messages by Rust paths");
        Self {
            function: naming::function(&method.name),
            constant: naming::constant(&method.proto_name),
            docs: docs::of(&method.comments, &format!("Calls `{path}`.")),
            path,
            deprecated: method.options.deprecated(),
            idempotency,
            request: parse(&method.input_type),
            response: parse(&method.output_type),
            kind,
        }
    }
}

/// The same type seen from one module further in.
fn from_module(path: &syn::Type) -> TokenStream {
    match path {
        syn::Type::Path(path) if path.path.leading_colon.is_none() => quote!(super::#path),
        other => quote!(#other),
    }
}
