//! A list of header fields in one piece of memory.

/// What a field counts beside its octets (RFC 9113 section 10.5.1).
const OVERHEAD: usize = 32;

/// Header fields in order; one that is cleared keeps its memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields {
    octets: Vec<u8>,
    /// For each field where its name ends and where its value ends.
    ends: Vec<(u32, u32)>,
}

impl Fields {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            octets: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Adds a field.
    pub fn push(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.octets.extend_from_slice(name.as_ref());
        let name_end = self.octets.len();
        self.octets.extend_from_slice(value.as_ref());
        self.seal(name_end);
    }

    /// Adds a field whose value is written by a function.
    pub fn push_with(&mut self, name: impl AsRef<[u8]>, value: impl FnOnce(&mut Vec<u8>)) {
        self.octets.extend_from_slice(name.as_ref());
        let name_end = self.octets.len();
        value(&mut self.octets);
        self.seal(name_end);
    }

    /// The memory to write a field to; [`seal`](Self::seal) ends it.
    pub(crate) fn open(&mut self) -> &mut Vec<u8> {
        &mut self.octets
    }

    /// Ends a field whose name ends there.
    pub(crate) fn seal(&mut self, name_end: usize) {
        self.ends.push((name_end as u32, self.octets.len() as u32));
    }

    /// The field that was added last.
    pub(crate) fn last(&self) -> Option<(&[u8], &[u8])> {
        self.get(self.ends.len().checked_sub(1)?)
    }

    /// A field by its place.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let start = match index.checked_sub(1) {
            Some(before) => self.ends.get(before)?.1,
            None => 0,
        };
        let (name_end, value_end) = *self.ends.get(index)?;
        let name = self.octets.get(start as usize..name_end as usize)?;
        let value = self.octets.get(name_end as usize..value_end as usize)?;
        Some((name, value))
    }

    /// The fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map_while(move |&(name_end, value_end)| {
            let name = self.octets.get(start as usize..name_end as usize)?;
            let value = self.octets.get(name_end as usize..value_end as usize)?;
            start = value_end;
            Some((name, value))
        })
    }

    /// The value of the first field of a name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter()
            .find_map(|(other, value)| (other == name).then_some(value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// What the list counts against a limit: the octets, and 32 for each field.
    #[must_use]
    pub fn size(&self) -> usize {
        self.octets
            .len()
            .saturating_add(self.ends.len().saturating_mul(OVERHEAD))
    }

    /// The octets of all names and values.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.octets.clear();
        self.ends.clear();
    }

    /// Gives memory back that a large list has left behind.
    pub(crate) fn shrink(&mut self, octets: usize) {
        self.octets.shrink_to(octets);
        self.ends.shrink_to(octets / OVERHEAD);
    }

    /// Shortens the list to its first fields.
    pub(crate) fn truncate(&mut self, length: usize) {
        if length < self.ends.len() {
            self.ends.truncate(length);
            let end = self.ends.last().map_or(0, |last| last.1);
            self.octets.truncate(end as usize);
        }
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |part| String::from_utf8_lossy(part).into_owned();
        f.debug_list()
            .entries(self.iter().map(|(name, value)| (text(name), text(value))))
            .finish()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut list = Self::new();
        for (name, value) in fields {
            list.push(name, value);
        }
        list
    }
}
