//! Message compression.
#![cfg_attr(
    not(feature = "gzip"),
    allow(
        dead_code,
        unused_variables,
        reason = "there is no encoding to decompress"
    )
)]

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

/// How much of a message is decompressed in passing; what is larger is to be finished elsewhere.
#[cfg(feature = "gzip")]
const IN_PASSING: usize = 64 * 1024;

/// What a compressed message is.
pub(crate) enum Unpacked {
    Whole(Bytes),
    /// So large that nobody should wait for it on the task of a connection.
    Large(Box<Unpacking>),
}

/// A message on its way out of its compression.
pub(crate) struct Unpacking {
    message: Bytes,
    /// None before the beginning.
    #[cfg(feature = "gzip")]
    decoder: Option<Box<flate2::read::GzDecoder<bytes::buf::Reader<Bytes>>>>,
    output: Vec<u8>,
    limit: usize,
}

/// Begins to decompress a message.
pub(crate) fn unpack(encoding: Encoding, message: Bytes, limit: usize) -> Result<Unpacked, Status> {
    match encoding {
        Encoding::Identity => Err(Status::internal(
            "a message is marked as compressed, and the call has no grpc-encoding",
        )),
        #[cfg(feature = "gzip")]
        Encoding::Gzip => {
            let mut unpacking = Unpacking {
                message,
                decoder: None,
                output: Vec::new(),
                limit,
            };
            Ok(if unpacking.advance(IN_PASSING)? {
                Unpacked::Whole(unpacking.output.into())
            } else {
                Unpacked::Large(Box::new(unpacking))
            })
        }
    }
}

impl Unpacking {
    /// Forgets what is decompressed, to hold no more than the message as it came; it begins anew when
    /// it goes on.
    pub(crate) fn set_aside(&mut self) {
        #[cfg(feature = "gzip")]
        {
            self.decoder = None;
        }
        self.output = Vec::new();
    }

    /// Decompresses the rest, giving up as soon as it is larger than the limit.
    pub(crate) fn finish(mut self) -> Result<Bytes, Status> {
        self.advance(usize::MAX)?;
        Ok(self.output.into())
    }

    /// Decompresses up to so many octets; whether that was all.
    #[cfg(feature = "gzip")]
    fn advance(&mut self, most: usize) -> Result<bool, Status> {
        use std::io::Read as _;
        let room = self
            .limit
            .saturating_sub(self.output.len())
            .saturating_add(1);
        let most = u64::try_from(most.min(room)).unwrap_or(u64::MAX);
        let decoder = self.decoder.get_or_insert_with(|| {
            let message = bytes::Buf::reader(self.message.clone());
            Box::new(flate2::read::GzDecoder::new(message))
        });
        let read = decoder
            .take(most)
            .read_to_end(&mut self.output)
            .map_err(|error| {
                Status::internal("a gzip message does not decompress").with_source(error)
            })?;
        if self.output.len() > self.limit {
            return Err(Status::resource_exhausted(format!(
                "a message is larger than the limit of {} bytes after decompression",
                self.limit
            )));
        }
        Ok(u64::try_from(read).is_ok_and(|read| read < most))
    }

    #[cfg(not(feature = "gzip"))]
    fn advance(&mut self, _most: usize) -> Result<bool, Status> {
        Ok(self.output.len() <= self.limit)
    }
}

#[cfg(test)]
#[cfg(feature = "gzip")]
mod tests {
    use super::*;
    use crate::Code;

    fn decompress(encoding: Encoding, message: &[u8], limit: usize) -> Result<Bytes, Status> {
        match unpack(encoding, Bytes::copy_from_slice(message), limit)? {
            Unpacked::Whole(message) => Ok(message),
            Unpacked::Large(unpacking) => unpacking.finish(),
        }
    }

    #[test]
    fn what_is_large_is_finished_elsewhere() {
        for (size, large) in [
            (0, false),
            (IN_PASSING - 1, false),
            (IN_PASSING, true),
            (1 << 20, true),
        ] {
            let packed = compress(Encoding::Gzip, &vec![7; size]).unwrap();
            let unpacked = unpack(Encoding::Gzip, packed.into(), 1 << 20).unwrap();
            assert_eq!(matches!(unpacked, Unpacked::Large(_)), large, "{size}");
        }
    }

    #[test]
    fn what_was_set_aside_begins_anew() {
        let message: Vec<u8> = (0..1 << 20).map(|place| (place >> 10) as u8).collect();
        let packed = compress(Encoding::Gzip, &message).unwrap();
        let unpacked = unpack(Encoding::Gzip, packed.into(), 1 << 20).unwrap();
        let Unpacked::Large(mut unpacking) = unpacked else {
            panic!("it is large")
        };
        unpacking.set_aside();
        assert!(unpacking.decoder.is_none() && unpacking.output.capacity() == 0);
        assert_eq!(unpacking.finish().unwrap(), message);
    }

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
