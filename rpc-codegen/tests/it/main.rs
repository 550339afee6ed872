//! What the generator writes, says and refuses. `tests/golden.rs` says how
//! to change the expected files.
#![allow(missing_docs, clippy::unwrap_used, unreachable_pub)]

mod build_script;
mod calls;
mod comments;
mod errors;
mod files;
pub mod generated;
mod size;
mod ui;
