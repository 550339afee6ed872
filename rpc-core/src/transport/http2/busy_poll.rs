//! Whether the task of a connection looks again for what comes next before it sleeps.

use std::pin::pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

/// For how long it looks. To sleep and to be woken costs about as much where both ends are on one
/// machine; between machines a round trip is longer, and looking does not begin.
const WINDOW: Duration = Duration::from_micros(50);
/// How often it looks in a window, where the clock stands still.
const LOOKS: u32 = 128;
/// What came so soon to a task that slept, the waking included, may have come within the window.
const SOON: Duration = Duration::from_micros(150);
/// It looks from this score on: one for each time that something came soon.
const WORTH: i32 = 32;
const BEST: i32 = 64;
/// What it takes from the score that nothing came; twice as much each time in a row.
const LEAST_PENALTY: i32 = 8;
const MOST_PENALTY: i32 = 1 << 16;

/// Busy polling for connections with one call at a time, which do little but sleep and wake.
///
/// Only where the runtime has one worker: with more of them another one waits for sockets already, and
/// looking would find nothing sooner. Other tasks run in between.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    able: bool,
    /// Since when nothing has come.
    since: Option<Instant>,
    /// How often it has looked since then.
    looks: u32,
    score: i32,
    penalty: i32,
}

impl BusyPoll {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Handle::try_current();
        Self::of(runtime.is_ok_and(|runtime| runtime.metrics().num_workers() == 1))
    }

    fn of(able: bool) -> Self {
        Self {
            able,
            since: None,
            looks: 0,
            score: 0,
            penalty: LEAST_PENALTY,
        }
    }

    /// Since when nothing has come.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Something has come, so long after the peer was given something to do.
    pub(crate) fn came(&mut self, since: Option<Instant>, now: Instant) {
        let looked = std::mem::take(&mut self.since).is_some();
        let Some(since) = since else {
            return;
        };
        if looked && (1..=LOOKS).contains(&self.looks) {
            self.penalty = (self.penalty / 2).max(LEAST_PENALTY);
        }
        self.score = if now.saturating_duration_since(since) < SOON {
            (self.score + 1).min(BEST)
        } else {
            (self.score - LEAST_PENALTY).max(self.score.min(0))
        };
    }

    /// Whether it looks, now or after the next thing that is sent.
    pub(crate) fn is_on(&self) -> bool {
        self.able && self.score >= WORTH
    }

    /// Has the task polled again, after others, if something may come soon; `since` is when the peer
    /// was last given something to do.
    pub(crate) fn look_again(&mut self, since: Instant, cx: &mut Context<'_>) {
        // Polled once, a yield leaves the task to be polled after the next look at the sockets.
        if self.wants_look(since, Instant::now())
            && pin!(tokio::task::yield_now()).poll(cx).is_ready()
        {
            cx.waker().wake_by_ref();
        }
    }

    fn wants_look(&mut self, since: Instant, now: Instant) -> bool {
        if self.since != Some(since) {
            self.since = Some(since);
            self.looks = 0;
        }
        if !self.is_on() || self.looks > LOOKS {
            return false;
        }
        self.looks += 1;
        if self.looks > LOOKS || now.saturating_duration_since(since) >= WINDOW {
            self.looks = LOOKS + 1;
            self.score = (self.score - self.penalty).max(-MOST_PENALTY);
            self.penalty = (self.penalty * 2).min(MOST_PENALTY);
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays gaps between what is sent and what comes; how many looks there were.
    fn play(poll: &mut BusyPoll, gaps: impl IntoIterator<Item = u64>) -> u32 {
        let mut now = Instant::now();
        let mut looks = 0;
        for gap in gaps {
            let (since, came) = (now, now + Duration::from_micros(gap));
            while now < came && poll.wants_look(since, now) {
                looks += 1;
                now += Duration::from_micros(1);
            }
            now = came;
            poll.came(Some(since), now);
        }
        looks
    }

    #[test]
    fn it_looks_once_things_have_come_soon_for_a_while() {
        let mut poll = BusyPoll::of(true);
        assert_eq!(play(&mut poll, [60; WORTH as usize]), 0);
        assert!(poll.is_on());
        assert_eq!(play(&mut poll, [10; 100]), 1000);
        // One late answer in twenty is still worth it.
        play(
            &mut poll,
            (0..1000).map(|n| if n % 20 == 0 { 5000 } else { 10 }),
        );
        assert!(poll.is_on());
    }

    #[test]
    fn what_comes_between_the_window_and_soon_is_looked_for_ever_more_rarely() {
        let mut poll = BusyPoll::of(true);
        let first = play(&mut poll, [120; 1000]);
        assert!(first >= 50, "{first}");
        let later = play(&mut poll, [120; 100_000]);
        assert!(later <= 20 * 50, "{later}");
    }

    #[test]
    fn a_peer_that_is_far_is_not_looked_for() {
        let mut poll = BusyPoll::of(true);
        assert_eq!(play(&mut poll, [200; 10_000]), 0);
    }

    #[test]
    fn looking_ends_where_the_clock_stands_still() {
        let mut poll = BusyPoll::of(true);
        play(&mut poll, [10; 100]);
        let now = Instant::now();
        let mut looks = 0;
        while poll.wants_look(now, now) {
            looks += 1;
            assert!(looks <= LOOKS);
        }
        // It has given up until something comes.
        assert!(poll.is_on() && !poll.wants_look(now, now));
    }
}
