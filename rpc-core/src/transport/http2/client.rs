//! A client's connection: calls on one side, its driver on the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rpc_http2::hpack::Block;
use rpc_http2::{
    Connection as Machine, ConnectionError, ErrorCode, Fields, Output, Payload, StreamKey,
};
use tokio::sync::watch as channel;
use tokio::time::Instant;

use super::assembler::Assembler;
use super::client_driver::Driver;
use super::client_halves::{Half, Receiver, Sender};
use super::fields::{self, ClientHead, KnownHead, KnownHeads};
use super::socket::{self, Wire};
use super::templates::{self, Templates};
use super::wheel::{CLOCKS_DIFFER, Wheel};
use crate::client::Activity;
use crate::codec::Subtype;
use crate::lock::{Guard, Guarded, Lock, Turn, Wakers, outside, watch};
use crate::transport::connector::Io;
use crate::transport::keepalive;
use crate::transport::stream::StreamError;
use crate::wire::head::{ContentType, RequestHead, ResponseHead, Trailers, wrong_codec};
use crate::wire::message::MessageDecoder;
use crate::{Deadline, Status};

/// Messages below this size are copied into the output; larger ones are shared with it.
const COPIED: usize = 4096;
/// Tables of calls keep memory for so many.
const KEPT: usize = 64;

/// An open connection that takes calls. Once it is dropped, it closes as soon as its calls are done.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    usable: channel::Receiver<bool>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// What calls and the driver share.
pub(super) struct Shared {
    state: Lock<State>,
    /// Taken before the lock of the state where both are.
    pub(super) wire: Turn<Wire>,
    authority: String,
    secure: bool,
    receive_limit: usize,
    /// For those who only look. Changed under the lock of the state, so that a connection which looks
    /// as if it took calls does take them.
    takes_calls: AtomicBool,
}

pub(super) struct State {
    pub(super) machine: Machine,
    /// By the indices of streams.
    pub(super) calls: Vec<Option<Call>>,
    templates: Templates,
    pub(super) known: KnownHeads,
    pub(super) wheel: Wheel,
    /// Fields of the request that is being opened; kept for its memory.
    rest: Fields,
    pub(super) driver: Option<Waker>,
    /// Tasks to wake once the lock has been given back.
    pub(super) woken: Wakers,
    /// Why the connection is no more.
    pub(super) lost: Option<Arc<Lost>>,
    /// No more calls will come.
    pub(super) unheld: bool,
    /// A response has come.
    answered: bool,
    /// When the driver looks at the time next, whatever else happens.
    pub(super) armed: Option<std::time::Instant>,
    /// When a call was written that is the only one, until something is read.
    pub(super) sent: Option<Instant>,
    /// The driver looks for the answer of such a call before it sleeps.
    pub(super) polls_soon: bool,
}

/// What has ended a connection.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) kind: io::ErrorKind,
    pub(super) text: String,
}

impl Lost {
    /// This side had to end it.
    pub(super) fn given_up(machine: &Machine, error: ConnectionError) -> Self {
        if error != ConnectionError::SILENT {
            return Self {
                kind: io::ErrorKind::InvalidData,
                text: format!("the peer broke the protocol: {error}"),
            };
        }
        let timeout = machine.keepalive().map(|keepalive| keepalive.timeout);
        Self {
            kind: io::ErrorKind::TimedOut,
            text: format!(
                "{} within {}",
                error.reason,
                keepalive::said(timeout.unwrap_or_default())
            ),
        }
    }

    fn error(&self) -> StreamError {
        StreamError::Lost(io::Error::new(self.kind, self.text.clone()).into())
    }
}

/// What has arrived of a call and was not taken.
pub(super) struct Call {
    pub(super) key: StreamKey,
    pub(super) head: Option<ResponseHead>,
    pub(super) assembler: Assembler,
    /// The message of a unary response that came in one piece.
    whole: Option<Bytes>,
    /// What counts against the windows.
    pub(super) unconsumed: usize,
    /// How it ended.
    pub(super) outcome: Option<Result<Option<Trailers>, StreamError>>,
    /// Only its end is of interest.
    unary: bool,
    /// What the response has to be of.
    codec: Subtype,
    limit: usize,
    pub(super) receiver: Option<Waker>,
    pub(super) sender: Option<Waker>,
    /// Halves that have not been dropped.
    pub(super) halves: u8,
    /// Something was received since the last message was sent.
    pub(super) turn: bool,
    /// The head of the response has come, with more to follow.
    pub(super) begun: bool,
    /// The status in a head that was not the end; it counts if the trailers have none.
    claim: Option<Box<Trailers>>,
}

