//! Whether the task of a connection looks again for what comes next before it sleeps.

use std::pin::pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

/// For how long it looks: long enough for a peer that sleeps itself, since both begin to look at
/// about the same time. Between machines a round trip is longer, and looking does not begin.
const WINDOW: Duration = Duration::from_micros(50);
/// What comes later would have cost less asleep.
const WORTHWHILE: Duration = Duration::from_micros(20);
/// How often it looks in a window, where the clock stands still.
const LOOKS: u32 = 128;
/// What came so soon to a task that slept, the waking included, may have come within the window.
const SOON: Duration = Duration::from_micros(150);
/// It looks from this score on: one for each time that something came soon. Once there it is the best,
/// and falls while what comes is not worth while.
const WORTH: i32 = 32;
const BEST: i32 = 64;
/// What it takes from the score that looking was in vain; twice as much each time in a row.
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

    /// Something has come, so long after the peer was given something to do; more than one thing at a
    /// time comes from a peer that is busy itself and waits for nobody.
    pub(crate) fn came(&mut self, since: Option<Instant>, now: Instant, single: bool) {
        let looked = std::mem::take(&mut self.since).is_some() && (1..=LOOKS).contains(&self.looks);
        let Some(since) = since else {
            return;
        };
        let gap = now.saturating_duration_since(since);
        match (looked, single) {
            (true, true) if gap <= WORTHWHILE => {
                self.score = (self.score + 1).min(BEST);
                self.penalty = (self.penalty / 2).max(LEAST_PENALTY);
            }
            (true, true) => {
                self.score -= 1;
                if self.score < WORTH {
                    self.punish();
                }
            }
            (false, true) if gap < SOON => {
                self.score += 1;
                if self.score >= WORTH {
                    self.score = BEST;
                }
            }
            _ => self.score = (self.score - LEAST_PENALTY).max(self.score.min(0)),
        }
    }

    fn punish(&mut self) {
        self.score = (self.score - self.penalty).max(-MOST_PENALTY);
        self.penalty = (self.penalty * 2).min(MOST_PENALTY);
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
            self.punish();
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
            poll.came(Some(since), now, true);
        }
        looks
    }

    #[test]
    fn it_looks_once_things_have_come_soon_for_a_while() {
        let mut poll = BusyPoll::of(true);
        assert_eq!(play(&mut poll, [50; WORTH as usize]), 0);
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
        for gap in [30, 120] {
            let mut poll = BusyPoll::of(true);
            let first = play(&mut poll, [gap; 1000]);
            assert!(first >= 50, "{first}");
            let later = play(&mut poll, std::iter::repeat_n(gap, 100_000));
            assert!(later <= first * 20, "{later}");
        }
    }

    #[test]
    fn two_that_begin_to_look_find_each_other() {
        // Each takes 5 us to answer, and 30 us more when it has to be woken.
        let mut polls = [BusyPoll::of(true), BusyPoll::of(true)];
        let mut now = Instant::now();
        for turn in 0..1000 {
            let woken = if polls[(turn + 1) % 2].is_on() { 0 } else { 30 };
            let poll = &mut polls[turn % 2];
            let (since, came) = (now, now + Duration::from_micros(5 + woken));
            while now < came && poll.wants_look(since, now) {
                now += Duration::from_micros(1);
            }
            now = came;
            poll.came(Some(since), now, true);
        }
        assert!(polls.iter().all(BusyPoll::is_on));
    }

    #[test]
    fn a_peer_that_is_far_is_not_looked_for() {
        let mut poll = BusyPoll::of(true);
        assert_eq!(play(&mut poll, [200; 10_000]), 0);
    }

    #[test]
    fn a_peer_with_many_calls_at_a_time_is_not_looked_for() {
        let mut poll = BusyPoll::of(true);
        let mut now = Instant::now();
        for call in 0..1000 {
            assert!(!poll.wants_look(now, now));
            let since = now;
            now += Duration::from_micros(10);
            poll.came(Some(since), now, call % 4 != 0);
        }
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
