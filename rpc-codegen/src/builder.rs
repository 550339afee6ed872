//! Settings of a generation run: [`Builder`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost_build::Module;
use prost_types::FileDescriptorSet;

use crate::model::{Collector, Service, Services, Sides};
use crate::{docs, naming};

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
///     .type_attribute(".store.Key", "#[derive(PartialOrd, Ord)]")
///     .compile(&["proto/store.proto"], &["proto"])
/// # }
/// ```
#[derive(Debug)]
pub struct Builder {
    config: prost_build::Config,
    sides: Sides,
    descriptor_set: Option<PathBuf>,
    out_dir: Option<PathBuf>,
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
        Self {
            config,
            sides: Sides {
                client: true,
                server: true,
            },
            descriptor_set: None,
            out_dir: None,
        }
    }

    /// Uses existing Rust types for a protobuf path, such as `.google.type` → `::my_types`.
    ///
    /// The Rust path starts with `::` or `crate::`.
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

    /// Writes the descriptor set of all files, imported ones and custom options included, as server
    /// reflection needs it.
    #[must_use]
    pub fn file_descriptor_set_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.descriptor_set = Some(path.into());
        self
    }

    /// Generates no servers. Not together with [`server_only`](Self::server_only).
    #[must_use]
    pub fn client_only(mut self) -> Self {
        self.sides.server = false;
        self
    }

    /// Generates no clients. Not together with [`client_only`](Self::client_only).
    #[must_use]
    pub fn server_only(mut self) -> Self {
        self.sides.client = false;
        self
    }

    /// Where the code goes, a directory that exists; `OUT_DIR` by default.
    #[must_use]
    pub fn out_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(path.into());
        self
    }

    /// Generates a file for each package: `my.package.rs`, and `_.rs` for what is in no package.
    ///
    /// In a build script, which cargo shows by `OUT_DIR`, this prints `cargo:rerun-if-changed` for
    /// each file read, imported ones included.
    ///
    /// # Errors
    /// As [`compile`](crate::compile), and when both sides were left away.
    pub fn compile(
        mut self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<(), Error> {
        if !self.sides.client && !self.sides.server {
            return Err(Error {
                message: "client_only and server_only were both asked for: leave away one of them"
                    .to_owned(),
            });
        }
        let in_build_script = std::env::var_os("OUT_DIR").map(PathBuf::from);
        let compiler = compiler(protos, includes)?;
        if in_build_script.is_some() {
            // Bundled files have no path.
            for path in compiler
                .files()
                .filter_map(protox::file::FileMetadata::path)
            {
                println!("cargo:rerun-if-changed={}", path.display());
            }
        }
        let Some(out_dir) = self.out_dir.take().or(in_build_script) else {
            return Err(Error {
                message: "no build script is running, which has OUT_DIR: set Builder::out_dir"
                    .to_owned(),
            });
        };
        let descriptors = compiler.file_descriptor_set();
        if let Some(path) = &self.descriptor_set {
            write(path, &compiler.encode_file_descriptor_set())?;
        }
        for (module, text) in self.generate(descriptors)? {
            write(&out_dir.join(module.to_file_name_or("_")), text.as_bytes())?;
        }
        Ok(())
    }

    fn generate(mut self, mut files: FileDescriptorSet) -> Result<BTreeMap<Module, String>, Error> {
        let services = Services::default();
        let collector = Collector(Rc::clone(&services));
        self.config.service_generator(Box::new(collector));
        let names = naming::services(&files);
        docs::make_safe(&mut files);
        let requests = files
            .file
            .into_iter()
            .map(|file| (Module::from_protobuf_package_name(file.package()), file))
            .collect();
        let messages = self.config.generate(requests);
        let messages = messages.map_err(|error| generating(&error))?;
        let mut modules: BTreeMap<Module, String> = messages.into_iter().collect();
        for service in services.take() {
            let text = Service::new(&service, &names)
                .and_then(|service| service.text(self.sides))
                .map_err(|error| generating(&error))?;
            let module = Module::from_protobuf_package_name(&service.package);
            modules.entry(module).or_default().push_str(&text);
        }
        Ok(modules)
    }
}

fn generating(error: &dyn fmt::Display) -> Error {
    Error {
        message: format!("generating code: {error}"),
    }
}

fn compiler(
    protos: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<protox::Compiler, Error> {
    let mut compiler = protox::Compiler::new(includes).map_err(|error| broken(&error))?;
    compiler.include_source_info(true).include_imports(true);
    for proto in protos.iter().map(AsRef::as_ref) {
        compiler.open_file(proto).map_err(|error| {
            if error.is_file_not_found() && error.file().is_none() && !proto.exists() {
                let includes = includes
                    .iter()
                    .map(|path| path.as_ref().display().to_string());
                let includes = includes.collect::<Vec<_>>().join(", ");
                let proto = proto.display();
                let message =
                    format!("file '{proto}' is not there, nor in an include path: {includes}");
                return Error { message };
            }
            broken(&error)
        })?;
    }
    Ok(compiler)
}

/// Writes a file that is not as it should be; one that is keeps its time, for cargo.
fn write(path: &Path, contents: &[u8]) -> Result<(), Error> {
    if std::fs::read(path).is_ok_and(|present| present == contents) {
        return Ok(());
    }
    std::fs::write(path, contents).map_err(|error| Error {
        message: format!("writing {}: {error}", path.display()),
    })
}

/// `Debug` of a protox error is the reason with file, line and column.
fn broken(error: &protox::Error) -> Error {
    let mut message = format!("{error:?}");
    // The parser expects all that a file can begin with, and says so.
    if error.is_parse()
        && message.ends_with("but found 'edition'")
        && let Some(at) = message.find(" expected")
    {
        message.truncate(at);
        message += " editions are not supported: syntax = \"proto3\" and \"proto2\" are";
    }
    Error { message }
}
