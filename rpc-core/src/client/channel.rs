//! [`Channel`]: a service's endpoints as one thing to call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::balancer::{Pick, PickContext};
use super::budget::RetryBudget;
use super::builder::ChannelBuilder;
use super::control::Published;
use super::interceptor::ErasedInterceptor;
use super::observer::CallObserver;
use super::random::Random;
use super::stream::{self, ClientStream, RequestStream};
use super::subchannel::Subchannel;
use super::tracker::CallTracker;
use super::{call, interceptor::ClientCall};
use crate::lock::outside;
use crate::stream::RecvStream;
use crate::transport::http2::client::Connection;
use crate::wire::compression::Encoding;
use crate::wire::message;
use crate::{Deadline, Method, Request, Response, Status};

/// A name or address as one thing to call: its endpoints, the connections to them, and the policy
/// that spreads calls over them and repeats those that can be repeated.
///
/// Cheap to clone; all clones share the connections, which close when the last clone is gone and
/// the open calls are done. A call that fails says which endpoint and attempt it failed on.
#[derive(Clone)]
pub struct Channel(pub(crate) Arc<Core>);

pub(crate) struct Core {
    pub(crate) target: Arc<str>,
    pub(crate) published: Arc<Published>,
    pub(crate) kicks: mpsc::Sender<()>,
    pub(crate) random: Arc<Random>,
    pub(crate) budget: RetryBudget,
    pub(crate) interceptors: Vec<Box<dyn ErasedInterceptor>>,
    pub(crate) observers: Vec<Arc<dyn CallObserver>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) encoding: Encoding,
    pub(crate) receive_limit: usize,
    pub(crate) runtime: Handle,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("target", &self.0.target)
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// Connects to one address: `http://host:port`, `https://host:port`, `unix:/path` or, on Linux,
    /// `unix-abstract:name`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a target that is none, `UNAVAILABLE` naming the endpoint and the
    /// cause when it cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future closes what it had opened.
    pub async fn connect(target: &str) -> Result<Self, Status> {
        Self::builder().connect(target).await
    }

    /// A channel that connects when the first call is made.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a target that is none, `FAILED_PRECONDITION` outside a tokio runtime.
    pub fn lazy(target: &str) -> Result<Self, Status> {
        Self::builder().lazy(target)
    }

    /// A channel with settings of its own.
    #[must_use]
    pub fn builder() -> ChannelBuilder {
        ChannelBuilder::new()
    }

    /// Starts connecting and waits until a call could be sent.
    ///
    /// # Errors
    /// `UNAVAILABLE` naming the endpoints and the cause when none can be reached.
    ///
    /// # Cancel safety
    /// Cancel safe; the channel goes on connecting.
    pub async fn ready(&self) -> Result<(), Status> {
        let picked = self.0.pick("", None, &[], false).await;
        consume_budget().await;
        picked
            .map(drop)
            .map_err(|status| status.with_target(&self.0.target))
    }

    /// Ends the waits between attempts to connect: whatever cannot be reached is tried at once, and
    /// the waits begin anew. For a program that knows that the network is back.
    pub fn reset_connect_backoff(&self) {
        self.0.published.reset_backoff();
    }

    /// Makes a unary call.
    ///
    /// # Errors
    /// The status of the call.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn unary<Q, R>(
        &self,
        method: &Method<Q, R>,
        request: Request<Q>,
    ) -> Result<Response<R>, Status> {
        let core = &self.0;
        let encoded = message::encode(method.request.encoder, request.get_ref(), core.encoding);
        let body = match encoded {
            Ok(body) => body,
            Err(status) => {
                consume_budget().await;
                return Err(status.with_path(method.path()));
            }
        };
        let call = core.client_call(method, request, Some(body), true);
        if !core.interceptors.is_empty() {
            let run = async {
                let deadline = call.deadline;
                let reply = core.run(call).await;
                // An interceptor may have answered at once.
                consume_budget().await;
                let reply = reply?;
                if reply.is_heavy(method) {
                    return reply.decode_apart(method, deadline).await;
                }
                reply.into_response(method)
            };
            return Box::pin(run).await;
        }
        let deadline = call.deadline;
        let mut plan = call::Plan::new(&**core, call);
        let outcome = match plan.unary().await {
            Ok(reply) if reply.is_heavy(method) => {
                Box::pin(reply.decode_apart(method, deadline)).await
            }
            Ok(reply) => reply.into_response(method),
            Err(status) => Err(status),
        };
        plan.report(outcome.as_ref().err());
        if outcome.is_err() {
            // What was answered has waited for the answer; a failure may have come at once, and who
            // calls again and again must not keep others from running.
            consume_budget().await;
        }
        outcome
    }

    /// Starts a call with one request and a stream of responses; it starts at once.
    #[must_use]
    pub fn server_streaming<Q, R>(
        &self,
        method: &Method<Q, R>,
        request: Request<Q>,
    ) -> RecvStream<R> {
        let encoded = message::encode(method.request.encoder, request.get_ref(), self.0.encoding);
        match encoded {
            Ok(body) => {
                let call = self.0.client_call(method, request, Some(body), true);
                stream::start(&self.0, method, call).1
            }
            Err(status) => RecvStream::failed(
                Arc::new(method.response.decoder),
                status.with_path(method.path()),
            ),
        }
    }

    /// Starts a call with a stream of requests and one response; it starts at once.
    #[must_use]
    pub fn client_streaming<Q, R>(
        &self,
        method: &Method<Q, R>,
        request: Request<()>,
    ) -> ClientStream<Q, R> {
        let call = self.0.client_call(method, request, None, false);
        let (requests, responses) = stream::start(&self.0, method, call);
        ClientStream::new(requests, responses)
    }

    /// Starts a call with streams both ways; it starts at once.
    #[must_use]
    pub fn bidi_streaming<Q, R>(
        &self,
        method: &Method<Q, R>,
        request: Request<()>,
    ) -> (RequestStream<Q>, RecvStream<R>) {
        let call = self.0.client_call(method, request, None, false);
        stream::start(&self.0, method, call)
    }
}

