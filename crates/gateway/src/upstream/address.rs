//! Where a replica is: its URL, taken apart once.

use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;

/// A replica's URL in the parts that a connection and a request's head need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Absent over plain TCP: the name that the certificate must be for.
    pub(super) tls: Option<ServerName<'static>>,
    /// Path before the API's own, without a slash at its end.
    pub(super) prefix: String,
    /// The lines of a head that are the same for all requests: `host`, and `authorization` where the URL has a name and a
    /// password.
    pub(super) head_lines: String,
}

/// A URL that no request can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its URL cannot be used: it must be `http://HOST[:PORT]`, or the same with `https`")]
pub(crate) struct BadAddress;

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, BadAddress> {
        let uri: Uri = url.parse().map_err(|_| BadAddress)?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(BadAddress),
        };
        let authority = uri.authority().ok_or(BadAddress)?;
        let (userinfo, at) = match authority.as_str().rsplit_once('@') {
            Some((userinfo, at)) => (Some(userinfo), at),
            None => (None, authority.as_str()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // `http://:80` is one to its parser.
        if host.is_empty() {
            return Err(BadAddress);
        }
        let default = if is_tls { 443 } else { 80 };
        // `Authority::port` is silent on a port that is too large.
        let port = match at.strip_prefix(authority.host()).map(|rest| rest.trim_start_matches(':')) {
            Some("") => default,
            Some(port) => port.parse().map_err(|_| BadAddress)?,
            None => return Err(BadAddress),
        };
        let tls = is_tls.then(|| ServerName::try_from(host.clone())).transpose().map_err(|_| BadAddress)?;
        let mut head_lines = format!("host: {at}\r\n");
        if let Some(userinfo) = userinfo {
            let secret = STANDARD.encode(percent_decoded(userinfo));
            head_lines.push_str(&format!("authorization: Basic {secret}\r\n"));
        }
        Ok(Self { host, port, tls, prefix: uri.path().trim_end_matches('/').to_owned(), head_lines })
    }
}

/// A name and a password as they are meant; a `%` that begins no number stands for itself.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let number = after.get(..2).filter(|_| first == b'%').and_then(|digits| {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            Some(digit(digits[0])? << 4 | digit(digits[1])?)
        });
        bytes.push(number.unwrap_or(first));
        rest = if number.is_some() { &after[2..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        Address::parse(url).unwrap_or_else(|_| panic!("{url} is good"))
    }

    #[test]
    fn a_url_gives_host_port_prefix_and_head() {
        let plain = address("http://127.0.0.1:8000");
        assert_eq!((plain.host.as_str(), plain.port, plain.tls.is_some()), ("127.0.0.1", 8000, false));
        assert_eq!((plain.prefix.as_str(), plain.head_lines.as_str()), ("", "host: 127.0.0.1:8000\r\n"));
        let tls = address("https://models.example/base/");
        assert_eq!((tls.host.as_str(), tls.port, tls.prefix.as_str()), ("models.example", 443, "/base"));
        assert_eq!(tls.tls, ServerName::try_from("models.example").ok());
        let six = address("http://[::1]:81/");
        assert_eq!((six.host.as_str(), six.port, six.head_lines.as_str()), ("::1", 81, "host: [::1]:81\r\n"));
        assert_eq!(address("http://models.example").port, 80);
    }

    #[test]
    fn a_name_and_a_password_in_the_url_are_sent_and_not_part_of_the_host() {
        let address = address("http://Aladdin:open%20sesame@h:1");
        assert_eq!(address.host, "h");
        assert_eq!(address.head_lines, "host: h:1\r\nauthorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n");
        assert_eq!(percent_decoded("a%zz%4"), b"a%zz%4");
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        for url in [
            "",
            "h:1",
            "/v1",
            "ftp://h",
            "http://",
            "http://:80",
            "http://h:99999",
            "http://h\r\nx: y",
            "https://a_b..c:1",
        ] {
            assert_eq!(Address::parse(url), Err(BadAddress), "{url:?}");
        }
    }
}