/// The parts of a unary response.
pub(crate) struct WholeReply {
    pub(crate) head: Option<ResponseHead>,
    pub(crate) data: Option<Bytes>,
    pub(crate) trailers: Option<Trailers>,
}

/// Opens HTTP/2 on a byte stream and waits until the peer has shown that it speaks it.
pub(crate) async fn connect(
    io: Box<dyn Io>,
    authority: &str,
    secure: bool,
    receive_limit: usize,
    config: rpc_http2::Config,
) -> io::Result<Connection> {
    if authority.is_empty() || !authority.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{authority:?} is no authority"),
        ));
    }
    let now = Instant::now().into_std();
    let shared = Arc::new(Shared {
        state: Lock::new(State {
            machine: Machine::new(rpc_http2::Role::Client, config, now),
            calls: Vec::new(),
            templates: Templates::default(),
            known: KnownHeads::new(config.max_header_list),
            wheel: Wheel::new(now),
            rest: Fields::new(),
            driver: None,
            woken: Wakers::default(),
            lost: None,
            unheld: false,
            answered: false,
            armed: None,
            sent: None,
            polls_soon: false,
        }),
        wire: Turn::new(Wire::new(io, Vec::new())),
        authority: authority.to_owned(),
        secure,
        receive_limit,
        takes_calls: AtomicBool::new(true),
    });
    let (alive, usable) = channel::channel(true);
    let mut driver = Driver::new(Arc::clone(&shared), alive);
    std::future::poll_fn(|cx| driver.poll_ready(cx)).await?;
    outside("the spawning of a task");
    tokio::spawn(driver);
    Ok(Connection { shared, usable })
}

impl Connection {
    /// Opens a stream; the head goes out, the messages follow through the sending half. The deadline
    /// of the head ends both halves with [`StreamError::Deadline`], whether anybody polls them or not.
    pub(crate) fn open(&self, head: &RequestHead) -> Result<(Sender, Receiver), StreamError> {
        let mut state = self.shared.lock();
        let key = state.open(&self.shared, head, false, Instant::now())?;
        state.call_driver();
        drop(state);
        let half = Half {
            shared: Arc::clone(&self.shared),
            key,
        };
        Ok((
            Sender {
                half: half.clone(),
                ended: false,
            },
            Receiver { half, ended: false },
        ))
    }

    /// Makes a whole unary call, whose task is woken when it has ended; the deadline of the head ends it
    /// with [`StreamError::Deadline`].
    pub(crate) fn unary(
        &self,
        head: &RequestHead,
        body: &Bytes,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<UnaryCall<'_>, StreamError> {
        let mut state = self.shared.lock();
        let key = state.open(&self.shared, head, true, now)?;
        if let Some(call) = state.call(key) {
            call.receiver = Some(cx.waker().clone());
        }
        state.machine.send(key, payload(body), true);
        let alone = state.machine.stream_count() == 1;
        if alone && !state.is_too_early_for(head.deadline) {
            drop(state);
            self.shared.write_now();
        } else {
            state.call_driver();
        }
        Ok(UnaryCall {
            shared: &self.shared,
            key,
            done: false,
        })
    }

    /// Whether new calls can be opened.
    pub(crate) fn is_usable(&self) -> bool {
        self.shared.takes_calls()
    }

    /// How many calls its tables have memory for.
    #[cfg(test)]
    pub(super) fn table_sizes(&self) -> [usize; 2] {
        let state = self.shared.lock();
        [state.calls.capacity(), state.machine.places()]
    }

    /// What was and is done on it.
    pub(crate) fn activity(&self) -> Activity {
        let state = self.shared.lock();
        Activity {
            opened: state.machine.opened().into(),
            open: state.machine.stream_count(),
        }
    }

    /// Whether its server has ended it since it was asked too often whether it is there.
    pub(crate) fn has_asked_too_often(&self) -> bool {
        self.shared.lock().machine.has_pinged_too_often()
    }

    /// Whether a call on it was answered, which shows that it worked.
    pub(crate) fn has_answered(&self) -> bool {
        self.shared.lock().answered
    }

