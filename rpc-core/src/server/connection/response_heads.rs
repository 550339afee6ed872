//! What the heads of responses begin with.

use rpc_http2::StreamKey;
use rpc_http2::hpack::Template;

use crate::codec::Subtype;
use crate::transport::http2::fields::response_template;
use crate::wire::compression::Encoding;

/// The templates of one connection.
pub(super) struct ResponseHeads {
    plain: Template,
    #[cfg(feature = "gzip")]
    gzip: Template,
    named: Option<Box<Named>>,
}

/// Calls of methods whose codec has to be named, which few connections have.
#[derive(Default)]
struct Named {
    /// By the indices of streams. What is left of a stream that is gone has another key than the next.
    codecs: Vec<Option<(StreamKey, Subtype)>>,
    /// One for each codec and encoding that was used.
    templates: Vec<(Subtype, Encoding, Template)>,
}

impl ResponseHeads {
    pub(super) fn new() -> Self {
        Self {
            plain: response_template(Encoding::Identity, Subtype::PROTO),
            #[cfg(feature = "gzip")]
            gzip: response_template(Encoding::Gzip, Subtype::PROTO),
            named: None,
        }
    }

    /// The responses of a stream have this codec.
    #[inline]
    pub(super) fn name(&mut self, key: StreamKey, codec: Subtype) {
        if codec != Subtype::PROTO {
            self.name_other(key, codec);
        }
    }

    fn name_other(&mut self, key: StreamKey, codec: Subtype) {
        let codecs = &mut self.named.get_or_insert_default().codecs;
        if key.index() >= codecs.len() {
            codecs.resize(key.index() + 1, None);
        }
        codecs[key.index()] = Some((key, codec));
    }

    /// What the head of a stream's response begins with.
    #[inline]
    pub(super) fn of(&mut self, key: StreamKey, encoding: Encoding) -> &mut Template {
        match &mut self.named {
            Some(named) if named.codec(key).is_some() => named.of(key, encoding),
            _ => match encoding {
                Encoding::Identity => &mut self.plain,
                #[cfg(feature = "gzip")]
                Encoding::Gzip => &mut self.gzip,
            },
        }
    }
}

impl Named {
    /// The codec of a stream, if it has to be named.
    fn codec(&self, key: StreamKey) -> Option<Subtype> {
        let (of, codec) = (*self.codecs.get(key.index())?)?;
        (of == key).then_some(codec)
    }

    fn of(&mut self, key: StreamKey, encoding: Encoding) -> &mut Template {
        let codec = self.codec(key).unwrap_or(Subtype::PROTO);
        let templates = &mut self.templates;
        let known = templates
            .iter()
            .position(|(of, with, _)| (*of, *with) == (codec, encoding));
        let place = known.unwrap_or_else(|| {
            templates.push((codec, encoding, response_template(encoding, codec)));
            templates.len() - 1
        });
        &mut templates[place].2
    }
}
