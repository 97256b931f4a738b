//! What a fetch may depend on, read once by whoever owns the configuration.

use std::path::PathBuf;
use std::time::Duration;

use galerne_model::inference::Reach;
use secrecy::SecretString;

/// Public hub used when `HF_ENDPOINT` names no mirror.
const HF_ENDPOINT_DEFAULT: &str = "https://huggingface.co";
/// Largest file: the biggest open-weight single files are below 1 TB.
const MAX_BYTES_DEFAULT: u64 = 1 << 40;
/// Stays free for the database, which shares the disk: a full disk would stop the ledger.
const RESERVE_BYTES_DEFAULT: u64 = 512 * 1024 * 1024;

/// Long enough for a hub to recover from a bad spell.
const PACE_WINDOW_DEFAULT: Duration = Duration::from_secs(300);

/// Settings of a `Fetcher`.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// Hub for `hf://`.
    pub hf_endpoint: String,
    /// The operator's token for gated repositories: for what an operator pulls and for what the catalogue lists, since it
    /// opens the operator's own repositories too. Sent to the hub only, never along a redirect to another host.
    pub hf_token: Option<SecretString>,
    /// Python whose pip is asked where packages lie.
    pub python: PathBuf,
    /// Package index (`…/simple`), asked when pip is not there to ask.
    pub package_index: Option<String>,
    /// Proxy for HTTPS, with its scheme, without the hosts in `no_proxy`.
    pub proxy: Option<String>,
    /// Hosts that are reached without the proxy.
    pub no_proxy: Option<String>,
    /// What everybody may reach; operators reach anything.
    pub reach: Reach,
    /// Largest file taken.
    pub max_bytes: u64,
    /// Bytes that stay free on the disk.
    pub reserve_bytes: u64,
    /// First delay between two attempts; it doubles.
    pub retry_delay: Duration,
    /// Over how long a source must keep up the least rate.
    pub pace_window: Duration,
}

impl FetchSettings {
    /// Settings from the environment, given as a look-up so that only the configuration reads the real one.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        Self {
            hf_endpoint: set("HF_ENDPOINT").unwrap_or_else(|| HF_ENDPOINT_DEFAULT.to_owned()),
            hf_token: set("HF_TOKEN").map(SecretString::from),
            package_index: set("PIP_INDEX_URL").or_else(|| set("UV_INDEX_URL")),
            proxy: ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
                .into_iter()
                .find_map(&set)
                .map(|text| with_scheme(text.trim())),
            no_proxy: set("NO_PROXY").or_else(|| set("no_proxy")),
            ..Self::default()
        }
    }
}

/// `proxy.lan:3128` is often written without a scheme; read as a URL, its host would be taken for one.
fn with_scheme(proxy: &str) -> String {
    if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") }
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            hf_endpoint: HF_ENDPOINT_DEFAULT.to_owned(),
            hf_token: None,
            python: PathBuf::from("python3"),
            package_index: None,
            proxy: None,
            no_proxy: None,
            reach: Reach::Public,
            max_bytes: MAX_BYTES_DEFAULT,
            reserve_bytes: RESERVE_BYTES_DEFAULT,
            retry_delay: Duration::from_millis(500),
            pace_window: PACE_WINDOW_DEFAULT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_as_it_is_written_everywhere() {
        let proxy = |set: &[(&str, &str)]| {
            let found = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            FetchSettings::from_environment(found).proxy
        };
        assert_eq!(proxy(&[]), None);
        assert_eq!(proxy(&[("HTTPS_PROXY", " ")]), None);
        assert_eq!(proxy(&[("https_proxy", "proxy.lan:3128")]).as_deref(), Some("http://proxy.lan:3128"));
        assert_eq!(proxy(&[("ALL_PROXY", "https://proxy.lan")]).as_deref(), Some("https://proxy.lan"));
        let both = [("ALL_PROXY", "http://all.lan"), ("HTTPS_PROXY", "http://own.lan")];
        assert_eq!(proxy(&both).as_deref(), Some("http://own.lan"));
    }
}