    /// Why no new calls can be opened, as far as that is known.
    pub(crate) fn why_unusable(&self) -> Option<String> {
        let state = self.shared.lock();
        let lost = state.lost.as_ref().map(|lost| lost.text.clone());
        lost.or_else(|| state.machine.peer_goaway().map(ToString::to_string))
    }

    /// Waits until no new calls can be opened, because of a GOAWAY or because the connection broke.
    pub(crate) async fn unusable(&self) {
        let mut usable = self.usable.clone();
        // An error means that the driver is gone, which is the same.
        let _ = usable.wait_for(|usable| !usable).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.unheld = true;
        state.call_driver();
    }
}

pub(super) fn payload(body: &Bytes) -> Payload<'_> {
    if body.len() < COPIED {
        Payload::Copied(body)
    } else {
        Payload::Shared(body.clone())
    }
}

impl Shared {
    pub(super) fn lock(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// Does something under the lock that the driver has to write out.
    pub(super) fn act<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        state.call_needed_driver();
        result
    }

    pub(super) fn takes_calls(&self) -> bool {
        self.takes_calls.load(Ordering::Acquire)
    }

    /// After what the peer or the time may have ended: whether the connection takes calls is seen in
    /// the same moment as that it does not.
    pub(super) fn note_end(&self, state: &State) {
        if !state.machine.takes_streams() || state.lost.is_some() {
            self.takes_calls.store(false, Ordering::Release);
        }
    }

    /// The connection is over, however that came: all calls hear of it, and nobody takes it for one
    /// that goes on. Gives what is still to be said to the peer.
    pub(super) fn lose(&self, lost: Lost) -> Output {
        let mut last = Output::default();
        let mut state = self.lock();
        state
            .machine
            .take_output(&mut last, Instant::now().into_std());
        state.on_lost(lost);
        self.note_end(&state);
        last
    }

    /// Writes without the driver, or wakes it.
    pub(super) fn write_now(&self) {
        let written = socket::write_now(&self.wire, |output| {
            let now = Instant::now();
            let mut state = self.lock();
            state.machine.take_output(output, now.into_std());
            state.sent = Some(now);
        });
        let mut state = self.lock();
        // The driver goes on with it, hears of the error, looks for the answer, or sees to it that
        // what is stuck is looked at in time.
        if !written || state.polls_soon || state.machine.has_output() || state.has_earlier_timeout()
        {
            state.call_driver();
        }
    }
}

impl Guarded for State {
    type After = Wakers;

    #[inline]
    fn take_after(&mut self) -> Option<Wakers> {
        self.woken.take()
    }
}

impl State {
    fn open(
        &mut self,
        shared: &Shared,
        head: &RequestHead,
        unary: bool,
        now: Instant,
    ) -> Result<StreamKey, StreamError> {
        let refused =
            |why: &str| StreamError::Unsent(format!("the connection takes no more calls: {why}"));
        if let Some(lost) = &self.lost {
            return Err(refused(&lost.text));
        }
        self.rest.clear();
        let timeout = head
            .deadline
            .map(|deadline| deadline.instant().saturating_duration_since(now));
        fields::push_request(&mut self.rest, head, timeout);
        let key = templates::Key {
            path: head.path.clone(),
            encoding: head.encoding,
            codec: head.codecs.request,
            own_agent: head.metadata.has("user-agent"),
        };
        let template = self.templates.get(key, |key| {
            fields::request_template(
                &key.path,
                &shared.authority,
                shared.secure,
                key.encoding,
                key.codec,
                key.own_agent,
            )
        });
        if !head.metadata.is_empty() {
            let size = template.fields().size() + self.rest.size();
            let limit = self.machine.peer_header_list();
            if size > limit {
                let status = fields::too_large("head of the request", size, limit);
                return Err(StreamError::Exhausted(status));
            }
        }
        let Some(stream) = self.machine.open(template, &self.rest, now.into_std()) else {
            shared.note_end(self);
            // It tells those who wait for the end.
            self.call_driver();
            return Err(refused("the server is going away"));
        };
        let index = stream.index();
        if index >= self.calls.len() {
            self.calls.resize_with(index + 1, || None);
        }
        self.calls[index] = Some(Call {
            key: stream,
            head: None,
            assembler: Assembler::new(shared.receive_limit),
            whole: None,
            unconsumed: 0,
            outcome: None,
            unary,
            codec: head.codecs.response,
            limit: shared.receive_limit,
            receiver: None,
            sender: None,
            halves: 2,
            turn: false,
            begun: false,
            claim: None,
        });
        if let Some(deadline) = head.deadline {
            self.wheel.set(index, deadline.instant().into_std());
        }
        Ok(stream)
    }

