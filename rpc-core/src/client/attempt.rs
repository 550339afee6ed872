//! Whether a failed attempt is followed by another: a pure state machine.

use std::time::Duration;

use crate::Code;

/// Attempts that may each have been processed by a server.
const MOST_PROCESSED: u32 = 3;
/// Connections that may be gone by the time a call gets to them.
const MOST_UNSENT: u32 = 16;

/// How far a failed attempt got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// No stream was opened for it.
    Nothing,
    /// The server's library, which says that it has not looked at it: REFUSED_STREAM, or a GOAWAY
    /// that names an earlier stream as its last.
    Library,
    /// Perhaps the server, of which nothing was heard.
    Perhaps,
    /// The server, which has answered.
    Server,
}

/// How an attempt failed, as far as the next one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) reached: Reached,
    /// What `grpc-retry-pushback-ms` said.
    pub(crate) pushback: Pushback,
}

/// What the server says about trying again (gRFC A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Pushback {
    /// Nothing.
    #[default]
    None,
    /// Not at all.
    Stop,
    /// After this time.
    After(Duration),
}

impl Pushback {
    /// A value that is not a number of milliseconds means: do not try again.
    pub(crate) fn parse(value: Option<&str>) -> Self {
        match value {
            None => Self::None,
            Some(text) => text
                .parse()
                .map_or(Self::Stop, |ms| Self::After(Duration::from_millis(ms))),
        }
    }
}

/// Which failures another attempt may follow, as far as it depends on the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repeat {
    pub(crate) repeatable: bool,
    pub(crate) allowed: bool,
}

impl Repeat {
    /// Whether an attempt that has failed so may be followed by another.
    pub(crate) fn may_follow(self, code: Code, reached: Reached) -> bool {
        let unprocessed = matches!(reached, Reached::Nothing | Reached::Library);
        self.allowed && (unprocessed || self.repeatable && code == Code::Unavailable)
    }
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Fail,
    /// Another endpoint, at once; outside the budget.
    Again,
    /// Another attempt after this time, if the budget has one.
    Budgeted(Duration),
}

/// The attempts of one call.
///
/// Source: gRFC A6, "transparent retries": what never left the client is sent elsewhere, what the
/// server's library has refused is repeated once without delay, and then fails as anything does.
#[derive(Debug)]
pub(crate) struct Attempts {
    repeatable: bool,
    allowed: bool,
    made: u32,
    processed: u32,
    unsent: u32,
    refused: u32,
}

impl Attempts {
    pub(crate) fn new(repeatable: bool, allowed: bool) -> Self {
        Self {
            repeatable,
            allowed,
            made: 0,
            processed: 0,
            unsent: 0,
            refused: 0,
        }
    }

    /// Counts an attempt and gives its number, from 1.
    pub(crate) fn begin(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    /// What the decisions depend on that stays as it is.
    pub(crate) fn repeat(&self) -> Repeat {
        Repeat {
            repeatable: self.repeatable,
            allowed: self.allowed,
        }
    }

    /// How many a server may have processed.
    pub(crate) fn processed(&self) -> u32 {
        self.processed
    }

    /// How many there were that a stream was opened for, with the one that begins.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    /// Why a failure that another attempt might mend was the last one, for who reads of it.
    pub(crate) fn why_last(&self, failure: Failure) -> Option<&'static str> {
        let has_reached = matches!(failure.reached, Reached::Perhaps | Reached::Server);
        if !self.allowed || failure.code != Code::Unavailable {
            return None;
        }
        if has_reached && !self.repeatable {
            return Some("not repeated: the method is not marked as idempotent");
        }
        if self.processed + self.refused >= MOST_PROCESSED {
            return Some("the last one");
        }
        (failure.pushback == Pushback::Stop).then_some("not repeated: the server said so")
    }

    /// Whether another attempt may be made beside one that has not been answered.
    pub(crate) fn may_overtake(&self) -> bool {
        self.allowed && self.repeatable && self.processed + 1 < MOST_PROCESSED
    }

    /// Another attempt is made beside one that has not been answered.
    pub(crate) fn overtaken(&mut self) {
        self.processed += 1;
    }

