//! Generates the Echo service with volo's own generator.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/echo.proto");
    volo_build::Builder::protobuf()
        .add_service("../../proto/echo.proto")
        .include_dirs(vec![PathBuf::from("../../proto")])
        .filename("echo.rs".into())
        .write()?;
    Ok(())
}
