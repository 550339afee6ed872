//! The server trait of a service and its registration.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use crate::docs;
use crate::model::{Kind, Method, Service};

pub(crate) fn generate(service: &Service) -> TokenStream {
    let Service {
        name,
        full_name,
        methods,
        ..
    } = service;
    let server = service.server();
    let docs = docs::attributes(&service.docs);
    let server_docs = format!(" Serves a [`{name}`].");
    let functions = methods.iter().map(declaration);
    // A service may be called `T`.
    let (parameter, argument) = match (name == "T", methods.is_empty()) {
        (true, _) => (format_ident!("S"), format_ident!("service")),
        (_, true) => (format_ident!("T"), format_ident!("_service")),
        _ => (format_ident!("T"), format_ident!("service")),
    };
    let registrations = methods.iter().map(|method| {
        let Method {
            function, constant, ..
        } = method;
        let add = format_ident!("{}_fn", method.kind.function());
        // The trait's function is named with its type: `service.clone` would be that of `Arc`.
        quote!(.#add(&#constant, &service, #parameter::#function))
    });
    quote! {
        #docs
        pub trait #name: Send + Sync + 'static {
            #(#functions)*
        }
        #[doc = #server_docs]
        #[derive(Clone, Debug)]
        pub struct #server(server::Service);
        impl #server {
            /// The full name of the service.
            pub const NAME: &'static str = #full_name;
            /// Serves an implementation.
            pub fn new(service: impl #name) -> Self {
                Self::from_arc(Arc::new(service))
            }
            /// Serves an implementation that others hold too.
            pub fn from_arc<#parameter: #name>(#argument: Arc<#parameter>) -> Self {
                let service = server::Service::new(Self::NAME) #(#registrations)*;
                Self(service)
            }
        }
        impl From<#server> for server::Service {
            fn from(server: #server) -> Self {
                server.0
            }
        }
    }
}

fn declaration(method: &Method) -> TokenStream {
    let Method {
        function,
        request,
        response,
        ..
    } = method;
    let docs = docs::attributes(&method.docs);
    let request = match method.kind {
        Kind::Unary | Kind::ServerStreaming => quote!(#request),
        Kind::ClientStreaming | Kind::BidiStreaming => quote!(RecvStream<#request>),
    };
    let (responses, output) = match method.kind {
        Kind::Unary | Kind::ClientStreaming => (quote!(), quote!(Response<#response>)),
        Kind::ServerStreaming | Kind::BidiStreaming => {
            (quote!(, responses: &mut SendStream<#response>), quote!(()))
        }
    };
    quote! {
        #docs
        fn #function(&self, request: Request<#request> #responses)
            -> impl Future<Output = Result<#output, Status>> + Send;
    }
}
