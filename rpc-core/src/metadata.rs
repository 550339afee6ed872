//! Call metadata: the custom header fields of a call.

use std::fmt;
use std::sync::Arc;

/// What is wrong with a metadata key or value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetadataError {
    /// The key is empty or has a character outside `0-9 a-z _ - .` (upper case is folded).
    InvalidKey(String),
    /// The key belongs to the protocol (`grpc-*`, `te`, `content-type`, `user-agent` parts).
    ReservedKey(String),
    /// The value of this key is not printable ASCII; binary values need a key ending in `-bin`.
    InvalidValue(String),
    /// A text value for a `-bin` key, or a binary value for a key without that suffix.
    WrongKind(String),
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidKey(key) => write!(
                f,
                "metadata key {key:?} has a character outside 0-9 a-z _ - ."
            ),
            Self::ReservedKey(key) => {
                write!(f, "metadata key {key:?} belongs to the gRPC protocol")
            }
            Self::InvalidValue(key) => write!(
                f,
                "the value of metadata key {key:?} is not printable ASCII; use a key that ends in -bin and insert_bin"
            ),
            Self::WrongKind(key) => write!(
                f,
                "metadata key {key:?}: insert_bin goes with keys that end in -bin, insert with all others"
            ),
        }
    }
}

impl std::error::Error for MetadataError {}

