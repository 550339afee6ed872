//! One stream of watches: [`serve`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rpc_core::{RecvStream, SendStream, Status};
use tokio::time::Instant;

use super::access::Caller;
use super::closing;
use super::leases::refusal;
use crate::convert;
use crate::generated::watch_request::Step;
use crate::generated::{Follow, Gone, Refused, WatchRequest};
use crate::hub::{Hub, Mailbox, Watching};
use crate::store::Change;

/// How many octets of instances are in one piece, about: each is a sign of life on a slow network,
/// and gives way to other watches.
const PIECE: usize = 16 * 1024;
/// Changes that come within this time of others are told with them: in proportion to the watches that
/// the registry has, so that telling of many changes leaves time to take them in.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));
/// What one watch adds to it.
const PAUSE_OF_A_WATCH: Duration = Duration::from_micros(100);
/// A stream gives a sign of life this often, or once a TTL where that is shorter.
const SIGN: Duration = Duration::from_secs(5);

/// A [`WatchResponse`](crate::generated::WatchResponse) with instances that are encoded already:
/// once for all watchers. What goes over the wire is the same.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Piece {
    #[prost(uint32, tag = "1")]
    watch: u32,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(uint32, tag = "4")]
    ttl_ms: u32,
    #[prost(bool, tag = "5")]
    whole: bool,
    #[prost(bool, tag = "6")]
    more: bool,
    #[prost(bool, tag = "7")]
    refilling: bool,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    instances: Vec<Bytes>,
    #[prost(message, repeated, tag = "9")]
    gone: Vec<Gone>,
    #[prost(message, optional, tag = "10")]
    refused: Option<Refused>,
}

/// One watch and how much of its list the client knows.
struct Followed {
    watching: Watching,
    known: u64,
    /// The next piece begins a whole list.
    begins: bool,
    queued: bool,
}

struct Stream<'a> {
    hub: &'a Arc<Hub>,
    caller: &'a Caller,
    mailbox: Arc<Mailbox>,
    followed: HashMap<u32, Followed>,
    /// The watches with something to tell, in turn.
    queue: VecDeque<u32>,
    /// Watches that are refused.
    refused: VecDeque<(u32, Refused)>,
}

pub(crate) async fn serve(
    hub: &Arc<Hub>,
    caller: &Caller,
    mut requests: RecvStream<WatchRequest>,
    responses: &mut SendStream<Piece>,
) -> Result<(), Status> {
    let mut stream = Stream {
        hub,
        caller,
        mailbox: Arc::default(),
        followed: HashMap::new(),
        queue: VecDeque::new(),
        refused: VecDeque::new(),
    };
    let mailbox = Arc::clone(&stream.mailbox);
    let mut closed = std::pin::pin!(hub.closed());
    let mut signs = tokio::time::interval(hub.ttl.min(SIGN));
    let mut refilling = hub.is_refilling();
    let mut pause_over = Instant::now();
    // The head, so that the client knows at once that it is served.
    responses.send_headers();
    loop {
        let news = async {
            tokio::time::sleep_until(pause_over).await;
            mailbox.notified().await;
        };
        tokio::select! {
            biased;
            () = &mut closed => return Err(closing()),
            asked = requests.recv() => match asked? {
                Some(asked) => stream.step(asked)?,
                None => return Ok(()),
            },
            _ = signs.tick() => {
                let sign = stream.piece(0);
                tokio::select! {
                    sent = responses.send(sign) => sent?,
                    () = &mut closed => return Err(closing()),
                }
            }
            () = tokio::time::sleep_until(hub.refilled), if refilling => {
                // Everybody is told that what is missing is missing now.
                refilling = false;
                let all: Vec<u32> = stream.followed.keys().copied().collect();
                all.into_iter().for_each(|watch| stream.enqueue(watch));
            }
            () = news => {
                pause_over = Instant::now() + pause(hub.watches());
                mailbox.take().into_iter().for_each(|watch| stream.enqueue(watch));
            }
            permit = responses.reserve(), if stream.has_something() => {
                let permit = permit?;
                if let Some(piece) = stream.next() {
                    permit.send(piece)?;
                }
            }
        }
    }
}

