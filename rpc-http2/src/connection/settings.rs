//! SETTINGS of both sides: RFC 9113 section 6.5.

use std::time::Instant;

use super::{Connection, Notice};
use crate::config::Role;
use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{self, FrameHeader, flag, kind, setting};

/// What the peer has said of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSettings {
    pub(super) max_streams: u32,
    pub(super) initial_window: u32,
    pub(super) max_frame: u32,
    pub(super) max_header_list: u32,
}

impl Default for PeerSettings {
    /// Section 6.5.2.
    fn default() -> Self {
        Self {
            max_streams: u32::MAX,
            initial_window: frame::DEFAULT_WINDOW,
            max_frame: frame::DEFAULT_MAX_FRAME,
            max_header_list: u32::MAX,
        }
    }
}

/// A change of the windows of so many streams counts as one more frame that carries nothing.
const STREAMS_OF_ONE: usize = 256;

impl Connection {
    /// The preface of this side (section 3.4) and its windows.
    pub(super) fn greet(&mut self) {
        if self.role == Role::Client {
            self.output.put(frame::PREFACE);
        }
        let config = self.config;
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, config.stream_window),
            (setting::MAX_FRAME_SIZE, config.max_frame),
            (setting::MAX_HEADER_LIST_SIZE, config.max_header_list),
        ];
        if config.header_table != 4096 {
            settings.push((setting::HEADER_TABLE_SIZE, config.header_table));
        }
        match self.role {
            Role::Client => settings.push((setting::ENABLE_PUSH, 0)),
            Role::Server => settings.push((setting::MAX_CONCURRENT_STREAMS, config.max_streams)),
        }
        let interval = match self.role {
            Role::Client => config.keepalive.map(|keepalive| keepalive.time),
            Role::Server => config.limits.pings.and_then(|pings| pings.announced),
        };
        let interval = interval.and_then(|interval| u32::try_from(interval.as_millis()).ok());
        if let Some(interval) = interval.filter(|interval| *interval > 0) {
            settings.push((setting::PING_INTERVAL, interval));
        }
        self.put_settings(&settings);
        let more = config
            .connection_window
            .saturating_sub(frame::DEFAULT_WINDOW);
        if more > 0 {
            self.put_window_update(0, more);
        }
    }

    pub(super) fn put_settings(&mut self, settings: &[(u16, u32)]) {
        self.open_frame = None;
        let header = FrameHeader {
            length: (settings.len() as u32).saturating_mul(6),
            kind: kind::SETTINGS,
            flags: 0,
            stream: 0,
        };
        self.output.put(&header.encode());
        for (identifier, value) in settings {
            self.output.put(&identifier.to_be_bytes());
            self.output.put(&value.to_be_bytes());
        }
    }

    /// Takes in a SETTINGS frame.
    pub(super) fn receive_settings(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), ConnectionError> {
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(ConnectionError::frame_size(
                    "a SETTINGS acknowledgement has a payload",
                ));
            }
            if !std::mem::replace(&mut self.settings_acknowledged, true) {
                // The first SETTINGS are the only ones with the size of the table.
                self.decoder.acknowledge();
            }
            return self.count_idle(now);
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(ConnectionError::frame_size(
                "the length of SETTINGS is no multiple of 6",
            ));
        }
        if let Some(most) = self.config.limits.settings
            && settings.len() > most
        {
            return Err(ConnectionError::calm("SETTINGS has too many entries"));
        }
        let mut windows = None;
        for [i0, i1, v0, v1, v2, v3] in settings {
            let identifier = u16::from_be_bytes([*i0, *i1]);
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            if identifier == setting::INITIAL_WINDOW_SIZE {
                let (largest, _) = windows.unwrap_or((0, 0));
                windows = Some((value.max(largest), value));
            } else {
                self.apply_setting(identifier, value)?;
            }
        }
        if let Some((largest, last)) = windows {
            self.change_initial_window(largest, last, now)?;
        }
        self.open_frame = None;
        let ack = FrameHeader {
            length: 0,
            kind: kind::SETTINGS,
            flags: flag::ACK,
            stream: 0,
        };
        self.output.put(&ack.encode());
        self.set_alarm();
        if self.ready {
            self.count_idle(now)?;
            self.count_answer()?;
        } else {
            self.ready = true;
            self.notices.push_back(Notice::Ready);
        }
        self.open_waiting();
        Ok(())
    }

    fn apply_setting(&mut self, identifier: u16, value: u32) -> Result<(), ConnectionError> {
        match identifier {
            setting::HEADER_TABLE_SIZE => self.encoder.set_max_table_size(value as usize),
            // Section 6.5.2: 0 or 1, and a server says nothing but 0.
            setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                return Err(ConnectionError::protocol(
                    "ENABLE_PUSH may not have this value",
                ));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::PING_INTERVAL => self.take_ping_interval(value),
            setting::MAX_FRAME_SIZE => {
                if !(frame::DEFAULT_MAX_FRAME..=frame::LARGEST_MAX_FRAME).contains(&value) {
                    return Err(ConnectionError::protocol(
                        "MAX_FRAME_SIZE is not between 2^14 and 2^24-1",
                    ));
                }
                self.peer.max_frame = value;
            }
            // It is advice: the user is told, and nothing is refused here.
            setting::MAX_HEADER_LIST_SIZE => self.peer.max_header_list = value,
            // Unknown settings are ignored.
            _ => {}
        }
        Ok(())
    }

    /// Section 6.9.2: the windows of all streams change by the difference.
    ///
    /// Section 6.5.3 has the values of one frame take effect in their order, with nothing between
    /// them: of several, the last one is what the windows become, and the largest says whether one of
    /// them was above what it may be on the way.
    fn change_initial_window(
        &mut self,
        largest: u32,
        last: u32,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        if largest > frame::LARGEST_WINDOW {
            return Err(ConnectionError::new(
                ErrorCode::FLOW_CONTROL_ERROR,
                "INITIAL_WINDOW_SIZE is above 2^31-1",
            ));
        }
        let before = i64::from(self.peer.initial_window);
        let difference = i64::from(last).saturating_sub(before);
        let highest = i64::from(largest).saturating_sub(before);
        if difference == 0 && highest <= 0 {
            return Ok(());
        }
        self.peer.initial_window = last;
        // It costs as much as there are streams, and so does the right to it.
        for _ in 0..self.streams.places() / STREAMS_OF_ONE {
            self.count_idle(now)?;
        }
        let mut overflow = false;
        let (sendable, mut behind) = (&mut self.sendable, 0usize);
        let mut waiting = Vec::new();
        self.streams.for_each_open(|key, stream| {
            let most = stream.send_window.saturating_add(highest);
            stream.send_window = stream.send_window.saturating_add(difference);
            behind = behind.saturating_add(stream.behind());
            if stream.flags.wants_room {
                waiting.push(key);
            }
            overflow |= most.max(stream.send_window) > i64::from(frame::LARGEST_WINDOW);
            if stream.send_window > 0 && !stream.is_drained() && !stream.flags.ready {
                stream.flags.ready = true;
                sendable.push_back(key);
            }
        });
        self.behind = behind;
        waiting.into_iter().for_each(|key| self.look_for_room(key));
        if overflow {
            return Err(ConnectionError::new(
                ErrorCode::FLOW_CONTROL_ERROR,
                "INITIAL_WINDOW_SIZE makes a window larger than 2^31-1",
            ));
        }
        Ok(())
    }
}
