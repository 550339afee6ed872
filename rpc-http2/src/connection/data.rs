//! Bodies that arrive: DATA, RFC 9113 section 6.1.

use std::time::Instant;

use super::receive::{Found, Step};
use super::{Arriving, Connection};
use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{FrameHeader, flag};
use crate::streams::StreamKey;

impl Connection {
    /// Takes in the beginning of a DATA frame.
    pub(super) fn begin_data<'a>(
        &mut self,
        header: FrameHeader,
        input: &mut &'a [u8],
        rest: &'a [u8],
        now: Instant,
    ) -> Result<Step<'a>, ConnectionError> {
        let end = header.has(flag::END_STREAM);
        let (left, padding, rest) = if header.has(flag::PADDED) {
            let Some((padding, rest)) = rest.split_first() else {
                if header.length == 0 {
                    return Err(ConnectionError::frame_size("a padded frame is empty"));
                }
                self.partial_since.get_or_insert(now);
                self.partial_block = false;
                return Ok(Step::Starved);
            };
            let left = header
                .length
                .checked_sub(1)
                .and_then(|left| left.checked_sub(u32::from(*padding)));
            let left = left.ok_or(ConnectionError::protocol(
                "the padding is longer than the frame",
            ))?;
            (left, u32::from(*padding), rest)
        } else {
            (header.length, 0, rest)
        };
        *input = rest;
        // Section 6.9: the whole payload counts, padding and its length too.
        self.recv_window = self.recv_window.saturating_sub(i64::from(header.length));
        if self.recv_window < 0 {
            return Err(ConnectionError::new(
                ErrorCode::FLOW_CONTROL_ERROR,
                "more was sent than the window of the connection",
            ));
        }
        self.growth.count(header.length);
        // The window of a stream bounds what may lie unread. Were this one held by it as well, a few
        // streams that nobody reads would stop all others.
        self.return_connection_window(header.length);
        if left == 0 && !end {
            self.count_empty_data()?;
        } else {
            self.empty_data = 0;
        }
        let skipped = left.saturating_add(padding);
        let key = match self.find(header.stream) {
            Found::Open(key) => key,
            Found::Idle => {
                return Err(ConnectionError::protocol("DATA on a stream that is idle"));
            }
            found => {
                self.arriving = Arriving::Skipped(skipped);
                if matches!(found, Found::Closed) {
                    self.put_reset(header.stream, ErrorCode::STREAM_CLOSED);
                    self.count_caused_reset(now)?;
                }
                return Ok(Step::Done);
            }
        };
        if let Err((code, reason)) = self.admit_data(key, header.length, left, end) {
            self.arriving = Arriving::Skipped(skipped);
            if let Some(code) = code {
                self.violation(key, code, reason, now)?;
            }
            return Ok(Step::Done);
        }
        // What is no data is consumed at once.
        let overhead = header.length.saturating_sub(left);
        if overhead > 0 {
            self.consume(key, overhead as usize);
        }
        self.watch_frame(input, skipped, now);
        Ok(self.pass_data(input, key, left, padding, end))
    }

    /// Whether data may come on a stream now; nothing when it is to be ignored.
    fn admit_data(
        &mut self,
        key: StreamKey,
        counted: u32,
        data: u32,
        end: bool,
    ) -> Result<(), (Option<ErrorCode>, &'static str)> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Err((None, ""));
        };
        if stream.flags.reset {
            return Err((None, ""));
        }
        if stream.flags.recv_closed {
            return Err((
                Some(ErrorCode::STREAM_CLOSED),
                "DATA after the end of the stream",
            ));
        }
        if !stream.flags.head_received {
            return Err((Some(ErrorCode::PROTOCOL_ERROR), "DATA before a head"));
        }
        stream.recv_window = stream.recv_window.saturating_sub(i64::from(counted));
        if stream.recv_window < 0 {
            return Err((
                Some(ErrorCode::FLOW_CONTROL_ERROR),
                "more was sent than the window of the stream",
            ));
        }
        if let Some(left) = stream.content_left {
            // Section 8.1.1.
            let rest = left.checked_sub(u64::from(data));
            match rest {
                Some(rest) if !end || rest == 0 => stream.content_left = Some(rest),
                _ => {
                    return Err((
                        Some(ErrorCode::PROTOCOL_ERROR),
                        "the length of the body is not the content-length",
                    ));
                }
            }
        }
        stream.unconsumed = stream.unconsumed.saturating_add(counted);
        Ok(())
    }

    pub(super) fn pass_data<'a>(
        &mut self,
        input: &mut &'a [u8],
        key: StreamKey,
        left: u32,
        padding: u32,
        end: bool,
    ) -> Step<'a> {
        let taken = (left as usize).min(input.len());
        if taken == 0 && left > 0 {
            self.arriving = Arriving::Data {
                stream: key,
                left,
                padding,
                end,
            };
            return Step::Starved;
        }
        let (data, rest) = input.split_at_checked(taken).unwrap_or((input, &[]));
        *input = rest;
        let left = left.saturating_sub(taken as u32);
        self.arriving = match (left, padding) {
            (0, 0) => Arriving::Nothing,
            (0, padding) => Arriving::Skipped(padding),
            _ => Arriving::Data {
                stream: key,
                left,
                padding,
                end,
            },
        };
        let end = end && left == 0;
        let Some(stream) = self.streams.get_mut(key) else {
            return Step::Done;
        };
        if stream.flags.reset || !stream.flags.held {
            self.consume(key, taken);
            return Step::Done;
        }
        if end {
            stream.flags.recv_closed = true;
        } else if data.is_empty() {
            return Step::Done;
        }
        Step::Data(key, data, end)
    }

    fn count_empty_data(&mut self) -> Result<(), ConnectionError> {
        self.empty_data = self.empty_data.saturating_add(1);
        match self.config.limits.empty_data {
            Some(limit) if self.empty_data > limit => {
                Err(ConnectionError::calm("too many empty DATA frames"))
            }
            _ => Ok(()),
        }
    }
}