    /// Whether the driver has to know of a deadline to look at the time early enough.
    fn is_too_early_for(&self, deadline: Option<Deadline>) -> bool {
        deadline.is_some_and(|deadline| {
            self.armed
                .is_none_or(|armed| deadline.instant().into_std() < armed)
        })
    }

    /// Whether the connection has to be looked at before the driver would.
    fn has_earlier_timeout(&self) -> bool {
        let next = self.machine.next_timeout();
        next.is_some_and(|next| self.armed.is_none_or(|armed| next < armed))
    }

    /// Wakes the driver.
    pub(super) fn call_driver(&mut self) {
        self.woken.push(self.driver.take());
    }

    /// Wakes the driver when there is something for it to do now.
    pub(super) fn call_needed_driver(&mut self) {
        if self.machine.has_output() || self.machine.is_finished() {
            self.call_driver();
        }
    }

    pub(super) fn call(&mut self, key: StreamKey) -> Option<&mut Call> {
        self.calls
            .get_mut(key.index())?
            .as_mut()
            .filter(|call| call.key == key)
    }

    /// Ends a call from this side; its other half hears of it.
    pub(super) fn reset(&mut self, key: StreamKey, code: ErrorCode) {
        self.on_error(key, StreamError::Reset(code));
        self.machine.reset(key, code);
    }

    /// Removes a call that nobody is interested in any more.
    pub(super) fn let_go(&mut self, key: StreamKey) {
        if let Some(call) = self.call(key) {
            let (receiver, sender) = (call.receiver.take(), call.sender.take());
            self.woken.forget(receiver);
            self.woken.forget(sender);
            self.calls[key.index()] = None;
            self.wheel.clear(key.index());
        }
        self.machine.release(key);
        self.fit_tables();
    }

    /// Gives back the memory of tables that have grown with many calls, once the machine has done so.
    fn fit_tables(&mut self) {
        let places = self.machine.places();
        if self.calls.len() > KEPT && places < self.calls.len() / 2 {
            self.calls.truncate(places);
            self.calls.shrink_to(KEPT);
            self.wheel.shrink(places);
        }
    }

    pub(super) fn on_head(
        &mut self,
        key: StreamKey,
        known: Option<KnownHead>,
        decoded: Option<Result<ClientHead, StreamError>>,
        end: bool,
    ) {
        self.answered = true;
        let Some(call) = self.call(key) else {
            return;
        };
        match (known, decoded) {
            (Some(KnownHead::Plain(encoding) | KnownHead::PlainProto(encoding)), _) if !end => {
                if let Some(KnownHead::PlainProto(_)) = known
                    && call.codec != Subtype::PROTO
                {
                    let status = wrong_codec(&ContentType::Proto, call.codec);
                    call.outcome = Some(Err(StreamError::Protocol(status)));
                    self.machine.reset(key, ErrorCode::CANCEL);
                    return self.wake_both(key);
                }
                call.head = Some(ResponseHead {
                    encoding,
                    ..ResponseHead::default()
                });
                call.begun = true;
                let receiver = call.progress();
                return self.woken.push(receiver);
            }
            (_, Some(Ok(ClientHead::Head { content_type, .. })))
                if !content_type.may_be_of(call.codec) =>
            {
                let status = wrong_codec(&content_type, call.codec);
                call.outcome = Some(Err(StreamError::Protocol(status)));
                // What it would bring is none of the call's messages.
                self.machine.reset(key, ErrorCode::CANCEL);
                return self.wake_both(key);
            }
            (_, Some(Ok(ClientHead::Head { head, claim, .. }))) => {
                call.head = Some(head);
                call.claim = claim;
                call.begun = true;
                if !end {
                    let receiver = call.progress();
                    return self.woken.push(receiver);
                }
                call.outcome = Some(Ok(None));
            }
            (_, Some(Ok(ClientHead::TrailersOnly(trailers)))) => {
                call.outcome = Some(Ok(Some(trailers)));
            }
            (_, Some(Err(error))) => {
                call.outcome = Some(Err(error));
                self.machine.reset(key, ErrorCode::CANCEL);
                return self.wake_both(key);
            }
            (_, None) => call.outcome = Some(Ok(None)),
        }
        self.drop_requests(key);
        self.wake_both(key);
    }

