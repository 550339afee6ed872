//! What a client believes of a service's members: [`View`].
//!
//! Registries are independent of each other, and each may be wrong where the members are fine: a
//! fresh one knows nobody yet, one that was cut off takes all leases for expired. So the lists of all
//! are one set, with the newest word on each member, and a registry's word alone takes nobody off
//! who answers:
//!
//! * Who deregistered itself goes at once, whichever registry says so.
//! * Whom no registry lists any more is *doubted*. If few are, the registry is believed, but for
//!   those whose connection has held for longer than a lease lives without its holder: a process that
//!   is gone would have broken it. They go when their connection is lost.
//! * If more than half of the members are doubted, it is rather the registry that is wrong: those
//!   who answer stay, and as long as one does, so do those whom nobody has called. Who refuses stays
//!   for [`HOLD`], as it may be starting anew, and costs nothing meanwhile, because balancers do not
//!   use what is not connected. When nobody answers for that long, the list is believed.
//! * A registry that has just started, cannot be reached, or has not told its whole list yet has no
//!   say in who is missing.
//!
//! It has no clock and no I/O: the time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use rpc_core::Status;
use rpc_core::client::{Address, ConnectivityState, Endpoint};
use tokio::time::Instant;

use super::peer::in_full;

/// How long members are kept that most registries doubt and that do not answer, and over which time
/// those who went are counted among the doubted.
pub(crate) const HOLD: Duration = Duration::from_secs(25);
/// How long a goodbye is remembered: as long as a registry could still list who said it.
const FAREWELL: Duration = Duration::from_secs(600);
const MOST_FAREWELLS: usize = 100_000;

/// What one registry says of the list, in one message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) incarnation: u64,
    pub(crate) revision: u64,
    pub(crate) ttl: Duration,
    /// A whole list begins.
    pub(crate) whole: bool,
    pub(crate) more: bool,
    /// The registry has just started.
    pub(crate) refilling: bool,
    pub(crate) listed: Vec<Endpoint>,
    /// Who is gone, and whether it said goodbye.
    pub(crate) gone: Vec<(u64, bool)>,
}

/// The members of one service, as far as the registries can be believed.
#[derive(Debug, Default)]
pub(crate) struct View {
    sources: Vec<Source>,
    members: BTreeMap<Address, Member>,
    /// Those whom no registry lists.
    doubted: BTreeSet<Address>,
    /// When members went that had not said goodbye.
    went: VecDeque<Instant>,
    farewells: HashSet<u64>,
    said: VecDeque<(Instant, u64)>,
    /// There is a list to tell.
    changed: bool,
    /// Somebody has left, or is another one now.
    urgent: bool,
    /// An outage to tell.
    outage: bool,
    /// A list was told.
    told: bool,
    /// What to log, once no lock is held.
    notes: Vec<String>,
}

/// What one registry has said.
#[derive(Debug, Default)]
struct Source {
    name: String,
    /// Why it cannot be asked; nothing while it can, or while that is not known yet.
    lost: Option<Status>,
    live: bool,
    incarnation: u64,
    revision: u64,
    ttl: Duration,
    refilling: bool,
    /// The whole list is known.
    complete: bool,
    /// The whole list is under way: who was in it so far.
    incoming: Option<HashSet<u64>>,
    listed: HashMap<u64, Address>,
}

impl Source {
    /// Whether it means something that somebody is not on its list.
    fn has_a_say(&self) -> bool {
        self.live && self.complete && !self.refilling
    }
}

#[derive(Debug)]
struct Member {
    endpoint: Endpoint,
    /// Which registries list it, or did when they were heard last; a bit each.
    by: u64,
    /// Since when nobody lists it.
    doubted: Option<Instant>,
    link: Link,
}

/// The channel's connection to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// The channel has not connected to it.
    Unknown,
    Up(Instant),
    /// It was lost, or cannot be opened.
    Down(Instant),
}

