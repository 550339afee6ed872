//! The server trait of a service and its registration.

use crate::model::{Kind, Method, Service};
use crate::text::Text;

pub(crate) fn generate(service: &Service, text: &mut Text) {
    let Service {
        name,
        full_name,
        methods,
        ..
    } = service;
    text.docs(&service.docs);
    text.open(&format!("pub trait {name}: Send + Sync + 'static {{"));
    for method in methods {
        declaration(method, text);
    }
    text.close("}");
    text.line(&format!("/// Serves a [`{name}`]."));
    text.line("#[derive(Clone, Debug)]");
    text.line(&format!(
        "pub struct {name}Server(::rpc_core::server::Service);"
    ));
    text.open(&format!("impl {name}Server {{"));
    text.line("/// The full name of the service.");
    text.line(&format!("pub const NAME: &'static str = \"{full_name}\";"));
    text.line("/// Serves an implementation.");
    text.open(&format!("pub fn new(service: impl {name}) -> Self {{"));
    text.line("Self::from_arc(::std::sync::Arc::new(service))");
    text.close("}");
    text.line("/// Serves an implementation that others hold too.");
    // A service may be called `T`.
    let (parameter, argument) = match (name.as_str(), methods.is_empty()) {
        ("T", _) => ("S", "service"),
        (_, true) => ("T", "_service"),
        _ => ("T", "service"),
    };
    text.open(&format!(
        "pub fn from_arc<{parameter}: {name}>({argument}: ::std::sync::Arc<{parameter}>) -> Self {{"
    ));
    if methods.is_empty() {
        text.line("Self(::rpc_core::server::Service::new(Self::NAME))");
    } else {
        text.open("let service = ::rpc_core::server::Service::new(Self::NAME)");
        for (index, method) in methods.iter().enumerate() {
            registration(method, parameter, index + 1 == methods.len(), text);
        }
        text.close("Self(service)");
    }
    text.close("}");
    text.close("}");
    text.open(&format!(
        "impl From<{name}Server> for ::rpc_core::server::Service {{"
    ));
    text.open(&format!("fn from(server: {name}Server) -> Self {{"));
    text.line("server.0");
    text.close("}");
    text.close("}");
}

fn declaration(method: &Method, text: &mut Text) {
    let Method {
        function,
        request,
        response,
        kind,
        ..
    } = method;
    let request = match kind {
        Kind::Unary | Kind::ServerStreaming => format!("request: Request<{request}>"),
        Kind::ClientStreaming | Kind::BidiStreaming => {
            format!("request: Request<RecvStream<{request}>>")
        }
    };
    let responses = format!("responses: &mut SendStream<{response}>");
    let (parameters, output) = match kind {
        Kind::Unary | Kind::ClientStreaming => {
            (vec!["&self", &request], format!("Response<{response}>"))
        }
        Kind::ServerStreaming | Kind::BidiStreaming => {
            (vec!["&self", &request, &responses], "()".to_owned())
        }
    };
    text.docs(&method.docs);
    text.function(
        &format!("fn {function}"),
        &parameters,
        &format!(" -> impl ::std::future::Future<Output = Result<{output}, Status>> + Send;"),
    );
}

/// The trait's function is named with its type: `service.clone(request)` would be that of `Arc`.
fn registration(method: &Method, implementation: &str, last: bool, text: &mut Text) {
    let Method {
        function,
        constant,
        kind,
        ..
    } = method;
    let head = format!(".{}(&{constant}, &service, async", kind.function());
    let end = if last { ");" } else { ")" };
    match kind {
        Kind::Unary | Kind::ClientStreaming => text.call_with_closure(
            &format!("{head} |it, call|"),
            &[&format!("{implementation}::{function}(&it, call).await")],
            end,
        ),
        Kind::ServerStreaming | Kind::BidiStreaming => text.call_with_closure(
            &format!("{head} |it, call, mut responses|"),
            &[
                &format!(
                    "let result = {implementation}::{function}(&it, call, &mut responses).await;"
                ),
                "responses.finish(result)",
            ],
            end,
        ),
    }
}
