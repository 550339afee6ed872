//! One channel that a script holds: a unary call of raw bytes for each line of stdin,
//! `PATH TIMEOUT_MS HEX`, and a line for each outcome: `Ok HEX`, or the code and the message.
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use rpc_core::{Channel, Codec, Method, MethodKind, Request};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, rest @ ..] = arguments.as_slice() else {
        return Err("peer-call TARGET [ROOT.pem]".into());
    };
    let mut builder = Channel::builder();
    if let [root] = rest {
        builder =
            builder.tls(rpc_core::ClientTls::from_root_file(root)?.with_server_name("localhost"));
    }
    let channel = builder.lazy(target)?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let [path, timeout, body] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("{line:?} is not PATH TIMEOUT_MS HEX").into());
        };
        let body = (1..body.len())
            .step_by(2)
            .map(|end| u8::from_str_radix(&body[end - 1..=end], 16))
            .collect::<Result<Vec<u8>, _>>()?;
        let method = Method::dynamic(path, MethodKind::Unary, Codec::raw(), Codec::raw());
        let request =
            Request::new(Bytes::from(body)).with_timeout(Duration::from_millis(timeout.parse()?));
        match channel.unary(&method, request).await {
            Ok(reply) => {
                let mut hex = String::new();
                for byte in reply.get_ref() {
                    write!(hex, "{byte:02x}")?;
                }
                println!("Ok {hex}");
            }
            Err(status) => println!("{:?} {}", status.code(), status.message().escape_debug()),
        }
    }
    Ok(())
}