/// What is known of the doubted members together.
#[derive(Clone, Copy, Debug, Default)]
struct Doubts {
    /// So many are doubted that it is rather the registries that are wrong.
    most: bool,
    one_answers: bool,
    /// When one of them answered last, or was doubted first.
    last_answer: Option<Instant>,
    /// How long a connection must have held to show that its process is not another's successor.
    grace: Duration,
}

impl Doubts {
    /// When a doubted member goes by itself; nothing while it stays.
    fn leaves(&self, member: &Member) -> Option<Instant> {
        let since = member.doubted?;
        match (self.most, member.link) {
            (true, Link::Up(_)) => None,
            (true, Link::Unknown) if self.one_answers => None,
            (true, Link::Unknown) => Some(self.last_answer?.max(since) + HOLD),
            (true, Link::Down(lost)) => Some(since.max(lost) + HOLD),
            (false, Link::Up(opened)) => (opened + self.grace > since).then_some(since),
            (false, _) => Some(since),
        }
    }
}

impl View {
    /// A view of a service that these registries, at most 64, list.
    pub(crate) fn new(registries: impl IntoIterator<Item = String>) -> Self {
        let source = |name| Source {
            name,
            ..Source::default()
        };
        Self {
            sources: registries.into_iter().map(source).collect(),
            ..Self::default()
        }
    }

    /// Up to which revision of which run a registry's list is known.
    pub(crate) fn known(&self, source: usize) -> (u64, u64) {
        self.sources
            .get(source)
            .filter(|source| source.complete)
            .map_or((0, 0), |source| (source.incarnation, source.revision))
    }

    /// Takes in what a registry says.
    pub(crate) fn hear(&mut self, from: usize, told: Told, now: Instant) {
        let Some(source) = self.sources.get_mut(from) else {
            return;
        };
        let same_run = source.incarnation == told.incarnation;
        if same_run && told.revision < source.revision {
            self.notes.push(format!(
                "the registry {} told an older list (revision {} after {}), which is ignored",
                source.name, told.revision, source.revision
            ));
            return;
        }
        if !same_run && !told.whole {
            self.notes.push(format!(
                "the registry {} told changes of a list that it has not told",
                source.name
            ));
            return;
        }
        let had_a_say = source.has_a_say();
        if told.whole {
            source.incoming = Some(HashSet::new());
            if !same_run {
                source.complete = false;
            }
        }
        source.live = true;
        source.lost = None;
        self.outage = false;
        source.incarnation = told.incarnation;
        source.revision = told.revision;
        source.ttl = told.ttl;
        source.refilling = told.refilling;
        for (instance, deregistered) in told.gone {
            if deregistered {
                self.farewell(instance, now);
            }
            self.unlist(from, instance, now);
        }
        for endpoint in told.listed {
            self.list(from, endpoint);
        }
        if let Some(source) = self.sources.get_mut(from)
            && !told.more
            && let Some(incoming) = source.incoming.take()
        {
            let missing = |id: &&u64| !incoming.contains(*id);
            let missing: Vec<u64> = source.listed.keys().filter(missing).copied().collect();
            self.changed |= !self.told && !source.complete;
            source.complete = true;
            for instance in missing {
                self.unlist(from, instance, now);
            }
        }
        let has_a_say = self.sources.get(from).is_some_and(Source::has_a_say);
        if has_a_say != had_a_say {
            self.doubt_all(now);
        }
        self.settle(now);
    }

    /// A registry cannot be asked any more: its last word stays.
    pub(crate) fn lose(&mut self, from: usize, why: &Status, now: Instant) {
        let Some(source) = self.sources.get_mut(from) else {
            return;
        };
        let first = source.lost.is_none();
        source.lost = Some(why.clone());
        source.incoming = None;
        if std::mem::replace(&mut source.live, false) {
            self.doubt_all(now);
        }
        if first {
            // With the last one gone, and once.
            self.outage |= self.sources.iter().all(|source| source.lost.is_some());
            self.changed |= !self.told;
        }
        self.settle(now);
    }

