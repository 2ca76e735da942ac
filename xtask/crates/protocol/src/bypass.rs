//! Which hosts are reached without the proxy, for the gateway and for the launcher, which compiles this file too.
//!
//! An entry is a host, a domain with all that is below it, a network, or `*` for everything, as curl and Go read `NO_PROXY`.

use std::net::IpAddr;

/// One entry of `NO_PROXY`.
pub enum Bypass {
    All,
    /// A host, or all hosts below a domain.
    Domain {
        name: String,
        port: Option<u16>,
    },
    Network {
        address: IpAddr,
        prefix_bits: u32,
    },
}

impl Bypass {
    /// `None` for an entry that says nothing.
    pub fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Self::All);
        }
        let (network, prefix) =
            entry.split_once('/').map_or((entry.as_str(), None), |(network, prefix)| (network, Some(prefix)));
        if let Ok(address) = network.trim_matches(['[', ']']).parse::<IpAddr>() {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let prefix_bits = prefix.map_or(Some(whole), |prefix| prefix.parse().ok().filter(|bits| *bits <= whole))?;
            return Some(Self::Network { address, prefix_bits });
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        let name = name.trim_start_matches('*').trim_start_matches('.').to_owned();
        Some(Self::Domain { name, port })
    }

    pub fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Domain { name, port: wanted } => {
                let below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && wanted.is_none_or(|wanted| wanted == port)
            }
            Self::Network { address, prefix_bits } => match (address, host.parse::<IpAddr>()) {
                (IpAddr::V4(network), Ok(IpAddr::V4(host))) => {
                    (network.to_bits() ^ host.to_bits()).leading_zeros() >= *prefix_bits
                }
                (IpAddr::V6(network), Ok(IpAddr::V6(host))) => {
                    (network.to_bits() ^ host.to_bits()).leading_zeros() >= *prefix_bits
                }
                _ => false,
            },
        }
    }
}
