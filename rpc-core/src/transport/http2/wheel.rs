//! Deadlines of the streams of one connection, in one queue.
//!
//! A hierarchical timing wheel: setting and clearing a deadline is a few list operations however
//! many there are, and one timer serves all of them.

use std::time::{Duration, Instant};

/// Slots of one level; a level's slot is as long as all of the level below.
const SLOTS: u64 = 64;
const LEVELS: usize = 6;
const NONE: u32 = u32::MAX;

/// A peer that cancels a stream so shortly before the deadline has seen it pass by its own clock.
///
/// Timeouts go out rounded up and start anew where they arrive, so that only clocks that run at
/// different speeds can bring that about; those that NTP disciplines part by 5 ms in 10 s at the most.
pub(crate) const CLOCKS_DIFFER: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug)]
struct Node {
    /// Milliseconds after the start, rounded up; 0 when there is no deadline.
    tick: u64,
    previous: u32,
    next: u32,
    /// In which list it is.
    list: u16,
}

const FREE: Node = Node {
    tick: 0,
    previous: NONE,
    next: NONE,
    list: 0,
};

/// Deadlines by small numbers, such as the indices of streams.
#[derive(Debug)]
pub(crate) struct Wheel {
    start: Instant,
    /// Ticks up to this one have been looked at.
    now: u64,
    nodes: Vec<Node>,
    heads: Vec<u32>,
    /// For each level which of its slots have entries.
    occupied: [u64; LEVELS],
}

impl Wheel {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            now: 0,
            nodes: Vec::new(),
            heads: Vec::new(),
            occupied: [0; LEVELS],
        }
    }

    /// Sets a deadline.
    pub(crate) fn set(&mut self, index: usize, deadline: Instant) {
        self.clear(index);
        if self.heads.is_empty() {
            self.heads = vec![NONE; LEVELS * SLOTS as usize];
        }
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, FREE);
        }
        let after = deadline.saturating_duration_since(self.start);
        self.nodes[index].tick = tick(after).max(self.now + 1);
        self.link(index as u32);
    }

    /// Forgets a deadline.
    pub(crate) fn clear(&mut self, index: usize) {
        if self.nodes.get(index).is_some_and(|node| node.tick != 0) {
            self.unlink(index as u32);
            self.nodes[index] = FREE;
        }
    }

    /// Forgets places from a number on, of which none has a deadline, and their memory.
    pub(crate) fn shrink(&mut self, length: usize) {
        while self.nodes.len() > length && self.nodes.last().is_some_and(|last| last.tick == 0) {
            self.nodes.pop();
        }
        self.nodes.shrink_to(64);
    }

    /// Whether a deadline has passed at an instant, to the millisecond in which it lies.
    pub(crate) fn is_due(&self, index: usize, now: Instant) -> bool {
        let after = now.saturating_duration_since(self.start);
        let node = self.nodes.get(index);
        node.is_some_and(|node| node.tick != 0 && node.tick <= tick(after))
    }

    /// When there is something to do; not later than the earliest deadline, and earlier when that is
    /// far away.
    pub(crate) fn next(&self) -> Option<Instant> {
        let mut earliest = u64::MAX;
        for (level, occupied) in (0u32..).zip(self.occupied) {
            if occupied == 0 {
                continue;
            }
            let shift = 6 * level;
            let current = (self.now >> shift) % SLOTS;
            // The slot of now is empty, or comes round again.
            let ahead = u64::from(
                occupied
                    .rotate_right((current as u32 + 1) & 63)
                    .trailing_zeros(),
            ) + 1;
            let tick = ((self.now >> shift) + ahead) << shift;
            earliest = earliest.min(tick);
        }
        (earliest != u64::MAX).then(|| self.start + Duration::from_millis(earliest))
    }

    /// Takes out what is due.
    pub(crate) fn expire(&mut self, now: Instant, mut due: impl FnMut(usize)) {
        let target = now.saturating_duration_since(self.start).as_millis() as u64;
        while self.now < target {
            let Some(next) = self.next() else {
                self.now = target;
                return;
            };
            let tick = next.duration_since(self.start).as_millis() as u64;
            if tick > target {
                self.now = target;
                return;
            }
            self.now = tick;
            // Higher levels first: what is in their slots belongs further down now.
            for level in (0..LEVELS).rev() {
                let shift = 6 * level as u32;
                if tick & ((1u64 << shift) - 1) != 0 {
                    continue;
                }
                let slot = (tick >> shift) % SLOTS;
                let list = level * SLOTS as usize + slot as usize;
                let mut entry = std::mem::replace(&mut self.heads[list], NONE);
                self.occupied[level] &= !(1 << slot);
                while entry != NONE {
                    let index = entry as usize;
                    entry = self.nodes[index].next;
                    if self.nodes[index].tick <= tick {
                        self.nodes[index] = FREE;
                        due(index);
                    } else {
                        self.link(index as u32);
                    }
                }
            }
        }
    }

    fn link(&mut self, index: u32) {
        let tick = self.nodes[index as usize].tick;
        // The highest bit in which the times differ says on which level they part.
        let differing = tick ^ self.now;
        let level = ((63 - (differing | 1).leading_zeros()) / 6).min(LEVELS as u32 - 1);
        let slot = (tick >> (6 * level)) % SLOTS;
        let list = level as usize * SLOTS as usize + slot as usize;
        let head = self.heads[list];
        if head != NONE {
            self.nodes[head as usize].previous = index;
        }
        let node = &mut self.nodes[index as usize];
        node.previous = NONE;
        node.next = head;
        node.list = list as u16;
        self.heads[list] = index;
        self.occupied[level as usize] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Node {
            previous,
            next,
            list,
            ..
        } = self.nodes[index as usize];
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if previous != NONE {
            self.nodes[previous as usize].next = next;
            return;
        }
        self.heads[usize::from(list)] = next;
        if next == NONE {
            let (level, slot) = (usize::from(list) / SLOTS as usize, u64::from(list) % SLOTS);
            self.occupied[level] &= !(1 << slot);
        }
    }
}

