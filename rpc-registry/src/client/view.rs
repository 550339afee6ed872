//! What a client believes of a service's members: [`View`].
//!
//! A registry may be wrong where the members are fine: a fresh one knows nobody yet, a paused one
//! takes all leases for expired. So a member goes at once only when it said goodbye itself, or when
//! its lease expired beside others that hold. Else it stays for a while: a dead one costs nothing,
//! because balancers do not use what is not connected.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use rpc_core::client::{Address, Endpoint};
use tokio::time::Instant;

/// How long members are kept that a running stream drops without a goodbye, once half of the set
/// has gone that way; and the time over which that half is counted.
pub(crate) const MASS_HOLD: Duration = Duration::from_secs(30);

/// One full list from a registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushed {
    pub(crate) incarnation: u64,
    pub(crate) revision: u64,
    pub(crate) ttl: Duration,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) departed: HashSet<u64>,
}

/// The members of one service, as far as the registries can be believed.
#[derive(Debug, Default)]
pub(crate) struct View {
    members: BTreeMap<Address, Member>,
    /// The registry's run and revision that the members come from.
    seen: Option<(u64, u64)>,
    /// The stream is new: the next list starts the hold.
    fresh: bool,
    /// Until when members that the list lacks are kept, as they may not have come back yet.
    settling: Option<Instant>,
    /// When members went by expiry.
    expired: VecDeque<Instant>,
}

#[derive(Debug)]
struct Member {
    endpoint: Endpoint,
    /// Not on the list any more, and gone at this time.
    held_until: Option<Instant>,
}

impl View {
    /// A stream to some registry begins.
    pub(crate) fn connected(&mut self) {
        self.fresh = true;
    }

