//! Request heads into handlers, remembered by what heads begin with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rpc_http2::hpack::Block;

use crate::codec::Codecs;
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

/// What heads begin with is forgotten when that which was kept since then is more than this.
const LARGEST_MEMORY: usize = 128 * 1024;

/// A head with more than this is understood anew each time.
const LARGEST: usize = 2048;

/// Where so many heads were not as the one before, only one of so many is kept.
const FEW: u32 = 4;
const SELDOM: u32 = 64;

/// A method that was called on this connection.
pub(super) struct Route {
    pub(super) path: Arc<str>,
    pub(super) handler: Handler,
    pub(super) codecs: Codecs,
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
    /// It has the content-type of gRPC, and the codec of the method.
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
    /// Whether the content-type is one of the route's.
    is_grpc: bool,
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
            timeout,
            ..self.head(self.route?)
        })
    }

    /// What is known, as the head of a call of this route.
    fn head(&self, route: usize) -> RequestHead {
        RequestHead {
            target: Some(Target::Route(route)),
            is_post: self.is_post,
            is_grpc: self.is_grpc,
            metadata: self.fields.metadata.clone(),
            timeout: self.fields.timeout,
            encoding: self.fields.encoding,
            accept: self.fields.accept,
            error: None,
        }
    }
}

/// The last head that did not begin as a known one ends: most peers send paths as literals, and put
/// the timeout among the other fields.
#[derive(Default)]
struct LastHead {
    /// All its fields but `grpc-timeout`.
    fields: rpc_http2::Fields,
    /// The number of the prefix it had, and how many of the fields are those of the prefix.
    prefix: Option<(u64, usize)>,
    known: Known,
    /// Heads since the last that was the same.
    others: u32,
}

