//! Request heads into handlers, remembered by what heads begin with.

use std::collections::HashMap;
use std::sync::Arc;

use rpc_http2::hpack::Block;

use crate::Status;
use crate::server::handler::Handler;
use crate::server::router::Router;
use crate::server::slot::Slot;
use crate::transport::http2::fields;
use crate::wire::head::Fields;

/// More methods than this are looked up each time.
const ROUTES: usize = 16 * 1024;

/// A method that was called on this connection.
pub(super) struct Route {
    pub(super) path: Arc<str>,
    pub(super) handler: Handler,
    /// Where its calls run in place.
    pub(super) slot: Option<Box<dyn Slot>>,
}

/// Where a call goes.
pub(super) enum Target {
    /// A route by its number.
    Route(usize),
    /// A handler of a fallback, for this call only.
    Once(Arc<str>, Handler),
    /// Nowhere.
    Missing(Arc<str>, Status),
}

/// A request's head.
pub(super) struct RequestHead {
    pub(super) target: Option<Target>,
    pub(super) is_post: bool,
    pub(super) fields: Fields,
}

/// The beginning of heads, understood.
#[derive(Clone, Default)]
struct Known {
    route: Option<usize>,
    is_post: bool,
    /// A path that is no route.
    path: Option<Arc<str>>,
    fields: Fields,
}

/// What a connection has understood so far.
#[derive(Default)]
pub(super) struct Heads {
    pub(super) routes: Vec<Route>,
    by_path: HashMap<Arc<str>, usize>,
    /// By the slots of the engine's memory.
    known: Vec<Option<Known>>,
}

impl Heads {
    /// Understands a head.
    pub(super) fn read(&mut self, block: Block<'_>, router: &Router) -> RequestHead {
        let mut head = match block.prefix {
            None => Known::default(),
            Some(prefix) => {
                if prefix.slot >= self.known.len() {
                    self.known.resize(prefix.slot + 1, None);
                }
                if prefix.fresh || self.known[prefix.slot].is_none() {
                    let mut known = Known::default();
                    for (name, value) in prefix.fields.iter() {
                        self.take(&mut known, name, value, router);
                    }
                    known.fields.share();
                    self.known[prefix.slot] = Some(known);
                }
                self.known[prefix.slot].clone().unwrap_or_default()
            }
        };
        for (name, value) in block.rest.iter() {
            self.take(&mut head, name, value, router);
        }
        let target = match (head.route, head.path) {
            (Some(route), _) => Some(Target::Route(route)),
            (None, Some(path)) => Some(match router.route(&path) {
                Ok(handler) => Target::Once(path, handler),
                Err(status) => Target::Missing(path, status),
            }),
            (None, None) => None,
        };
        RequestHead {
            target,
            is_post: head.is_post,
            fields: head.fields,
        }
    }

    fn take(&mut self, known: &mut Known, name: &[u8], value: &[u8], router: &Router) {
        match name {
            b":method" => known.is_post = value == b"POST",
            b":path" => {
                let path = String::from_utf8_lossy(value);
                known.route = self.route(&path, router);
                if known.route.is_none() {
                    known.path = Some(path.into());
                }
            }
            _ => fields::take(&mut known.fields, name, value),
        }
    }

    /// The number of a path's route.
    fn route(&mut self, path: &str, router: &Router) -> Option<usize> {
        if let Some(number) = self.by_path.get(path) {
            return Some(*number);
        }
        if self.routes.len() >= ROUTES || !router.has(path) {
            return None;
        }
        let handler = router.route(path).ok()?;
        let path: Arc<str> = path.into();
        let number = self.routes.len();
        self.by_path.insert(Arc::clone(&path), number);
        self.routes.push(Route {
            path,
            handler,
            slot: None,
        });
        Some(number)
    }
}
