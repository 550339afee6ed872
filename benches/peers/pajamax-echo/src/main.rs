//! The Echo service on pajamax, as its documentation has it: a server of unary methods, with a thread
//! for each connection. It has no client and looks at no deadline.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use bench_driver::{Can, Error, NoClient, Server, Settings};
use pajamax::PajamaxService;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    body: Vec<u8>,
}

/// What its generator would make of the one method, were there one for this version.
struct Service;

impl PajamaxService for Service {
    fn is_dispatch_mode(&self) -> bool {
        false
    }

    fn route(&self, path: &[u8]) -> Option<usize> {
        match path {
            b"/bench.Echo/Unary" => Some(0),
            _ => None,
        }
    }

    fn handle(
        &self,
        _method: usize,
        request: &[u8],
        stream_id: u32,
    ) -> Result<(), pajamax::error::Error> {
        let request = Payload::decode(request)?;
        pajamax::local_build_response(stream_id, Ok(request))
    }
}

struct Pajamax;

impl Server for Pajamax {
    fn can() -> Can {
        Can {
            client: false,
            ..Can::unary()
        }
    }

    async fn serve(_: &Settings, listening: impl FnOnce(SocketAddr) + Send) -> Result<(), Error> {
        // It opens its socket itself and does not say which; this port is free again in a moment.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let server =
            std::thread::spawn(move || pajamax::Config::new().add_service(Service).serve(address));
        while !server.is_finished() && TcpStream::connect(address).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        listening(address);
        server.join().map_err(|_| "the server has panicked")??;
        Ok(())
    }
}

fn main() -> ExitCode {
    bench_driver::main::<Pajamax, NoClient>()
}
