//! Where one gateway is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Where a gateway is, and the name that its certificate must have.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    /// A name or an IP address, without brackets.
    host: Arc<str>,
    port: u16,
    name: Arc<str>,
}

impl Address {
    /// Reads `host:port`, `1.2.3.4:port` or `[::1]:port`, or else says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why| Err(format!("`{}` is no address: {why}", text.escape_debug()));
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("host:port is expected");
        };
        let port = match port.parse() {
            Ok(port @ 1..) if port_is_plain(text) => port,
            _ => return wrong("the port is to be a number from 1 to 65535"),
        };
        let bare = match host.strip_prefix('[') {
            Some(rest) => match rest.strip_suffix(']') {
                Some(bare) if bare.parse::<std::net::Ipv6Addr>().is_ok() => bare,
                _ => return wrong("an IPv6 address is expected between the brackets"),
            },
            None if is_name(host) => host,
            None => {
                return wrong("the host is to be a name, an IPv4 address, or an IPv6 one in []");
            }
        };
        Ok(Self { host: bare.into(), port, name: bare.into() })
    }

    /// A gateway that a name of DNS led to.
    pub(crate) fn found(ip: IpAddr, port: u16, name: &str) -> Self {
        Self { host: ip.to_string().into(), port, name: name.into() }
    }

    /// The host to connect to: a name or an IP address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The host and the port, as in an address of the web.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The name that the gateway's certificate must have.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

fn port_is_plain(text: &str) -> bool {
    // `parse` takes a sign, too.
    !text.ends_with(':') && text.rsplit(':').next().is_some_and(|port| !port.starts_with('+'))
}

fn is_name(host: &str) -> bool {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !host.is_empty() && host.len() <= 253 && host.chars().all(is_usual)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())?;
        if self.name != self.host {
            write!(f, " ({})", self.name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for text in ["gpu-1:7000", "a.b_c.example:1", "10.0.0.1:65535", "[::1]:7000"] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.host()), (text, address.name()));
        }
        assert_eq!(Address::parse("[fe80::2]:80").unwrap().host(), "fe80::2");
        let found = Address::found("::2".parse().unwrap(), 80, "pods.example");
        assert_eq!((found.host(), found.port(), found.name()), ("::2", 80, "pods.example"));
        assert_eq!(found.to_string(), "[::2]:80 (pods.example)");
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for text in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:+1",
            "a:65536",
            "a:x",
            "::1:80",
            "[::1:80",
            "[a]:80",
            "a b:1",
            "a/b:1",
            "\u{1b}:1",
            "http://a:1",
        ] {
            let why = Address::parse(text).unwrap_err();
            assert!(why.contains("is no address") && !why.contains('\u{1b}'), "{why}");
        }
    }
}
