//! Whether a failed attempt is followed by another: a pure state machine.

use std::time::Duration;

use crate::Code;

/// Attempts that may each have been processed by a server.
const MOST_PROCESSED: u32 = 3;
/// Attempts in all, with those that no server looked at.
const MOST: u32 = 8;

/// How an attempt failed, as far as the next one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// The server cannot have processed the call: it was never sent, or refused.
    pub(crate) unprocessed: bool,
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
#[derive(Debug)]
pub(crate) struct Attempts {
    repeatable: bool,
    allowed: bool,
    made: u32,
    processed: u32,
}

impl Attempts {
    pub(crate) fn new(repeatable: bool, allowed: bool) -> Self {
        Self {
            repeatable,
            allowed,
            made: 0,
            processed: 0,
        }
    }

    /// Counts an attempt and gives its number, from 1.
    pub(crate) fn begin(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    /// How many a server may have processed.
    pub(crate) fn processed(&self) -> u32 {
        self.processed
    }

    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    /// Decides after an attempt has failed before a response was delivered; `random` is in 0..1.
    pub(crate) fn failed(&mut self, failure: Failure, random: f64) -> Decision {
        if !self.allowed || self.made >= MOST {
            return Decision::Fail;
        }
        if failure.unprocessed {
            return Decision::Again;
        }
        self.processed += 1;
        if !self.repeatable || failure.code != Code::Unavailable || self.processed >= MOST_PROCESSED
        {
            return Decision::Fail;
        }
        match failure.pushback {
            Pushback::Stop => Decision::Fail,
            Pushback::After(wait) => Decision::Budgeted(wait),
            Pushback::None => {
                // The first goes to another endpoint at once, the next waits for up to 50 ms.
                let ceiling = if self.processed == 1 { 0.0 } else { 0.05 };
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
        unprocessed: false,
        pushback: Pushback::None,
    };
    const REFUSED: Failure = Failure {
        code: Code::Unavailable,
        unprocessed: true,
        pushback: Pushback::None,
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
    fn what_was_not_processed_goes_on_outside_the_budget_but_not_for_ever() {
        let mut attempts = Attempts::new(false, true);
        for _ in 1..MOST {
            attempts.begin();
            assert_eq!(attempts.failed(REFUSED, 0.5), Decision::Again);
        }
        attempts.begin();
        assert_eq!(attempts.failed(REFUSED, 0.5), Decision::Fail);
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
