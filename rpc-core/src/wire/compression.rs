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

use super::message::Side;
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

/// How many members of gzip are decompressed in passing.
#[cfg(feature = "gzip")]
const MEMBERS_IN_PASSING: usize = 16;
/// A message may have so many members of gzip, and another for each so many of its octets: beginning
/// one costs as much as decompressing some KiB, and an empty one has 20 octets.
#[cfg(feature = "gzip")]
const MEMBERS: usize = 4096;
#[cfg(feature = "gzip")]
const OCTETS_A_MEMBER: usize = 256;

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
    decoder: Option<Box<flate2::bufread::GzDecoder<bytes::buf::Reader<Bytes>>>>,
    /// How many members were decompressed.
    #[cfg(feature = "gzip")]
    members: usize,
    output: Vec<u8>,
    limit: usize,
    side: Side,
}

/// Begins to decompress a message.
pub(crate) fn unpack(
    encoding: Encoding,
    message: Bytes,
    limit: usize,
    side: Side,
) -> Result<Unpacked, Status> {
    match encoding {
        Encoding::Identity => Err(Status::internal(
            "a message is marked as compressed, and the call has no grpc-encoding",
        )),
        #[cfg(feature = "gzip")]
        Encoding::Gzip => {
            let mut unpacking = Unpacking {
                message,
                decoder: None,
                members: 0,
                output: Vec::new(),
                limit,
                side,
            };
            Ok(if unpacking.advance(IN_PASSING, MEMBERS_IN_PASSING)? {
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
            self.members = 0;
        }
        self.output = Vec::new();
    }

    /// Decompresses the rest, giving up as soon as it is larger than the limit.
    pub(crate) fn finish(mut self) -> Result<Bytes, Status> {
        self.advance(usize::MAX, usize::MAX)?;
        Ok(self.output.into())
    }

    /// Decompresses up to so many octets of up to so many members; whether that was all.
    ///
    /// A message is all its members, one behind the other, and nothing else (RFC 1952 section 2.2).
    #[cfg(feature = "gzip")]
    fn advance(&mut self, octets: usize, members: usize) -> Result<bool, Status> {
        use std::io::Read as _;

        use bytes::Buf as _;
        let decoder = self.decoder.get_or_insert_with(|| {
            let message = self.message.clone().reader();
            Box::new(flate2::bufread::GzDecoder::new(message))
        });
        let (octets, members) = (
            self.output.len().saturating_add(octets),
            self.members.saturating_add(members),
        );
        let most_members = self.message.len() / OCTETS_A_MEMBER + MEMBERS;
        loop {
            // One more than the limit shows that there is more.
            let end = octets.min(self.limit.saturating_add(1));
            let most = u64::try_from(end.saturating_sub(self.output.len())).unwrap_or(u64::MAX);
            let read = decoder
                .take(most)
                .read_to_end(&mut self.output)
                .map_err(|error| self::damaged(self.members, error))?;
            if self.output.len() > self.limit {
                return Err(Status::resource_exhausted(format!(
                    "a message is larger than {} after decompression",
                    self.side.limit(self.limit)
                )));
            }
            if u64::try_from(read).is_ok_and(|read| read >= most) {
                return Ok(false);
            }
            // The member has ended, and its checksum was right.
            self.members = self.members.saturating_add(1);
            let rest = decoder.get_ref().get_ref().clone();
            if rest.is_empty() {
                return Ok(true);
            }
            if self.members > most_members {
                return Err(Status::resource_exhausted(format!(
                    "a gzip message has more than {most_members} members, which is the limit for its size"
                )));
            }
            decoder.reset(rest.reader());
            if self.members >= members {
                return Ok(false);
            }
        }
    }

    #[cfg(not(feature = "gzip"))]
    fn advance(&mut self, _octets: usize, _members: usize) -> Result<bool, Status> {
        Ok(self.output.len() <= self.limit)
    }
}

/// Why a message does not decompress.
#[cfg(feature = "gzip")]
fn damaged(members: usize, error: std::io::Error) -> Status {
    let text = match (error.kind(), members) {
        (std::io::ErrorKind::UnexpectedEof, _) => {
            format!(
                "a gzip message ends in the middle of member {}",
                members + 1
            )
        }
        (_, 0) => "a gzip message does not decompress".to_owned(),
        (_, _) => format!(
            "a gzip message does not decompress behind member {members}: what follows is damaged or no gzip member"
        ),
    };
    Status::internal(text).with_source(error)
}

#[cfg(test)]
#[cfg(feature = "gzip")]
mod tests {
    use super::*;
    use crate::Code;

    fn decompress(encoding: Encoding, message: &[u8], limit: usize) -> Result<Bytes, Status> {
        match unpack(
            encoding,
            Bytes::copy_from_slice(message),
            limit,
            Side::Client,
        )? {
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
            let unpacked = unpack(Encoding::Gzip, packed.into(), 1 << 20, Side::Client).unwrap();
            assert_eq!(matches!(unpacked, Unpacked::Large(_)), large, "{size}");
        }
    }

    #[test]
    fn what_was_set_aside_begins_anew() {
        let message: Vec<u8> = (0..1 << 20).map(|place| (place >> 10) as u8).collect();
        let packed = compress(Encoding::Gzip, &message).unwrap();
        let unpacked = unpack(Encoding::Gzip, packed.into(), 1 << 20, Side::Client).unwrap();
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

    fn gzip(message: &[u8]) -> Vec<u8> {
        compress(Encoding::Gzip, message).unwrap()
    }

    #[test]
    fn all_members_are_one_message() {
        let parts = [&b"one"[..], b"", &[7; 200_000], b"", b"two", &[8; 100_000]];
        let packed: Vec<u8> = parts.iter().flat_map(|part| gzip(part)).collect();
        let whole = parts.concat();
        let unpacked = decompress(Encoding::Gzip, &packed, whole.len()).unwrap();
        assert_eq!(unpacked, whole);
        // The limit is for all of them together.
        let status = decompress(Encoding::Gzip, &packed, whole.len() - 1).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        // Small ones in passing, and many of them elsewhere, where they may be set aside.
        for count in [2, 15, 16, 17, 200] {
            let packed = gzip(b"ab").repeat(count);
            let unpacked = unpack(Encoding::Gzip, packed.into(), 1000, Side::Client).unwrap();
            assert_eq!(
                matches!(unpacked, Unpacked::Large(_)),
                count > 16,
                "{count}"
            );
            let message = match unpacked {
                Unpacked::Whole(message) => message,
                Unpacked::Large(mut unpacking) => {
                    if count == 200 {
                        unpacking.set_aside();
                    }
                    unpacking.finish().unwrap()
                }
            };
            assert_eq!(message, b"ab".repeat(count));
        }
    }

    #[test]
    fn what_is_behind_the_members_or_missing_from_them_is_an_error() {
        let whole = [gzip(b"one"), gzip(&[7; 100_000])].concat();
        let first = gzip(b"one").len();
        for garbage in [&b"x"[..], b"\0", b"\x1f", b"\x1f\x8b\x08", b"not gzip"] {
            for members in [&whole[..first], &whole] {
                let message = [members, garbage].concat();
                let status = decompress(Encoding::Gzip, &message, 1 << 20).unwrap_err();
                assert_eq!(status.code(), Code::Internal, "{garbage:?}");
                assert!(status.message().contains("member"), "{status}");
            }
        }
        // Wherever it is cut, but between two members.
        for cut in (0..whole.len()).filter(|cut| *cut != first) {
            let status = decompress(Encoding::Gzip, &whole[..cut], 1 << 20).unwrap_err();
            assert_eq!(status.code(), Code::Internal, "cut after {cut}");
        }
        let mut wrong_sum = whole.clone();
        wrong_sum[first - 5] ^= 1;
        let status = decompress(Encoding::Gzip, &wrong_sum, 1 << 20).unwrap_err();
        assert_eq!(status.code(), Code::Internal);
    }

    #[test]
    fn more_members_than_a_message_needs_are_too_many() {
        let packed = gzip(b"").repeat(200_000);
        let status = decompress(Encoding::Gzip, &packed, 1 << 20).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("members"), "{status}");
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
