//! Generates the Echo service.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rpc_codegen::compile(&["../proto/echo.proto"], &["../proto"])?;
    Ok(())
}