fn pause(watches: usize) -> Duration {
    let watches = u32::try_from(watches).unwrap_or(u32::MAX);
    PAUSE_OF_A_WATCH
        .saturating_mul(watches)
        .clamp(PAUSE.0, PAUSE.1)
}

impl Stream<'_> {
    fn step(&mut self, asked: WatchRequest) -> Result<(), Status> {
        let watch = asked.watch;
        match asked.step {
            Some(Step::Follow(follow)) => {
                if watch == 0 || self.followed.contains_key(&watch) {
                    return Err(Status::invalid_argument(format!(
                        "{watch} cannot name another watch of this stream"
                    )));
                }
                if let Err(status) = self.follow(watch, &follow) {
                    let service: String = follow.service.chars().take(64).collect();
                    tracing::warn!(service, peer = &*self.caller.name, %status, "refused");
                    self.refused.push_back((watch, refusal(&status)));
                }
                Ok(())
            }
            Some(Step::Unfollow(_)) => {
                self.followed.remove(&watch);
                Ok(())
            }
            None => Err(Status::unimplemented(
                "this registry does not know that step",
            )),
        }
    }

    fn follow(&mut self, watch: u32, follow: &Follow) -> Result<(), Status> {
        convert::valid_service(&follow.service)?;
        let connection = self.caller.connection.as_ref();
        let watching = self
            .hub
            .watch(&follow.service, connection, watch, &self.mailbox)
            .map_err(|most| {
                Status::resource_exhausted(format!(
                    "this would be more than {most} watches: watch fewer names, or through another connection"
                ))
            })?;
        let knows = follow.incarnation == self.hub.incarnation
            && self.hub.remembers(&follow.service, follow.revision);
        let followed = Followed {
            watching,
            known: if knows { follow.revision } else { 0 },
            begins: !knows,
            queued: false,
        };
        self.followed.insert(watch, followed);
        self.enqueue(watch);
        Ok(())
    }

    fn enqueue(&mut self, watch: u32) {
        if let Some(followed) = self.followed.get_mut(&watch)
            && !std::mem::replace(&mut followed.queued, true)
        {
            self.queue.push_back(watch);
        }
    }

    fn has_something(&self) -> bool {
        !self.queue.is_empty() || !self.refused.is_empty()
    }

    fn piece(&self, watch: u32) -> Piece {
        Piece {
            watch,
            incarnation: self.hub.incarnation,
            ttl_ms: convert::to_milliseconds(self.hub.ttl),
            refilling: self.hub.is_refilling(),
            ..Piece::default()
        }
    }

    /// The next piece of the watch whose turn it is.
    fn next(&mut self) -> Option<Piece> {
        if let Some((watch, refused)) = self.refused.pop_front() {
            let mut piece = self.piece(watch);
            piece.refused = Some(refused);
            return Some(piece);
        }
        let watch = self.queue.pop_front()?;
        let mut piece = self.piece(watch);
        // One that has been ended is in the queue still.
        let followed = self.followed.get_mut(&watch)?;
        followed.queued = false;
        let service = &followed.watching.service;
        if followed.known > 0 && !self.hub.remembers(service, followed.known) {
            // Some of those who went since are forgotten.
            (followed.known, followed.begins) = (0, true);
        }
        let changes = self.hub.since(service, followed.known, PIECE);
        piece.whole = std::mem::take(&mut followed.begins);
        followed.known = changes.revision;
        piece.revision = changes.revision;
        piece.more = changes.more;
        for change in changes.changes {
            match change {
                Change::Listed(listed) => piece.instances.push(listed.encoded.clone()),
                Change::Gone {
                    instance: id,
                    deregistered,
                } => piece.gone.push(Gone { id, deregistered }),
            }
        }
        if piece.more {
            self.enqueue(watch);
        }
        Some(piece)
    }
}
