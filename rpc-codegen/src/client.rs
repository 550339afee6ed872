//! The client of a service.

use crate::model::{Kind, Method, Service};
use crate::text::Text;

pub(crate) fn generate(service: &Service, text: &mut Text) {
    let Service {
        name, full_name, ..
    } = service;
    text.line(&format!("/// Calls `{full_name}`; cheap to clone."));
    if service.deprecated {
        text.line("#[deprecated]");
    }
    text.line("#[derive(Clone, Debug)]");
    text.line(&format!("pub struct {name}Client(Channel);"));
    if service.deprecated {
        text.line("#[allow(deprecated)]");
    }
    text.open(&format!("impl {name}Client {{"));
    text.line("/// Calls over a channel.");
    text.open("pub fn new(channel: Channel) -> Self {");
    text.line("Self(channel)");
    text.close("}");
    for method in &service.methods {
        function(method, text);
    }
    text.close("}");
}

fn function(method: &Method, text: &mut Text) {
    let Method {
        function,
        constant,
        request,
        response,
        kind,
        ..
    } = method;
    let (head, input, output, wait) = match kind {
        Kind::Unary => {
            let output = format!("Result<Response<{response}>, Status>");
            ("pub async fn", request.as_str(), output, ".await")
        }
        Kind::ServerStreaming => (
            "pub fn",
            request.as_str(),
            format!("RecvStream<{response}>"),
            "",
        ),
        Kind::ClientStreaming => (
            "pub fn",
            "()",
            format!("ClientStream<{request}, {response}>"),
            "",
        ),
        Kind::BidiStreaming => {
            let output = format!("(RequestStream<{request}>, RecvStream<{response}>)");
            ("pub fn", "()", output, "")
        }
    };
    text.docs(&method.docs);
    if method.deprecated {
        text.line("#[deprecated]");
    }
    text.function(
        &format!("{head} {function}"),
        &["&self", &format!("request: impl IntoRequest<{input}>")],
        &format!(" -> {output} {{"),
    );
    let kind = kind.function();
    text.indented(&format!(
        "self.0.{kind}(&{constant}, request.into_request()){wait}"
    ));
    text.line("}");
}
