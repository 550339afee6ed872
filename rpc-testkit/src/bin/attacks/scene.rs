//! A server under attack with a bystander, and what the attack came to.

use std::time::{Duration, Instant};

use crate::bystander::{Bystander, Seen};
use crate::victim::Victim;
use crate::{GROWTH, Outcome};

/// What a server may hold more than before once it is at rest, in KiB: what its allocator cannot give
/// back, because something small is behind it.
const KEPT: u64 = GROWTH;

/// A victim and a bystander, and what was before.
pub(crate) struct Scene {
    pub(crate) victim: Victim,
    bystander: Bystander,
    before: u64,
    /// The most that it took during the attack, in KiB.
    peak: Option<u64>,
    start: Instant,
    took: Option<Duration>,
}

/// What it came to.
pub(crate) struct Found {
    /// The most that the server's memory grew by during the attack, in KiB.
    pub(crate) peak: u64,
    /// How much more it held afterwards, in KiB; nothing when it ran handlers or held connections.
    pub(crate) left: Option<u64>,
    /// How much it held more after the same attack once more, in KiB; nothing when it was not made.
    pub(crate) again: Option<u64>,
    pub(crate) seen: Seen,
    pub(crate) took: Duration,
}

impl Scene {
    pub(crate) async fn begin(limits: &[&str]) -> Outcome<Self> {
        Self::of(Victim::start(limits)?).await
    }

    pub(crate) async fn of(victim: Victim) -> Outcome<Self> {
        let bystander = Bystander::start(&victim).await?;
        victim.forget_peak()?;
        let before = victim.memory()?;
        Ok(Self {
            victim,
            bystander,
            before,
            peak: None,
            start: Instant::now(),
            took: None,
        })
    }

    /// The attack is over; what comes now is not counted to it.
    pub(crate) fn attacked(&mut self) -> Outcome<()> {
        self.took = Some(self.start.elapsed());
        self.peak = Some(self.victim.peak()?);
        Ok(())
    }

    /// Lets go of what the attack holds, and looks whether the server comes to rest.
    pub(crate) async fn end<T>(self, held: T) -> Outcome<Found> {
        let (found, _) = self.rest(held).await?;
        Ok(found)
    }

    /// Like [`end`](Self::end). When more than [`KEPT`] is left, the attack is made again: what is free
    /// in the allocator serves the second one, what is lost is lost twice.
    pub(crate) async fn end_or_again(
        self,
        attack: impl AsyncFn(&Victim) -> Outcome<()>,
    ) -> Outcome<Found> {
        let before = self.before;
        let (mut found, victim) = self.rest(()).await?;
        if let Some(left) = found.left.filter(|left| *left > KEPT) {
            attack(&victim).await?;
            let before = before + left;
            let held = victim.is_quiet(before + KEPT).await;
            found.again = held.map(|held| held.saturating_sub(before));
        }
        Ok(found)
    }

    async fn rest<T>(mut self, held: T) -> Outcome<(Found, Victim)> {
        if self.peak.is_none() {
            self.attacked()?;
        }
        let seen = self.bystander.stop().await?;
        drop(held);
        let left = self.victim.is_quiet(self.before + KEPT).await;
        let found = Found {
            peak: self.peak.unwrap_or(0).saturating_sub(self.before),
            left: left.map(|left| left.saturating_sub(self.before)),
            again: None,
            seen,
            took: self.took.unwrap_or_default(),
        };
        Ok((found, self.victim))
    }
}

impl Found {
    /// Whether the server is as it was.
    pub(crate) fn is_at_rest(&self) -> bool {
        let repeated = self.again.is_some_and(|more| more <= KEPT);
        self.left.is_some_and(|left| left <= KEPT || repeated)
    }
}
