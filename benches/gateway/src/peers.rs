//! Who is measured: the mock alone, Galerne, and its peers; how each is started in front of the same mocks.
//!
//! One worker for those that ask for a number (nginx, haproxy, LiteLLM); the others take what cores they find, as Galerne
//! does. Peers check no key but LiteLLM, count nothing and limit nothing: that is what they are without a database.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::call::call;
use crate::load::{Load, Target, run};
use crate::mock;
use crate::programs::Program;
use crate::site::Site;

/// Longest start: LiteLLM takes half a minute on a quiet machine.
const READY_LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(200);
/// The key of peers that want one.
const KEY: &str = "sk-none";
/// File descriptors of a proxy: two for each of two thousand streams, and some.
const DESCRIPTORS: usize = 16_384;

/// A gateway, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// The mock without a gateway before it.
    Direct,
    Galerne,
    Nginx,
    Haproxy,
    Smg,
    SglangRouter,
    VllmRouter,
    LiteLlm,
}

pub(crate) const ALL: [Peer; 8] = [
    Peer::Direct,
    Peer::Galerne,
    Peer::Nginx,
    Peer::Haproxy,
    Peer::Smg,
    Peer::SglangRouter,
    Peer::VllmRouter,
    Peer::LiteLlm,
];

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Galerne => "galerne",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Smg => "smg",
            Self::SglangRouter => "sglang-router",
            Self::VllmRouter => "vllm-router",
            Self::LiteLlm => "litellm",
        }
    }

    /// The peer of this name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let all = || ALL.map(Self::name).join(",");
        let found = ALL.into_iter().find(|peer| peer.name() == name);
        found.with_context(|| format!("there is no peer `{name}`\nhint: PEERS={} are all there are", all()))
    }
}

/// Where things are and go.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The program under test.
    pub(crate) galerne: PathBuf,
    /// Below it, one Python environment for each peer from there.
    pub(crate) environments: PathBuf,
    /// Logs, configurations, the site.
    pub(crate) folder: PathBuf,
}

/// The mocks, two of them.
#[derive(Debug)]
pub(crate) struct Mocks {
    programs: Vec<(u16, Program)>,
    folder: PathBuf,
}

impl Mocks {
    pub(crate) fn start(places: &Places) -> Result<Self> {
        let mut mocks = Self { programs: Vec::new(), folder: places.folder.clone() };
        for _ in 0..2 {
            let port = free_port()?;
            mocks.programs.push((port, start_mock(port, &mocks.folder)?));
        }
        Ok(mocks)
    }

    /// Kills one, as a crash would.
    pub(crate) fn kill(&mut self, place: usize) {
        self.programs[place].1.kill();
    }

    /// Starts a killed one again, where it was.
    pub(crate) fn start_again(&mut self, place: usize) -> Result<()> {
        let (port, program) = &mut self.programs[place];
        *program = start_mock(*port, &self.folder)?;
        Ok(())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.programs.iter().map(|(port, _)| local(*port)).collect()
    }
}

fn start_mock(port: u16, folder: &Path) -> Result<Program> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["mock", "--port", &port.to_string()]);
    let mut program = Program::start(&mut command, &folder.join(format!("mock-{port}.log")))?;
    let limit = Instant::now() + READY_LIMIT;
    while call(&local(port), "GET", "/health", KEY, None).is_err() {
        if let Some(status) = program.ended()? {
            bail!("a mock ended with {status}");
        }
        anyhow::ensure!(Instant::now() < limit, "a mock does not answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(program)
}

/// A peer that answers.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) peer: Peer,
    target: Target,
    what: What,
}

#[derive(Debug)]
enum What {
    Direct,
    Galerne(Box<Site>),
    Other(Program),
}

