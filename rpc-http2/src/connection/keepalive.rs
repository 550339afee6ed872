//! Whether the peer is still there, and how often it may be asked: gRFC A8.
//!
//! Whoever has heard nothing for a time sends a PING, and ends the connection when nothing at all is
//! heard within another. Servers end connections that are pinged too often, so that a client asks
//!
//! - a server that says how often it may be asked (a setting of ours, which others ignore by RFC 9113
//!   section 6.5.2): as often as that, with and without calls;
//! - any other server: while there are calls, once after each HEADERS or DATA that it has sent since the
//!   last PING, which is when A8 has it forget what it has counted; and otherwise in the times that A8
//!   allows everybody.

use std::time::{Duration, Instant};

use super::{Connection, timers};
use crate::config::{Keepalive, PingPolicy, Role};
use crate::error::ConnectionError;

/// What goes either way, for those who count PINGs by it.
pub(super) mod went {
    /// HEADERS or DATA were sent since the last PING of the peer.
    pub(crate) const OUT: u8 = 1;
    /// HEADERS or DATA have come since the last PING of the peer.
    pub(crate) const IN: u8 = 2;
    /// The peer has sent HEADERS or DATA since it answered the last PING.
    pub(crate) const ANSWERED: u8 = 4;
    /// What is noted when something comes.
    pub(crate) const COME: u8 = IN | ANSWERED;
    /// What is counted between the PINGs of the peer.
    pub(crate) const BETWEEN: u8 = OUT | IN;
}

/// The PINGs of a client without calls have to be so far apart, unless it may send them (A8).
const WITHOUT_CALLS: Duration = Duration::from_secs(2 * 60 * 60);
/// A client that says how often it asks is asked itself after so many times as much.
const MISSED: u32 = 3;
/// The least silence after which a server is asked that has not said what it allows.
const SHORTEST: Duration = Duration::from_secs(10);
/// A peer is not asked more often for what it has said of itself.
const SOONEST: Duration = Duration::from_secs(15);

/// What is known of the peer's being there.
#[derive(Debug)]
pub(super) struct Watch {
    config: Option<Keepalive>,
    /// When something was read last.
    pub(super) heard: Instant,
    /// When there is something to look at, if there ever is.
    next: Option<Instant>,
    /// Nothing is looked at until there is a call.
    is_dormant: bool,
    /// Since when an answer is waited for.
    asked: Option<Instant>,
    /// PINGs of this side that are not answered.
    unanswered: u32,
    /// When the last one was answered, which is later than the peer's having seen it.
    answered: Option<Instant>,
    /// What the peer has said about the time between two PINGs.
    announced: Option<Duration>,
    /// The last PING of the peer.
    pinged: Option<Instant>,
    /// PINGs of the peer that came too early, one after the other.
    strikes: u32,
    /// The server has said that there were too many.
    pub(super) too_many: bool,
}

/// What can be done about a peer that is silent.
enum Ask {
    Now,
    At(Instant),
    /// Not before there is a call.
    Dormant,
}

