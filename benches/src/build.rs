//! Builds the programs of the stacks.

use std::path::{Path, PathBuf};
use std::process::Command;

use bench_driver::Can;

use crate::Outcome;

/// The stacks that are programs of this repository, ours first.
pub const STACKS: [&str; 7] = [
    "ours",
    "tonic",
    "volo",
    "connectrpc",
    "pajamax",
    "h2",
    "tcp",
];

/// A built program and what it says that it is able to do.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What it can do.
    pub can: Can,
}

/// Builds one of [`STACKS`] with its own features only; with TLS when it is asked for and there is
/// any, so that no other run has the feature.
///
/// # Errors
/// When there is no such stack or it does not build.
pub fn build(stack: &str, tls: bool) -> Outcome<Program> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The program that measures is in the target directory, wherever that is.
    let own = std::env::current_exe()?;
    let release = own.parent().ok_or("this program has no directory")?;
    let target = release.parent().ok_or("this program is in no target")?;
    let path = match stack {
        "ours" => {
            let options = ["-p", "benches", "--bin", "echo-ours"];
            cargo(&benches.join("Cargo.toml"), &options, target)?.join("echo-ours")
        }
        _ if STACKS.contains(&stack) => {
            let package = format!("{stack}-echo");
            let mut options = vec!["-p", &package];
            if tls && has_tls(&benches.join("peers").join(&package)) {
                options.extend(["--features", "tls"]);
            }
            let manifest = benches.join("peers/Cargo.toml");
            cargo(&manifest, &options, &target.join("bench-peers"))?.join(&package)
        }
        other => return Err(format!("there is no stack {other:?}").into()),
    };
    let said = Command::new(&path).arg("can").output()?;
    let can = serde_json::from_slice(&said.stdout)
        .map_err(|_| format!("{} does not say what it can do", path.display()))?;
    Ok(Program { path, can })
}

/// Whether a package has a feature `tls`.
fn has_tls(package: &Path) -> bool {
    std::fs::read_to_string(package.join("Cargo.toml"))
        .is_ok_and(|text| text.lines().any(|line| line.starts_with("tls = [")))
}

fn cargo(manifest: &Path, options: &[&str], target: &Path) -> Outcome<PathBuf> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
        ])
        .arg(manifest)
        .args(options)
        // Set by `cargo run`; build scripts of others would take it for a change and run again.
        .env_remove("OUT_DIR")
        .arg("--target-dir")
        .arg(target)
        .status()?;
    if !status.success() {
        return Err(format!("building {options:?} of {} failed", manifest.display()).into());
    }
    Ok(target.join("release"))
}