impl Running {
    /// Starts it in front of `mocks` and waits until it answers a chat.
    pub(crate) fn start(peer: Peer, places: &Places, mocks: &Mocks) -> Result<Self> {
        let upstreams = mocks.addresses();
        let running = |target, what| Self { peer, target, what };
        if peer == Peer::Direct {
            let target = Target { address: upstreams[0].clone(), key: KEY.to_owned() };
            return Ok(running(target, What::Direct));
        }
        let port = free_port()?;
        if peer == Peer::Galerne {
            let site = Site::start(&places.galerne, &places.folder.join("site"), &local(port), &upstreams)?;
            let target = site.target();
            answers(&target, None)?;
            return Ok(running(target, What::Galerne(Box::new(site))));
        }
        let log = places.folder.join(format!("{}.log", peer.name()));
        let mut program = Program::start(&mut command(peer, places, port, &upstreams)?, &log)?;
        let target = Target { address: local(port), key: KEY.to_owned() };
        answers(&target, Some(&mut program)).with_context(|| last_words(&log))?;
        Ok(running(target, What::Other(program)))
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn site(&self) -> Option<&Site> {
        match &self.what {
            What::Galerne(site) => Some(site),
            What::Direct | What::Other(_) => None,
        }
    }

    /// Seconds of processor time it has used; of `direct`, the first mock's.
    pub(crate) fn cpu_seconds(&self, mocks: &Mocks) -> f64 {
        self.program(mocks).cpu_seconds()
    }

    pub(crate) fn memory_mib(&self, mocks: &Mocks) -> f64 {
        self.program(mocks).memory_mib()
    }

    fn program<'a>(&'a self, mocks: &'a Mocks) -> &'a Program {
        match &self.what {
            What::Direct => &mocks.programs[0].1,
            What::Galerne(site) => &site.program,
            What::Other(program) => program,
        }
    }
}

/// Waits until a chat is answered.
fn answers(target: &Target, mut program: Option<&mut Program>) -> Result<()> {
    let limit = Instant::now() + READY_LIMIT;
    loop {
        let report = run(target, Load { most: Some(1), ..Load::plain(1, 5.0) })?;
        if report.answered > 0 {
            return Ok(());
        }
        if let Some(status) = program.as_mut().map(|program| program.ended()).transpose()?.flatten() {
            bail!("it ended with {status}");
        }
        anyhow::ensure!(Instant::now() < limit, "it does not answer: {}", report.trouble());
        std::thread::sleep(POLL);
    }
}

fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    format!("last lines of its log: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" | "))
}

fn command(peer: Peer, places: &Places, port: u16, upstreams: &[String]) -> Result<Command> {
    let urls: Vec<String> = upstreams.iter().map(|address| format!("http://{address}")).collect();
    match peer {
        Peer::Nginx => proxy("nginx", places, &nginx_conf(port, upstreams)),
        Peer::Haproxy => proxy("haproxy", places, &haproxy_conf(port, upstreams)),
        Peer::Smg => router(places, "smg", &["launch"], port, &urls),
        Peer::SglangRouter => router(places, "sglang-router", &["launch"], port, &urls),
        Peer::VllmRouter => router(places, "vllm-router", &[], port, &urls),
        Peer::LiteLlm => litellm(places, port, &urls),
        Peer::Direct | Peer::Galerne => bail!("{} is not started by a command", peer.name()),
    }
}

/// The three Rust routers are forks of one another and take the same words.
fn router(places: &Places, name: &str, first: &[&str], port: u16, urls: &[String]) -> Result<Command> {
    let mut command = environment_program(places, name)?;
    command.args(first).args(["--host", "127.0.0.1", "--port", &port.to_string()]).arg("--worker-urls").args(urls);
    command.args(["--policy", "cache_aware", "--log-level", "error"]);
    command.args(["--prometheus-host", "127.0.0.1", "--prometheus-port", &free_port()?.to_string()]);
    command.env("RUST_LOG", "error");
    Ok(command)
}

fn litellm(places: &Places, port: u16, urls: &[String]) -> Result<Command> {
    let model = mock::MODEL;
    let entry = |url: &String| {
        format!(
            "  - model_name: {model}\n    litellm_params: {{model: openai/{model}, api_base: \"{url}/v1\", api_key: none}}\n"
        )
    };
    let entries: String = urls.iter().map(entry).collect();
    let text = format!(
        "model_list:\n{entries}litellm_settings: {{callbacks: [], telemetry: false}}\ngeneral_settings: {{master_key: {KEY}}}\n"
    );
    let config = places.folder.join("litellm.yaml");
    fs::write(&config, text)?;
    let mut command = environment_program(places, "litellm")?;
    command.arg("--config").arg(config).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--num_workers", "1", "--telemetry", "False"]);
    command.env("LITELLM_LOG", "ERROR").env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("NO_PROXY", "*");
    Ok(command)
}

fn environment_program(places: &Places, name: &str) -> Result<Command> {
    let program = places.environments.join(name).join("bin").join(name);
    anyhow::ensure!(program.exists(), "not installed: there is no `{}`", program.display());
    Ok(Command::new(program))
}

fn proxy(name: &str, places: &Places, config: &str) -> Result<Command> {
    let folder = places.folder.join(name);
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, config)?;
    let program = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|place| Path::new(place).join(name))
        .find(|program| program.exists())
        .context("not installed")?;
    let mut command = Command::new(program);
    match name {
        "nginx" => command.arg("-c").arg(file.canonicalize()?).arg("-p").arg(folder.canonicalize()?),
        _ => command.arg("-f").arg(file),
    };
    Ok(command)
}

fn nginx_conf(port: u16, upstreams: &[String]) -> String {
    let servers: String = upstreams.iter().map(|address| format!(" server {address};")).collect();
    format!(
        "worker_processes 1;\nworker_rlimit_nofile {DESCRIPTORS};\ndaemon off;\npid nginx.pid;\nerror_log nginx.err;\n\
         events {{ worker_connections {DESCRIPTORS}; }}\nhttp {{\n  access_log off;\n\
         client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
         keepalive_requests 1000000000;\n\
         upstream m {{{servers} keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port}; client_max_body_size 8m;\n\
         location / {{ proxy_pass http://m; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; }}\n\
         }}\n}}\n"
    )
}

/// Without `http-no-delay` it holds events back for up to 200 ms.
fn haproxy_conf(port: u16, upstreams: &[String]) -> String {
    let servers: String =
        upstreams.iter().enumerate().map(|(place, address)| format!("  server s{place} {address}\n")).collect();
    format!(
        "global\n  nbthread 1\n  maxconn 8000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 300s\n\
         \x20 timeout server 300s\n  option http-keep-alive\n  option http-no-delay\n  http-reuse aggressive\n\
         frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n  balance leastconn\n{servers}"
    )
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_peer_is_refused_with_the_names_of_all() {
        assert_eq!(Peer::named("smg").unwrap(), Peer::Smg);
        let error = Peer::named("apache").unwrap_err().to_string();
        assert!(error.contains("`apache`") && error.contains("nginx,haproxy,smg"), "{error}");
    }

    #[test]
    fn proxies_are_told_of_both_mocks_and_not_to_hold_events_back() {
        let upstreams = ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        let (nginx, haproxy) = (nginx_conf(3, &upstreams), haproxy_conf(3, &upstreams));
        for text in [&nginx, &haproxy] {
            assert!(upstreams.iter().all(|address| text.contains(address)) && text.contains("127.0.0.1:3"), "{text}");
        }
        assert!(nginx.contains("proxy_buffering off") && haproxy.contains("option http-no-delay"));
    }
}
