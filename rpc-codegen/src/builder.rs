//! Settings of a generation run: [`Builder`].

use std::fmt;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

use crate::model::{Generator, Sides};
use crate::naming;

/// Why generating failed.
#[derive(Debug)]
pub struct Error {
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Settings of a generation run.
///
/// ```no_run
/// # fn main() -> Result<(), rpc_codegen::Error> {
/// rpc_codegen::Builder::new()
///     .bytes(".")
///     .type_attribute(".", "#[derive(Eq, Hash)]")
///     .compile(&["proto/store.proto"], &["proto"])
/// # }
/// ```
#[derive(Debug)]
pub struct Builder {
    config: prost_build::Config,
    sides: Sides,
    descriptor_set: Option<PathBuf>,
    emit_rerun: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Client and server, messages with prost's defaults.
    #[must_use]
    pub fn new() -> Self {
        let mut config = prost_build::Config::new();
        config
            .prost_path("::rpc_core::prost")
            .prost_types_path("::rpc_core::prost_types")
            .enable_type_names();
        // Descriptors stay as the files have them: only the text of comments is for rustdoc.
        config.format(true);
        Self {
            config,
            sides: Sides {
                client: true,
                server: true,
            },
            descriptor_set: None,
            emit_rerun: true,
        }
    }

    /// Uses existing Rust types for a protobuf path, such as `.google.type` → `::my_types`.
    #[must_use]
    pub fn extern_path(mut self, proto_path: &str, rust_path: &str) -> Self {
        self.config.extern_path(proto_path, rust_path);
        self
    }

    /// Puts an attribute on the types that a path matches; `.` matches all.
    #[must_use]
    pub fn type_attribute(mut self, path: &str, attribute: &str) -> Self {
        self.config.type_attribute(path, attribute);
        self
    }

    /// Puts an attribute on the fields that a path matches.
    #[must_use]
    pub fn field_attribute(mut self, path: &str, attribute: &str) -> Self {
        self.config.field_attribute(path, attribute);
        self
    }

    /// Makes the `bytes` fields that a path matches `Bytes` instead of `Vec<u8>`.
    #[must_use]
    pub fn bytes(mut self, path: &str) -> Self {
        self.config.bytes([path]);
        self
    }

    /// Writes the descriptor set of all files, as server reflection needs it.
    #[must_use]
    pub fn file_descriptor_set_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.descriptor_set = Some(path.into());
        self
    }

    /// Generates no servers.
    #[must_use]
    pub fn client_only(mut self) -> Self {
        self.sides = Sides {
            client: true,
            server: false,
        };
        self
    }

    /// Generates no clients.
    #[must_use]
    pub fn server_only(mut self) -> Self {
        self.sides = Sides {
            client: false,
            server: true,
        };
        self
    }

    /// Where the code goes; `OUT_DIR` by default.
    #[must_use]
    pub fn out_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.out_dir(path);
        self.emit_rerun = false;
        self
    }

    /// Generates.
    ///
    /// # Errors
    /// As [`compile`](crate::compile).
    pub fn compile(
        mut self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<(), Error> {
        let descriptors = self.descriptors(protos, includes)?;
        if let Some(path) = &self.descriptor_set {
            use prost::Message as _;
            std::fs::write(path, descriptors.encode_to_vec()).map_err(|error| Error {
                message: format!("writing {}: {error}", path.display()),
            })?;
        }
        let taken = naming::taken(&descriptors);
        self.config.service_generator(Box::new(Generator {
            sides: self.sides,
            taken,
        }));
        self.config.compile_fds(descriptors).map_err(|error| Error {
            message: format!("generating code: {error}"),
        })
    }

    fn descriptors(
        &self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<FileDescriptorSet, Error> {
        let mut compiler = protox::Compiler::new(includes).map_err(|error| broken(&error))?;
        compiler.include_source_info(true).include_imports(true);
        for proto in protos {
            compiler.open_file(proto).map_err(|error| broken(&error))?;
        }
        if self.emit_rerun {
            for file in compiler.files() {
                if let Some(path) = file.path() {
                    println!("cargo:rerun-if-changed={}", path.display());
                }
            }
        }
        Ok(compiler.file_descriptor_set())
    }
}

/// `Debug` of a protox error is the reason with file, line and column.
fn broken(error: &protox::Error) -> Error {
    Error {
        message: format!("{error:?}"),
    }
}