impl Watch {
    pub(super) fn new(config: Option<Keepalive>, now: Instant) -> Self {
        Self {
            config,
            heard: now,
            next: config.and_then(|config| now.checked_add(config.time)),
            is_dormant: false,
            asked: None,
            unanswered: 0,
            answered: None,
            announced: None,
            pinged: None,
            strikes: 0,
            too_many: false,
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// How long the peer may be silent.
    fn time(&self, config: Keepalive, role: Role) -> Duration {
        match (role, self.announced) {
            (Role::Client, Some(announced)) => config.time.max(announced),
            (Role::Server, Some(announced)) => {
                let missed = announced.saturating_mul(MISSED).max(SOONEST);
                config.time.min(missed)
            }
            // A8: a client's time is never less, unless it knows that it may be.
            (Role::Client, None) => config.time.max(SHORTEST),
            (Role::Server, None) => config.time,
        }
    }

    /// Whether a peer that has been silent for long enough may be asked.
    fn may_ask(
        &self,
        config: Keepalive,
        role: Role,
        has_calls: bool,
        has_answered: bool,
        now: Instant,
    ) -> Ask {
        if role == Role::Server || self.announced.is_some() {
            return Ask::Now;
        }
        if !has_calls && !config.without_calls {
            return Ask::Dormant;
        }
        if has_answered && config.after_answers {
            return Ask::Now;
        }
        let last = self.answered;
        let allowed = last.and_then(|last| last.checked_add(config.min_interval));
        match allowed {
            Some(allowed) if allowed > now => Ask::At(allowed),
            _ => Ask::Now,
        }
    }
}

fn half(time: Duration) -> Duration {
    time.checked_div(2).unwrap_or(time)
}

impl PingPolicy {
    /// How far apart the PINGs of a client have to be.
    fn interval(&self, knows_announced: bool, has_calls: bool) -> Duration {
        match self.announced {
            // It comes in time when it was sent in time, or so.
            Some(announced) if knows_announced => half(announced),
            _ if has_calls || self.without_calls => self.min_interval,
            _ => WITHOUT_CALLS.max(self.min_interval),
        }
    }
}

impl Connection {
    /// Whether the server has ended the connection since it was asked too often whether it is there:
    /// the next connection should do so half as often (A8).
    #[must_use]
    pub fn has_pinged_too_often(&self) -> bool {
        self.watch.too_many
    }

    /// How it is found out that the peer is gone.
    #[must_use]
    pub fn keepalive(&self) -> Option<Keepalive> {
        self.watch.config
    }

    /// When something was read last.
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        self.watch.heard
    }

    /// The peer has said how often it may be asked, or how often it asks.
    pub(super) fn take_ping_interval(&mut self, milliseconds: u32) {
        if milliseconds == 0 {
            return;
        }
        let announced = Duration::from_millis(milliseconds.into());
        self.watch.announced = Some(announced);
        if self.watch.config.is_some() {
            self.watch.is_dormant = false;
            // It finds out when it is due.
            self.watch.next = Some(self.watch.heard);
        }
    }

    /// There is a call again.
    #[inline]
    pub(super) fn wake_keepalive(&mut self) {
        if self.watch.is_dormant {
            self.watch.is_dormant = false;
            self.watch.next = Some(self.watch.heard);
            self.set_alarm();
        }
    }

    /// Looks whether the peer is there.
    pub(super) fn look_for_peer(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let Some(config) = self.watch.config else {
            return Ok(());
        };
        let heard = self.watch.heard;
        if let Some(asked) = self.watch.asked.filter(|asked| heard <= *asked) {
            let due = asked.checked_add(config.timeout);
            if due.is_some_and(|due| due <= now) {
                return Err(ConnectionError::SILENT);
            }
            self.watch.next = due;
            return Ok(());
        }
        self.watch.asked = None;
        let due = heard.checked_add(self.watch.time(config, self.role));
        if due.is_none_or(|due| due > now) {
            self.watch.next = due;
            return Ok(());
        }
        let has_calls = self.streams.len() > 0;
        let has_answered = self.went & went::ANSWERED != 0;
        let ask = self
            .watch
            .may_ask(config, self.role, has_calls, has_answered, now);
        match ask {
            Ask::Now => {
                // One that is on its way already, such as that of a measurement, asks as well.
                if self.watch.unanswered == 0 {
                    self.send_ping(timers::KEEPALIVE);
                }
                self.watch.asked = Some(now);
                self.watch.next = now.checked_add(config.timeout);
            }
            Ask::At(at) => self.watch.next = Some(at),
            Ask::Dormant => {
                self.watch.is_dormant = true;
                self.watch.next = None;
            }
        }
        Ok(())
    }

    /// Sends a PING of this side.
    pub(super) fn send_ping(&mut self, payload: [u8; 8]) {
        self.watch.unanswered = self.watch.unanswered.saturating_add(1);
        self.went &= !went::ANSWERED;
        self.put_ping(0, payload);
    }

    /// A PING of this side is answered.
    pub(super) fn on_pong(&mut self, now: Instant) {
        self.watch.unanswered = self.watch.unanswered.saturating_sub(1);
        if self.watch.asked.take().is_some() {
            // It finds out when the next one is due.
            self.watch.next = Some(now);
            self.set_alarm();
        }
        self.watch.answered = Some(now);
        // What has come before may have been sent before the peer had seen the PING.
        self.went &= !went::ANSWERED;
    }

    /// Whether a measurement may be made: by a client once for what it has received, so that it is none
    /// of the PINGs that a server counts.
    pub(super) fn may_measure(&self) -> bool {
        self.role == Role::Server || self.went & went::ANSWERED != 0
    }

    /// Takes in a PING of a client: two that come too early are borne, and forgotten with HEADERS or
    /// DATA that are sent to it (A8).
    pub(super) fn count_ping(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let sent = self.went & went::OUT != 0;
        let Some(policy) = self
            .config
            .limits
            .pings
            .filter(|_| self.role == Role::Server)
        else {
            return Ok(());
        };
        let last = self.watch.pinged.replace(now);
        if sent {
            self.watch.strikes = 0;
            return Ok(());
        }
        let knows = self.watch.announced.is_some();
        let interval = policy.interval(knows, self.streams.len() > 0);
        if last.is_some_and(|last| now.saturating_duration_since(last) < interval) {
            self.watch.strikes = self.watch.strikes.saturating_add(1);
        }
        if self.watch.strikes > policy.strikes {
            return Err(ConnectionError::calm(timers::TOO_MANY_PINGS));
        }
        Ok(())
    }
}
