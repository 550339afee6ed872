//! The server trait of a service and its registration.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use crate::model::{Kind, Method, Service};

pub(crate) fn generate(service: &Service) -> TokenStream {
    let Service {
        name,
        full_name,
        docs,
        methods_module,
        ..
    } = service;
    let server = format_ident!("{name}Server");
    let functions = service.methods.iter().map(declaration);
    let registrations = service.methods.iter().map(|method| {
        let Method {
            function, constant, ..
        } = method;
        let kind = method.kind.function();
        let handler = match method.kind {
            Kind::Unary | Kind::ClientStreaming => quote! {
                |service, request| async move { service.#function(request).await }
            },
            Kind::ServerStreaming | Kind::BidiStreaming => quote! {
                |service, request, mut responses| async move {
                    let result = service.#function(request, &mut responses).await;
                    responses.finish(result)
                }
            },
        };
        quote!(.#kind(&#methods_module::#constant, &service, #handler))
    });
    let server_docs = format!(" Serves a [`{name}`].");
    quote! {
        #docs
        pub trait #name: Send + Sync + 'static {
            #(#functions)*
        }
        #[doc = #server_docs]
        #[derive(Clone, Debug)]
        pub struct #server(::rpc_core::server::Service);
        impl #server {
            /// The full name of the service.
            pub const NAME: &'static str = #full_name;
            /// Serves an implementation.
            pub fn new(service: impl #name) -> Self {
                Self::from_arc(::std::sync::Arc::new(service))
            }
            /// Serves an implementation that others hold too.
            #[allow(unused_variables)]
            pub fn from_arc<T: #name>(service: ::std::sync::Arc<T>) -> Self {
                Self(::rpc_core::server::Service::new(Self::NAME) #(#registrations)*)
            }
        }
        impl From<#server> for ::rpc_core::server::Service {
            fn from(server: #server) -> Self {
                server.0
            }
        }
    }
}

fn declaration(method: &Method) -> TokenStream {
    let Method {
        function,
        docs,
        request,
        response,
        ..
    } = method;
    let (input, output) = match method.kind {
        Kind::Unary => (
            quote!(request: ::rpc_core::Request<#request>),
            quote!(::rpc_core::Response<#response>),
        ),
        Kind::ClientStreaming => (
            quote!(request: ::rpc_core::Request<::rpc_core::RecvStream<#request>>),
            quote!(::rpc_core::Response<#response>),
        ),
        Kind::ServerStreaming => (
            quote!(request: ::rpc_core::Request<#request>, responses: &mut ::rpc_core::SendStream<#response>),
            quote!(()),
        ),
        Kind::BidiStreaming => (
            quote!(
                request: ::rpc_core::Request<::rpc_core::RecvStream<#request>>,
                responses: &mut ::rpc_core::SendStream<#response>
            ),
            quote!(()),
        ),
    };
    quote! {
        #docs
        fn #function(&self, #input)
            -> impl ::core::future::Future<Output = ::core::result::Result<#output, ::rpc_core::Status>> + Send;
    }
}
