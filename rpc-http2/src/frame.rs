//! Frames: RFC 9113 sections 4.1 and 6.

/// What a client's connection begins with (section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long the header of a frame is.
pub const HEADER: usize = 9;
/// The frame size that every peer takes (section 4.2).
pub const DEFAULT_MAX_FRAME: u32 = 16_384;
/// The largest frame size that a peer may allow.
pub const LARGEST_MAX_FRAME: u32 = 16_777_215;
/// The window that streams and the connection begin with (section 6.9.2).
pub const DEFAULT_WINDOW: u32 = 65_535;
/// The largest window.
pub const LARGEST_WINDOW: u32 = 0x7fff_ffff;

/// The types of frames that this side knows (section 6).
pub mod kind {
    /// Section 6.1.
    pub const DATA: u8 = 0x0;
    /// Section 6.2.
    pub const HEADERS: u8 = 0x1;
    /// Section 6.3.
    pub const PRIORITY: u8 = 0x2;
    /// Section 6.4.
    pub const RST_STREAM: u8 = 0x3;
    /// Section 6.5.
    pub const SETTINGS: u8 = 0x4;
    /// Section 6.6.
    pub const PUSH_PROMISE: u8 = 0x5;
    /// Section 6.7.
    pub const PING: u8 = 0x6;
    /// Section 6.8.
    pub const GOAWAY: u8 = 0x7;
    /// Section 6.9.
    pub const WINDOW_UPDATE: u8 = 0x8;
    /// Section 6.10.
    pub const CONTINUATION: u8 = 0x9;
}

/// The flags of frames (section 6).
pub mod flag {
    /// Of SETTINGS and PING.
    pub const ACK: u8 = 0x1;
    /// Of DATA and HEADERS.
    pub const END_STREAM: u8 = 0x1;
    /// Of HEADERS and CONTINUATION.
    pub const END_HEADERS: u8 = 0x4;
    /// Of DATA and HEADERS.
    pub const PADDED: u8 = 0x8;
    /// Of HEADERS.
    pub const PRIORITY: u8 = 0x20;
}

/// The settings (section 6.5.2).
pub mod setting {
    /// The size of the table of the sender's decoder.
    pub const HEADER_TABLE_SIZE: u16 = 0x1;
    /// Whether the peer may push.
    pub const ENABLE_PUSH: u16 = 0x2;
    /// How many streams the peer may open.
    pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    /// The window that streams begin with.
    pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
    /// The largest frame that the sender takes.
    pub const MAX_FRAME_SIZE: u16 = 0x5;
    /// The largest header list that the sender takes; advice only.
    pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    /// The milliseconds between two PINGs that ask whether the peer is there: of a server what it
    /// allows, of a client what it does. One of those for experiments (RFC 7540 section 11.3), which a
    /// peer that does not know it ignores (RFC 9113 section 6.5.2).
    pub const PING_INTERVAL: u16 = 0xf0a8;
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// How long the payload is.
    pub length: u32,
    /// What the frame is.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// Reads a header.
    #[must_use]
    pub fn parse(octets: &[u8; HEADER]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *octets;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            // The reserved bit is ignored (section 4.1).
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        }
    }

    /// The header as it is sent.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER] {
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