/// Where an attempt goes.
pub(crate) struct Picked {
    pub(crate) subchannel: Subchannel,
    pub(crate) connection: Arc<Connection>,
    pub(crate) tracker: Option<Arc<dyn CallTracker>>,
}

impl Core {
    fn client_call<Q, R, M>(
        &self,
        method: &Method<Q, R>,
        request: Request<M>,
        body: Option<bytes::Bytes>,
        end: bool,
    ) -> ClientCall {
        let started = Instant::now();
        let own = request
            .timeout
            .or(self.timeout)
            .map(|timeout| Deadline::after_instant(started, timeout));
        ClientCall {
            path: method.path_cow(),
            kind: method.kind(),
            codecs: method.codecs(),
            repeatable: method.idempotency().is_repeatable(),
            metadata: request.metadata,
            extensions: request.extensions,
            deadline: Deadline::earlier(own, Deadline::current()),
            options: request.options,
            body,
            end,
            started,
        }
    }

    /// Makes a call through the interceptors.
    pub(crate) async fn run(self: &Arc<Self>, call: ClientCall) -> Result<super::Reply, Status> {
        if self.interceptors.is_empty() {
            return call::run(self, call).await;
        }
        let next = super::Next {
            core: self,
            rest: &self.interceptors,
        };
        Box::pin(next.run(call)).await
    }

    /// Wakes the control task for the first time, or from its rest.
    fn kick(&self) {
        // A full queue has woken it already.
        let _ = self.kicks.try_send(());
    }

