//! How long a server's connection may be idle, and how old it may get: gRFC A9.

use std::time::{Duration, Instant};

use super::Connection;
use super::timers::Drain;
use crate::config::{Config, Role};
use crate::error::{ConnectionError, ErrorCode};

/// So often in the time that a connection may be idle it is looked whether it is.
const LOOKS: u32 = 4;

/// When a connection ends whatever its peer does.
#[derive(Debug, Default)]
pub(super) struct Lifetime {
    /// When it is idle for too long at the earliest.
    idle: Option<Instant>,
    /// For how many looks in a row there was no stream.
    unused: u32,
    /// What the last look has seen: whether there was none, and how many had been opened by then.
    was_empty: bool,
    opened: u32,
    /// When it gets too old.
    ends: Option<Instant>,
    /// When its calls are not waited for any more.
    breaks: Option<Instant>,
}

impl Lifetime {
    pub(super) fn new(role: Role, config: &Config, now: Instant) -> Self {
        if role == Role::Client {
            return Self::default();
        }
        let after = |time: Option<Duration>| time.and_then(|time| now.checked_add(time));
        Self {
            idle: after(config.max_idle.and_then(pause)),
            ends: after(config.max_age),
            was_empty: true,
            ..Self::default()
        }
    }

    /// When there is something to look at.
    pub(super) fn next(&self) -> Option<Instant> {
        let times = [self.idle, self.ends, self.breaks];
        times.into_iter().flatten().min()
    }
}

/// The time between two looks.
fn pause(idle: Duration) -> Option<Duration> {
    idle.checked_div(LOOKS)
}

impl Connection {
    /// Ends the connection when it has been idle for too long or is too old.
    pub(super) fn look_at_lifetime(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let is_due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if is_due(self.lifetime.idle) {
            self.look_whether_idle(now);
        }
        if is_due(self.lifetime.ends) {
            self.lifetime.ends = None;
            self.lifetime.idle = None;
            self.say_goodbye(now, b"max_age");
            let grace = self.config.max_age_grace;
            self.lifetime.breaks = grace.and_then(|grace| now.checked_add(grace));
        }
        if is_due(self.lifetime.breaks) {
            self.lifetime.breaks = None;
            return Err(ConnectionError::new(
                ErrorCode::NO_ERROR,
                "the connection is as old as it may get, and so are its calls",
            ));
        }
        Ok(())
    }

    /// It has been idle for as long as it may be once so many looks in a row have seen no stream, and
    /// that none was opened since the look before, which saw none either.
    fn look_whether_idle(&mut self, now: Instant) {
        let opened = self.streams.opened();
        let is_empty = self.streams.len() == 0;
        let was_empty = std::mem::replace(&mut self.lifetime.was_empty, is_empty);
        let before = std::mem::replace(&mut self.lifetime.opened, opened);
        let is_unused = was_empty && is_empty && opened == before;
        self.lifetime.unused = match is_unused {
            true => self.lifetime.unused.saturating_add(1),
            false => 0,
        };
        if self.lifetime.unused >= LOOKS {
            self.lifetime.idle = None;
            self.say_goodbye(now, b"max_idle");
            return;
        }
        let pause = self.config.max_idle.and_then(pause);
        self.lifetime.idle = pause.and_then(|pause| now.checked_add(pause));
    }

    /// Begins the graceful end of a server's connection and says why.
    fn say_goodbye(&mut self, now: Instant, why: &'static [u8]) {
        if matches!(self.drain, Drain::No) {
            self.announce_end(now, why);
        }
    }
}
