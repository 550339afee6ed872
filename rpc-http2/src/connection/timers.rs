//! What happens because time passes, and the growth of windows.

use std::time::{Duration, Instant};

use super::{Arriving, Connection, windows};
use crate::config::{Config, Role};
use crate::error::{ConnectionError, ErrorCode};
use crate::frame;

/// The payload of a PING that asks whether the peer is there.
pub(super) const KEEPALIVE: [u8; 8] = *b"keepaliv";
/// The payload of a PING that measures the round trip.
pub(super) const MEASURE: [u8; 8] = *b"measured";
/// The payload of the PING between the two GOAWAYs.
pub(super) const DRAINING: [u8; 8] = *b"draining";

/// What a server says that was asked too often (gRFC A8).
pub(super) const TOO_MANY_PINGS: &str = "too_many_pings";

/// How long the peer may take to see the first GOAWAY.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// How far the graceful end is (RFC 9113 section 6.8).
#[derive(Clone, Copy, Debug)]
pub(super) enum Drain {
    No,
    /// The peer was told that the end is near; streams that it opens meanwhile are taken.
    Announced(Instant),
    /// A client takes no more calls, and opens those that wait before it says so.
    Waiting,
    /// The peer was told which stream is the last one.
    Final,
}

/// Grows the windows of streams that are read to what the network holds in one round trip.
#[derive(Debug)]
pub(super) struct Growth {
    /// How large the window of a stream that is read may be now.
    pub(super) window: u32,
    max: u32,
    /// How much larger than at their beginning the windows of all streams are together.
    extra: u32,
    /// Octets since the PING that is under way.
    sample: Option<u64>,
}

impl Growth {
    pub(super) fn new(config: &Config) -> Self {
        let max = config.max_stream_window.min(frame::LARGEST_WINDOW);
        Self {
            window: config.stream_window.saturating_mul(windows::READ).min(max),
            max,
            extra: 0,
            sample: None,
        }
    }

    /// How much larger a window may become that has this size and was read. One that has grown and is
    /// read no more stays large, so that all of them together have a bound, and each leaves some of it.
    pub(super) fn of(&mut self, window: u32) -> u32 {
        let most = self.max.saturating_add(self.max / 2);
        let left = most.saturating_sub(self.extra);
        let wanted = window.saturating_mul(windows::READ).min(self.window);
        let growth = wanted.saturating_sub(window).min(left / 2);
        self.extra = self.extra.saturating_add(growth);
        growth
    }

    /// A stream is over that had grown by so much.
    pub(super) fn give_back(&mut self, growth: u32) {
        self.extra = self.extra.saturating_sub(growth);
    }

    pub(super) fn count(&mut self, octets: u32) {
        if let Some(sample) = &mut self.sample {
            *sample = sample.saturating_add(u64::from(octets));
        }
    }
}

impl Connection {
    /// Half a window was used up: measures how much arrives in a round trip.
    pub(super) fn measure(&mut self) {
        if self.growth.sample.is_none()
            && self.growth.window < self.growth.max
            && self.may_measure()
        {
            self.growth.sample = Some(0);
            self.send_ping(MEASURE);
        }
    }

    /// The PING is back: a window that was half used in one round trip is too small.
    pub(super) fn measured(&mut self) {
        let Some(sample) = self.growth.sample.take() else {
            return;
        };
        let old = self.growth.window;
        if sample.saturating_mul(2) < u64::from(old) {
            return;
        }
        // Streams have it from the next time on that half of theirs was read. What they begin with
        // stays: it is what they cost when nobody reads them.
        let new = old.saturating_mul(2).min(self.growth.max);
        self.growth.window = new;
        // The connection holds what two such streams hold, or what it was made for.
        let connection = new.saturating_mul(2).min(frame::LARGEST_WINDOW);
        if connection > self.config.connection_window {
            let more = connection.saturating_sub(self.config.connection_window);
            self.config.connection_window = connection;
            self.recv_window = self.recv_window.saturating_add(i64::from(more));
            self.put_window_update(0, more);
        }
    }

