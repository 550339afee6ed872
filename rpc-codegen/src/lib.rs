//! Typed gRPC clients and server traits from `.proto` files, without protoc.
//!
//! A service's `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     rpc_codegen::compile(&["proto/route_guide.proto"], &["proto"])?;
//!     Ok(())
//! }
//! ```
//!
//! and in its code `rpc_core::include_proto!("routeguide");`. The service needs two dependency
//! lines: `rpc-core`, and `rpc-codegen` under `[build-dependencies]`.
//!
//! proto2 and proto3 are supported as far as protox parses and prost-build generates them; proto2
//! groups and custom defaults of extensions are not, and editions are refused by protox.

mod builder;
mod client;
mod docs;
mod model;
mod naming;
mod server;

pub use builder::{Builder, Error};

use std::path::Path;

/// Generates code for the messages and services of these files into `OUT_DIR`.
///
/// # Errors
/// A broken file, with its name, line, column and the reason; a file that cannot be read or written.
pub fn compile(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    Builder::new().compile(protos, includes)
}
