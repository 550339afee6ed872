//! Generates the test service.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rpc_codegen::compile(&["proto/test.proto"], &["proto"])?;
    Ok(())
}
