//! Settings and limits of a connection.

use std::time::Duration;

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It opens streams.
    Client,
    /// It answers them.
    Server,
}

/// So many events in so much time are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub events: u32,
    /// In how much time.
    pub per: Duration,
}

/// When a peer that is silent is asked whether it is there, by a PING (gRFC A8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// After it was silent for so long. A client does not ask more often than its server has said that
    /// it may, and a server asks a client earlier which has said that it asks in shorter times.
    pub time: Duration,
    /// How long it may stay silent after that.
    pub timeout: Duration,
    /// Whether a client asks without calls too, where the server has not said that it may.
    pub without_calls: bool,
    /// A client's time between two PINGs, where the server has not said how often they may come.
    pub min_interval: Duration,
    /// Whether a client may ask earlier, once after HEADERS or DATA that the server has sent: A8 has
    /// servers count from then.
    pub after_answers: bool,
}

/// How often a client may send PING (gRFC A8); those that come earlier are strikes, and more of them
/// than the limit end the connection. HEADERS or DATA that the server sends begin the count again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingPolicy {
    /// The time between two of them; 5 min.
    pub min_interval: Duration,
    /// Whether they may come as often without calls; no, which is once in 2 h.
    pub without_calls: bool,
    /// Strikes that are borne; 2.
    pub strikes: u32,
    /// What is said in the SETTINGS, for clients that understand it: they may send a PING as often as
    /// this, with and without calls; 5 s.
    pub announced: Option<Duration>,
}

impl Default for PingPolicy {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(5 * 60),
            without_calls: false,
            strikes: 2,
            announced: Some(Duration::from_secs(5)),
        }
    }
}

/// What protects a connection from its peer. Nothing here hits an honest peer; a limit that is
/// turned off is one that an attack gets through.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The octets of one header block as it is sent; 64 KiB.
    pub header_block: usize,
    /// The CONTINUATION frames of one header block; 8.
    pub continuations: u32,
    /// How long a header block may take to arrive; 5 s.
    pub header_time: Duration,
    /// How long a frame that is no piece of a header block may take; 14 s. The payload of a body's
    /// frame may take longer, as long as it does not stand still for that time.
    ///
    /// Nothing else can arrive on a connection meanwhile, whatever its streams are about.
    pub frame_time: Duration,
    /// How long the peer may take for its preface and SETTINGS; 10 s.
    pub handshake_time: Duration,
    /// Streams that the peer resets within a second and before it was answered: so many at once, which
    /// may come again after so long; 1,000 and 2 s, which is 500 a second for as long as it likes, and
    /// one more for two calls that were answered.
    ///
    /// What counts is what they cost and what is under way, not which share of the calls they are: of
    /// a proxy whose server hangs they are all. A stream that is reset at once, as those of an attack
    /// are, has cost its peer nothing and counts in full. Its weight falls with the square of its time,
    /// a fourth at 1 ms and a hundredth at 9 ms: it has held one of the peer's places so long, so that
    /// there can be only so many ([`Config::max_streams`] divided by their time), and its handler has
    /// run as that of any other call. Callers whose calls take 8 ms or more until they give up cannot
    /// be too many; those that give up after 1 ms may be 2,000 a second.
    pub early_resets: Option<Rate>,
    /// Streams that this side had to reset because of what the peer did on them; 200 in 30 s.
    pub caused_resets: Option<Rate>,
    /// Frames that ask for an answer while none can be sent; 1,000.
    pub unsent_answers: Option<u32>,
    /// Frames that carry nothing; 20,000 in 10 s.
    pub idle_frames: Option<Rate>,
    /// How often a client may ask whether the server is there.
    pub pings: Option<PingPolicy>,
    /// The entries of one SETTINGS frame; 64, and a peer has reason for a dozen.
    pub settings: Option<usize>,
    /// Empty DATA frames one after the other on one connection; 100.
    pub empty_data: Option<u32>,
    /// How long a stream may hold memory and make no progress to speak of (1 KiB/s) while memory is
    /// short; 60 s. While there is memory, a stream may take as long as its deadline allows.
    ///
    /// What memory is short of only the user of a connection knows: it looks by
    /// [`look_at_unsent`](crate::Connection::look_at_unsent), four times in this time.
    pub stall: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_block: 64 * 1024,
            continuations: 8,
            header_time: Duration::from_secs(5),
            frame_time: Duration::from_secs(14),
            handshake_time: Duration::from_secs(10),
            early_resets: Some(Rate {
                events: 1000,
                per: Duration::from_secs(2),
            }),
            caused_resets: Some(Rate {
                events: 200,
                per: Duration::from_secs(30),
            }),
            unsent_answers: Some(1000),
            idle_frames: Some(Rate {
                events: 20_000,
                per: Duration::from_secs(10),
            }),
            pings: Some(PingPolicy::default()),
            settings: Some(64),
            empty_data: Some(100),
            stall: Some(Duration::from_secs(60)),
        }
    }
}

