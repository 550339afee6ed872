//! Call metadata: the custom header fields of a call.

mod entries;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use entries::{Entries, Iter, is_binary};

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

/// The custom header or trailer fields of a call, in order, with repeated keys kept. On the way to the
/// peer the values of one key stay in order, while keys may change places.
///
/// Keys are lower case. Keys that end in `-bin` hold bytes, all others printable ASCII
/// (gRPC protocol, section "Requests", Custom-Metadata). An empty map allocates nothing, and the fields
/// of others lie one behind the other in one piece of memory and are split when they are read.
///
/// # Where it is
///
/// Leading metadata goes in the head of a response, trailing metadata behind its last message. Both can
/// be sent and read in calls of all kinds, whether they succeed or fail:
///
/// | | leading | trailing |
/// | --- | --- | --- |
/// | handler with one response | [`Response::metadata_mut`](crate::Response::metadata_mut) | [`Response::trailers_mut`](crate::Response::trailers_mut) |
/// | handler with a stream | [`SendStream::metadata_mut`](crate::server::SendStream::metadata_mut) | [`SendStream::trailers_mut`](crate::server::SendStream::trailers_mut) |
/// | handler of any kind that fails | the same, and [`Status::leading_metadata_mut`](crate::Status::leading_metadata_mut) | the same, and [`Status::metadata_mut`](crate::Status::metadata_mut) |
/// | client, one response | [`Response::metadata`](crate::Response::metadata) | [`Response::trailers`](crate::Response::trailers) |
/// | client, a stream | [`RecvStream::headers`](crate::RecvStream::headers) | [`RecvStream::trailers`](crate::RecvStream::trailers) |
/// | client of any kind, failed | [`Status::leading_metadata`](crate::Status::leading_metadata) | [`Status::metadata`](crate::Status::metadata) |
///
/// A call that fails without a head ("Trailers-Only" in the gRPC protocol) has all its metadata in the
/// trailing one. What a client gets of a failure, a handler that fails with the same status passes on.
/// What is larger than the peer takes, or than is taken here, ends its call with `RESOURCE_EXHAUSTED`;
/// see `max_header_list_size` of [`ChannelBuilder`](crate::client::ChannelBuilder) and
/// [`ServerBuilder`](crate::server::ServerBuilder).
///
/// # What others send
///
/// The same holds of what arrives, in heads and in trailers, at servers and at clients: white space
/// around a value is stripped, binary values are taken with and without padding and several of them
/// joined by commas, and a value that gRPC does not allow is left out while its call goes on. Such are
/// octets above 0x7F and control characters in text, and what is not base64 in a `-bin` key; current
/// versions of other stacks refuse to send them. NUL, CR and LF end the stream instead, since HTTP
/// forbids them (RFC 9113 section 8.2.1).
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
pub struct Metadata(Option<Arc<Parts>>);

/// What is in a map; most have nothing, and then are one pointer to nothing. Clones share it until one
/// of them is changed.
#[derive(Clone, Default)]
struct Parts {
    /// Fields that come before the others and that many maps share.
    shared: Option<Arc<Entries>>,
    own: Entries,
}

impl Parts {
    fn has(&self, key: &str) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.has(key)) || self.own.has(key)
    }

    /// Takes over what is shared, to change it.
    fn all_own(&mut self) -> &mut Entries {
        if let Some(shared) = self.shared.take() {
            let own = std::mem::replace(&mut self.own, Arc::unwrap_or_clone(shared));
            self.own.append(&own);
        }
        &mut self.own
    }
}

impl Metadata {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Makes clones that are added to cheap: they go on sharing what is here now.
    pub(crate) fn share(&mut self) {
        if let Some(parts) = &mut self.0 {
            let parts = Arc::make_mut(parts);
            let mut all = std::mem::take(parts.all_own());
            all.shrink();
            parts.shared = Some(Arc::new(all));
        }
    }

    /// The entries that are not shared, to add some.
    fn own(&mut self) -> &mut Entries {
        &mut Arc::make_mut(self.0.get_or_insert_default()).own
    }