    /// Takes in a list; true when the members are different now, or known for the first time.
    pub(crate) fn apply(&mut self, pushed: Pushed, now: Instant) -> bool {
        let before = self.seen;
        if let Some((incarnation, revision)) = before
            && incarnation == pushed.incarnation
            && pushed.revision < revision
        {
            tracing::warn!(
                revision,
                older = pushed.revision,
                "the registry sent an older list, which is ignored"
            );
            return false;
        }
        if self.fresh || before.is_some_and(|(incarnation, _)| incarnation != pushed.incarnation) {
            self.fresh = false;
            self.settling = now.checked_add(pushed.ttl + Duration::from_secs(1));
        }
        self.seen = Some((pushed.incarnation, pushed.revision));
        let old = self.list();
        let listed: HashSet<Address> = pushed
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address.clone())
            .collect();
        for endpoint in pushed.endpoints {
            self.members.insert(
                endpoint.address.clone(),
                Member {
                    endpoint,
                    held_until: None,
                },
            );
        }
        self.members.retain(|address, member| {
            listed.contains(address) || !pushed.departed.contains(&member.endpoint.instance)
        });
        self.hold_or_drop(&listed, now);
        before.is_none() || self.list() != old
    }

    /// Decides on the members that the list lacks and that have not said goodbye.
    fn hold_or_drop(&mut self, listed: &HashSet<Address>, now: Instant) {
        while self
            .expired
            .front()
            .is_some_and(|at| now.duration_since(*at) >= MASS_HOLD)
        {
            self.expired.pop_front();
        }
        let settling = self.settling.filter(|until| *until > now);
        let mut may_go =
            ((self.members.len() + self.expired.len()) / 2).saturating_sub(self.expired.len());
        let expired = &mut self.expired;
        self.members.retain(|address, member| {
            if listed.contains(address) || member.held_until.is_some_and(|until| until > now) {
                return true;
            }
            if member.held_until.is_some() {
                return false;
            }
            if settling.is_some() {
                member.held_until = settling;
            } else if may_go > 0 {
                may_go -= 1;
                expired.push_back(now);
                return false;
            } else {
                tracing::warn!(%address, "the registry drops more than half of the members; this one is kept for now");
                member.held_until = now.checked_add(MASS_HOLD);
            }
            true
        });
    }

    /// Drops members whose hold is over; true when there were any.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let before = self.members.len();
        self.members
            .retain(|_, member| member.held_until.is_none_or(|until| until > now));
        self.members.len() != before
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.members
            .values()
            .filter_map(|member| member.held_until)
            .min()
    }

    pub(crate) fn list(&self) -> Vec<Endpoint> {
        self.members
            .values()
            .map(|member| member.endpoint.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);
    const SETTLED: Duration = Duration::from_secs(6);

    fn endpoint(port: u16) -> Endpoint {
        let mut endpoint = Endpoint::new(format!("127.0.0.1:{port}").parse().unwrap());
        endpoint.instance = port.into();
        endpoint
    }

    fn pushed(incarnation: u64, revision: u64, ports: &[u16], departed: &[u64]) -> Pushed {
        let endpoints = ports.iter().map(|port| endpoint(*port)).collect();
        Pushed {
            incarnation,
            revision,
            ttl: TTL,
            endpoints,
            departed: departed.iter().copied().collect(),
        }
    }

    fn ports(view: &View) -> Vec<u64> {
        view.list()
            .iter()
            .map(|endpoint| endpoint.instance)
            .collect()
    }

    /// A view of these members whose stream has run for long.
    fn settled(members: &[u16], now: Instant) -> (View, Instant) {
        let mut view = View::default();
        view.connected();
        assert!(view.apply(pushed(1, 10, members, &[]), now));
        (view, now + SETTLED)
    }

    #[test]
    fn the_first_list_counts_even_when_empty() {
        let mut view = View::default();
        view.connected();
        assert!(view.apply(pushed(1, 0, &[], &[]), Instant::now()));
        assert!(view.list().is_empty());
        assert!(!view.apply(pushed(1, 0, &[], &[]), Instant::now()));
    }

    #[test]
    fn a_goodbye_counts_at_once() {
        let (mut view, now) = settled(&[1, 2], Instant::now());
        assert!(view.apply(pushed(1, 11, &[], &[1, 2]), now));
        assert!(view.list().is_empty(), "even for all of them");
    }

    #[test]
    fn a_goodbye_counts_just_after_a_reconnect() {
        let (mut view, now) = settled(&[1, 2], Instant::now());
        view.connected();
        assert!(view.apply(pushed(2, 1, &[2], &[1]), now));
        assert_eq!(ports(&view), [2]);
    }

    #[test]
    fn one_of_three_expires_at_once() {
        let (mut view, now) = settled(&[1, 2, 3], Instant::now());
        assert!(view.apply(pushed(1, 11, &[1, 3], &[]), now));
        assert_eq!(ports(&view), [1, 3]);
    }

    #[test]
    fn an_empty_list_of_a_fresh_registry_is_held() {
        let (mut view, now) = settled(&[1, 2, 3], Instant::now());
        view.connected();
        assert!(!view.apply(pushed(2, 0, &[], &[]), now));
        assert_eq!(ports(&view), [1, 2, 3]);
        assert_eq!(view.next_expiry(), Some(now + SETTLED));
        assert!(!view.expire(now + SETTLED - Duration::from_millis(1)));
        assert!(view.expire(now + SETTLED));
        assert!(view.list().is_empty());
    }

    #[test]
    fn those_that_come_back_are_confirmed_and_the_others_go() {
        let (mut view, now) = settled(&[1, 2, 3], Instant::now());
        view.connected();
        view.apply(pushed(2, 0, &[], &[]), now);
        view.apply(pushed(2, 1, &[3], &[]), now + Duration::from_secs(1));
        view.apply(pushed(2, 2, &[1, 3], &[]), now + Duration::from_secs(2));
        assert_eq!(ports(&view), [1, 2, 3]);
        assert!(view.expire(now + SETTLED));
        assert_eq!(ports(&view), [1, 3]);
        assert_eq!(view.next_expiry(), None);
    }

    #[test]
    fn pushes_while_held_do_not_prolong_the_hold() {
        let (mut view, now) = settled(&[1, 2], Instant::now());
        view.connected();
        view.apply(pushed(2, 0, &[2], &[]), now);
        view.apply(pushed(2, 1, &[2, 3], &[]), now + Duration::from_secs(5));
        assert_eq!(view.next_expiry(), Some(now + SETTLED));
    }

    #[test]
    fn an_older_revision_of_the_same_run_is_ignored() {
        let (mut view, now) = settled(&[1, 2], Instant::now());
        assert!(!view.apply(pushed(1, 9, &[1], &[2]), now));
        assert_eq!(ports(&view), [1, 2]);
    }

    #[test]
    fn a_lower_revision_of_another_run_counts() {
        let (mut view, now) = settled(&[1], Instant::now());
        assert!(view.apply(pushed(2, 1, &[1, 2], &[]), now));
        assert_eq!(ports(&view), [1, 2]);
    }

    #[test]
    fn an_empty_push_in_a_running_stream_does_not_clear_the_list() {
        let (mut view, now) = settled(&[1, 2, 3, 4], Instant::now());
        view.apply(pushed(1, 11, &[], &[]), now);
        assert_eq!(view.list().len(), 2, "half may go");
        assert_eq!(view.next_expiry(), Some(now + MASS_HOLD));
        assert!(view.expire(now + MASS_HOLD));
        assert!(
            view.list().is_empty(),
            "a true empty list is honoured in the end"
        );
    }

    #[test]
    fn a_sole_member_is_kept_for_a_while() {
        let (mut view, now) = settled(&[1], Instant::now());
        assert!(!view.apply(pushed(1, 11, &[], &[]), now));
        assert_eq!(ports(&view), [1]);
    }

    #[test]
    fn half_is_counted_over_several_pushes() {
        let (mut view, now) = settled(&[1, 2, 3, 4], Instant::now());
        view.apply(pushed(1, 11, &[2, 3, 4], &[]), now);
        view.apply(pushed(1, 12, &[3, 4], &[]), now + Duration::from_secs(1));
        assert_eq!(ports(&view), [3, 4]);
        view.apply(pushed(1, 13, &[4], &[]), now + Duration::from_secs(2));
        assert_eq!(ports(&view), [3, 4], "the third is held");
        view.apply(pushed(1, 14, &[3, 4], &[]), now + Duration::from_secs(3));
        assert_eq!(view.next_expiry(), None, "and confirmed");
    }

    #[test]
    fn a_new_process_at_an_address_changes_the_list() {
        let (mut view, now) = settled(&[1, 2], Instant::now());
        let mut other = pushed(1, 11, &[1, 2], &[]);
        other.endpoints[0].instance = 77;
        assert!(view.apply(other, now));
        assert_eq!(ports(&view), [77, 2]);
    }
}
