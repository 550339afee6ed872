//! The streams whose late frames are ignored.

use std::collections::VecDeque;

/// How many ranges are kept; 8 KiB.
const RANGES: usize = 1024;

/// Streams that this side has reset: what the peer had sent before it knew is ignored (RFC 9113
/// section 5.4.2).
///
/// Neighbours are one range, so that any number of calls that are given up at once is a few ranges.
/// When there are too many, the two lowest become one and nothing is forgotten: a stream between
/// them that is still open is found before anybody looks here, and one that is closed has been so
/// for long.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// The first and the last identifier of each range, in order.
    ranges: VecDeque<(u32, u32)>,
}

impl Ignored {
    pub(super) fn contains(&self, id: u32) -> bool {
        self.range_of(id).is_some_and(|(_, last)| id <= last)
    }

    pub(super) fn insert(&mut self, id: u32) {
        if self.contains(id) {
            return;
        }
        if self.ranges.len() >= RANGES
            && let Some((lowest, _)) = self.ranges.pop_front()
            && let Some((first, _)) = self.ranges.front_mut()
        {
            *first = lowest;
        }
        let place = self.place_behind(id);
        let behind = self.ranges.get(place).copied();
        let behind = behind.filter(|(first, _)| id.saturating_add(2) == *first);
        let before = place.checked_sub(1);
        let before = before.and_then(|place| self.ranges.get_mut(place));
        match (before, behind) {
            // Only when it lies between the two that were joined.
            (Some((_, last)), _) if id <= *last => {}
            (Some((_, last)), behind) if last.saturating_add(2) == id => {
                *last = behind.map_or(id, |(_, end)| end);
                if behind.is_some() {
                    self.ranges.remove(place);
                }
            }
            (_, Some(_)) => {
                if let Some((first, _)) = self.ranges.get_mut(place) {
                    *first = id;
                }
            }
            _ => self.ranges.insert(place, (id, id)),
        }
    }

    /// The last range that does not begin behind an identifier.
    fn range_of(&self, id: u32) -> Option<(u32, u32)> {
        let place = self.place_behind(id).checked_sub(1)?;
        self.ranges.get(place).copied()
    }

    /// The place of the first range that begins behind an identifier.
    fn place_behind(&self, id: u32) -> usize {
        self.ranges.partition_point(|(first, _)| *first <= id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_are_what_a_set_is() {
        let mut random = fastrand::Rng::with_seed(1);
        for highest in [10, 100, 1000] {
            let mut ignored = Ignored::default();
            let mut set = BTreeSet::new();
            for _ in 0..highest * 2 {
                let id = random.u32(0..highest) * 2 + 1;
                ignored.insert(id);
                set.insert(id);
                for id in (0..=highest).map(|number| number * 2 + 1) {
                    assert_eq!(ignored.contains(id), set.contains(&id), "{id}: {ignored:?}");
                }
                for pair in ignored.ranges.iter().zip(ignored.ranges.iter().skip(1)) {
                    assert!(pair.0.0 <= pair.0.1 && pair.0.1 + 2 < pair.1.0);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_one_range_in_any_order() {
        let mut ignored = Ignored::default();
        (0..100_000u32).for_each(|number| ignored.insert(2 * number + 1));
        (0..100_000u32)
            .rev()
            .for_each(|number| ignored.insert(400_001 + 2 * number));
        assert_eq!(ignored.ranges.len(), 2);
    }

    #[test]
    fn there_are_never_too_many_ranges_and_nothing_is_forgotten() {
        let mut ignored = Ignored::default();
        for number in 0..100_000u32 {
            ignored.insert(4 * number + 9);
        }
        // A stream that has lived for long.
        ignored.insert(1);
        assert_eq!(ignored.ranges.len(), RANGES);
        assert!((0..100_000u32).all(|number| ignored.contains(4 * number + 9)));
        assert!(ignored.contains(1));
        // Between the latest ones it is as exact as ever.
        assert!((99_000..100_000u32).all(|number| !ignored.contains(4 * number + 11)));
    }
}
