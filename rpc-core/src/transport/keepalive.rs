//! Finding out that a peer is gone: [`Keepalive`], gRFC A8 and A18.

use std::time::Duration;

/// How long a peer may take to answer, where nothing else is set (A8).
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long a server that takes calls may be silent.
const QUICK: Duration = Duration::from_secs(10);
/// What A8 allows every client towards every server.
const ALLOWED: Duration = Duration::from_secs(5 * 60);
/// A8 has clients ask no more often than this, whatever they are set to.
const SHORTEST: Duration = Duration::from_secs(10);
/// The times between PINGs that were too many are doubled so often at the most.
const DOUBLINGS: u32 = 16;

/// How it is found out that the peer of a connection is gone: who has been silent for a time is sent a
/// PING, and the connection ends when nothing is heard within another.
///
/// A channel that was not told otherwise asks a server that has been silent for 10 s, and gives its
/// connection up 20 s later: calls on it fail with `UNAVAILABLE`, and the next ones go elsewhere. Since
/// servers end connections that are pinged too often, it asks without calls only a server of this
/// framework, which says in its SETTINGS that it may. Any other one it asks while there are calls: once
/// after something has been received, which gRFC A8 allows everybody, and otherwise every 5 min.
///
/// A server asks a client that has been silent for 2 h, or for three times as long as it has said that
/// it lets pass itself.
///
/// ```
/// use std::time::Duration;
/// use rpc_core::Keepalive;
///
/// let eager = Keepalive::every(Duration::from_secs(10)).timeout(Duration::from_secs(5));
/// let channel = rpc_core::Channel::builder().keepalive(eager);
/// let never = rpc_core::Channel::builder().keepalive(None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    time: Option<Duration>,
    timeout: Duration,
    without_calls: bool,
}

/// What a channel does when nothing is said.
impl Default for Keepalive {
    fn default() -> Self {
        Self {
            time: None,
            timeout: TIMEOUT,
            without_calls: false,
        }
    }
}

impl Keepalive {
    /// Asks after so much silence, which servers have to allow: those that do not say what they allow
    /// have a setting for it, and 5 min without it. Of a channel it is never less than 10 s towards
    /// them, and doubled each time that a server says `too_many_pings`.
    #[must_use]
    pub fn every(time: Duration) -> Self {
        Self {
            time: Some(time.max(Duration::from_millis(1))),
            ..Self::default()
        }
    }

    /// How long the peer may take to answer; 20 s by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks without calls as well, for a channel whose server allows that and does not say so.
    #[must_use]
    pub fn without_calls(mut self) -> Self {
        self.without_calls = true;
        self
    }

    /// What a server does when nothing is said.
    pub(crate) fn of_server() -> Self {
        Self::every(Duration::from_secs(2 * 60 * 60))
    }

    /// How long what was sent may stay unacknowledged, when nothing else is said (A18).
    pub(crate) fn user_timeout(self) -> Duration {
        self.timeout
    }

    /// As the engine has it, after so many connections that ended for having asked too often.
    pub(crate) fn of_engine(self, too_often: u32) -> rpc_http2::Keepalive {
        let factor = 1 << too_often.min(DOUBLINGS);
        let time = self.time.unwrap_or(QUICK);
        let interval = self.time.unwrap_or(ALLOWED).max(SHORTEST);
        rpc_http2::Keepalive {
            time: match self.time {
                Some(time) => time.saturating_mul(factor),
                None => time,
            },
            timeout: self.timeout,
            without_calls: self.without_calls,
            min_interval: interval.saturating_mul(factor),
            after_answers: too_often == 0,
        }
    }
}

/// A time as it is said in an error.
pub(crate) fn said(time: Duration) -> String {
    if time.subsec_millis() == 0 && time >= Duration::from_secs(1) {
        format!("{} s", time.as_secs())
    } else {
        format!("{} ms", time.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_asks_half_as_often_the_next_time() {
        let seconds = Duration::from_secs;
        let default = Keepalive::default();
        assert_eq!(default.of_engine(0).min_interval, seconds(300));
        assert_eq!(default.of_engine(2).min_interval, seconds(1200));
        assert!(default.of_engine(0).after_answers && !default.of_engine(1).after_answers);
        let eager = Keepalive::every(seconds(15));
        let times = |too_often| {
            let engine = eager.of_engine(too_often);
            (engine.time, engine.min_interval)
        };
        assert_eq!(times(0), (seconds(15), seconds(15)));
        assert_eq!(times(3), (seconds(120), seconds(120)));
        assert!(times(u32::MAX).0 > seconds(1));
        assert_eq!(
            Keepalive::every(seconds(1)).of_engine(0).min_interval,
            SHORTEST
        );
    }

    #[test]
    fn times_are_said_in_seconds_where_they_are() {
        assert_eq!(said(Duration::from_secs(20)), "20 s");
        assert_eq!(said(Duration::from_millis(1500)), "1500 ms");
    }
}
