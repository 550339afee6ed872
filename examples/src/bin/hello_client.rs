//! The smallest client.
use examples::hello::{GreeterClient, HelloRequest};
use rpc_core::Channel;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:50051".to_owned());
    let greeter = GreeterClient::new(Channel::connect(&target).await?);
    let reply = greeter
        .say_hello(HelloRequest {
            name: "world".to_owned(),
        })
        .await?;
    println!("{}", reply.get_ref().message);
    Ok(())
}