    fn list(&mut self, from: usize, endpoint: Endpoint) {
        let instance = endpoint.instance;
        let Some(source) = self.sources.get_mut(from) else {
            return;
        };
        if let Some(incoming) = &mut source.incoming {
            incoming.insert(instance);
        }
        if self.farewells.contains(&instance) {
            return;
        }
        let address = endpoint.address.clone();
        let moved = source
            .listed
            .insert(instance, address.clone())
            .filter(|old| *old != address);
        let bit = bit(from);
        if let Some(old) = moved
            && let Some(member) = self.members.get_mut(&old)
            && member.endpoint.instance == instance
        {
            member.by = 0;
            self.remove(&old);
        }
        self.doubted.remove(&address);
        match self.members.get_mut(&address) {
            Some(member) => {
                member.by |= bit;
                member.doubted = None;
                if member.endpoint != endpoint {
                    if member.endpoint.instance != instance {
                        // Another process: only who says that it has it lists it.
                        member.by = bit;
                    }
                    member.endpoint = endpoint;
                    self.changed = true;
                    self.urgent = true;
                }
            }
            None => {
                let member = Member {
                    endpoint,
                    by: bit,
                    doubted: None,
                    link: Link::Unknown,
                };
                self.members.insert(address, member);
                self.changed = true;
            }
        }
    }

    /// One registry does not list an instance any more.
    fn unlist(&mut self, from: usize, instance: u64, now: Instant) {
        let source = self.sources.get_mut(from);
        let Some(address) = source.and_then(|source| source.listed.remove(&instance)) else {
            return;
        };
        if let Some(member) = self.members.get_mut(&address)
            && member.endpoint.instance == instance
        {
            member.by &= !bit(from);
            self.doubt(&address, now);
        }
    }

    /// An instance said goodbye: no registry brings it back.
    fn farewell(&mut self, instance: u64, now: Instant) {
        if self.farewells.insert(instance) {
            self.said.push_back((now, instance));
        }
        let over = |at: &Instant| now.duration_since(*at) >= FAREWELL;
        while self.said.len() > MOST_FAREWELLS || self.said.front().is_some_and(|(at, _)| over(at))
        {
            if let Some((_, forgotten)) = self.said.pop_front() {
                self.farewells.remove(&forgotten);
            }
        }
        let places: Vec<Address> = self
            .sources
            .iter()
            .filter_map(|source| source.listed.get(&instance).cloned())
            .collect();
        for address in places {
            let member = self.members.get(&address);
            if member.is_some_and(|member| member.endpoint.instance == instance) {
                self.remove(&address);
            }
        }
    }

    fn remove(&mut self, address: &Address) {
        self.doubted.remove(address);
        if self.members.remove(address).is_some() {
            self.changed = true;
            self.urgent = true;
        }
    }

    /// Whether somebody is doubted depends on who can be asked.
    fn doubt_all(&mut self, now: Instant) {
        let all: Vec<Address> = self.members.keys().cloned().collect();
        for address in all {
            self.doubt(&address, now);
        }
    }

    fn doubt(&mut self, address: &Address, now: Instant) {
        let live = |source: &Source| source.live;
        let any_says = self.sources.iter().any(Source::has_a_say);
        let live = self.sources.iter().enumerate().filter(|(_, one)| live(one));
        let live = live.fold(0, |all, (index, _)| all | bit(index));
        let Some(member) = self.members.get_mut(address) else {
            return;
        };
        if member.by & live != 0 || !any_says {
            member.doubted = None;
            self.doubted.remove(address);
        } else if member.doubted.is_none() {
            member.doubted = Some(now);
            self.doubted.insert(address.clone());
        }
    }

    /// The channel's connection to a member has changed.
    pub(crate) fn connection(&mut self, address: &Address, state: ConnectivityState, now: Instant) {
        let Some(member) = self.members.get_mut(address) else {
            return;
        };
        member.link = match (state, member.link) {
            (ConnectivityState::Ready, link @ Link::Up(_)) => link,
            (ConnectivityState::Ready, _) => Link::Up(now),
            (ConnectivityState::TransientFailure, Link::Unknown) => Link::Down(now),
            (_, Link::Up(_)) => Link::Down(now),
            (_, link) => link,
        };
        if member.doubted.is_some() {
            self.settle(now);
        }
    }

