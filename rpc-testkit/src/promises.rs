//! What a long test has promised, said one by one: [`Promises`].

use std::fmt::Display;
use std::process::ExitCode;

/// Prints each promise with its figures, and remembers whether one was broken.
#[derive(Debug, Default)]
pub struct Promises {
    broken: bool,
}

impl Promises {
    /// Says whether a promise was kept, and what was found.
    pub fn keep(&mut self, kept: bool, found: impl Display) {
        println!("{} {found}", if kept { "kept  " } else { "BROKEN" });
        self.broken |= !kept;
    }

    /// Whether none was broken.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        !self.broken
    }

    /// Takes in what others have found.
    pub fn add(&mut self, other: &Self) {
        self.broken |= other.broken;
    }
}

impl From<Promises> for ExitCode {
    fn from(promises: Promises) -> Self {
        if promises.broken {
            Self::FAILURE
        } else {
            Self::SUCCESS
        }
    }
}

/// The `main` of a program whose processes are its own: plays the role that it was started for, or
/// runs the test and ends with what it found; 2 when it could not run.
pub fn main<F>(test: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = Result<Promises, Box<dyn std::error::Error>>>,
{
    if let Some(role) = crate::roles::Role::of_this_process() {
        return role.play();
    }
    let outcome = tokio::runtime::Runtime::new()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(test()));
    match outcome {
        Ok(promises) => promises.into(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
