//! Calls and web pages on one port: a router mounted in axum.

use axum::routing::get;
use examples::hello::{Greeter, GreeterServer, HelloReply, HelloRequest};
use rpc_core::compat::RouterService;
use rpc_core::server::Router;
use rpc_core::{Request, Response, Status};

struct Polite;

impl Greeter for Polite {
    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello, {}!", request.into_inner().name);
        Ok(Response::new(HelloReply { message }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let calls = Router::new().add_service(GreeterServer::new(Polite));
    let pages = axum::Router::new()
        .route("/", get(|| async { "a page\n" }))
        .fallback_service(RouterService::from(calls));
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, pages).await?;
    Ok(())
}