/// A metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataValue<'a> {
    /// Printable ASCII.
    Text(&'a str),
    /// The bytes of a `-bin` key, decoded.
    Binary(&'a [u8]),
}

/// The custom header or trailer fields of a call, in order, with repeated keys kept.
///
/// Keys are lower case. Keys that end in `-bin` hold bytes, all others printable ASCII
/// (gRPC protocol, section "Requests", Custom-Metadata). An empty map allocates nothing.
///
/// ```
/// let mut metadata = rpc_core::Metadata::new();
/// metadata.insert("x-tenant", "blue")?;
/// metadata.insert_bin("x-trace-bin", [1, 2, 3])?;
/// assert_eq!(metadata.get("x-tenant"), Some("blue"));
/// assert_eq!(metadata.get_bin("x-trace-bin"), Some(&[1, 2, 3][..]));
/// # Ok::<(), rpc_core::MetadataError>(())
/// ```
#[derive(Clone, Default)]
pub struct Metadata(Option<Box<Entries>>);

/// What is in a map; most have nothing, and then are one pointer to nothing.
#[derive(Clone, Default)]
struct Entries {
    /// Entries that come before the others and that many maps share.
    shared: Option<Arc<Vec<Entry>>>,
    own: Vec<Entry>,
}

impl Entries {
    /// Takes over what is shared, to change it.
    fn all_own(&mut self) -> &mut Vec<Entry> {
        if let Some(shared) = self.shared.take() {
            let mut entries = Arc::unwrap_or_clone(shared);
            entries.append(&mut self.own);
            self.own = entries;
        }
        &mut self.own
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    key: Box<str>,
    value: Value,
}

#[derive(Clone, PartialEq, Eq)]
enum Value {
    Text(Box<str>),
    Binary(Box<[u8]>),
}

impl Value {
    fn view(&self) -> MetadataValue<'_> {
        match self {
            Self::Text(text) => MetadataValue::Text(text),
            Self::Binary(bytes) => MetadataValue::Binary(bytes),
        }
    }
}

impl Metadata {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Makes clones cheap: they share what is here now.
    pub(crate) fn share(&mut self) {
        if let Some(entries) = &mut self.0 {
            let all = std::mem::take(entries.all_own());
            entries.shared = Some(Arc::new(all));
        }
    }

    /// The entries that are not shared, to add some.
    fn own(&mut self) -> &mut Vec<Entry> {
        &mut self.0.get_or_insert_default().own
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        let (shared, own) = match self.0.as_deref() {
            Some(Entries { shared, own }) => (shared.as_deref(), own.as_slice()),
            None => (None, &[][..]),
        };
        shared.into_iter().flatten().chain(own)
    }

    /// Sets a text value, in place of all earlier values of the key.
    ///
    /// # Errors
    /// When the key or the value is not one that gRPC allows.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        let entry = text_entry(key, value)?;
        self.replace(entry);
        Ok(())
    }

    /// Adds a text value beside earlier values of the key.
    ///
    /// # Errors
    /// When the key or the value is not one that gRPC allows.
    pub fn append(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        let entry = text_entry(key, value)?;
        self.own().push(entry);
        Ok(())
    }

    /// Sets a binary value of a key that ends in `-bin`.
    ///
    /// # Errors
    /// When the key is not one that gRPC allows or does not end in `-bin`.
    pub fn insert_bin(&mut self, key: &str, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        let entry = binary_entry(key, value.as_ref())?;
        self.replace(entry);
        Ok(())
    }

    /// Adds a binary value beside earlier values of the key.
    ///
    /// # Errors
    /// When the key is not one that gRPC allows or does not end in `-bin`.
    pub fn append_bin(&mut self, key: &str, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        let entry = binary_entry(key, value.as_ref())?;
        self.own().push(entry);
        Ok(())
    }

    /// The first text value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.of_key(key).find_map(|value| match value {
            MetadataValue::Text(text) => Some(text),
            MetadataValue::Binary(_) => None,
        })
    }

    /// The first binary value of a key.
    #[must_use]
    pub fn get_bin(&self, key: &str) -> Option<&[u8]> {
        self.of_key(key).find_map(|value| match value {
            MetadataValue::Binary(bytes) => Some(bytes),
            MetadataValue::Text(_) => None,
        })
    }

    /// All text values of a key, in order.
    pub fn get_all<'a, 'k>(&'a self, key: &'k str) -> impl Iterator<Item = &'a str> + use<'a, 'k> {
        self.of_key(key).filter_map(|value| match value {
            MetadataValue::Text(text) => Some(text),
            MetadataValue::Binary(_) => None,
        })
    }

    /// All binary values of a key, in order.
    pub fn get_all_bin<'a, 'k>(
        &'a self,
        key: &'k str,
    ) -> impl Iterator<Item = &'a [u8]> + use<'a, 'k> {
        self.of_key(key).filter_map(|value| match value {
            MetadataValue::Binary(bytes) => Some(bytes),
            MetadataValue::Text(_) => None,
        })
    }

    /// Removes all values of a key and says how many there were.
    pub fn remove(&mut self, key: &str) -> usize {
        let Some(entries) = &mut self.0 else {
            return 0;
        };
        let entries = entries.all_own();
        let before = entries.len();
        entries.retain(|entry| !entry.key.eq_ignore_ascii_case(key));
        before - entries.len()
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, MetadataValue<'_>)> {
        self.all().map(|entry| (&*entry.key, entry.value.view()))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none() || self.all().next().is_none()
    }

    /// Adds the fields of another behind these.
    pub(crate) fn extend(&mut self, mut other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        if let Some(entries) = &mut other.0 {
            self.own().append(entries.all_own());
        }
    }

    /// Adds a field that came from the wire with its key checked by the HTTP layer.
    pub(crate) fn push_text(&mut self, key: &str, value: &str) {
        self.own().push(Entry {
            key: key.into(),
            value: Value::Text(value.into()),
        });
    }

    pub(crate) fn push_binary(&mut self, key: &str, value: Vec<u8>) {
        self.own().push(Entry {
            key: key.into(),
            value: Value::Binary(value.into()),
        });
    }

    fn of_key<'a, 'k>(
        &'a self,
        key: &'k str,
    ) -> impl Iterator<Item = MetadataValue<'a>> + use<'a, 'k> {
        self.all()
            .filter(move |entry| entry.key.eq_ignore_ascii_case(key))
            .map(|entry| entry.value.view())
    }

    fn replace(&mut self, entry: Entry) {
        let entries = self.0.get_or_insert_default().all_own();
        entries.retain(|old| old.key != entry.key);
        entries.push(entry);
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.all().eq(other.all())
    }
}

