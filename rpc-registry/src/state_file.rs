//! The registry's state on disk.
//!
//! ```text
//! "RPCREGST" │ version u32 │ length u64 │ CRC-32 u32 │ a `State` message
//! ```
//!
//! Numbers are big-endian. The file is written beside its place, synced, and renamed, so that a
//! crash leaves the old state or the new one. A file that does not read is moved aside.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::generated::State;

const MAGIC: &[u8; 8] = b"RPCREGST";
const VERSION: u32 = 1;
const HEADER: usize = 24;

/// Why the bytes of a state file are not a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    TooShort,
    NoMagic,
    Version(u32),
    Length { told: u64, found: u64 },
    Checksum,
    Message,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("it ends within its header"),
            Self::NoMagic => f.write_str("it is not a state file"),
            Self::Version(version) => write!(
                f,
                "its version is {version}, and only {VERSION} is known here"
            ),
            Self::Length { told, found } => {
                write!(f, "it should hold {told} bytes and holds {found}")
            }
            Self::Checksum => f.write_str("its checksum does not fit"),
            Self::Message => f.write_str("its content does not decode"),
        }
    }
}

pub(crate) fn encode(state: &State) -> Vec<u8> {
    let payload = state.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    bytes.extend_from_slice(&crc32(&payload).to_be_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Result<State, Damage> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(Damage::TooShort)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(Damage::TooShort)?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or(Damage::TooShort)?;
    let (checksum, payload) = rest.split_first_chunk::<4>().ok_or(Damage::TooShort)?;
    if magic != MAGIC {
        return Err(Damage::NoMagic);
    }
    let version = u32::from_be_bytes(*version);
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let (told, found) = (u64::from_be_bytes(*length), payload.len() as u64);
    if told != found {
        return Err(Damage::Length { told, found });
    }
    if crc32(payload) != u32::from_be_bytes(*checksum) {
        return Err(Damage::Checksum);
    }
    State::decode(payload).map_err(|_| Damage::Message)
}

/// Writes the state so that a reader finds it whole or not at all.
pub(crate) fn save(path: &Path, state: &State) -> io::Result<()> {
    let temporary = with_suffix(path, ".new");
    let mut file = File::create(&temporary)?;
    file.write_all(&encode(state))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    // The rename lasts only once the directory is on disk.
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// Reads the state; a missing file is an empty one, a damaged one is said, set aside and empty.
pub(crate) fn load(path: &Path) -> io::Result<State> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(error),
    };
    match decode(&bytes) {
        Ok(state) => Ok(state),
        Err(damage) => {
            let aside = free_name(path);
            fs::rename(path, &aside)?;
            tracing::warn!(file = %path.display(), aside = %aside.display(), %damage, "the state file is damaged; starting without it");
            Ok(State::default())
        }
    }
}

fn free_name(path: &Path) -> PathBuf {
    let seconds = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |elapsed| elapsed.as_secs());
    let mut name = with_suffix(path, &format!(".damaged-{seconds}"));
    let mut more = 1;
    while name.exists() {
        name = with_suffix(path, &format!(".damaged-{seconds}-{more}"));
        more += 1;
    }
    name
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// CRC-32 as in IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let index = (crc ^ u32::from(*byte)) & 0xff;
        (crc >> 8) ^ CRC_OF_A_BYTE.get(index as usize).copied().unwrap_or(0)
    };
    !bytes.iter().fold(u32::MAX, step)
}

const CRC_OF_A_BYTE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::{Entry, Instance, ServiceEntries};

    fn state() -> State {
        let instance = Instance {
            id: 7,
            address: "127.0.0.1:1".into(),
            weight: 100,
            metadata: [("zone".to_owned(), "a".to_owned())].into(),
        };
        let entry = Entry {
            instance: Some(instance),
            attached: true,
            ttl_ms: 5000,
        };
        State {
            revision: 9,
            services: vec![ServiceEntries {
                service: "s".into(),
                entries: vec![entry],
            }],
        }
    }

    fn asides(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".damaged-")).collect()
    }

    #[test]
    fn the_checksum_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert_eq!(
            load(&path).unwrap(),
            State::default(),
            "no file is no state"
        );
        save(&path, &state()).unwrap();
        save(&path, &state()).unwrap();
        assert_eq!(load(&path).unwrap(), state());
        assert!(!with_suffix(&path, ".new").exists());
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = encode(&state());
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode(&longer), Err(Damage::Length { .. })));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(&state());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "{bit}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = encode(&state());
        bytes[11] = 2;
        let damage = decode(&bytes).unwrap_err();
        assert_eq!(damage, Damage::Version(2));
        assert!(damage.to_string().contains("version is 2"));
    }

    #[test]
    fn a_checksummed_wrong_content_is_noticed() {
        let mut bytes = encode(&State::default());
        let payload = [0xff, 0xff];
        bytes.truncate(12);
        bytes.extend_from_slice(&2u64.to_be_bytes());
        bytes.extend_from_slice(&crc32(&payload).to_be_bytes());
        bytes.extend_from_slice(&payload);
        assert_eq!(decode(&bytes), Err(Damage::Message));
    }

    #[test]
    fn a_damaged_file_is_set_aside_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        for times in 1..=3 {
            fs::write(&path, b"garbage").unwrap();
            assert_eq!(load(&path).unwrap(), State::default());
            assert!(!path.exists());
            assert_eq!(
                asides(directory.path()).len(),
                times,
                "an earlier one is kept"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(directory.path()).is_err(), "a directory is not a file");
    }
}