    fn doubts(&self) -> Doubts {
        let doubted = self.doubted.len() + self.went.len();
        let mut doubts = Doubts {
            most: 2 * doubted > self.members.len() + self.went.len(),
            ..Doubts::default()
        };
        for member in self.doubtful() {
            let last = match member.link {
                Link::Down(lost) => Some(lost),
                Link::Unknown => member.doubted,
                Link::Up(_) => {
                    doubts.one_answers = true;
                    member.doubted
                }
            };
            doubts.last_answer = doubts.last_answer.max(last);
        }
        let ttl = self.sources.iter().map(|source| source.ttl).max();
        doubts.grace = ttl.unwrap_or_default() + Duration::from_secs(1);
        doubts
    }

    fn doubtful(&self) -> impl Iterator<Item = &Member> {
        self.doubted
            .iter()
            .filter_map(|address| self.members.get(address))
    }

    /// Drops doubted members whose time is over.
    pub(crate) fn settle(&mut self, now: Instant) {
        let over = |at: &Instant| now.duration_since(*at) >= HOLD;
        while self.went.front().is_some_and(over) {
            self.went.pop_front();
        }
        if self.doubted.is_empty() {
            return;
        }
        let doubts = self.doubts();
        let mut leave = Vec::new();
        for address in &self.doubted {
            if let Some(member) = self.members.get(address)
                && doubts.leaves(member).is_some_and(|at| at <= now)
            {
                leave.push((address.clone(), member.endpoint.instance));
            }
        }
        for (address, instance) in &leave {
            self.remove(address);
            self.went.push_back(now);
            for source in &mut self.sources {
                if source.listed.remove(instance).is_some() {
                    // One that is lost: it has to tell its list anew to bring this one back.
                    source.complete = false;
                }
            }
        }
    }

    /// When [`Self::settle`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        if self.doubted.is_empty() {
            return None;
        }
        let doubts = self.doubts();
        self.doubtful()
            .filter_map(|member| doubts.leaves(member))
            .min()
    }

    /// Whether more has happened than that somebody came.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent || self.outage || !self.told
    }

    /// The list, when there is a new one to tell, or why there is none.
    pub(crate) fn news(&mut self) -> Option<Result<Vec<Endpoint>, Status>> {
        if std::mem::take(&mut self.outage) {
            return Some(Err(self.unreachable()));
        }
        if !self.changed {
            return None;
        }
        let complete = self.sources.iter().any(|source| source.complete);
        let settled = |source: &Source| source.lost.is_some() || source.has_a_say();
        if !self.told
            && (!complete || (self.members.is_empty() && !self.sources.iter().all(settled)))
        {
            // The first list is waited for.
            return None;
        }
        if !self.told && self.members.is_empty() && !self.sources.iter().any(Source::has_a_say) {
            return None;
        }
        self.changed = false;
        self.urgent = false;
        self.told = true;
        Some(Ok(self.list_of_members()))
    }

    pub(crate) fn list_of_members(&self) -> Vec<Endpoint> {
        self.members
            .values()
            .map(|member| member.endpoint.clone())
            .collect()
    }

    /// How many members there are, and how many of them no registry lists.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.members.len(), self.doubted.len())
    }

    /// What is to be logged.
    pub(crate) fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn unreachable(&self) -> Status {
        let lost = self.sources.iter().filter_map(|source| {
            let lost = source.lost.as_ref()?;
            Some((format!("{}: {}", source.name, in_full(lost)), lost))
        });
        let (texts, statuses): (Vec<String>, Vec<&Status>) = lost.unzip();
        let refused = |status: &&&Status| super::peer::is_refusal(status);
        let code = match statuses.iter().find(refused) {
            Some(status) if statuses.iter().all(|one| refused(&one)) => status.code(),
            _ => rpc_core::Code::Unavailable,
        };
        let message = format!("no registry can be reached ({})", texts.join("; "));
        Status::new(code, message)
    }
}

fn bit(source: usize) -> u64 {
    1u64.checked_shl(u32::try_from(source).unwrap_or(u32::MAX))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
