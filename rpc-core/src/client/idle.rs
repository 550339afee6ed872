//! Channels that make no calls: their connections close until there is one.

use std::time::Duration;

use tokio::time::Instant;

/// So often in the time that a channel may be idle it is looked whether it is.
const LOOKS: u32 = 4;

/// What the connections of a channel do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Activity {
    /// Streams that were opened on those that there are.
    pub(crate) opened: u64,
    /// Streams that are open.
    pub(crate) open: usize,
}

impl Activity {
    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            opened: self.opened.wrapping_add(other.opened),
            open: self.open.saturating_add(other.open),
        }
    }
}

/// Whether a channel has made calls of late. Calls are not counted for it, which would be work for each:
/// it looks now and then what the connections have done.
#[derive(Debug)]
pub(super) struct IdleWatch {
    pause: Option<Duration>,
    next: Option<Instant>,
    before: Activity,
    /// Looks in a row that have found nothing new.
    unused: u32,
}

impl IdleWatch {
    pub(super) fn new(timeout: Option<Duration>, now: Instant) -> Self {
        let pause = timeout.map(|timeout| timeout / LOOKS);
        Self {
            pause,
            next: pause.and_then(|pause| now.checked_add(pause)),
            before: Activity::default(),
            unused: 0,
        }
    }

    /// Waits until it is time to look.
    pub(super) async fn due(&self) {
        match self.next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// Takes in what the connections have done; true when there were no calls for long enough.
    pub(super) fn look(&mut self, now: Instant, activity: Activity) -> bool {
        let before = std::mem::replace(&mut self.before, activity);
        let is_unused = before.open == 0 && activity.open == 0 && before.opened == activity.opened;
        self.unused = if is_unused { self.unused + 1 } else { 0 };
        if self.unused < LOOKS {
            self.next = self.pause.and_then(|pause| now.checked_add(pause));
            return false;
        }
        self.next = None;
        true
    }

    /// There is a call again.
    pub(super) fn begin(&mut self, now: Instant) {
        self.unused = 0;
        self.next = self.pause.and_then(|pause| now.checked_add(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a channel that has done so at each look is idle, in looks.
    fn idle_at(looks: impl Fn(u64) -> (u64, usize)) -> Option<u64> {
        let start = Instant::now();
        let mut watch = IdleWatch::new(Some(Duration::from_secs(400)), start);
        (1..1000).find(|look| {
            let (opened, open) = looks(*look);
            let now = watch.next.expect("it looks again");
            assert_eq!(now, start + Duration::from_secs(100 * look));
            watch.look(now, Activity { opened, open })
        })
    }

    #[test]
    fn a_channel_is_idle_once_it_has_had_no_call_for_its_time() {
        assert_eq!(idle_at(|_| (0, 0)), Some(4));
        // A call just before the tenth look, one that goes on until the tenth, and a call every now
        // and then.
        assert_eq!(
            idle_at(|look| (1 + u64::from(look >= 10), 0)).map(|at| at > 4),
            Some(true)
        );
        assert_eq!(idle_at(|look| (1, usize::from(look < 10))), Some(14));
        assert_eq!(idle_at(|look| (look / 4, 0)), None);
        assert_eq!(idle_at(|_| (1, 1)), None);
    }
}
