//! What the heads of a connection's methods begin with, as it was made for earlier calls.

use std::borrow::Cow;
use std::collections::HashMap;

use rpc_http2::hpack::Template;

use crate::codec::Subtype;
use crate::wire::compression::Encoding;

/// So many methods have a template from one round to the next, and as many in the round that goes on.
const METHODS: usize = 128;
/// The template of a longer path is made anew each time.
const LONGEST: usize = 512;

/// What a template is for.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) path: Cow<'static, str>,
    pub(super) encoding: Encoding,
    pub(super) codec: Subtype,
    pub(super) own_agent: bool,
}

/// Templates by method; those that are not in use are forgotten once there are many others.
///
/// Whoever makes the calls decides on the paths, and a proxy's callers may have any number of them.
/// Those of a round are kept for the one after it: what comes at least once in so many methods stays.
#[derive(Debug, Default)]
pub(super) struct Templates {
    /// That of the last call, which is mostly that of the next.
    last: Option<(Key, Template)>,
    new: HashMap<Key, Template>,
    old: HashMap<Key, Template>,
}

impl Templates {
    /// The template of a method, which is made when it is not there.
    #[inline]
    pub(super) fn get(&mut self, key: Key, make: impl FnOnce(&Key) -> Template) -> &mut Template {
        if self.last.as_ref().is_none_or(|last| last.0 != key) {
            self.change(key, make);
        }
        let (_, template) = self.last.as_mut().expect("it was there or was put there");
        template
    }

    fn change(&mut self, key: Key, make: impl FnOnce(&Key) -> Template) {
        let known = self.new.remove(&key);
        let known = known.or_else(|| self.old.remove(&key));
        let template = known.unwrap_or_else(|| make(&key));
        let Some((key, template)) = self.last.replace((key, template)) else {
            return;
        };
        if key.path.len() > LONGEST {
            return;
        }
        if self.new.len() >= METHODS {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(key, template);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: String) -> Key {
        Key {
            path: path.into(),
            encoding: Encoding::Identity,
            codec: Subtype::PROTO,
            own_agent: false,
        }
    }

    fn template(key: &Key) -> Template {
        Template::new([(":path", &*key.path)].into_iter().collect())
    }

    #[test]
    fn any_number_of_paths_takes_the_memory_of_a_few() {
        let mut templates = Templates::default();
        let mut made = 0;
        for number in 0..10_000 {
            for path in [
                "/used.Always/One".to_owned(),
                format!("/used.Once/M{number}"),
                format!("/used.Once/{}", "x".repeat(LONGEST)),
            ] {
                let template = templates.get(key(path.clone()), |key| {
                    made += 1;
                    template(key)
                });
                let fields = template.fields();
                assert_eq!(fields.get(0).map(|field| field.1), Some(path.as_bytes()));
            }
            let kept = templates.new.len() + templates.old.len();
            assert!(kept <= 2 * METHODS, "{kept}");
        }
        // The one that is used all the time was made once.
        assert_eq!(made, 1 + 10_000 + 10_000);
        let long = |key: &Key| key.path.len() > LONGEST;
        assert!(!templates.new.keys().chain(templates.old.keys()).any(long));
    }

    #[test]
    fn a_service_of_many_methods_makes_each_template_once() {
        let mut templates = Templates::default();
        let mut made = 0;
        for round in 0..10 {
            for number in 0..METHODS {
                templates.get(key(format!("/a.B/M{number}")), |key| {
                    made += 1;
                    template(key)
                });
            }
            assert_eq!(made, METHODS, "{round}");
        }
    }
}
