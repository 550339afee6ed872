//! What makes no progress: calls live until their deadlines, and give way only once memory is short.

use std::time::{Duration, Instant};

use rpc_http2::StreamKey;

use super::calls::{Call, More, Stage, State};
use crate::Status;
use crate::server::load::Held;

/// How often there is a look in the time that a call may make no progress.
const LOOKS: u32 = 4;
/// Who moves so much a second is slow, and does make progress: 1 KiB, less what a look may miss.
const SLOWEST: u64 = 900;

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    /// The client, which does not go on with its message.
    Request,
    /// The handler, which does not take its requests.
    Handler,
    /// The client, which does not take its responses.
    Reader,
}

/// A call that holds memory and makes no progress.
#[derive(Clone, Copy, Debug)]
struct Slow {
    key: StreamKey,
    octets: usize,
    /// How many looks have found it so.
    looks: u8,
    waits: WaitsFor,
}

impl Slow {
    fn status(self, pause: Duration) -> Status {
        let seconds = pause.as_secs_f64() * f64::from(self.looks);
        let short = "this server was short of memory and";
        Status::resource_exhausted(match self.waits {
            WaitsFor::Request => {
                format!("{short} the client had not gone on with its message for {seconds:.0} s")
            }
            WaitsFor::Handler => {
                format!("{short} the handler had not read this stream for {seconds:.0} s")
            }
            WaitsFor::Reader => format!("{short} this stream had not been read for {seconds:.0} s"),
        })
    }
}

impl State {
    /// The time between two looks; nothing when nobody has to give way.
    fn pause(&self) -> Option<Duration> {
        Some(self.machine.limits().stall? / LOOKS)
    }

    /// When there is another look at what makes no progress, if this connection holds anything.
    pub(super) fn next_look(&mut self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        if self.look.is_none() && self.account.is_holding() {
            self.look = self.pause().and_then(|pause| now().checked_add(pause));
        }
        self.look
    }

    /// While half of the budget is used up, ends calls that make no progress to speak of, the slowest
    /// first, until it is not.
    pub(super) fn look_at_slow(&mut self, now: Instant) {
        if self.look.is_none_or(|look| now < look) {
            return;
        }
        self.look = None;
        let Some(pause) = self.pause() else {
            return;
        };
        self.count_unsent();
        let mut slow = self.slow(pause);
        slow.sort_unstable_by_key(|slow| std::cmp::Reverse((slow.looks, slow.octets)));
        for slow in slow {
            // What others let go of counts as well.
            if self
                .account
                .patience()
                .is_none_or(|patience| slow.looks < patience)
            {
                break;
            }
            self.cut(slow, pause);
        }
    }

    /// Looks at everything that holds memory.
    fn slow(&mut self, pause: Duration) -> Vec<Slow> {
        let enough = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX) * SLOWEST / 1000;
        let enough = usize::try_from(enough).unwrap_or(usize::MAX);
        let mut slow = Vec::new();
        for call in self.calls.iter_mut().flatten() {
            let key = call.key;
            let Some((held, waits)) = received(call) else {
                continue;
            };
            // Who reads decides what is progress.
            let looks = held.look((waits == WaitsFor::Request).then_some(enough));
            slow.push(Slow {
                key,
                octets: held.octets(),
                looks,
                waits,
            });
        }
        let enough = u32::try_from(enough).unwrap_or(u32::MAX);
        self.machine.look_at_unsent(enough, |unsent| {
            slow.push(Slow {
                key: unsent.stream,
                octets: unsent.octets,
                looks: unsent.looks,
                waits: WaitsFor::Reader,
            });
        });
        slow.retain(|slow| slow.looks > 0 && slow.octets > 0);
        slow
    }

    /// Ends a call, and drops what it holds.
    fn cut(&mut self, slow: Slow, pause: Duration) {
        let status = slow.status(pause);
        tracing::debug!(%status, octets = slow.octets, "a call was ended");
        self.machine.drop_unsent(slow.key);
        let ended = matches!(
            self.call(slow.key),
            None | Some(Call {
                stage: Stage::Ended,
                ..
            })
        );
        if ended {
            // Its handler has ended, and the client has not heard of it yet.
            self.refuse(slow.key, &status, true);
        } else {
            self.end(slow.key.index(), status);
        }
        self.count_unsent();
    }
}

/// What a call holds of what it has received, and who has to take it or go on with it.
fn received(call: &mut Call) -> Option<(&mut Held, WaitsFor)> {
    match &mut call.stage {
        Stage::Gathering(gathering) => Some((&mut gathering.held, WaitsFor::Request)),
        Stage::Task { inbox, .. } => {
            let waits = match inbox.more {
                More::Open(_) if !inbox.assembler.has_whole() => WaitsFor::Request,
                _ => WaitsFor::Handler,
            };
            Some((inbox.held.as_deref_mut()?, waits))
        }
        Stage::InPlace | Stage::Ended => None,
    }
}

#[cfg(test)]
mod tests;
