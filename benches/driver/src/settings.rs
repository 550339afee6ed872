//! What the command line says of a run: [`Settings`], and what a stack is able to do: [`Can`].

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// How a server or a client of a run differs from the usual one; nothing is set by default.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Both sides speak TLS.
    pub tls: Option<Tls>,
    /// How many connections a server takes.
    pub max_connections: Option<usize>,
    /// How many streams a server takes on one connection.
    pub max_streams: Option<u32>,
    /// The largest message that either side takes.
    pub max_message: Option<usize>,
    /// How many methods the server has beside those of the Echo service, which a client with the
    /// same setting calls in turn.
    pub methods: usize,
    /// How many entries of metadata a client sends with each call; one of them differs every time.
    pub metadata: usize,
    /// How many streams lie open and idle on each connection beside the load.
    pub idle_streams: usize,
    /// How many streams lie open on each connection beside the load of which neither side reads what
    /// the other one sends.
    pub unread_streams: usize,
    /// The length of the body of a unary call.
    pub body: usize,
    /// The tasks of the load are not so many on each connection but so many in all, and each takes the
    /// next of its connections for its next call.
    pub rotate: bool,
    /// How many unary calls a connection that is only held open makes before.
    pub calls: usize,
}

/// A certificate of `127.0.0.1` that is its own root, and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Tls {
    /// The file of the certificate in the directory that the command line names.
    pub const CERTIFICATE: &str = "certificate.pem";
    /// The file of the key.
    pub const KEY: &str = "key.pem";

    fn read(directory: &Path) -> Result<Self, Error> {
        Ok(Self {
            certificate: std::fs::read_to_string(directory.join(Self::CERTIFICATE))?,
            key: std::fs::read_to_string(directory.join(Self::KEY))?,
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tls: None,
            max_connections: None,
            max_streams: None,
            max_message: None,
            methods: 0,
            metadata: 0,
            idle_streams: 0,
            unread_streams: 0,
            body: 100,
            rotate: false,
            calls: 0,
        }
    }
}

impl Settings {
    /// Reads words `name=value`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, Error> {
        let mut settings = Self::default();
        for word in words {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("{word:?} is not name=value"))?;
            match name {
                "tls" => settings.tls = Some(Tls::read(Path::new(value))?),
                "max-connections" => settings.max_connections = Some(value.parse()?),
                "max-streams" => settings.max_streams = Some(value.parse()?),
                "max-message" => settings.max_message = Some(value.parse()?),
                "methods" => settings.methods = value.parse()?,
                "metadata" => settings.metadata = value.parse()?,
                "idle-streams" => settings.idle_streams = value.parse()?,
                "unread-streams" => settings.unread_streams = value.parse()?,
                "body" => settings.body = value.parse()?,
                "rotate" => settings.rotate = value.parse()?,
                "calls" => settings.calls = value.parse()?,
                _ => return Err(format!("there is no setting {name:?}").into()),
            }
        }
        Ok(settings)
    }
}

/// What a stack is able to do, as its program says when it is asked `can`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Can {
    /// The workloads it has methods for.
    pub workloads: Vec<String>,
    /// It speaks gRPC, so that the client of another stack can call it.
    pub grpc: bool,
    /// It has a client of its own.
    pub client: bool,
    /// It speaks TLS.
    pub tls: bool,
}

impl Can {
    /// All that there is of gRPC without TLS.
    #[must_use]
    pub fn all() -> Self {
        Self {
            workloads: crate::load::NAMES.map(ToOwned::to_owned).to_vec(),
            grpc: true,
            client: true,
            tls: false,
        }
    }

    /// Unary calls at once, without gRPC.
    #[must_use]
    pub fn floor() -> Self {
        Self {
            grpc: false,
            ..Self::unary()
        }
    }

    /// Unary calls of handlers that do not wait.
    #[must_use]
    pub fn unary() -> Self {
        Self {
            workloads: vec!["unary-100".to_owned()],
            ..Self::all()
        }
    }
}