impl Eq for Metadata {}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn text_entry(key: &str, value: &str) -> Result<Entry, MetadataError> {
    let key = checked_key(key)?;
    if key.ends_with("-bin") {
        return Err(MetadataError::WrongKind(key));
    }
    if !value.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(MetadataError::InvalidValue(key));
    }
    Ok(Entry {
        key: key.into(),
        value: Value::Text(value.trim_matches(' ').into()),
    })
}

fn binary_entry(key: &str, value: &[u8]) -> Result<Entry, MetadataError> {
    let key = checked_key(key)?;
    if !key.ends_with("-bin") {
        return Err(MetadataError::WrongKind(key));
    }
    Ok(Entry {
        key: key.into(),
        value: Value::Binary(value.into()),
    })
}

fn checked_key(key: &str) -> Result<String, MetadataError> {
    let key = key.to_ascii_lowercase();
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    if key.is_empty() || !key.bytes().all(allowed) {
        return Err(MetadataError::InvalidKey(key));
    }
    if is_reserved(&key) {
        return Err(MetadataError::ReservedKey(key));
    }
    Ok(key)
}

/// What the protocol of retries (gRFC A6) leaves to applications: how many attempts a handler sees
/// before its own, and how long a handler wants the next one to wait.
const OPEN: [&str; 2] = ["grpc-previous-rpc-attempts", "grpc-retry-pushback-ms"];

/// Fields that carry the protocol itself and so are not metadata.
pub(crate) fn is_reserved(key: &str) -> bool {
    (key.starts_with("grpc-") && !OPEN.contains(&key))
        || matches!(
            key,
            "te" | "content-type"
                | "content-length"
                | "host"
                | "connection"
                | "transfer-encoding"
                | "upgrade"
                | "keep-alive"
                | "proxy-connection"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_stay_in_order_and_insert_replaces() {
        let mut metadata = Metadata::new();
        metadata.append("k", "1").unwrap();
        metadata.append("K", "2").unwrap();
        assert_eq!(metadata.get_all("k").collect::<Vec<_>>(), ["1", "2"]);
        metadata.insert("k", "3").unwrap();
        assert_eq!(metadata.get_all("k").collect::<Vec<_>>(), ["3"]);
        assert_eq!(metadata.remove("K"), 1);
        assert!(metadata.is_empty());
    }

    #[test]
    fn keys_are_checked() {
        let mut metadata = Metadata::new();
        for key in ["", "a b", "ü", ":path", "a\n"] {
            assert!(
                matches!(metadata.insert(key, "v"), Err(MetadataError::InvalidKey(_))),
                "{key:?}"
            );
        }
        for key in ["grpc-timeout", "te", "Content-Type", "connection"] {
            assert!(
                matches!(
                    metadata.insert(key, "v"),
                    Err(MetadataError::ReservedKey(_))
                ),
                "{key:?}"
            );
        }
    }

    #[test]
    fn values_are_checked() {
        let mut metadata = Metadata::new();
        for value in ["a\r\nb", "ü", "\0", "\x7f"] {
            assert!(matches!(
                metadata.insert("k", value),
                Err(MetadataError::InvalidValue(_))
            ));
        }
        assert!(matches!(
            metadata.insert("k-bin", "v"),
            Err(MetadataError::WrongKind(_))
        ));
        assert!(matches!(
            metadata.insert_bin("k", b"v"),
            Err(MetadataError::WrongKind(_))
        ));
    }

    #[test]
    fn binary_values_hold_any_byte() {
        let mut metadata = Metadata::new();
        let bytes: Vec<u8> = (0..=255).collect();
        metadata.insert_bin("k-bin", &bytes).unwrap();
        metadata.append_bin("k-bin", []).unwrap();
        assert_eq!(
            metadata.get_all_bin("k-bin").collect::<Vec<_>>(),
            [&bytes[..], &[]]
        );
        assert_eq!(metadata.get("k-bin"), None);
    }
}