    /// When [`on_timeout`](Self::on_timeout) has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.error.is_some() {
            return None;
        }
        let limits = &self.config.limits;
        let handshake = (!self.ready).then(|| self.clock.start.checked_add(limits.handshake_time));
        let block = self
            .block
            .as_ref()
            .map(|block| block.since.checked_add(limits.header_time));
        let frame = self
            .partial_since
            .map(|since| since.checked_add(self.frame_time()));
        let drain = match self.drain {
            Drain::Announced(since) => Some(since.checked_add(DRAIN_WAIT)),
            _ => None,
        };
        [
            handshake.flatten(),
            block.flatten(),
            frame.flatten(),
            drain.flatten(),
            self.alarm,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// How long a frame that has begun may take, or stand still when it is passed on as it arrives.
    fn frame_time(&self) -> Duration {
        match self.arriving {
            Arriving::Nothing if self.partial_block => self.config.limits.header_time,
            _ => self.config.limits.frame_time,
        }
    }

    /// Nothing is read for now, which is this side's doing: what has begun to arrive, and may lie
    /// there whole, has its time anew.
    pub fn not_reading(&mut self, now: Instant) {
        if let Some(since) = &mut self.partial_since {
            *since = now;
        }
        if let Some(block) = &mut self.block {
            block.since = now;
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// When the peer has taken too long; the connection has to end.
    pub fn on_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let result = self.due(now);
        if let Err(error) = result {
            self.fail(error);
        }
        result
    }

    fn due(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let limits = self.config.limits;
        let passed = |since: Instant, wait| now.saturating_duration_since(since) >= wait;
        if !self.ready && passed(self.clock.start, limits.handshake_time) {
            return Err(ConnectionError::new(
                ErrorCode::SETTINGS_TIMEOUT,
                "the peer did not begin to speak HTTP/2 in time",
            ));
        }
        if let Some(block) = &self.block
            && passed(block.since, limits.header_time)
        {
            return Err(ConnectionError::calm("a header block did not end in time"));
        }
        if let Some(since) = self.partial_since
            && passed(since, self.frame_time())
        {
            return Err(ConnectionError::calm(match self.arriving {
                Arriving::Nothing => "a frame did not end in time",
                Arriving::Data { .. } | Arriving::Skipped(_) => "a frame stood still in its middle",
            }));
        }
        if let Drain::Announced(since) = self.drain
            && passed(since, DRAIN_WAIT)
        {
            self.finish_drain();
        }
        if self.alarm.is_some_and(|alarm| now >= alarm) {
            if self.watch.next().is_some_and(|next| now >= next) {
                self.look_for_peer(now)?;
            }
            self.look_at_lifetime(now)?;
            self.set_alarm();
        }
        Ok(())
    }

    /// Sees to it that what is looked at next is looked at in time.
    pub(super) fn set_alarm(&mut self) {
        let times = [self.watch.next(), self.lifetime.next()];
        self.alarm = times.into_iter().flatten().min();
    }

    /// Begins the graceful end: a server tells the peer, takes what is already on its way, and
    /// finishes; a client opens nothing more.
    pub fn shut_down(&mut self, now: Instant) {
        if !matches!(self.drain, Drain::No) || self.error.is_some() {
            return;
        }
        match self.role {
            Role::Server => self.announce_end(now, b""),
            Role::Client => {
                self.drain = Drain::Waiting;
                self.end_waiting();
            }
        }
    }

    /// Tells a client that the end is near, and why.
    pub(super) fn announce_end(&mut self, now: Instant, why: &[u8]) {
        self.drain = Drain::Announced(now);
        self.put_goaway(frame::LARGEST_WINDOW, ErrorCode::NO_ERROR, why);
        self.send_ping(DRAINING);
    }

    /// Says that a client opens nothing more, once nothing waits: some servers take no streams after
    /// that.
    pub(super) fn end_waiting(&mut self) {
        if matches!(self.drain, Drain::Waiting) && self.waiting.is_empty() {
            self.drain = Drain::Final;
            self.put_goaway(0, ErrorCode::NO_ERROR, b"");
        }
    }

    pub(super) fn finish_drain(&mut self) {
        if matches!(self.drain, Drain::Announced(_)) {
            self.drain = Drain::Final;
            self.put_goaway(self.last_peer_id, ErrorCode::NO_ERROR, b"");
        }
    }

    /// Whether streams with this identifier are taken.
    pub(super) fn accepts(&self) -> bool {
        !matches!(self.drain, Drain::Final)
    }
}