    /// Wakes both halves, which hear of the end: a sender must not wait for room that will not come.
    fn wake_both(&mut self, key: StreamKey) {
        if let Some(call) = self.call(key) {
            let (receiver, sender) = (call.receiver.take(), call.sender.take());
            self.woken.push(receiver);
            self.woken.push(sender);
        }
    }

    pub(super) fn on_data(&mut self, key: StreamKey, data: &[u8], end: bool) {
        let Some(call) = self.call(key) else {
            self.machine.consume(key, data.len());
            return;
        };
        if !data.is_empty() {
            // That there are messages is what an OK before them cannot know.
            let is_failure = |claim: &mut Box<Trailers>| matches!(claim.outcome, Some(Err(_)));
            call.claim.take_if(|claim| !is_failure(claim));
        }
        if call.unary
            && call.whole.is_none()
            && let Some(single) = call.assembler.single(data)
        {
            call.whole = Some(Bytes::copy_from_slice(single));
        } else {
            if let Some(whole) = call.whole.take() {
                call.assembler.push(&whole);
            }
            call.assembler.push(data);
        }
        if end {
            let claim = call.claim.take().map(|claim| *claim);
            call.outcome.get_or_insert(Ok(claim));
        } else if call.unary && call.assembler.is_over() && call.outcome.is_none() {
            call.outcome = Some(Err(StreamError::Protocol(call.too_much())));
            self.machine.reset(key, ErrorCode::CANCEL);
            return self.wake_both(key);
        }
        // As long as no message is whole, its rest must not wait for the window.
        let early = call.unary || !call.assembler.has_whole();
        let progress = match (end, early) {
            (false, false) => call.progress(),
            _ => None,
        };
        call.unconsumed += data.len();
        if early {
            let count = std::mem::take(&mut call.unconsumed);
            self.machine.consume(key, count);
        }
        if end {
            self.wake_both(key);
        } else {
            self.woken.push(progress);
        }
    }

    pub(super) fn on_trailers(&mut self, key: StreamKey, trailers: Trailers) {
        let Some(call) = self.call(key) else {
            return;
        };
        let claim = call.claim.take();
        let outcome = call.outcome.get_or_insert(Ok(Some(trailers)));
        if let Some(claim) = claim
            && let Ok(Some(trailers)) = outcome
            && trailers.outcome.is_none()
        {
            trailers.outcome = claim.outcome;
        }
        let unary = call.unary;
        if !unary {
            self.drop_requests(key);
        }
        self.wake_both(key);
    }

    /// Who has answered takes no more requests: what has not gone out leaves its room to others.
    fn drop_requests(&mut self, key: StreamKey) {
        if self.machine.is_open(key) {
            self.machine.drop_unsent(key);
        }
    }

    /// A stream is over before its end.
    pub(super) fn on_error(&mut self, key: StreamKey, error: StreamError) {
        let Some(call) = self.call(key) else {
            return;
        };
        call.outcome.get_or_insert(Err(error));
        self.wake_both(key);
    }

    /// The peer, or the loss of its connection, has ended a stream before its end. Once the deadline
    /// has passed it makes no difference how.
    pub(super) fn on_broken(
        &mut self,
        key: StreamKey,
        error: StreamError,
        now: std::time::Instant,
    ) {
        let seen = match &error {
            StreamError::Reset(ErrorCode::CANCEL) => now + CLOCKS_DIFFER,
            _ => now,
        };
        let is_late = self.wheel.is_due(key.index(), seen);
        if !is_late
            && let Some(call) = self.call(key)
            && let Some(claim) = call.claim.take()
            && claim.failure().is_some()
        {
            // It has said why, and then nothing more.
            call.outcome.get_or_insert(Ok(Some(*claim)));
            return self.wake_both(key);
        }
        self.on_error(
            key,
            if is_late {
                StreamError::Deadline
            } else {
                error
            },
        );
    }

