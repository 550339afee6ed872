//! The generated code of the examples.

/// `proto/hello.proto`.
#[allow(missing_docs)]
pub mod hello {
    rpc_core::include_proto!("hello");
}