impl LastHead {
    /// The head of a block that differs in its timeout at the most; its prefix is known.
    fn same(&self, block: Block<'_>, known: Option<&Known>) -> Option<RequestHead> {
        let route = self.known.route?;
        let (prefix, known) = (block.prefix?, known?);
        let (mut timeout, same, skipped) = match self.prefix {
            Some((serial, fields)) if serial == prefix.serial => {
                (known.fields.timeout, fields, prefix.fields.len())
            }
            _ => (None, 0, 0),
        };
        let mut fields = self.fields.iter().skip(same);
        for field in block.fields().skip(skipped) {
            if field.0 == b"grpc-timeout" {
                timeout = Some(timeout::parse(field.1)?);
            } else if fields.next() != Some(field) {
                return None;
            }
        }
        if fields.next().is_some() || self.known.fields.has_error() {
            return None;
        }
        Some(RequestHead {
            timeout,
            ..self.known.head(route)
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
    /// The size of what has come into `known` since it was empty.
    held: usize,
    last: LastHead,
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
                    self.judge(&mut known, router);
                    known.fields.share();
                    let size = prefix.fields.size();
                    self.held = self.held.saturating_add(size);
                    if self.held > LARGEST_MEMORY {
                        self.held = size;
                        self.known.fill_with(|| None);
                    }
                    self.known[prefix.slot] = Some((prefix.serial, known));
                }
                let known = self.known[prefix.slot].as_ref().map(|(_, known)| known);
                if let Some(head) = known.and_then(|known| known.usual(block)) {
                    return head;
                }
                if let Some(head) = self.last.same(block, known) {
                    self.last.others = 0;
                    return head;
                }
                known.cloned().unwrap_or_default()
            }
        };
        fields::reserve(&mut head.fields, block.rest);
        for (name, value) in block.rest.iter() {
            self.take(&mut head, name, value, router);
        }
        self.judge(&mut head, router);
        self.keep(&mut head, block);
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
            is_grpc: head.is_grpc,
            error: fields.take_error(),
            metadata: fields.metadata,
            timeout: fields.timeout,
            encoding: fields.encoding,
            accept: fields.accept,
        }
    }

    /// Keeps a head for the next one that is the same.
    fn keep(&mut self, head: &mut Known, block: Block<'_>) {
        self.last.others = self.last.others.wrapping_add(1);
        if self.last.others > FEW && !self.last.others.is_multiple_of(SELDOM) {
            return;
        }
        self.last.fields.clear();
        self.last.known = Known::default();
        // What is oversized is not all there.
        if head.route.is_none() || block.oversized {
            return;
        }
        let add = |fields: &mut rpc_http2::Fields, list: &rpc_http2::Fields| {
            for (name, value) in list.iter().filter(|field| field.0 != b"grpc-timeout") {
                fields.push(name, value);
            }
        };
        self.last.prefix = block.prefix.map(|prefix| {
            add(&mut self.last.fields, prefix.fields);
            (prefix.serial, self.last.fields.len())
        });
        add(&mut self.last.fields, block.rest);
        if self.last.fields.size() > LARGEST {
            self.last.fields = rpc_http2::Fields::new();
            return;
        }
        head.fields.share();
        self.last.known = head.clone();
        self.last.known.fields.timeout = None;
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

    /// Decides whether the content-type is right. What has no handler is told so whatever its codec.
    fn judge(&self, head: &mut Known, router: &Router) {
        let is_right = |content_type: &ContentType| match (head.route, &head.path) {
            (Some(route), _) => content_type.asks_for(self.routes[route].codecs.request),
            (None, Some(path)) if router.takes(path) => {
                content_type.asks_for(router.codecs(path).request)
            }
            (None, _) => content_type.is_grpc(),
        };
        head.is_grpc = head.fields.content_type.as_ref().is_some_and(is_right);
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
            codecs: router.codecs(&path),
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
                let mut template = fields::request_template(
                    path,
                    "localhost",
                    false,
                    Encoding::Identity,
                    Codecs::default().request,
                    false,
                );
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

    /// Heads as a peer sends them that has paths and timeouts as literals.
    #[test]
    fn a_head_like_the_last_one_has_its_own_timeout_and_fields() {
        let state = Arc::new(());
        let method = |path: &str| {
            Method::dynamic(
                path.to_owned(),
                MethodKind::Unary,
                Codec::raw(),
                Codec::raw(),
            )
        };
        let service = Service::new("s.S");
        let service = ["/s.S/A", "/s.S/B"].iter().fold(service, |service, path| {
            service.unary(
                &method(path),
                &state,
                |_, request: Request<bytes::Bytes>| async {
                    Ok(Response::new(request.into_inner()))
                },
            )
        });
        let router = Router::new().add_service(service);
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(4096, 16 * 1024, 128));
        let mut heads = Heads::default();
        let mut read = |path: &str, timeout: Option<&str>, user: &str| {
            let mut block = Vec::new();
            encoder.begin(&mut block);
            encoder.stable(b":method", b"POST", &mut block);
            encoder.volatile(b":path", path.as_bytes(), &mut block);
            if let Some(timeout) = timeout {
                encoder.volatile(b"grpc-timeout", timeout.as_bytes(), &mut block);
            }
            encoder.stable(b"content-type", b"application/grpc", &mut block);
            encoder.volatile(b"x-user", user.as_bytes(), &mut block);
            let head = heads.read(decoder.decode(&block).unwrap(), &router);
            assert!(head.is_post && head.is_grpc);
            let path = head.target.map(|target| match target {
                Target::Route(route) => heads.routes[route].path.to_string(),
                Target::Once(path, _) | Target::Missing(path, _) => format!("no {path}"),
            });
            let user = head.metadata.get("x-user").map(ToOwned::to_owned);
            (
                path.unwrap(),
                head.timeout,
                user.unwrap(),
                head.error.is_some(),
            )
        };
        let ms = |ms| Some(Duration::from_millis(ms));
        for _ in 0..3 {
            let of = |path: &str, timeout, user: &str, fails| {
                (path.to_owned(), timeout, user.to_owned(), fails)
            };
            assert_eq!(
                read("/s.S/A", Some("5m"), "x"),
                of("/s.S/A", ms(5), "x", false)
            );
            assert_eq!(
                read("/s.S/A", Some("6m"), "x"),
                of("/s.S/A", ms(6), "x", false)
            );
            assert_eq!(read("/s.S/A", None, "x"), of("/s.S/A", None, "x", false));
            assert_eq!(read("/s.S/A", None, "y"), of("/s.S/A", None, "y", false));
            assert_eq!(
                read("/s.S/B", Some("6m"), "y"),
                of("/s.S/B", ms(6), "y", false)
            );
            assert_eq!(
                read("/s.S/B", Some("bad"), "y"),
                of("/s.S/B", None, "y", true)
            );
            assert_eq!(read("/s.S/B", None, "y"), of("/s.S/B", None, "y", false));
            assert_eq!(read("/s.S/C", None, "y"), of("no /s.S/C", None, "y", false));
        }
    }
}
