//! The generated code of the examples, and what more than one of them needs.

/// `proto/hello.proto`.
#[allow(missing_docs)]
pub mod hello {
    rpc_core::include_proto!("hello");
}

/// `proto/route_guide.proto`.
#[allow(missing_docs)]
pub mod route_guide {
    rpc_core::include_proto!("routeguide");
}

/// The code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
