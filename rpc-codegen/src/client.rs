//! The client of a service.

use proc_macro2::TokenStream;
use quote::quote;

use crate::docs;
use crate::model::{Kind, Method, Service};

pub(crate) fn generate(service: &Service) -> TokenStream {
    let client = service.client();
    let client_docs = format!(" Calls `{}`; cheap to clone.", service.full_name);
    let deprecated = service.deprecated.then(|| quote!(#[deprecated]));
    let uses_deprecated = service.deprecated.then(|| quote!(#[allow(deprecated)]));
    let functions = service.methods.iter().map(function);
    quote! {
        #[doc = #client_docs]
        #deprecated
        #[derive(Clone, Debug)]
        pub struct #client(Channel);
        #uses_deprecated
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
    let docs = docs::attributes(&method.docs);
    let deprecated = method.deprecated.then(|| quote!(#[deprecated]));
    let kind = method.kind.function();
    let (head, input, output, wait) = match method.kind {
        Kind::Unary => (
            quote!(pub async fn),
            quote!(#request),
            quote!(Result<Response<#response>, Status>),
            quote!(.await),
        ),
        Kind::ServerStreaming => (
            quote!(pub fn),
            quote!(#request),
            quote!(RecvStream<#response>),
            quote!(),
        ),
        Kind::ClientStreaming => (
            quote!(pub fn),
            quote!(()),
            quote!(ClientStream<#request, #response>),
            quote!(),
        ),
        Kind::BidiStreaming => (
            quote!(pub fn),
            quote!(()),
            quote!((RequestStream<#request>, RecvStream<#response>)),
            quote!(),
        ),
    };
    quote! {
        #docs
        #deprecated
        #head #function(&self, request: impl IntoRequest<#input>) -> #output {
            let request = request.into_request();
            self.0.#kind(&#constant, request)#wait
        }
    }
}
