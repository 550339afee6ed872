//! The static table: RFC 7541 Appendix A.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::LazyLock;

use super::hashed::Hashed;

/// How many entries it has; the dynamic table's indices go on behind.
pub(super) const LENGTH: usize = 61;

const TABLE: [(&str, &str); LENGTH] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Where each name is first.
static NAMES: LazyLock<HashMap<&'static [u8], usize, BuildHasherDefault<Hashed>>> =
    LazyLock::new(|| {
        let mut names = HashMap::default();
        for (place, (name, _)) in TABLE.iter().enumerate() {
            names.entry(name.as_bytes()).or_insert(place);
        }
        names
    });

/// The entry at an index, which starts at 1.
pub(super) fn get(index: usize) -> Option<(&'static [u8], &'static [u8])> {
    let (name, value) = TABLE.get(index.checked_sub(1)?)?;
    Some((name.as_bytes(), value.as_bytes()))
}

/// Where a field is: the index, and whether the value is there too.
pub(super) fn find(name: &[u8], value: &[u8]) -> Option<(usize, bool)> {
    let first = *NAMES.get(name)?;
    let same_name = TABLE
        .iter()
        .skip(first)
        .take_while(|entry| entry.0.as_bytes() == name);
    for (offset, entry) in same_name.enumerate() {
        if entry.1.as_bytes() == value {
            return Some((first.saturating_add(offset).saturating_add(1), true));
        }
    }
    Some((first.saturating_add(1), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        assert_eq!(find(b":method", b"POST"), Some((3, true)));
        assert_eq!(find(b":status", b"302"), Some((8, false)));
        assert_eq!(find(b"x", b""), None);
        assert_eq!(get(61), Some((&b"www-authenticate"[..], &b""[..])));
        assert_eq!(get(0), None);
        assert_eq!(get(62), None);
    }
}