    /// Sets a text value, in place of all earlier values of the key.
    ///
    /// # Errors
    /// When the key or the value is not one that gRPC allows.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        let (key, value) = checked_text(key, value)?;
        self.remove(&key);
        self.own().push_text(&key, value);
        Ok(())
    }

    /// Adds a text value beside earlier values of the key.
    ///
    /// # Errors
    /// When the key or the value is not one that gRPC allows.
    pub fn append(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        let (key, value) = checked_text(key, value)?;
        self.own().push_text(&key, value);
        Ok(())
    }

    /// Sets a binary value of a key that ends in `-bin`.
    ///
    /// # Errors
    /// When the key is not one that gRPC allows or does not end in `-bin`.
    pub fn insert_bin(&mut self, key: &str, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        let key = checked_binary_key(key)?;
        self.remove(&key);
        self.own().push_binary(&key, value.as_ref());
        Ok(())
    }

    /// Adds a binary value beside earlier values of the key.
    ///
    /// # Errors
    /// When the key is not one that gRPC allows or does not end in `-bin`.
    pub fn append_bin(&mut self, key: &str, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        let key = checked_binary_key(key)?;
        self.own().push_binary(&key, value.as_ref());
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
        let key = lower_case(key);
        match &mut self.0 {
            Some(parts) if parts.has(&key) => {
                let all = Arc::make_mut(parts).all_own();
                let others = all.without(&key);
                let before = std::mem::replace(all, others);
                before.len().saturating_sub(all.len())
            }
            _ => 0,
        }
    }

    /// Whether there is a field of this key, which is lower case.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.as_deref().is_some_and(|parts| parts.has(key))
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, MetadataValue<'_>)> {
        let (shared, own) = match self.0.as_deref() {
            Some(Parts { shared, own }) => (shared.as_deref(), Some(own)),
            None => (None, None),
        };
        let of = |entries: Option<_>| entries.map_or_else(Iter::default, Entries::iter);
        of(shared).chain(of(own))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_deref().map_or(0, |Parts { shared, own }| {
            let shared = shared.as_deref().map_or(0, Entries::len);
            shared.saturating_add(own.len())
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the fields of another behind these.
    pub(crate) fn extend(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        if let Some(Parts { shared, own }) = other.0.as_deref() {
            let all = self.own();
            shared.iter().for_each(|shared| all.append(shared));
            all.append(own);
        }
    }

    /// Makes room for what is about to be added.
    pub(crate) fn reserve(&mut self, fields: usize, text: usize) {
        self.own().reserve(fields, text);
    }

    /// Adds a field that came from the wire with its key checked by the HTTP layer.
    pub(crate) fn push_text(&mut self, key: &str, value: &str) {
        self.own().push_text(key, value);
    }

    pub(crate) fn push_binary(&mut self, key: &str, value: &[u8]) {
        self.own().push_binary(key, value);
    }

    fn of_key<'a, 'k>(
        &'a self,
        key: &'k str,
    ) -> impl Iterator<Item = MetadataValue<'a>> + use<'a, 'k> {
        self.iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(key))
            .map(|(_, value)| value)
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Metadata {}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The key and the value as they are kept.
fn checked_text<'k, 'v>(
    key: &'k str,
    value: &'v str,
) -> Result<(Cow<'k, str>, &'v str), MetadataError> {
    let key = checked_key(key)?;
    if is_binary(&key) {
        return Err(MetadataError::WrongKind(key.into_owned()));
    }
    if text(value.as_bytes()).is_none() {
        return Err(MetadataError::InvalidValue(key.into_owned()));
    }
    Ok((key, value.trim_matches(' ')))
}

/// A value as text, if it is one that gRPC allows: printable ASCII.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let is_printable = |octet: &u8| (0x20..=0x7e).contains(octet);
    // To look at each is quicker than to stop at the first that is not.
    let printable = value
        .iter()
        .fold(true, |all, octet| all & is_printable(octet));
    std::str::from_utf8(value).ok().filter(|_| printable)
}

fn checked_binary_key(key: &str) -> Result<Cow<'_, str>, MetadataError> {
    let key = checked_key(key)?;
    if !is_binary(&key) {
        return Err(MetadataError::WrongKind(key.into_owned()));
    }
    Ok(key)
}