/// Settings of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The streams that the peer may have open; 256. Of a client none, since nothing may be pushed.
    pub max_streams: u32,
    /// The window that a stream begins with, which is what one costs that nobody reads; 256 KiB. One
    /// that is read has four times as much at first, and then as much as the network holds.
    pub stream_window: u32,
    /// The window of the connection; 4 MiB. It comes back with what arrives, read or not.
    pub connection_window: u32,
    /// How far the window of a stream that is read may grow when the network holds more; 16 MiB. All
    /// streams of a connection grow by half as much again together.
    pub max_stream_window: u32,
    /// The largest frame that is taken; 256 KiB.
    pub max_frame: u32,
    /// The largest header list that is taken, with 32 octets for each field; 16 KiB.
    pub max_header_list: u32,
    /// The most fields of one header list; 128.
    pub max_fields: usize,
    /// The size of the table of this side's header decoder; 4 KiB.
    pub header_table: u32,
    /// What a stream may hold unsent before its sender has to wait; 400 KiB.
    pub stream_buffer: usize,
    /// What all streams may hold unsent before their senders have to wait; 2 MiB behind the windows
    /// of streams, and half as much more of those that are read; and 2 MiB within the windows, or half
    /// of it once half of the former is taken up. A connection that reads nothing takes less than
    /// 4 MiB with what its handlers hold themselves.
    pub connection_buffer: usize,
    /// How it is found out that the peer is gone; not at all.
    pub keepalive: Option<Keepalive>,
    /// How long a server's connection may have no stream until it ends, with a fourth of it more at the
    /// most (gRFC A9); without limit.
    pub max_idle: Option<Duration>,
    /// How old a server's connection may get until it takes no more streams (gRFC A9); without limit.
    /// Whoever makes many connections gives each another age.
    pub max_age: Option<Duration>,
    /// How long the streams of a connection that is too old may go on; without limit.
    pub max_age_grace: Option<Duration>,
    /// What protects the connection from its peer.
    pub limits: Limits,
}

impl Config {
    /// Takes header lists up to this size, and the header blocks that such lists need.
    #[must_use]
    pub fn with_max_header_list(mut self, octets: u32) -> Self {
        /// Whoever sends CONTINUATION may fill frames of the size that all peers take.
        const FRAME: usize = crate::frame::DEFAULT_MAX_FRAME as usize;
        self.max_header_list = octets;
        let limits = &mut self.limits;
        // The 32 octets that each field counts more are more than its encoding adds.
        limits.header_block = limits.header_block.max(octets as usize);
        let frames = limits.header_block.div_ceil(FRAME);
        limits.continuations = limits
            .continuations
            .max(u32::try_from(frames).unwrap_or(u32::MAX));
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 256,
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            max_stream_window: 16 * 1024 * 1024,
            max_frame: 256 * 1024,
            max_header_list: 16 * 1024,
            max_fields: 128,
            header_table: 4096,
            stream_buffer: 400 * 1024,
            connection_buffer: 2 * 1024 * 1024,
            keepalive: None,
            max_idle: None,
            max_age: None,
            max_age_grace: None,
            limits: Limits::default(),
        }
    }
}
