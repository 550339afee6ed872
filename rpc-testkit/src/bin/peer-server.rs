//! The test service and health for a foreign client; prints its port.
use rpc_core::health::Health;
use rpc_core::{Encoding, Server};
use rpc_testkit::TestService;
use rpc_testkit::proto::TestServer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .health(Health::new())
        .compress(Encoding::Gzip);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, server) = match arguments.as_slice() {
        [] => ("127.0.0.1:0", server),
        [listen] => (listen.as_str(), server),
        [chain, key] => (
            "127.0.0.1:0",
            server.tls(rpc_core::ServerTls::from_files(chain, key)?),
        ),
        _ => return Err("peer-server [LISTEN | CHAIN.pem KEY.pem]".into()),
    };
    let server = server.bind(listen).await?;
    println!("{}", server.local_addr().port());
    server.serve_until_terminated().await?;
    Ok(())
}
