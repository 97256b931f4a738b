//! From values as typed to what is meant.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use galerne_api::error::Code;
use galerne_model::inference::Reach;
use galerne_model::units::Milliwatts;
use galerne_store::StoreUrl;

use super::{BadConfig, Config, ConfigProblem, Layers, LogFormat, Origin, StatedPower, TlsFiles};
use super::{events, objects};

/// Largest prefix index: two billion tokens.
const PREFIX_INDEX_MIB_MAX: usize = 1_024;

/// Reads one value after the other and keeps every problem.
pub(super) struct Reader<'a> {
    pub(super) layers: &'a Layers,
    problems: Vec<ConfigProblem>,
}

impl Reader<'_> {
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (value, origin) = self.layers.get(key)?;
        match parse(value) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.problem(key, origin.clone(), detail, hint, Code::ConfigInvalid);
                None
            }
        }
    }

    pub(super) fn problem(&mut self, key: &str, origin: Origin, detail: String, hint: &str, code: Code) {
        self.problems.push(ConfigProblem { key: key.to_owned(), origin, detail, hint: hint.to_owned(), code });
    }

    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.layers.get(key).map(|(value, _)| PathBuf::from(value))
    }
}

/// What the layers mean.
pub(super) fn of(layers: &Layers) -> Result<Config, BadConfig> {
    let mut reader = Reader { layers, problems: Vec::new() };
    let data = data(&mut reader);
    let listen = reader.read("listen", "write it as `127.0.0.1:8080` or `[::1]:8080`", listen);
    let tls = tls(&mut reader);
    let database = database(&mut reader, data.as_deref());
    let zone = reader.read("zone", "use the code of the zone, such as `FR`, `DE` or `SE-SE3`", zone);
    let pue = reader.read("pue", "write it as `1.2`; it cannot be below 1", pue);
    let idle = reader.read("idle_watts", "write watts, such as `35` or `12.5`", watts);
    let active = reader.read("active_watts", "write watts, such as `6.5`", watts);
    let log = reader.read("log", "one of `auto`, `json`, `text`", log);
    let reach = reader.read("private_sources", "one of `operators`, `everyone`", private_sources);
    let index = reader.read("prefix_index_mib", "write whole MiB, such as `64`; 0 routes by load alone", mebibytes);
    let events = events::receiver(&mut reader);
    let objects = objects::place(&mut reader, data.as_deref());
    let (worker, grid) = (reader.path("worker"), reader.path("grid"));
    if let (Some(address), None) = (listen, &tls)
        && !address.ip().is_loopback()
    {
        let origin = layers.get("listen").map_or(Origin::Default, |(_, origin)| origin.clone());
        let detail = format!(
            "`{address}` can be reached by other machines, and no certificate is given: API keys would cross the network unprotected"
        );
        reader.problem(
            "listen",
            origin,
            detail,
            "add `--tls-cert FILE --tls-key FILE`, or listen on `127.0.0.1`",
            Code::PublicBindNeedsTls,
        );
    }
    let whole = (data, listen, database, zone, pue, log, reach, index, objects);
    match whole {
        (
            Some(data),
            Some(listen),
            Some(database),
            Some(zone),
            Some(pue_thousandths),
            Some(log),
            Some(reach),
            Some(prefix_index_bytes),
            Some(objects),
        ) if reader.problems.is_empty() => Ok(Config {
            data,
            listen,
            tls,
            database,
            zone,
            grid,
            pue_thousandths,
            power: StatedPower { idle, active },
            log,
            reach,
            prefix_index_bytes,
            events,
            objects,
            worker,
        }),
        _ => Err(BadConfig { problems: reader.problems }),
    }
}

fn data(reader: &mut Reader<'_>) -> Option<PathBuf> {
    let found = reader.path("data").or_else(|| reader.layers.user_data.as_ref().map(PathBuf::from));
    if found.is_none() {
        let detail = "neither `XDG_DATA_HOME` nor `HOME` is set, so there is no default".to_owned();
        reader.problem("data", Origin::Default, detail, "give one: `--data DIR`", Code::ConfigInvalid);
    }
    found
}

fn tls(reader: &mut Reader<'_>) -> Option<TlsFiles> {
    match (reader.path("tls_cert"), reader.path("tls_key")) {
        (Some(cert), Some(key)) => {
            for (name, path) in [("tls_cert", &cert), ("tls_key", &key)] {
                if !path.is_file() {
                    let origin = reader.layers.get(name).map_or(Origin::Default, |(_, origin)| origin.clone());
                    reader.problem(
                        name,
                        origin,
                        format!("there is no file `{}`", path.display()),
                        "give the path of a PEM file",
                        Code::ConfigInvalid,
                    );
                }
            }
            Some(TlsFiles { cert, key })
        }
        (None, None) => None,
        (cert, _) => {
            let (given, missing) = if cert.is_some() { ("tls_cert", "tls_key") } else { ("tls_key", "tls_cert") };
            let origin = reader.layers.get(given).map_or(Origin::Default, |(_, origin)| origin.clone());
            reader.problem(
                given,
                origin,
                format!("`{missing}` is missing"),
                "a certificate and its key are given together",
                Code::ConfigInvalid,
            );
            None
        }
    }
}

fn database(reader: &mut Reader<'_>, data: Option<&Path>) -> Option<StoreUrl> {
    if reader.layers.get("database").is_none() {
        return data.map(|data| StoreUrl::sqlite(data.join("galerne.db")));
    }
    reader.read("database", "write `sqlite:FILE` or `postgres://USER:PASSWORD@HOST/DATABASE`", |text| {
        text.parse().map_err(|_| "this is not the address of a database".to_owned())
    })
}

fn mebibytes(text: &str) -> Result<usize, String> {
    let most = PREFIX_INDEX_MIB_MAX;
    match text.parse::<usize>() {
        Ok(mebibytes) if mebibytes <= most => Ok(mebibytes * 1024 * 1024),
        Ok(mebibytes) => Err(format!("{mebibytes} MiB are more than {most}")),
        Err(_) => Err("this is no whole number".to_owned()),
    }
}

/// An address, not a name: what a name means is decided elsewhere, and could be public tomorrow. `localhost` is always here.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let here = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    here.as_deref().unwrap_or(text).parse().map_err(|_| format!("`{text}` is not an address and a port"))
}

fn zone(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-';
    if (2..=16).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the code of a zone"))
    }
}

fn pue(text: &str) -> Result<i64, String> {
    thousandths(text)
        .filter(|value| (1_000..=10_000).contains(value))
        .ok_or_else(|| format!("`{text}` is not a number from 1 to 10 with at most three decimals"))
}

fn watts(text: &str) -> Result<Milliwatts, String> {
    thousandths(text)
        .filter(|value| (0..=100_000_000).contains(value))
        .map(Milliwatts)
        .ok_or_else(|| format!("`{text}` is not a power from 0 to 100000 watts with at most three decimals"))
}

fn log(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err(format!("`{text}` is not a log format")),
    }
}

fn private_sources(text: &str) -> Result<Reach, String> {
    match text {
        "operators" => Ok(Reach::Public),
        "everyone" => Ok(Reach::Anywhere),
        _ => Err(format!("`{text}` is nobody who could be allowed")),
    }
}

fn thousandths(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 3 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<3}").parse().ok()?;
    whole.parse::<i64>().ok()?.checked_mul(1_000)?.checked_add(fraction)
}