    /// Chooses where an attempt goes, or says which snapshot has no answer yet.
    pub(crate) fn pick_now(
        &self,
        path: &str,
        hash_key: Option<u64>,
        avoid: &[u64],
        wait_for_ready: bool,
        now: Instant,
    ) -> Result<Result<Picked, Status>, u64> {
        let mut asked = None;
        loop {
            // Picker and number are one: whoever waits, waits for a picker after the one it asked.
            let snapshot = self.published.snapshot.load();
            if asked == Some(snapshot.generation) {
                return Err(snapshot.generation);
            }
            asked = Some(snapshot.generation);
            if snapshot.generation == 0 {
                self.kick();
            }
            let context = PickContext {
                path,
                hash_key,
                avoid,
                random: self.random.bits(),
                now,
                updates: &self.published.updates,
            };
            outside("a picker");
            match snapshot.picker.pick(&context) {
                Pick::To(subchannel, tracker) => {
                    if let Some(connection) = subchannel.connection() {
                        return Ok(Ok(Picked {
                            subchannel,
                            connection,
                            tracker,
                        }));
                    }
                    // A connection that is gone has its next picker on the way.
                }
                Pick::Wait => {
                    // A channel that rests goes on with this.
                    self.kick();
                    return Err(snapshot.generation);
                }
                Pick::Fail(_) if wait_for_ready => return Err(snapshot.generation),
                Pick::Fail(_) if self.kicks.is_closed() => return Ok(Err(self.ended())),
                Pick::Fail(status) => return Ok(Err(status)),
            }
        }
    }

    /// Why no endpoint is ready, as far as that is known.
    pub(crate) fn unready(&self, path: &str) -> Option<Status> {
        match self.pick_now(path, None, &[], false, Instant::now()) {
            Ok(Err(status)) => Some(status),
            Ok(Ok(_)) | Err(_) => None,
        }
    }

    /// Chooses where an attempt goes, waiting while something is connecting.
    pub(crate) async fn pick(
        &self,
        path: &str,
        hash_key: Option<u64>,
        avoid: &[u64],
        wait_for_ready: bool,
    ) -> Result<Picked, Status> {
        let mut seen: Option<tokio::sync::watch::Receiver<u64>> = None;
        loop {
            let now = Instant::now();
            let generation = match self.pick_now(path, hash_key, avoid, wait_for_ready, now) {
                Ok(picked) => return picked,
                Err(generation) => generation,
            };
            let receiver = seen.get_or_insert_with(|| self.published.generation.subscribe());
            tokio::select! {
                biased;
                // An error means the same; the sender is in the channel, so that there is none.
                _ = receiver.wait_for(|current| *current > generation) => {}
                () = self.kicks.closed() => return Err(self.ended()),
            }
        }
    }

    /// Why there will be no picker and no connection any more.
    fn ended(&self) -> Status {
        Status::unavailable(format!(
            "the task of the channel to {} has ended, with the runtime that the channel was made on or \
             by a panic of its resolver or balancer: make channels on a runtime that lives as long as \
             their calls",
            self.target
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::control::Snapshot;
    use crate::client::{Endpoint, Picker};

    /// By the time that it is asked there is another one; the last one has the answer.
    struct Old(Arc<Published>, u64);

    impl Picker for Old {
        fn pick(&self, _: &PickContext<'_>) -> Pick {
            if self.1 == 20 {
                return Pick::Fail(Status::unavailable("as the last one says"));
            }
            let generation = self.1 + 1;
            let picker = Arc::new(Self(Arc::clone(&self.0), generation));
            self.0
                .snapshot
                .store(Arc::new(Snapshot { picker, generation }));
            let endpoint = Endpoint::new("127.0.0.1:1".parse().unwrap());
            Pick::To(Subchannel::detached(endpoint, false), None)
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_picker_has_asked_the_one_before_it() {
        let channel = Channel::lazy("http://127.0.0.1:1").unwrap();
        let published = &channel.0.published;
        let picker = Arc::new(Old(Arc::clone(published), 1));
        let first = Snapshot {
            picker,
            generation: 1,
        };
        published.snapshot.store(Arc::new(first));
        let picked = channel.0.pick_now("", None, &[], false, Instant::now());
        let status = picked.unwrap().err().unwrap();
        assert_eq!(status.message(), "as the last one says");
        published.snapshot.store(Arc::new(Snapshot {
            picker: Arc::new(Lost),
            generation: 30,
        }));
        let picked = channel.0.pick_now("", None, &[], false, Instant::now());
        assert_eq!(picked.err(), Some(30));
    }

    /// Gives an endpoint whose connection is gone.
    struct Lost;

    impl Picker for Lost {
        fn pick(&self, _: &PickContext<'_>) -> Pick {
            let endpoint = Endpoint::new("127.0.0.1:1".parse().unwrap());
            Pick::To(Subchannel::detached(endpoint, false), None)
        }
    }
}
