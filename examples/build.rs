//! Generates the examples' services.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rpc_codegen::compile(
        &["proto/hello.proto", "proto/route_guide.proto"],
        &["proto"],
    )?;
    Ok(())
}