/// A time after the start in milliseconds, rounded up.
fn tick(after: Duration) -> u64 {
    let part = u64::from(after.subsec_nanos().div_ceil(1_000_000));
    after.as_secs().saturating_mul(1000).saturating_add(part)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_deadline_is_not_due_a_nanosecond_before() {
        let start = Instant::now();
        let deadline = start + Duration::from_millis(1);
        for early in [Duration::ZERO, Duration::from_nanos(1)] {
            let mut wheel = Wheel::new(start);
            wheel.set(3, deadline + early);
            let mut due = Vec::new();
            wheel.expire(deadline, |index| due.push(index));
            assert_eq!(due.is_empty(), !early.is_zero(), "{early:?} early");
            wheel.expire(start + Duration::from_millis(2), |index| due.push(index));
            assert_eq!(due, [3]);
        }
    }

    #[test]
    fn a_deadline_that_has_passed_is_due_before_anybody_looks() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let mut wheel = Wheel::new(start);
        assert!(!wheel.is_due(1, at(9_000_000)));
        wheel.set(1, at(7_400));
        for (micros, due) in [(0, false), (6_999, false), (7_400, true), (9_000, true)] {
            assert_eq!(wheel.is_due(1, at(micros)), due, "{micros} µs");
        }
        wheel.clear(1);
        assert!(!wheel.is_due(1, at(9_000)));
    }

    #[test]
    fn deadlines_come_due_in_time_and_in_order() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let start = Instant::now();
            let mut wheel = Wheel::new(start);
            let mut model: BTreeMap<usize, Duration> = BTreeMap::new();
            let mut now = Duration::ZERO;
            for _ in 0..500 {
                let index = random.usize(0..50);
                match random.u8(0..4) {
                    0 | 1 => {
                        let most = 1 << random.u32(1..36);
                        let wait = Duration::from_micros(random.u64(0..most));
                        wheel.set(index, start + now + wait);
                        model.insert(index, now + wait);
                    }
                    2 => {
                        wheel.clear(index);
                        model.remove(&index);
                    }
                    _ => {
                        let most = 1 << random.u32(1..33);
                        now += Duration::from_micros(random.u64(0..most));
                        let mut due = Vec::new();
                        wheel.expire(start + now, |index| due.push(index));
                        for index in due {
                            let deadline = model.remove(&index).unwrap();
                            assert!(deadline <= now, "{deadline:?} {now:?}");
                        }
                        for deadline in model.values() {
                            assert!(*deadline + Duration::from_millis(2) > now);
                        }
                    }
                }
                match (wheel.next(), model.values().min()) {
                    (None, None) => {}
                    (Some(next), Some(deadline)) => {
                        assert!(next <= start + (*deadline).max(now) + Duration::from_millis(2));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