    /// The deadline of a call has passed: both its directions end, and the peer is told. What has
    /// arrived of it and was not taken is not taken any more; an answer that is whole stays.
    pub(super) fn expire(&mut self, index: usize) {
        let call = self.calls.get_mut(index).and_then(Option::as_mut);
        let Some(call) = call.filter(|call| call.outcome.is_none()) else {
            return;
        };
        let key = call.key;
        call.outcome = Some(Err(StreamError::Deadline));
        call.whole = None;
        call.assembler.take_all();
        let unread = std::mem::take(&mut call.unconsumed);
        self.machine.reset(key, ErrorCode::CANCEL);
        self.machine.consume(key, unread);
        self.wake_both(key);
    }

    /// The connection is over: so are all calls. [`Shared::lose`] is the way to this.
    fn on_lost(&mut self, lost: Lost) {
        let goaway = self.machine.peer_goaway();
        let lost = Arc::clone(self.lost.get_or_insert_with(|| {
            let Lost { kind, mut text } = lost;
            if let Some(goaway) = goaway {
                text = format!("{text}; {goaway}");
            }
            Arc::new(Lost { kind, text })
        }));
        let now = Instant::now().into_std();
        for call in self.calls.iter_mut().flatten() {
            let error = if self.wheel.is_due(call.key.index(), now) {
                StreamError::Deadline
            } else if self.machine.is_waiting(call.key) {
                StreamError::Unsent(format!("the connection was lost: {}", lost.text))
            } else {
                lost.error()
            };
            call.outcome.get_or_insert(Err(error));
            self.woken.push(call.receiver.take());
            self.woken.push(call.sender.take());
        }
    }
}

impl Call {
    /// Something has arrived that is not the end.
    fn progress(&mut self) -> Option<Waker> {
        if self.unary {
            return None;
        }
        self.receiver.take()
    }

    /// What is wrong with a unary response that is longer than it can be.
    fn too_much(&mut self) -> Status {
        let encoding = self.head.as_ref().map(|head| head.encoding);
        let mut decoder = MessageDecoder::new(encoding.unwrap_or_default(), self.limit);
        decoder.push(self.assembler.take_all().unwrap_or_default());
        match decoder.next() {
            Err(status) => status,
            Ok(_) => {
                Status::internal("the server answered a unary call with more than one message")
            }
        }
    }

    pub(super) fn take_sender(&mut self) -> Option<Waker> {
        self.sender.take()
    }
}

/// A unary call that is under way. Dropping it cancels the call.
pub(crate) struct UnaryCall<'a> {
    shared: &'a Shared,
    key: StreamKey,
    done: bool,
}

impl UnaryCall<'_> {
    /// The whole response.
    pub(crate) fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<WholeReply, StreamError>> {
        let key = self.key;
        let mut state = self.shared.lock();
        let Some(call) = state.call(key) else {
            return Poll::Ready(Err(StreamError::Reset(crate::transport::stream::CANCEL)));
        };
        let Some(outcome) = call.outcome.take() else {
            let stale = watch(&mut call.receiver, cx);
            state.woken.forget(stale);
            return Poll::Pending;
        };
        let reply = match outcome {
            Ok(trailers) => Ok(WholeReply {
                head: call.head.take(),
                data: call.whole.take().or_else(|| call.assembler.take_all()),
                trailers,
            }),
            Err(error) => Err(error.after(call.head.take())),
        };
        self.done = true;
        let had_output = state.machine.has_output();
        state.let_go(key);
        // An early answer leaves a RST_STREAM to write, and a stream that has waited may be open now.
        // Of what was there before, the driver knows.
        if !had_output {
            state.call_needed_driver();
        }
        Poll::Ready(reply)
    }
}

impl Drop for UnaryCall<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.shared.act(|state| state.let_go(self.key));
        }
    }
}

/// Understands the head of a response, by memory when it is one of the usual ones.
pub(super) fn understand(
    known: &mut KnownHeads,
    block: Block<'_>,
    end: bool,
) -> (Option<KnownHead>, Option<Result<ClientHead, StreamError>>) {
    if !end
        && let Some(head @ (KnownHead::Plain(_) | KnownHead::PlainProto(_))) =
            known.find(block, false)
    {
        return (Some(head), None);
    }
    (None, Some(fields::client_head(block, end, known.limit)))
}

/// Understands trailers, by memory when they are the usual ones.
pub(super) fn understand_trailers(known: &mut KnownHeads, block: Block<'_>) -> Trailers {
    match known.find(block, true) {
        Some(KnownHead::Ok) => Trailers::ok(crate::Metadata::new()),
        _ => fields::trailers(block, known.limit),
    }
}