fn checked_key(key: &str) -> Result<Cow<'_, str>, MetadataError> {
    let is_allowed = |key: &str| all(key, |byte| IN_KEYS[usize::from(byte)]);
    let key = match is_allowed(key) {
        true => Cow::Borrowed(key),
        false => lower_case(key),
    };
    if key.is_empty() || !is_allowed(&key) {
        return Err(MetadataError::InvalidKey(key.into_owned()));
    }
    if is_reserved(&key) {
        return Err(MetadataError::ReservedKey(key.into_owned()));
    }
    Ok(key)
}

/// The octets of keys.
const IN_KEYS: [bool; 256] = {
    let mut allowed = [false; 256];
    let octets = *b"0123456789abcdefghijklmnopqrstuvwxyz_-.";
    let mut place = 0;
    while place < octets.len() {
        allowed[octets[place] as usize] = true;
        place += 1;
    }
    allowed
};

fn lower_case(key: &str) -> Cow<'_, str> {
    if all(key, |byte| !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(key);
    }
    Cow::Owned(key.to_ascii_lowercase())
}

/// Whether all octets are such; to look at each is quicker than to stop at the first that is not.
fn all(text: &str, is_such: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |all, byte| all & is_such(byte))
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
    #[test]
    fn a_map_is_one_pointer() {
        assert_eq!(size_of::<Metadata>(), size_of::<usize>());
        assert!(Metadata::new().0.is_none());
    }

    /// Whatever is done to a map, and however much of it is shared, it is the list that the same
    /// operations make of a list.
    #[test]
    fn maps_are_as_a_list_would_be() {
        const KEYS: [&str; 5] = ["a", "key-1", "key-2", "a-bin", "key-1-bin"];
        type List = Vec<(&'static str, Vec<u8>)>;
        let check = |metadata: &Metadata, list: &List| {
            let listed = list.iter().map(|(key, value)| match key.ends_with("-bin") {
                true => (*key, MetadataValue::Binary(value)),
                false => (
                    *key,
                    MetadataValue::Text(std::str::from_utf8(value).unwrap()),
                ),
            });
            assert!(metadata.iter().eq(listed), "{metadata:?} {list:?}");
            assert_eq!(metadata.len(), list.len());
            assert_eq!(metadata.is_empty(), list.is_empty());
            for key in KEYS {
                let values: Vec<_> = list.iter().filter(|entry| entry.0 == key).collect();
                let values: Vec<_> = values.iter().map(|entry| &entry.1[..]).collect();
                let upper = key.to_uppercase();
                let text = metadata.get_all(&upper).map(str::as_bytes);
                let found: Vec<_> = text.chain(metadata.get_all_bin(&upper)).collect();
                assert_eq!(found, values);
                assert_eq!(metadata.has(key), !values.is_empty());
            }
        };
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut metadata = Metadata::new();
            let mut list = List::new();
            let mut others: Vec<(Metadata, List)> = Vec::new();
            for _ in 0..40 {
                let key = KEYS[random.usize(..KEYS.len())];
                let value = vec![b'a' + random.u8(..26); random.usize(..20)];
                let text = std::str::from_utf8(&value).unwrap();
                let binary = key.ends_with("-bin");
                match random.u8(..10) {
                    0..4 => {
                        match binary {
                            true => metadata.append_bin(key, &value).unwrap(),
                            false => metadata.append(key, text).unwrap(),
                        }
                        list.push((key, value));
                    }
                    4..6 => {
                        match binary {
                            true => metadata.insert_bin(key, &value).unwrap(),
                            false => metadata.insert(key, text).unwrap(),
                        }
                        list.retain(|entry| entry.0 != key);
                        list.push((key, value));
                    }
                    6 => {
                        let before = list.len();
                        list.retain(|entry| entry.0 != key);
                        assert_eq!(metadata.remove(key), before - list.len());
                    }
                    7 => metadata.share(),
                    8 => others.push((metadata.clone(), list.clone())),
                    _ => {
                        if let Some((other, more)) = others.pop() {
                            check(&other, &more);
                            metadata.extend(other);
                            list.extend(more);
                        }
                    }
                }
            }
            check(&metadata, &list);
        }
    }
}
