//! The client of a service.

use proc_macro2::TokenStream;
use quote::quote;

use crate::model::{Kind, Method, Service, documentation};

pub(crate) fn generate(service: &Service) -> TokenStream {
    let Service { client, .. } = service;
    let docs = format!(" Calls `{}`; cheap to clone.", service.full_name);
    let deprecated = service.deprecated.then(|| quote!(#[deprecated]));
    let allowed = service.deprecated.then(|| quote!(#[allow(deprecated)]));
    let functions = service.methods.iter().map(function);
    quote! {
        #[doc = #docs]
        #deprecated
        #[derive(Clone, Debug)]
        pub struct #client(Channel);
        #allowed
        impl #client {
            /// Calls over a channel.
            pub fn new(channel: Channel) -> Self {
                Self(channel)
            }
            #(#functions)*
        }
    }
}

fn function(method: &Method) -> TokenStream {
    let Method {
        function,
        constant,
        request,
        response,
        ..
    } = method;
    let kind = method.kind.function();
    let docs = documentation(&method.docs);
    let deprecated = method.deprecated.then(|| quote!(#[deprecated]));
    let call = quote!(self.0.#kind(&#constant, request.into_request()));
    let (input, output) = match method.kind {
        Kind::Unary => {
            return quote! {
                #docs
                #deprecated
                pub async fn #function(
                    &self,
                    request: impl IntoRequest<#request>,
                ) -> Result<Response<#response>, Status> {
                    #call.await
                }
            };
        }
        Kind::ServerStreaming => (quote!(#request), quote!(RecvStream<#response>)),
        Kind::ClientStreaming => (quote!(()), quote!(ClientStream<#request, #response>)),
        Kind::BidiStreaming => (
            quote!(()),
            quote!((RequestStream<#request>, RecvStream<#response>)),
        ),
    };
    quote! {
        #docs
        #deprecated
        pub fn #function(&self, request: impl IntoRequest<#input>) -> #output {
            #call
        }
    }
}
