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
//! # What is supported
//!
//! All of proto3 that prost has: messages, enums, maps, `oneof`, `optional`, and the types that
//! protobuf bundles, which need no include path. Of proto2 also `required`, defaults and groups; the
//! fields that `extend` adds are left out, and stay in the descriptor set as do custom options.
//! Editions (`edition = "2023";`) are refused, with an error that says so.
//!
//! # Names
//!
//! A service becomes a trait of its name, and structs with `Client` and `Server` behind it. Where a
//! message of the package has one of the three, or the generated code needs the name itself (`Status`,
//! `Channel`), it is `Service` that stands behind the name first. A method whose name is taken, by
//! another or by `new`, `into` and `try_into`, has an underscore behind it. None of this is seen on
//! the wire.

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
/// A broken file, with its name, line, column and the reason; one that uses an edition; a file that
/// is not within the includes, or cannot be read or written; no `OUT_DIR`, outside of a build script.
pub fn compile(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    Builder::new().compile(protos, includes)
}
