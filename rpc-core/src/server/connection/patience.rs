//! Messages that were begun and do not go on: what they hold is taken from them once it is short.

use std::time::{Duration, Instant};

use super::calls::{Call, More, Stage, State};
use crate::Status;
use crate::server::load::Held;

/// Between two looks at what is not whole.
const LOOK: Duration = Duration::from_secs(15);
/// So much has to have come between them: 1 KiB/s, as a response has to go.
const ENOUGH: usize = 15 * 1024;

impl State {
    /// When there is another look at messages that are not whole, if there are any.
    pub(super) fn next_look(&mut self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        if self.look.is_none() && self.account.is_holding() {
            self.look = now().checked_add(LOOK);
        }
        self.look
    }

    /// Ends calls whose messages make no progress to speak of while half of the budget is used up.
    pub(super) fn look_at_parts(&mut self, now: Instant) {
        if self.look.is_none_or(|look| now < look) {
            return;
        }
        self.look = None;
        if !self.account.is_crowded() {
            return;
        }
        let calls = self.calls.iter_mut().enumerate();
        let stuck: Vec<usize> = calls
            .filter_map(|(index, call)| {
                let part = call.as_mut().and_then(part)?;
                (!part.has_moved(ENOUGH)).then_some(index)
            })
            .collect();
        for index in stuck {
            let status = Status::resource_exhausted(
                "the request did not go on while this server was short of memory",
            );
            self.end(index, status);
        }
    }
}

/// What a call holds of a message that is not whole.
fn part(call: &mut Call) -> Option<&mut Held> {
    match &mut call.stage {
        Stage::Gathering(gathering) => Some(&mut gathering.held),
        // A whole message waits for the handler and not for the client.
        Stage::Task { inbox, .. }
            if matches!(inbox.more, More::Open(_)) && !inbox.assembler.has_whole() =>
        {
            inbox.held.as_deref_mut()
        }
        Stage::Task { .. } | Stage::InPlace | Stage::Ended => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rpc_http2::frame::{FrameHeader, PREFACE, flag, kind};
    use rpc_http2::hpack::{Encoder, Template};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;
    use crate::request::PeerAddr;
    use crate::server::connection::Served;
    use crate::server::load::Load;
    use crate::server::{Options, Router, Service, ShutdownHandle};
    use crate::{Codec, Method, Request, Response};

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            length: payload.len() as u32,
            kind,
            flags,
            stream,
        };
        [&header.encode()[..], payload].concat()
    }

    /// A client with two calls whose messages of 400,000 octets have begun with so many.
    async fn begin(budget: usize, count: usize) -> (DuplexStream, std::sync::Arc<Load>) {
        let method = Method::unary("/a.B/C", Codec::raw(), Codec::raw());
        let echo = |_, request: Request<Bytes>| async { Ok(Response::new(request.into_inner())) };
        let router = Router::new().add_service(Service::new("a.B").unary(
            &method,
            &std::sync::Arc::new(()),
            echo,
        ));
        let options = Options {
            memory_budget: Some(budget),
            ..Options::default()
        };
        let load = Load::new(&options);
        let served = Served::with_load(router, options, std::sync::Arc::clone(&load));
        let (ours, mut client) = tokio::io::duplex(1 << 20);
        let end = ShutdownHandle::new();
        tokio::spawn(served.serve(Box::new(ours), PeerAddr::InProcess, end));
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/a.B/C"),
            (":authority", "a"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ];
        let (mut template, mut encoder) = (
            Template::new(fields.into_iter().collect()),
            Encoder::default(),
        );
        let mut octets = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat();
        for stream in [1, 3] {
            let mut block = Vec::new();
            encoder.begin(&mut block);
            encoder.template(&mut template, &mut block);
            octets.extend(frame(kind::HEADERS, flag::END_HEADERS, stream, &block));
            let prefix = [&[0][..], &400_000_u32.to_be_bytes()].concat();
            octets.extend(frame(kind::DATA, 0, stream, &prefix));
        }
        client.write_all(&octets).await.unwrap();
        for stream in [1, 3] {
            send(&mut client, stream, count).await;
        }
        (client, load)
    }

    async fn send(client: &mut DuplexStream, stream: u32, count: usize) {
        for piece in vec![1; count].chunks(16 * 1024) {
            let piece = frame(kind::DATA, 0, stream, piece);
            client.write_all(&piece).await.unwrap();
        }
    }

    /// The streams that have been answered.
    async fn answered(client: &mut DuplexStream) -> Vec<u32> {
        let mut input = vec![0; 1 << 20];
        let mut length = 0;
        let wait = Duration::from_millis(1);
        while let Ok(read) = tokio::time::timeout(wait, client.read(&mut input[length..])).await {
            length += read.unwrap();
        }
        let (mut rest, mut answered) = (&input[..length], Vec::new());
        while let Some((header, behind)) = rest.split_first_chunk() {
            let header = FrameHeader::parse(header);
            if header.kind == kind::HEADERS {
                answered.push(header.stream);
            }
            rest = &behind[header.length as usize..];
        }
        answered
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_go_on_gives_way_once_memory_is_short() {
        let (mut client, load) = begin(300_000, 80_000).await;
        let start = Instant::now();
        for _ in 0..9 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            send(&mut client, 3, 6000).await;
        }
        assert_eq!(answered(&mut client).await, [1]);
        assert_eq!(load.held(), 80_005 + 9 * 6000);
        assert!(start.elapsed() < Duration::from_secs(46));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_may_take_its_time_while_there_is_memory() {
        let (mut client, load) = begin(400_000, 80_000).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(answered(&mut client).await, [0; 0]);
        assert_eq!(load.held(), 2 * 80_005);
    }
}
