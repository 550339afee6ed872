//! The smallest server.
use examples::hello::{Greeter, GreeterServer, HelloReply, HelloRequest};
use rpc_core::{Request, Response, Server, Status};

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
    let server = Server::builder()
        .add_service(GreeterServer::new(Polite))
        .bind(address)
        .await?;
    println!("listening on {}", server.uri());
    server.serve_until_terminated().await?;
    Ok(())
}
