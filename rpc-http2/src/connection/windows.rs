//! The windows of both directions: RFC 9113 section 6.9.

use std::time::Instant;

use super::Connection;
use super::receive::Found;
use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{self, FrameHeader, kind};
use crate::streams::StreamKey;

/// A window that was read grows by this factor, as far as the network needs it.
pub(super) const READ: u32 = 4;

impl Connection {
    /// Gives back the room of its stream that data has taken, once it is not held any more.
    pub fn consume(&mut self, key: StreamKey, octets: usize) {
        let octets = octets as u32;
        if let Some(stream) = self.streams.get_mut(key) {
            let octets = octets.min(stream.unconsumed);
            stream.unconsumed = stream.unconsumed.saturating_sub(octets);
            stream.returnable = stream.returnable.saturating_add(octets);
            if !stream.flags.recv_closed && stream.returnable >= (stream.window / 2).max(1) {
                // It is read, so that more of it may be on its way. One that is not read stays as it is.
                let growth = self.growth.of(stream.window);
                stream.window = stream.window.saturating_add(growth);
                let more = std::mem::take(&mut stream.returnable).saturating_add(growth);
                stream.recv_window = stream.recv_window.saturating_add(i64::from(more));
                let id = stream.id;
                self.put_window_update(id, more);
                self.measure();
            }
        }
    }

    pub(super) fn return_connection_window(&mut self, octets: u32) {
        self.returnable = self.returnable.saturating_add(octets);
        if self.returnable >= self.config.connection_window / 2 {
            let more = std::mem::take(&mut self.returnable);
            self.recv_window = self.recv_window.saturating_add(i64::from(more));
            self.put_window_update(0, more);
            self.measure();
        }
    }

    pub(super) fn put_window_update(&mut self, stream: u32, more: u32) {
        self.open_frame = None;
        let header = FrameHeader {
            length: 4,
            kind: kind::WINDOW_UPDATE,
            flags: 0,
            stream,
        };
        self.output.put(&header.encode());
        self.output.put(&more.to_be_bytes());
    }

    /// Takes in a WINDOW_UPDATE frame.
    pub(super) fn receive_window_update(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let more = u32::from_be_bytes(*payload.first_chunk().unwrap_or(&[0; 4])) & 0x7fff_ffff;
        let largest = i64::from(frame::LARGEST_WINDOW);
        if header.stream == 0 {
            if more == 0 {
                return Err(ConnectionError::protocol("WINDOW_UPDATE of nothing"));
            }
            self.send_window = self.send_window.saturating_add(i64::from(more));
            if self.send_window > largest {
                return Err(ConnectionError::new(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "the window of the connection is above 2^31-1",
                ));
            }
            return Ok(());
        }
        let key = match self.find(header.stream) {
            Found::Open(key) => key,
            Found::Idle => {
                return Err(ConnectionError::protocol(
                    "WINDOW_UPDATE on a stream that is idle",
                ));
            }
            // Section 5.1: it may come late.
            _ => return self.count_idle(now),
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        if stream.flags.reset {
            return self.count_idle(now);
        }
        if more == 0 {
            let code = ErrorCode::PROTOCOL_ERROR;
            return self.violation(key, code, "WINDOW_UPDATE of nothing", now);
        }
        let behind = stream.behind();
        stream.send_window = stream.send_window.saturating_add(i64::from(more));
        let opened = behind.saturating_sub(stream.behind());
        self.behind = self.behind.saturating_sub(opened);
        if stream.send_window > largest {
            let code = ErrorCode::FLOW_CONTROL_ERROR;
            return self.violation(key, code, "the window of the stream is above 2^31-1", now);
        }
        if stream.send_window > 0 && !stream.is_drained() && !stream.flags.ready {
            stream.flags.ready = true;
            self.sendable.push_back(key);
        }
        self.look_for_room(key);
        if more < 64 {
            // Windows that grow by drops keep streams open for next to nothing.
            return self.count_idle(now);
        }
        Ok(())
    }
}
