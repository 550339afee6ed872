//! Where a call can go: [`Address`], [`Endpoint`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// An address that a connector can open a connection to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// A host name or IP address, and a port.
    Tcp {
        /// The name or address; IPv6 without brackets.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(Arc<Path>),
    /// A unix socket of Linux's abstract namespace, `unix-abstract:name`: without a file, and open to
    /// every user of the machine.
    UnixAbstract(Arc<str>),
    /// A name that only a custom [`Connector`](crate::Connector) understands.
    Named(Arc<str>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(f, "unix-abstract:{name}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// Text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidAddress {
    text: String,
    reason: &'static str,
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not an address: {}; write host:port, [v6]:port, unix:/path or unix-abstract:name",
            self.text, self.reason
        )
    }
}

impl std::error::Error for InvalidAddress {}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = |reason| InvalidAddress {
            text: text.to_owned(),
            reason,
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(invalid("the path is empty"));
            }
            return Ok(Self::Unix(Path::new(path).into()));
        }
        // <https://github.com/grpc/grpc/blob/master/doc/naming.md>: the name is without the NUL that
        // the system puts before it, and has none inside.
        if let Some(name) = text.strip_prefix("unix-abstract:") {
            if name.is_empty() || name.contains('\0') {
                return Err(invalid("the name is empty or has a NUL"));
            }
            return Ok(Self::UnixAbstract(name.into()));
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| invalid("there is no port"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner
                    .strip_suffix(']')
                    .ok_or_else(|| invalid("a bracket is not closed"))?;
                if !is_v6(inner) {
                    return Err(invalid("the brackets hold no IPv6 address"));
                }
                inner
            }
            None if host.contains(':') => return Err(invalid("an IPv6 address needs brackets")),
            None => host,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c)) {
            return Err(invalid(
                "the host is empty or has a character that no host name has",
            ));
        }
        let port = port
            .parse()
            .map_err(|_| invalid("the port is not a number from 0 to 65535"))?;
        Ok(Self::Tcp {
            host: usual(host).into(),
            port,
        })
    }
}

/// The one spelling of a host, by which endpoints are compared: an IPv6 address as RFC 5952 writes it,
/// and a name, whose case means nothing (RFC 4343), in lower case.
fn usual(host: &str) -> Cow<'_, str> {
    let (address, zone) = match host.find('%') {
        Some(at) => host.split_at(at),
        None => (host, ""),
    };
    if let Ok(v6) = address.parse::<std::net::Ipv6Addr>() {
        return format!("{v6}{zone}").into();
    }
    if host.bytes().any(|octet| octet.is_ascii_uppercase()) {
        return host.to_ascii_lowercase().into();
    }
    host.into()
}

/// Whether it is an IPv6 address, and behind it perhaps the zone that a link-local one needs (RFC 4007
/// section 11): a name or a number, which the system's resolver understands.
fn is_v6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    let is_in_zone = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.~".contains(&octet);
    address.parse::<std::net::Ipv6Addr>().is_ok()
        && !zone.is_empty()
        && zone.bytes().all(is_in_zone)
}

/// A host without its zone, which means something on this machine only and never goes out
/// (RFC 6874 section 4).
pub(crate) fn without_zone(host: &str) -> &str {
    match host.split_once('%') {
        Some((address, _)) if address.contains(':') => address,
        _ => host,
    }
}

/// One server of a service, as a resolver knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Its share of the load beside others; 100 unless told otherwise, 0 takes none.
    pub weight: u32,
    /// What the server says of itself, such as its zone or version.
    pub metadata: BTreeMap<String, String>,
    /// Tells one process at an address from the next; a change ends the wait for reconnecting.
    pub instance: u64,
}

impl Endpoint {
    /// An endpoint of weight 100 without metadata.
    #[must_use]
    pub fn new(address: Address) -> Self {
        let address = match address {
            Address::Tcp { host, port } => Address::Tcp {
                host: match usual(&host) {
                    Cow::Borrowed(_) => host,
                    Cow::Owned(usual) => usual.into(),
                },
                port,
            },
            other => other,
        };
        Self {
            address,
            weight: 100,
            metadata: BTreeMap::new(),
            instance: 0,
        }
    }

    /// Sets the weight.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Adds a metadata entry.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self::new(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "127.0.0.1:80",
            "localhost:0",
            "[::1]:65535",
            "a-b.example:1",
            "unix:/tmp/x y",
            "unix-abstract:x y",
            "[fe80::1%eth0]:50051",
            "[fe80::1%2]:50051",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "unix:///tmp/x".parse::<Address>().unwrap().to_string(),
            "unix:/tmp/x"
        );
    }

    #[test]
    fn spellings_of_one_address_are_one_endpoint() {
        let one: Address = "[::1]:80".parse().unwrap();
        for text in ["[0:0:0:0:0:0:0:1]:80", "[0::0001]:80"] {
            assert_eq!(text.parse::<Address>().unwrap(), one);
        }
        let zoned: Address = "[FE80:0::1%eth0]:1".parse().unwrap();
        assert_eq!(zoned.to_string(), "[fe80::1%eth0]:1");
        let host = "2001:DB8::0:1".into();
        let made = Endpoint::new(Address::Tcp { host, port: 1 });
        assert_eq!(made.address, "[2001:db8::1]:1".parse().unwrap());
        let name: Address = "Host.Example:1".parse().unwrap();
        assert_eq!(name, "host.example:1".parse().unwrap());
    }

    #[test]
    fn others_say_why() {
        for text in [
            "",
            "host",
            ":80",
            "host:",
            "host:65536",
            "host:-1",
            "::1:80",
            "[::1:80",
            "[x]:80",
            "a b:1",
            "http://a:1",
            "unix:",
            "unix-abstract:",
            "unix-abstract:a\0b",
            "[fe80::1%]:1",
            "[fe80::1%a b]:1",
            "[x%eth0]:1",
            "u@h:1",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                error.contains("is not an address") && error.contains("host:port"),
                "{text}: {error}"
            );
        }
    }
}
