//! Names with several addresses, and lists with several endpoints, of which some say nothing.

use std::io;
use std::time::Duration;

use rpc_core::client::{Address, Endpoint, StaticResolver};
use rpc_core::{BoxFuture, Channel, Code, Connector, Io, Request, SocketConnector};
use rpc_testkit::proto::{Message, TestClient};
use tokio::net::TcpListener;

/// Sockets, by a name that has these addresses.
struct Name(Vec<Address>, SocketConnector);

impl Connector for Name {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        self.1.connect(address)
    }

    fn resolve<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Vec<Address>>> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// Takes connections, as the system does for it, and says nothing.
async fn silent() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address.parse().unwrap())
}

fn address(uri: &str) -> Address {
    uri.trim_start_matches("http://").parse().unwrap()
}

async fn can_be_called(channel: Channel) {
    let request = Request::new(Message::default()).with_timeout(Duration::from_secs(4));
    TestClient::new(channel).echo(request).await.unwrap();
}

#[tokio::test]
async fn a_name_whose_first_addresses_are_silent_is_reached() {
    let server = rpc_testkit::serve().await;
    let (_one, first) = silent().await;
    let (_two, second) = silent().await;
    let name = Name(
        vec![first, second, address(&server.uri)],
        SocketConnector::default(),
    );
    let channel = Channel::builder().connector(name).lazy("http://name:80");
    can_be_called(channel.unwrap()).await;
}

#[tokio::test]
async fn a_list_whose_first_endpoint_is_silent_is_reached() {
    let server = rpc_testkit::serve().await;
    let (_one, first) = silent().await;
    let list = [first, address(&server.uri)].map(Endpoint::new);
    let resolver = StaticResolver::new(list.into());
    let channel = Channel::builder().resolver(Box::new(resolver), "list");
    can_be_called(channel.unwrap()).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_reached_says_why_of_each_address() {
    let mut addresses = Vec::new();
    for _ in 0..2 {
        // Nobody listens there any more.
        addresses.push(silent().await.1);
    }
    let expected = addresses.clone();
    let channel = Channel::builder()
        .connector(Name(addresses, SocketConnector::default()))
        .lazy("http://name:80")
        .unwrap();
    let failed = TestClient::new(channel).echo(Message::default()).await;
    let status = failed.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let text = status.to_string();
    assert!(
        text.contains("none of the 2 addresses of name:80"),
        "{text}"
    );
    for address in expected {
        assert!(text.contains(&address.to_string()), "{text}");
    }
}

#[tokio::test]
async fn a_name_of_the_system_is_found() {
    let server = rpc_testkit::serve().await;
    let uri = server.uri.replace("127.0.0.1", "localhost");
    can_be_called(Channel::lazy(&uri).unwrap()).await;
}
