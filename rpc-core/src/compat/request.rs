//! The body of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::server::{Account, Held, Load};
use crate::transport::stream::{Event, RecvHalf, StreamError};
use crate::wire::message::PREFIX;

/// A request's body as the receiving half of a call.
pub(super) struct RequestBody<B> {
    body: B,
    part: Part,
    /// What has arrived of a message that is not whole: nobody else counts it.
    held: Held,
    account: Arc<Account>,
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: B, load: &Arc<Load>) -> Self {
        let account = Account::new(load);
        Self {
            body,
            part: Part::default(),
            held: Held::new(&account),
            account,
        }
    }
}

impl<B> RecvHalf for RequestBody<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, StreamError>> {
        loop {
            return Poll::Ready(match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => Ok(Event::End),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.part.push(&data);
                        if self.held.set(self.part.arrived) {
                            Ok(Event::Data(data))
                        } else {
                            Err(StreamError::Exhausted(self.account.too_much()))
                        }
                    }
                    // A request has no trailers that mean anything.
                    Err(_) => continue,
                },
                Poll::Ready(Some(Err(error))) => Err(StreamError::Lost(error.into())),
            });
        }
    }

    fn account(&self) -> Option<Arc<Account>> {
        Some(Arc::clone(&self.account))
    }
}

/// How much has arrived of a message that is not whole, its prefix with it.
#[derive(Debug, Default)]
struct Part {
    prefix: [u8; PREFIX],
    arrived: usize,
}

impl Part {
    fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if let Some(missing) = self.prefix.get_mut(self.arrived..)
                && !missing.is_empty()
            {
                let count = missing.len().min(data.len());
                let (now, rest) = data.split_at(count);
                missing
                    .iter_mut()
                    .zip(now)
                    .for_each(|(place, octet)| *place = *octet);
                self.arrived += count;
                data = rest;
            }
            if self.arrived < PREFIX {
                return;
            }
            let [_, l0, l1, l2, l3] = self.prefix;
            let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            let missing = length.saturating_add(PREFIX) - self.arrived;
            let count = missing.min(data.len());
            data = data.split_at(count).1;
            self.arrived += count;
            if count == missing {
                self.arrived = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_whole_counts() {
        let stream = [
            &[0, 0, 0, 0, 3, 1, 2, 3][..],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0],
            &[7; 256],
            &[1, 0, 0],
        ]
        .concat();
        for size in [1, 2, 3, 7, 100, stream.len()] {
            let mut part = Part::default();
            let mut most = 0;
            for piece in stream.chunks(size) {
                part.push(piece);
                most = most.max(part.arrived);
            }
            assert_eq!(part.arrived, 3, "pieces of {size}");
            assert!(most <= 260);
        }
    }
}
