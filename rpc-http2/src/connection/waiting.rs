//! The streams that wait until the peer allows another one, in order.

use crate::streams::{StreamKey, Streams};

/// A list through the streams themselves, so that one that is given up leaves at once from wherever it
/// is, and nothing of it stays: any number of callers may wait here for as long as the peer likes.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    ends: Option<(StreamKey, StreamKey)>,
    length: usize,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn first(&self) -> Option<StreamKey> {
        self.ends.map(|(first, _)| first)
    }

    /// Puts a stream that has a queued head behind the others.
    pub(super) fn push(&mut self, streams: &mut Streams, key: StreamKey) {
        self.length = self.length.saturating_add(1);
        self.ends = match self.ends {
            None => Some((key, key)),
            Some((first, last)) => {
                link(streams, last, key);
                Some((first, key))
            }
        };
    }

    /// Takes out a stream, which is in the list and still has its queued head.
    pub(super) fn remove(&mut self, streams: &mut Streams, key: StreamKey) {
        let head = streams.get_mut(key).and_then(|one| one.head.as_mut());
        let (Some(head), Some((first, last))) = (head, self.ends) else {
            return;
        };
        let (before, behind) = (head.before.take(), head.behind.take());
        self.length = self.length.saturating_sub(1);
        match (before, behind) {
            (Some(before), Some(behind)) => link(streams, before, behind),
            (Some(before), None) => {
                if let Some(head) = streams.get_mut(before).and_then(|one| one.head.as_mut()) {
                    head.behind = None;
                }
            }
            (None, Some(behind)) => {
                if let Some(head) = streams.get_mut(behind).and_then(|one| one.head.as_mut()) {
                    head.before = None;
                }
            }
            (None, None) => {}
        }
        self.ends = match (before, behind) {
            (None, None) => None,
            (None, Some(behind)) => Some((behind, last)),
            (Some(before), None) => Some((first, before)),
            (Some(_), Some(_)) => Some((first, last)),
        };
    }
}

/// Makes two streams neighbours.
fn link(streams: &mut Streams, before: StreamKey, behind: StreamKey) {
    if let Some(head) = streams.get_mut(before).and_then(|one| one.head.as_mut()) {
        head.behind = Some(behind);
    }
    if let Some(head) = streams.get_mut(behind).and_then(|one| one.head.as_mut()) {
        head.before = Some(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::QueuedHead;

    #[test]
    fn whoever_gives_up_leaves_from_anywhere_and_the_order_stays() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut streams, mut waiting) = (Streams::default(), Waiting::default());
        let mut model: Vec<StreamKey> = Vec::new();
        for _ in 0..20_000 {
            if random.u8(0..5) < 3 && model.len() < 200 {
                let (key, stream) = streams.insert(0);
                stream.head = Some(Box::<QueuedHead>::default());
                waiting.push(&mut streams, key);
                model.push(key);
            } else if !model.is_empty() {
                let place = match random.u8(0..3) {
                    0 => 0,
                    1 => model.len() - 1,
                    _ => random.usize(0..model.len()),
                };
                let key = model.remove(place);
                waiting.remove(&mut streams, key);
                // A second time is none.
                streams.remove(key);
                waiting.remove(&mut streams, key);
            }
            assert_eq!(waiting.len(), model.len());
            assert_eq!(waiting.first(), model.first().copied());
        }
        for key in model {
            assert_eq!(waiting.first(), Some(key));
            waiting.remove(&mut streams, key);
            streams.remove(key);
        }
        assert!(waiting.is_empty() && waiting.ends.is_none());
    }
}
