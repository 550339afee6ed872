//! Generates the Echo service with connectrpc's own generator, without protoc.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/echo.proto");
    let descriptors = protox::compile(["echo.proto"], ["../../proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets it")?);
    let set = out.join("echo.bin");
    std::fs::write(&set, descriptors.encode_to_vec())?;
    connectrpc_build::Config::new()
        .files(&["echo.proto"])
        .descriptor_set(set)
        .generate_json(false)
        .include_file("_connectrpc.rs")
        .compile()?;
    Ok(())
}
