//! Generates the test services.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rpc_codegen::compile(
        &[
            "proto/test.proto",
            "proto/orders.proto",
            "proto/heavy.proto",
            "grpc/health/v1/health.proto",
        ],
        &["proto", "../rpc-core/proto"],
    )?;
    Ok(())
}
