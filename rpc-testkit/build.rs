//! Generates the test services.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rpc_codegen::compile(&["proto/test.proto", "proto/orders.proto"], &["proto"])?;
    Ok(())
}
