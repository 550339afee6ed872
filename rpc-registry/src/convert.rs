//! Between the messages of the protocol and the types of rpc-core.

use std::net::IpAddr;
use std::time::Duration;

use rpc_core::Status;
use rpc_core::client::{Address, Endpoint};

use crate::generated::Instance;

/// How much metadata one instance can have, keys and values together.
const METADATA_LIMIT: usize = 16 * 1024;

pub(crate) fn valid_metadata<'a>(
    metadata: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), Status> {
    let octets: usize = metadata
        .into_iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if octets > METADATA_LIMIT {
        return Err(Status::invalid_argument(format!(
            "{octets} bytes of metadata are more than {METADATA_LIMIT}"
        )));
    }
    Ok(())
}

pub(crate) fn to_instance(endpoint: &Endpoint) -> Instance {
    Instance {
        id: endpoint.instance,
        address: endpoint.address.to_string(),
        weight: endpoint.weight,
        metadata: endpoint.metadata.clone().into_iter().collect(),
    }
}

pub(crate) fn to_endpoint(instance: Instance) -> Result<Endpoint, Status> {
    let address: Address = instance.address.parse().map_err(|error| {
        Status::invalid_argument("the registered address is none").with_source(error)
    })?;
    advertisable(&address)?;
    let mut endpoint = Endpoint::new(address).with_weight(instance.weight);
    endpoint.metadata = instance.metadata.into_iter().collect();
    endpoint.instance = instance.id;
    Ok(endpoint)
}

/// Refuses addresses that mean something else, or nothing, on another machine.
pub(crate) fn advertisable(address: &Address) -> Result<(), Status> {
    let Address::Tcp { host, port } = address else {
        return Ok(());
    };
    if host
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_unspecified())
    {
        return Err(Status::invalid_argument(format!(
            "{address} cannot be advertised: nobody can connect to it from elsewhere; listen on it if you like, and register the host name or IP address that clients reach this server at"
        )));
    }
    if *port == 0 {
        return Err(Status::invalid_argument(format!(
            "{address} cannot be advertised: its port is 0; bind first and register the port of local_addr()"
        )));
    }
    Ok(())
}

pub(crate) fn valid_service(service: &str) -> Result<(), Status> {
    if service.is_empty()
        || service.len() > 256
        || service.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',')
    {
        return Err(Status::invalid_argument(format!(
            "{service:?} is not a service name: write 1 to 256 characters without spaces and commas"
        )));
    }
    Ok(())
}

pub(crate) fn to_milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_survives_the_wire() {
        let mut endpoint = Endpoint::new("[::1]:80".parse().unwrap())
            .with_weight(0)
            .with_metadata("zone", "a");
        endpoint.instance = u64::MAX;
        assert_eq!(to_endpoint(to_instance(&endpoint)).unwrap(), endpoint);
    }

    #[test]
    fn unspecified_addresses_are_refused_with_advice() {
        for text in ["0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80"] {
            let status = advertisable(&text.parse().unwrap()).unwrap_err();
            assert!(
                status.message().contains("register the host name"),
                "{status}"
            );
            assert_eq!(status.code(), rpc_core::Code::InvalidArgument);
        }
        let status = advertisable(&"127.0.0.1:0".parse().unwrap()).unwrap_err();
        assert!(status.message().contains("local_addr()"), "{status}");
        for text in ["127.0.0.1:1", "[::1]:1", "host:1", "unix:/x"] {
            advertisable(&text.parse().unwrap()).unwrap();
        }
    }

    #[test]
    fn an_instance_without_an_address_is_refused() {
        assert!(to_endpoint(Instance::default()).is_err());
    }

    #[test]
    fn service_names() {
        for good in ["a", "foo.bar.v1.RouteGuide", "route-guide"] {
            valid_service(good).unwrap();
        }
        for bad in ["", "a b", "a,b", "a\n", &"x".repeat(257)] {
            assert!(valid_service(bad).is_err(), "{bad:?}");
        }
    }
}
