//! Request heads into handlers, remembered by what heads begin with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rpc_http2::hpack::Block;

use crate::server::handler::Handler;
use crate::server::router::Router;
use crate::server::slot::Slot;
use crate::transport::http2::fields;
use crate::wire::compression::{Encoding, EncodingSet};
use crate::wire::head::{ContentType, Fields};
use crate::wire::timeout;
use crate::{Metadata, Status};

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
    pub(super) is_grpc: bool,
    pub(super) metadata: Metadata,
    pub(super) timeout: Option<Duration>,
    pub(super) encoding: Encoding,
    pub(super) accept: EncodingSet,
    pub(super) error: Option<Status>,
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

impl Known {
    /// The usual head: all that is known, and another timeout.
    fn usual(&self, block: Block<'_>) -> Option<RequestHead> {
        let timeout = match block.rest.len() {
            0 => self.fields.timeout,
            1 => match block.rest.get(0)? {
                (b"grpc-timeout", value) => Some(timeout::parse(value)?),
                _ => return None,
            },
            _ => return None,
        };
        if self.fields.has_error() {
            return None;
        }
        Some(RequestHead {
            target: Some(Target::Route(self.route?)),
            is_post: self.is_post,
            is_grpc: self.fields.content_type == Some(ContentType::Grpc),
            metadata: self.fields.metadata.clone(),
            timeout,
            encoding: self.fields.encoding,
            accept: self.fields.accept,
            error: None,
        })
    }
}

/// What a connection has understood so far.
#[derive(Default)]
pub(super) struct Heads {
    pub(super) routes: Vec<Route>,
    by_path: HashMap<Arc<str>, usize>,
    /// By the slots of the engine's memory, with the number of what was there.
    known: Vec<Option<(u64, Known)>>,
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
                let before = self.known[prefix.slot].as_ref();
                if before.is_none_or(|(serial, _)| *serial != prefix.serial) {
                    let mut known = Known::default();
                    for (name, value) in prefix.fields.iter() {
                        self.take(&mut known, name, value, router);
                    }
                    known.fields.share();
                    self.known[prefix.slot] = Some((prefix.serial, known));
                }
                let known = self.known[prefix.slot].as_ref().map(|(_, known)| known);
                if let Some(head) = known.and_then(|known| known.usual(block)) {
                    return head;
                }
                known.cloned().unwrap_or_default()
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
        let mut fields = head.fields;
        RequestHead {
            target,
            is_post: head.is_post,
            is_grpc: fields.content_type == Some(ContentType::Grpc),
            error: fields.take_error(),
            metadata: fields.metadata,
            timeout: fields.timeout,
            encoding: fields.encoding,
            accept: fields.accept,
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

#[cfg(test)]
mod tests {
    use rpc_http2::hpack::{Decoder, Encoder};

    use super::*;
    use crate::server::Service;
    use crate::{Codec, Method, MethodKind, Request, Response};

    /// A head that a user never saw, such as that of a refused stream, may be the first of its kind.
    #[test]
    fn a_head_goes_to_its_own_method_whoever_has_seen_the_one_before() {
        let state = Arc::new(());
        let paths: Vec<String> = (0..200).map(|n| format!("/s.S/Method{n}")).collect();
        let service = paths.iter().fold(Service::new("s.S"), |service, path| {
            let method =
                Method::dynamic(path.clone(), MethodKind::Unary, Codec::raw(), Codec::raw());
            service.unary(&method, &state, |_, request: Request<bytes::Bytes>| async {
                Ok(Response::new(request.into_inner()))
            })
        });
        let router = Router::new().add_service(service);
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(4096, 16 * 1024, 128));
        let mut heads = Heads::default();
        for round in 0..6 {
            for path in &paths {
                let mut template =
                    fields::request_template(path, "localhost", false, Encoding::Identity, false);
                let mut block = Vec::new();
                encoder.begin(&mut block);
                encoder.template(&mut template, &mut block);
                let decoded = decoder.decode(&block).unwrap();
                if round % 2 == 0 {
                    continue;
                }
                let head = heads.read(decoded, &router);
                let Some(Target::Route(route)) = head.target else {
                    panic!("{path} has no route");
                };
                assert_eq!(*heads.routes[route].path, **path);
            }
        }
    }
}
