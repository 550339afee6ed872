//! What a server has done, in a file that outlives it: [`Ledger`].

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a line of a ledger is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// An idempotent call was served.
    Looked,
    /// A non-idempotent call was served.
    Placed,
    /// A stream was started, or taken up again.
    Followed,
    /// A registry has acknowledged that the server is listed.
    Registered,
    /// All registries have acknowledged that it is not listed any more.
    Deregistered,
}

const ACTS: [(Act, &str); 5] = [
    (Act::Looked, "looked"),
    (Act::Placed, "placed"),
    (Act::Followed, "followed"),
    (Act::Registered, "registered"),
    (Act::Deregistered, "deregistered"),
];

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ACTS.iter().find(|(act, _)| act == self);
        f.write_str(name.map_or("unknown", |(_, name)| name))
    }
}

/// One line of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was done.
    pub act: Act,
    /// For which call; 0 where there is none.
    pub id: u64,
    /// When, since the epoch.
    pub at: Duration,
}

/// A file that lines are appended to, one write each: what was written before a process is killed
/// stays written.
#[derive(Debug)]
pub struct Ledger(File);

impl Ledger {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// When it cannot be opened for appending.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self(file))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, act: Act, id: u64) -> io::Result<()> {
        let at = since_epoch().as_micros();
        (&self.0).write_all(format!("{act} {id} {at}\n").as_bytes())
    }

    /// Reads a file that may still be written to; a missing one is empty.
    ///
    /// # Errors
    /// When it cannot be read, or has a line that is none.
    pub fn read(path: &Path) -> io::Result<Vec<Line>> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        text.lines()
            .map(|line| {
                parse(line).ok_or_else(|| {
                    let what = format!("{}: {line:?} is no line of a ledger", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, what)
                })
            })
            .collect()
    }
}

/// The time of day, as the lines of all processes of a machine have it.
#[must_use]
pub fn since_epoch() -> Duration {
    // A clock before 1970 has no lines to compare with.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let (act, _) = ACTS.iter().find(|(_, known)| *known == name)?;
    let id = words.next()?.parse().ok()?;
    let at = Duration::from_micros(words.next()?.parse().ok()?);
    words.next().is_none().then_some(Line { act: *act, id, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        assert_eq!(Ledger::read(&path).unwrap(), []);
        Ledger::open(&path).unwrap().write(Act::Looked, 7).unwrap();
        Ledger::open(&path).unwrap().write(Act::Placed, 8).unwrap();
        let lines = Ledger::read(&path).unwrap();
        let found: Vec<_> = lines.iter().map(|line| (line.act, line.id)).collect();
        assert_eq!(found, [(Act::Looked, 7), (Act::Placed, 8)]);
        assert!(lines[0].at <= lines[1].at && lines[1].at <= since_epoch());
    }

    #[test]
    fn a_damaged_line_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        std::fs::write(&path, "placed 1 2\nplaced 1\n").unwrap();
        let error = Ledger::read(&path).unwrap_err().to_string();
        assert!(error.contains("\"placed 1\""), "{error}");
    }
}
