//! What makes a header block malformed: RFC 9113 sections 8.2 and 8.3.

use crate::hpack::Block;

/// What is known of a block after some of its fields.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    method: bool,
    connect: bool,
    scheme: bool,
    path: bool,
    authority: bool,
    regular: bool,
    /// What `:status` says.
    pub(crate) status: Option<u16>,
    /// What `content-length` says.
    pub(crate) content_length: Option<u64>,
    malformed: Option<&'static str>,
}

impl Summary {
    /// Takes in the next field.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        if let Err(reason) = self.check(name, value) {
            self.malformed.get_or_insert(reason);
        }
    }

    fn check(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        // Section 8.2.1.
        let is_bad = |octet: &u8| matches!(octet, 0 | b'\r' | b'\n');
        // To look at each is quicker than to stop at the first.
        if value.iter().fold(false, |bad, octet| bad | is_bad(octet)) {
            return Err("a field value has NUL, CR or LF");
        }
        if name.first() == Some(&b':') {
            if without_padding(value).len() < value.len() {
                return Err("a pseudo-header field begins or ends with white space");
            }
            return self.pseudo(name, value);
        }
        self.regular = true;
        if name.is_empty() || !name.iter().fold(true, |all, octet| all & is_name(*octet)) {
            return Err("a field name has a character that it may not have");
        }
        // Section 8.2.2.
        match name {
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" => Err("a field is specific to a connection"),
            // RFC 9110 section 10.1.4: the keyword has no case.
            b"te" if !without_padding(value).eq_ignore_ascii_case(b"trailers") => {
                Err("te is not trailers")
            }
            b"content-length" => {
                let length = number(without_padding(value)).ok_or("content-length is no number")?;
                match self.content_length.replace(length) {
                    Some(other) if other != length => Err("content-length is there twice"),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Section 8.3.
    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if self.regular {
            return Err("a pseudo-header field is behind a regular one");
        }
        let seen = match name {
            b":method" => {
                self.connect |= value == b"CONNECT";
                &mut self.method
            }
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => {
                if value.is_empty() {
                    return Err(":path is empty");
                }
                &mut self.path
            }
            b":status" => {
                let status = number(value).filter(|_| value.len() == 3);
                let status = status.ok_or(":status is not three digits")?;
                return match self.status.replace(status as u16) {
                    None => Ok(()),
                    Some(_) => Err(":status is there twice"),
                };
            }
            _ => return Err("a pseudo-header field is unknown"),
        };
        if std::mem::replace(seen, true) {
            return Err("a pseudo-header field is there twice");
        }
        Ok(())
    }

    /// Goes on behind the prefix of a block.
    pub(crate) fn of(prefix: Option<Self>, block: Block<'_>) -> Self {
        let mut summary = prefix.unwrap_or_default();
        for (name, value) in block.rest.iter() {
            summary.field(name, value);
        }
        summary
    }

    /// Whether it is the head of a request (section 8.3.1).
    pub(crate) fn request(&self) -> Result<(), &'static str> {
        match self {
            Self {
                malformed: Some(reason),
                ..
            } => Err(reason),
            Self {
                status: Some(_), ..
            } => Err("a request has :status"),
            // Section 8.5: it has no scheme and no path, and with them it is malformed.
            Self { connect: true, .. } => Err("CONNECT is not served"),
            Self { method: false, .. } => Err("a request has no :method"),
            Self { scheme: false, .. } => Err("a request has no :scheme"),
            Self { path: false, .. } => Err("a request has no :path"),
            _ => Ok(()),
        }
    }

    /// Whether it is the head of a response (section 8.3.2).
    pub(crate) fn response(&self) -> Result<u16, &'static str> {
        if let Some(reason) = self.malformed {
            return Err(reason);
        }
        if self.method || self.scheme || self.path || self.authority {
            return Err("a response has a pseudo-header field of a request");
        }
        self.status.ok_or("a response has no :status")
    }

    /// Whether it is a trailer section (section 8.1).
    pub(crate) fn trailers(&self) -> Result<(), &'static str> {
        if let Some(reason) = self.malformed {
            return Err(reason);
        }
        if self.method || self.scheme || self.path || self.authority || self.status.is_some() {
            return Err("trailers have a pseudo-header field");
        }
        Ok(())
    }
}

