//! The URIs of this crate: [`Target`].

use rpc_core::Status;
use rpc_core::client::{Address, Endpoint};

/// Whom to find, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    Registry { uri: String, service: String },
    Static(Vec<Endpoint>),
    Memory(String),
}

impl Target {
    pub(crate) fn parse(uri: &str) -> Result<Self, Status> {
        if let Some(list) = uri.strip_prefix("static:") {
            return Ok(Self::Static(
                addresses(uri, list)?
                    .into_iter()
                    .map(Endpoint::new)
                    .collect(),
            ));
        }
        if let Some(service) = uri.strip_prefix("memory:") {
            crate::convert::valid_service(service)
                .map_err(|status| invalid(uri, status.message()))?;
            return Ok(Self::Memory(service.to_owned()));
        }
        let Some((scheme, rest)) = scheme(uri) else {
            return Err(invalid(
                uri,
                "the scheme is none of registry, registry+tls, static and memory",
            ));
        };
        let (servers, service) = rest
            .split_once('/')
            .ok_or_else(|| invalid(uri, "there is no /service at its end"))?;
        addresses(uri, servers)?;
        crate::convert::valid_service(service).map_err(|status| invalid(uri, status.message()))?;
        Ok(Self::Registry {
            uri: format!("{scheme}{servers}"),
            service: service.to_owned(),
        })
    }

    /// The registry servers of a URI without a service, and whether they have TLS.
    pub(crate) fn parse_registry(uri: &str) -> Result<(Vec<Address>, bool), Status> {
        let (scheme, list) = scheme(uri)
            .ok_or_else(|| invalid(uri, "it does not begin with registry:// or registry+tls://"))?;
        let list = list.strip_suffix('/').unwrap_or(list);
        if list.contains('/') {
            return Err(invalid(
                uri,
                "a registry is named without a service: registry://host:port",
            ));
        }
        Ok((addresses(uri, list)?, scheme == TLS))
    }
}

const PLAIN: &str = "registry://";
const TLS: &str = "registry+tls://";

fn scheme(uri: &str) -> Option<(&'static str, &str)> {
    [PLAIN, TLS]
        .into_iter()
        .find_map(|scheme| Some((scheme, uri.strip_prefix(scheme)?)))
}

fn addresses(uri: &str, list: &str) -> Result<Vec<Address>, Status> {
    list.split(',')
        .map(|text| {
            text.trim()
                .parse()
                .map_err(|error| invalid(uri, "one of its addresses is none").with_source(error))
        })
        .collect()
}

fn invalid(uri: &str, why: &str) -> Status {
    Status::invalid_argument(format!(
        "{uri:?} is not a target: {why}; write registry://host:port,host:port/service (registry+tls:// for TLS), static:host:port,host:port or memory:service"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme() {
        let registry = Target::parse("registry://a:1,[::1]:2/foo.Bar").unwrap();
        assert_eq!(
            registry,
            Target::Registry {
                uri: "registry://a:1,[::1]:2".into(),
                service: "foo.Bar".into()
            }
        );
        let secure = Target::parse("registry+tls://a:1/foo.Bar").unwrap();
        assert_eq!(
            secure,
            Target::Registry {
                uri: "registry+tls://a:1".into(),
                service: "foo.Bar".into()
            }
        );
        let Target::Static(endpoints) = Target::parse("static:a:1, b:2").unwrap() else {
            panic!("not static")
        };
        assert_eq!(
            endpoints
                .iter()
                .map(|endpoint| endpoint.address.to_string())
                .collect::<Vec<_>>(),
            ["a:1", "b:2"]
        );
        assert_eq!(
            Target::parse("memory:foo").unwrap(),
            Target::Memory("foo".into())
        );
    }

    #[test]
    fn registries() {
        assert_eq!(
            Target::parse_registry("registry://a:1,b:2")
                .unwrap()
                .0
                .len(),
            2
        );
        let (one, tls) = Target::parse_registry("registry+tls://a:1/").unwrap();
        assert_eq!((one.len(), tls), (1, true));
        for bad in [
            "http://a:1",
            "registry://",
            "registry://a",
            "registry://a:1/service",
            "registry://a:1,,b:2",
        ] {
            let status = Target::parse_registry(bad).unwrap_err();
            assert!(status.message().contains(bad), "{status}");
        }
    }

    #[test]
    fn others_say_what_to_write() {
        for bad in [
            "",
            "a:1",
            "http://a:1",
            "registry://a:1",
            "registry://a:1/",
            "registry:///s",
            "static:",
            "static:a",
            "memory:",
            "registry://a:1/b c",
        ] {
            let status = Target::parse(bad).unwrap_err();
            assert_eq!(status.code(), rpc_core::Code::InvalidArgument);
            assert!(
                status.message().contains(&format!("{bad:?}"))
                    && status.message().contains("memory:service"),
                "{status}"
            );
        }
    }
}
