//! The client of a service.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use crate::model::{Kind, Method, Service};

pub(crate) fn generate(service: &Service) -> TokenStream {
    let Service {
        name,
        full_name,
        methods_module,
        ..
    } = service;
    let client = format_ident!("{name}Client");
    let client_docs = format!(" Calls `{full_name}`; cheap to clone.");
    let functions = service.methods.iter().map(|method| {
        let Method { function, constant, docs, request, response, .. } = method;
        let deprecated = method.deprecated.then(|| quote!(#[deprecated]));
        let kind = method.kind.function();
        let (asynchronous, input, output, wait) = match method.kind {
            Kind::Unary => (
                Some(quote!(async)),
                quote!(#request),
                quote!(::core::result::Result<::rpc_core::Response<#response>, ::rpc_core::Status>),
                Some(quote!(.await)),
            ),
            Kind::ServerStreaming => (None, quote!(#request), quote!(::rpc_core::RecvStream<#response>), None),
            Kind::ClientStreaming => (None, quote!(()), quote!(::rpc_core::ClientStream<#request, #response>), None),
            Kind::BidiStreaming => (
                None,
                quote!(()),
                quote!((::rpc_core::RequestStream<#request>, ::rpc_core::RecvStream<#response>)),
                None,
            ),
        };
        quote! {
            #docs
            #deprecated
            pub #asynchronous fn #function(&self, request: impl ::rpc_core::IntoRequest<#input>) -> #output {
                self.0.#kind(&#methods_module::#constant, request.into_request())#wait
            }
        }
    });
    quote! {
        #[doc = #client_docs]
        #[derive(Clone, Debug)]
        pub struct #client(::rpc_core::Channel);
        #[allow(clippy::missing_errors_doc, clippy::must_use_candidate)]
        impl #client {
            /// Calls over a channel.
            pub fn new(channel: ::rpc_core::Channel) -> Self {
                Self(channel)
            }
            #(#functions)*
        }
    }
}