/// A field value without the white space at its ends, which is none of it (RFC 9110 section 5.5).
///
/// RFC 9113 section 8.2.1 calls a field with it malformed, which would reset the stream, and in the end
/// the connection, of everybody whose application put a space there: C-core sends such values, and
/// grpc-go, Java and proxies take them. gRPC lets a receiver strip it ("Custom-Metadata" of its protocol
/// document), and nothing that is smuggled in HTTP/1.1 can be smuggled in this. So regular fields pass
/// as they came and are stripped by who reads them.
#[must_use]
pub fn without_padding(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is_name(octet: u8) -> bool {
    NAMES.get(usize::from(octet)) == Some(&true)
}

/// The characters of a token (RFC 9110 section 5.6.2) without upper case.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, where a mistake is an error"
)]
static NAMES: [bool; 256] = {
    let mut names = [false; 256];
    let mut octet = 0;
    while octet < names.len() {
        names[octet] = matches!(octet as u8, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'!'
            | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'^' | b'`' | b'|' | b'~');
        octet += 1;
    }
    names
};

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(fields: &[(&str, &str)]) -> Summary {
        let mut summary = Summary::default();
        for (name, value) in fields {
            summary.field(name.as_bytes(), value.as_bytes());
        }
        summary
    }

    const REQUEST: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":path", "/")];

    fn request(more: &[(&str, &str)]) -> Result<(), &'static str> {
        summary(&[&REQUEST, more].concat()).request()
    }

    #[test]
    fn requests() {
        assert_eq!(request(&[]), Ok(()));
        assert_eq!(
            request(&[("te", "trailers"), ("content-length", "0")]),
            Ok(())
        );
        for padded in [
            ("te", "Trailers"),
            ("te", " trailers\t"),
            ("content-length", " 0 "),
            ("a", " \t1"),
            ("a", "1\t "),
            ("a", " "),
        ] {
            assert_eq!(request(&[padded]), Ok(()), "{padded:?}");
        }
        for pseudo in [(":authority", " a"), (":authority", "a\t")] {
            let fields = [&[pseudo], &REQUEST[..]].concat();
            assert!(summary(&fields).request().is_err(), "{pseudo:?}");
        }
        for bad in [
            &[("te", "gzip")][..],
            &[("connection", "close")],
            &[("keep-alive", "1")],
            &[("proxy-connection", "1")],
            &[("transfer-encoding", "chunked")],
            &[("upgrade", "h2c")],
            &[("Upper", "1")],
            &[("", "1")],
            &[("a b", "1")],
            &[("a:b", "1")],
            &[("a", "1\r\nb: 2")],
            &[("a", "\0")],
            &[("te", " ")],
            &[("te", "trailers, gzip")],
            &[(":status", "200")],
            &[(":other", "1")],
            &[(":path", "/2")],
            &[(":authority", "a"), (":authority", "a")],
            &[("a", "1"), (":authority", "a")],
            &[("content-length", "x")],
            &[("content-length", "1"), ("content-length", "2")],
            &[("content-length", "99999999999999999999999")],
        ] {
            assert!(request(bad).is_err(), "{bad:?}");
        }
        for missing in 0..REQUEST.len() {
            let mut fields = REQUEST.to_vec();
            fields.remove(missing);
            assert!(summary(&fields).request().is_err());
        }
        assert!(
            summary(&[(":method", "POST"), (":scheme", "http"), (":path", "")])
                .request()
                .is_err()
        );
    }

    #[test]
    fn responses_and_trailers() {
        assert_eq!(summary(&[(":status", "200")]).response(), Ok(200));
        for bad in [
            &[("a", "1")][..],
            &[(":status", "20")],
            &[(":status", "2000")],
            &[(":status", "abc")],
            &[(":status", "200"), (":status", "200")],
            &[(":status", "200"), (":path", "/")],
        ] {
            assert!(summary(bad).response().is_err(), "{bad:?}");
        }
        assert_eq!(summary(&[("grpc-status", "0")]).trailers(), Ok(()));
        assert_eq!(summary(&[("grpc-message", " a ")]).trailers(), Ok(()));
        for name in [":status", ":path", ":authority", ":method", ":scheme"] {
            assert!(summary(&[(name, "200")]).trailers().is_err(), "{name}");
        }
    }
}
