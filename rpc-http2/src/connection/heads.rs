//! Header blocks that have arrived: RFC 9113 sections 5.1 and 8.

use std::time::Instant;

use super::Connection;
use super::receive::Step;
use crate::config::Role;
use crate::error::{ConnectionError, ErrorCode};
use crate::frame;
use crate::hpack::Decoded;
use crate::streams::{End, StreamKey};

impl Connection {
    pub(super) fn receive_block<'a>(
        &mut self,
        id: u32,
        decoded: Decoded,
        end: bool,
        now: Instant,
    ) -> Result<Step<'a>, ConnectionError> {
        if let Some(key) = self.streams.find(id) {
            return self.block_of_open(key, decoded, end, now);
        }
        let idle = match self.role {
            Role::Server => id > self.last_peer_id && id % 2 == 1,
            Role::Client => false,
        };
        if idle {
            return self.open_by_peer(id, decoded, end, now);
        }
        if self.ignored.contains(id) {
            // A server may answer any number of calls that are given up; a client has only trailers
            // to send, which it seldom does.
            if self.role == Role::Server {
                self.count_idle(now)?;
            }
            return Ok(Step::Done);
        }
        let known = match self.role {
            Role::Server => id <= self.last_peer_id,
            Role::Client => id < self.next_id,
        };
        // Section 5.1, closed; section 5.1.1.
        Err(if known && id % 2 == 1 {
            ConnectionError::new(ErrorCode::STREAM_CLOSED, "HEADERS on a closed stream")
        } else {
            ConnectionError::protocol("HEADERS on a stream that the peer may not open")
        })
    }

    fn open_by_peer<'a>(
        &mut self,
        id: u32,
        decoded: Decoded,
        end: bool,
        now: Instant,
    ) -> Result<Step<'a>, ConnectionError> {
        if !self.accepts() {
            // Section 6.8: streams above the last one are ignored.
            self.ignored.insert(id);
            self.count_idle(now)?;
            return Ok(Step::Done);
        }
        self.last_peer_id = id;
        let started = self.clock.since(now);
        if self.streams.len() >= self.config.max_streams as usize {
            // Section 5.1.2; before it knows the limit, an honest client may open more.
            self.put_reset(id, ErrorCode::REFUSED_STREAM);
            self.count_idle(now)?;
            self.count_answer()?;
            return Ok(Step::Done);
        }
        let summary = self.decoder.summary(decoded);
        let mut reason = summary.request().err();
        if end && summary.content_length.is_some_and(|length| length > 0) {
            reason = Some("the length of the body is not the content-length");
        }
        if reason.is_some() {
            self.put_reset(id, ErrorCode::PROTOCOL_ERROR);
            self.count_caused_reset(now)?;
            return Ok(Step::Done);
        }
        // Until it has seen our settings, the peer goes by the default window.
        let begins_with = self.config.stream_window;
        let window = match self.settings_acknowledged {
            true => begins_with,
            false => begins_with.max(frame::DEFAULT_WINDOW),
        };
        let (key, stream) = self.streams.insert(id);
        stream.send_window = i64::from(self.peer.initial_window);
        stream.recv_window = i64::from(window);
        stream.window = begins_with;
        stream.content_left = summary.content_length;
        stream.opened_at = started.as_millis() as u32;
        stream.flags.held = true;
        stream.flags.recv_closed = end;
        stream.flags.head_received = true;
        Ok(Step::Head(key, decoded, end))
    }

    fn block_of_open<'a>(
        &mut self,
        key: StreamKey,
        decoded: Decoded,
        end: bool,
        now: Instant,
    ) -> Result<Step<'a>, ConnectionError> {
        let summary = self.decoder.summary(decoded);
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(Step::Done);
        };
        let protocol = ErrorCode::PROTOCOL_ERROR;
        if stream.flags.reset {
            return Ok(Step::Done);
        }
        if stream.flags.recv_closed {
            let reason = "HEADERS after the end of the stream";
            self.violation(key, ErrorCode::STREAM_CLOSED, reason, now)?;
            return Ok(Step::Done);
        }
        if !stream.flags.head_received {
            let reason = match summary.response() {
                Ok(100..=199) if end => "an informational response ends the stream",
                // Section 8.1: informational, the response itself follows.
                Ok(100..=199) => {
                    self.count_idle(now)?;
                    return Ok(Step::Done);
                }
                Ok(_) if end && summary.content_length.is_some_and(|length| length > 0) => {
                    "the length of the body is not the content-length"
                }
                Ok(_) => {
                    stream.flags.head_received = true;
                    stream.flags.recv_closed = end;
                    stream.content_left = summary.content_length;
                    return Ok(Step::Head(key, decoded, end));
                }
                Err(reason) => reason,
            };
            self.violation(key, protocol, reason, now)?;
            return Ok(Step::Done);
        }
        let reason = if !end {
            Some("trailers do not end the stream")
        } else if stream.content_left.is_some_and(|left| left > 0) {
            Some("the length of the body is not the content-length")
        } else {
            summary.trailers().err()
        };
        if let Some(reason) = reason {
            self.violation(key, protocol, reason, now)?;
            return Ok(Step::Done);
        }
        stream.flags.recv_closed = true;
        if !stream.flags.held {
            return Ok(Step::Done);
        }
        Ok(Step::Trailers(key, decoded))
    }

    /// Opens streams that have waited for the peer's limit.
    pub(super) fn open_waiting(&mut self) {
        while let Some(key) = self.waiting.first() {
            let open = self.streams.len().saturating_sub(self.waiting.len());
            if open >= self.peer.max_streams as usize || self.peer_last.is_some() {
                return;
            }
            if self.next_id > frame::LARGEST_WINDOW {
                // Section 5.1.1: there are no more identifiers.
                self.refuse_above(frame::LARGEST_WINDOW);
                break;
            }
            self.waiting.remove(&mut self.streams, key);
            let Some(head) = self
                .streams
                .get_mut(key)
                .and_then(|stream| stream.head.take())
            else {
                continue;
            };
            let id = self.next_id;
            self.next_id = self.next_id.saturating_add(2);
            self.streams.set_id(key, id);
            let mut head = *head;
            let window = i64::from(self.peer.initial_window);
            let mut end = false;
            if let Some(stream) = self.streams.get_mut(key) {
                stream.send_window = window;
                // It counts from now on.
                self.buffered = self.buffered.saturating_add(stream.queued);
                self.behind = self.behind.saturating_add(stream.behind());
                stream.flags.head_sent = true;
                if stream.is_empty() && matches!(stream.end, End::Data) {
                    stream.end = End::Open;
                    stream.flags.send_closed = true;
                    end = true;
                }
            }
            self.put_head(id, &mut head.template, &head.rest, end);
            self.make_sendable(key);
        }
        self.end_waiting();
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::connection::Event;
    use crate::fields::Fields;
    use crate::hpack::Template;

    use super::*;

    #[test]
    fn what_waits_when_the_identifiers_are_used_up_is_refused() {
        let now = Instant::now();
        let mut connection = Connection::new(Role::Client, Config::default(), now);
        connection.next_id = frame::LARGEST_WINDOW.saturating_sub(2);
        connection.peer.max_streams = 1;
        let mut head = Template::new([(":method", "POST")].into_iter().collect());
        let mut open = || connection.open(&mut head, &Fields::new(), now);
        let [first, last, waiting] = [(); 3].map(|()| open().unwrap());
        connection.release(first);
        assert!(!connection.is_waiting(last) && connection.is_waiting(waiting));
        connection.release(last);
        let event = connection.poll_event();
        assert!(
            matches!(event, Some(Event::Reset { stream, code: ErrorCode::REFUSED_STREAM, .. })
                if stream == waiting),
            "{event:?}"
        );
        connection.release(waiting);
        assert_eq!(connection.stream_count(), 0);
        assert!(!connection.takes_streams());
    }
}
