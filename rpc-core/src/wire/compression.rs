//! Message compression.

use bytes::Bytes;

use crate::Status;

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Encoding {
    /// Not at all.
    #[default]
    Identity,
    /// gzip (feature `gzip`, on by default).
    #[cfg(feature = "gzip")]
    Gzip,
}

impl Encoding {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            #[cfg(feature = "gzip")]
            Self::Gzip => "gzip",
        }
    }

    /// The encoding of a name in `grpc-encoding`, if this build has it.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "identity" => Some(Self::Identity),
            #[cfg(feature = "gzip")]
            "gzip" => Some(Self::Gzip),
            _ => None,
        }
    }
}

/// What this build decodes, as `grpc-accept-encoding` says it.
pub(crate) const ACCEPT: &str = if cfg!(feature = "gzip") {
    "identity,gzip"
} else {
    "identity"
};

/// The encodings that a peer decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct EncodingSet(u8);

impl EncodingSet {
    pub(crate) fn parse(list: &str) -> Self {
        let mut set = Self::default();
        for name in list.split(',') {
            if let Some(encoding) = Encoding::from_name(name.trim()) {
                set.0 |= 1 << encoding as u8;
            }
        }
        set
    }

    pub(crate) fn accepts(self, encoding: Encoding) -> bool {
        encoding == Encoding::Identity || self.0 & (1 << encoding as u8) != 0
    }
}

/// Compresses a message.
#[cfg(feature = "gzip")]
pub(crate) fn compress(encoding: Encoding, message: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write as _;
    match encoding {
        Encoding::Identity => None,
        Encoding::Gzip => {
            let buffer = Vec::with_capacity(message.len() / 2 + 64);
            let mut encoder = flate2::write::GzEncoder::new(buffer, flate2::Compression::fast());
            // Writing to a Vec cannot fail; were it to, the message goes uncompressed.
            encoder.write_all(message).ok()?;
            encoder.finish().ok()
        }
    }
}

#[cfg(not(feature = "gzip"))]
pub(crate) fn compress(_encoding: Encoding, _message: &[u8]) -> Option<Vec<u8>> {
    None
}

/// Decompresses a message, giving up as soon as it is larger than the limit.
pub(crate) fn decompress(
    encoding: Encoding,
    message: &[u8],
    limit: usize,
) -> Result<Bytes, Status> {
    match encoding {
        Encoding::Identity => Err(Status::internal(
            "a message is marked as compressed, and the call has no grpc-encoding",
        )),
        #[cfg(feature = "gzip")]
        Encoding::Gzip => {
            use std::io::Read as _;
            let mut output = Vec::new();
            let allowed = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            flate2::read::GzDecoder::new(message)
                .take(allowed)
                .read_to_end(&mut output)
                .map_err(|error| {
                    Status::internal("a gzip message does not decompress").with_source(error)
                })?;
            if output.len() > limit {
                return Err(Status::resource_exhausted(format!(
                    "a message is larger than the limit of {limit} bytes after decompression"
                )));
            }
            Ok(output.into())
        }
    }
}

#[cfg(all(test, feature = "gzip"))]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn gzip_round_trips_and_respects_the_limit() {
        let message = vec![7u8; 100_000];
        let packed = compress(Encoding::Gzip, &message).unwrap();
        assert!(packed.len() < 1_000);
        assert_eq!(
            decompress(Encoding::Gzip, &packed, 100_000).unwrap(),
            message
        );
        let status = decompress(Encoding::Gzip, &packed, 99_999).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
    }

    #[test]
    fn damage_is_internal() {
        assert_eq!(
            decompress(Encoding::Gzip, b"not gzip", 100)
                .unwrap_err()
                .code(),
            Code::Internal
        );
        assert_eq!(
            decompress(Encoding::Identity, b"", 100).unwrap_err().code(),
            Code::Internal
        );
    }

    #[test]
    fn lists_of_encodings() {
        let set = EncodingSet::parse("deflate, gzip ,br");
        assert!(set.accepts(Encoding::Gzip));
        assert!(!EncodingSet::parse("deflate").accepts(Encoding::Gzip));
        assert!(EncodingSet::default().accepts(Encoding::Identity));
    }
}