    /// Decides after an attempt has failed before a response was delivered; `random` is in 0..1.
    pub(crate) fn failed(&mut self, failure: Failure, random: f64) -> Decision {
        if !self.allowed {
            return Decision::Fail;
        }
        match failure.reached {
            Reached::Nothing if self.unsent < MOST_UNSENT => {
                self.unsent += 1;
                // Where no stream was opened there was no attempt.
                self.made = self.made.saturating_sub(1);
                return Decision::Again;
            }
            Reached::Library => {
                self.refused += 1;
                if self.refused == 1 {
                    return Decision::Again;
                }
            }
            Reached::Nothing => {}
            Reached::Perhaps | Reached::Server => {
                self.processed += 1;
                if !self.repeatable || failure.code != Code::Unavailable {
                    return Decision::Fail;
                }
            }
        }
        let failures = self.processed + self.refused;
        if failures >= MOST_PROCESSED {
            return Decision::Fail;
        }
        match failure.pushback {
            Pushback::Stop => Decision::Fail,
            Pushback::After(wait) => Decision::Budgeted(wait),
            Pushback::None => {
                // The first goes to another endpoint at once, the next waits for up to 50 ms.
                let ceiling = if failures <= 1 { 0.0 } else { 0.05 };
                Decision::Budgeted(Duration::from_secs_f64(ceiling * random))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Failure = Failure {
        code: Code::Unavailable,
        reached: Reached::Perhaps,
        pushback: Pushback::None,
    };
    const UNSENT: Failure = Failure {
        reached: Reached::Nothing,
        ..LOST
    };
    const REFUSED: Failure = Failure {
        reached: Reached::Library,
        ..LOST
    };

    fn begun(repeatable: bool) -> Attempts {
        let mut attempts = Attempts::new(repeatable, true);
        attempts.begin();
        attempts
    }

    #[test]
    fn what_may_have_been_processed_is_repeated_only_when_repeatable() {
        assert_eq!(begun(false).failed(LOST, 0.5), Decision::Fail);
        assert_eq!(
            begun(true).failed(LOST, 0.5),
            Decision::Budgeted(Duration::ZERO)
        );
    }

    #[test]
    fn what_was_never_sent_goes_elsewhere_is_no_attempt_and_ends_some_day() {
        let mut attempts = Attempts::new(false, true);
        for _ in 0..MOST_UNSENT {
            assert_eq!(attempts.begin(), 1);
            assert_eq!(attempts.failed(UNSENT, 0.5), Decision::Again);
        }
        let mut more = 0;
        while attempts.failed(UNSENT, 0.5) == Decision::Again {
            more += 1;
            assert!(more < 2);
        }
    }

    #[test]
    fn what_was_refused_is_repeated_once_and_then_fails_as_anything_does() {
        for repeatable in [false, true] {
            let mut attempts = begun(repeatable);
            assert_eq!(attempts.failed(REFUSED, 0.5), Decision::Again);
            attempts.begin();
            let second = attempts.failed(REFUSED, 0.5);
            assert_eq!(second, Decision::Budgeted(Duration::from_millis(25)));
            attempts.begin();
            assert_eq!(attempts.failed(REFUSED, 0.5), Decision::Fail);
        }
    }

    #[test]
    fn at_most_three_attempts_that_may_have_been_processed() {
        let mut attempts = begun(true);
        assert!(matches!(attempts.failed(LOST, 0.5), Decision::Budgeted(_)));
        attempts.begin();
        assert_eq!(
            attempts.failed(LOST, 0.5),
            Decision::Budgeted(Duration::from_millis(25))
        );
        attempts.begin();
        assert_eq!(attempts.failed(LOST, 0.5), Decision::Fail);
    }

    #[test]
    fn other_codes_and_callers_who_said_no_are_final() {
        for code in [
            Code::Internal,
            Code::DeadlineExceeded,
            Code::ResourceExhausted,
            Code::Unknown,
            Code::Aborted,
        ] {
            assert_eq!(
                begun(true).failed(Failure { code, ..LOST }, 0.5),
                Decision::Fail
            );
        }
        let mut attempts = Attempts::new(true, false);
        attempts.begin();
        assert_eq!(attempts.failed(REFUSED, 0.5), Decision::Fail);
    }

    #[test]
    fn why_there_is_no_other_attempt_is_told() {
        let told = |repeatable: bool, failures: u32, failure: Failure| {
            let mut attempts = Attempts::new(repeatable, true);
            for _ in 0..failures {
                attempts.begin();
                attempts.failed(failure, 0.0);
            }
            attempts.why_last(failure)
        };
        let stop = Failure {
            pushback: Pushback::Stop,
            ..LOST
        };
        let wrong = Failure {
            code: Code::Internal,
            ..LOST
        };
        assert_eq!(told(true, 3, LOST), Some("the last one"));
        assert_eq!(
            told(true, 1, stop),
            Some("not repeated: the server said so")
        );
        let once = "not repeated: the method is not marked as idempotent";
        assert_eq!(told(false, 1, LOST), Some(once));
        assert_eq!(told(true, 1, wrong), None);
    }

    #[test]
    fn pushback_is_honoured() {
        let wait = Duration::from_millis(70);
        let failure = |pushback| Failure { pushback, ..LOST };
        assert_eq!(
            begun(true).failed(failure(Pushback::parse(Some("70"))), 0.5),
            Decision::Budgeted(wait)
        );
        assert_eq!(
            begun(true).failed(failure(Pushback::parse(Some("-1"))), 0.5),
            Decision::Fail
        );
        assert_eq!(Pushback::parse(None), Pushback::None);
    }
}
