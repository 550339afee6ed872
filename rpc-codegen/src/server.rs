//! The server trait of a service and its registration.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use crate::model::{Kind, Method, Service, documentation};

pub(crate) fn generate(service: &Service) -> TokenStream {
    let Service {
        name,
        server,
        full_name,
        methods,
        ..
    } = service;
    let docs = documentation(&service.docs);
    let functions = methods.iter().map(declaration);
    let server_docs = format!(" Serves a [`{name}`].");
    // A service may be called `T`.
    let parameter = format_ident!("{}", if name == "T" { "S" } else { "T" });
    let registrations = methods
        .iter()
        .map(|method| registration(method, &parameter));
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
            pub fn from_arc<#parameter: #name>(it: ::std::sync::Arc<#parameter>) -> Self {
                let service = StatefulService::new(Self::NAME, it)#(#registrations)*;
                Self(service.into())
            }
        }
        ::rpc_core::into_service!(#server);
    }
}

fn declaration(method: &Method) -> TokenStream {
    let Method {
        function,
        request,
        response,
        kind,
        ..
    } = method;
    let docs = documentation(&method.docs);
    let request = match kind {
        Kind::Unary | Kind::ServerStreaming => quote!(request: Request<#request>),
        Kind::ClientStreaming | Kind::BidiStreaming => {
            quote!(request: Request<RecvStream<#request>>)
        }
    };
    let (responses, output) = match kind {
        Kind::Unary | Kind::ClientStreaming => (None, quote!(Response<#response>)),
        Kind::ServerStreaming | Kind::BidiStreaming => (
            Some(quote!(, responses: &mut SendStream<#response>)),
            quote!(()),
        ),
    };
    quote! {
        #docs
        fn #function(&self, #request #responses) -> impl Future<Output = Result<#output, Status>> + Send;
    }
}

/// The trait's function is named with its type: `it.clone(call)` would be that of `Arc`.
fn registration(method: &Method, implementation: &Ident) -> TokenStream {
    let Method {
        function,
        constant,
        kind,
        ..
    } = method;
    let handler = match kind {
        Kind::Unary | Kind::ClientStreaming => quote! {
            async |it, call| #implementation::#function(&it, call).await
        },
        Kind::ServerStreaming | Kind::BidiStreaming => quote! {
            async |it, call, mut out| {
                Finished::new(#implementation::#function(&it, call, &mut out).await, out)
            }
        },
    };
    let kind = kind.function();
    quote!(.#kind(&#constant, #handler))
}
