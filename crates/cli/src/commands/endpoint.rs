//! Endpoints: models at stable names.

mod meter;

use clap::{Args, Subcommand, ValueEnum};
use galerne_model::identity::RateLimits;
use galerne_model::inference::{
    Backend, Endpoint, EndpointSpec, EndpointState, Model, RoutingPolicy, Share, Visibility,
};
use galerne_model::money::TokenPrice;
use galerne_model::power::Metering;
use galerne_model::units::{Micros, Milliwatts};

use crate::commands::endpoint::meter::MeterArguments;
use crate::commands::values::{self, LimitArguments, Span, limits_text};
use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, DeleteArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne endpoint`.
#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// List endpoints
    List,
    /// Show one
    Show(ShowArguments),
    /// Serve a model under a name, with the embedded engine
    Create(Box<CreateArguments>),
    /// Serve what other servers (vLLM, SGLang, llama-server, Ollama) already serve
    RegisterExternal(Box<ExternalArguments>),
    /// Change limits, price, visibility or idle time; a limit of 0 takes it away
    Update {
        /// Its name or id
        name: String,
        #[command(flatten)]
        settings: SettingArguments,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Set how many replicas there may be
    Scale {
        /// Its name or id
        name: String,
        /// Fewest replicas; 0 gives the memory back when nobody calls
        #[arg(long, value_name = "N")]
        min: Option<u32>,
        /// Most replicas
        #[arg(long, value_name = "N")]
        max: Option<u32>,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Set where requests go besides its own replicas; a list that is given replaces the one there is
    Route(Box<RouteArguments>),
    /// Say where the energy of its replicas is read; requests are then corrected by what was measured
    Meter(Box<MeterArguments>),
    /// Take no new requests
    Pause {
        /// Its name or id
        name: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Take requests again
    Resume {
        /// Its name or id
        name: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Stop its replicas and delete it
    Delete(DeleteArguments),
}

/// Options of `galerne endpoint create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// The name callers use as `model`
    name: String,
    /// The model, by name or id
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// Context of one sequence in tokens [default: 4,096, or what the model was trained for if that is less]
    #[arg(long, value_name = "TOKENS")]
    context: Option<u32>,
    /// Sequences decoded together
    #[arg(long, value_name = "N")]
    sequences: Option<u32>,
    /// Threads of each replica [default: the free cores less one]
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Fewest replicas; 0 gives the memory back when nobody calls
    #[arg(long, value_name = "N", default_value_t = 1)]
    min: u32,
    /// Most replicas
    #[arg(long, value_name = "N", default_value_t = 1)]
    max: u32,
    #[command(flatten)]
    settings: SettingArguments,
    #[command(flatten)]
    change: ChangeArguments,
}

/// Options of `galerne endpoint register-external`.
#[derive(Debug, Args)]
pub struct ExternalArguments {
    /// The name callers use as `model`
    name: String,
    /// Address before `/v1`; may be given several times, one per replica
    #[arg(long = "at", value_name = "URL", required = true)]
    urls: Vec<String>,
    /// The model's name over there
    #[arg(long, value_name = "NAME")]
    upstream_model: String,
    /// Its context in tokens
    #[arg(long, value_name = "TOKENS")]
    context: u32,
    /// Power of one replica under load, for the energy estimate; without it energy is not reported
    #[arg(long, value_name = "WATTS")]
    watts: Option<u32>,
    /// Country they stand in, such as FR; without it requests that demand a country are not sent there
    #[arg(long, value_name = "COUNTRY")]
    residency: Option<String>,
    #[command(flatten)]
    settings: SettingArguments,
    #[command(flatten)]
    change: ChangeArguments,
}

/// Options of `galerne endpoint route`.
#[derive(Debug, Args)]
pub struct RouteArguments {
    /// Its name or id
    name: String,
    /// An endpoint of the project that answers a share of the requests, such as next=5; may be given several times
    #[arg(long, value_name = "ENDPOINT=PERCENT", value_parser = share)]
    canary: Vec<(String, u32)>,
    /// An endpoint of the project that gets a copy of a share of the requests; its answers are dropped
    #[arg(long, value_name = "ENDPOINT=PERCENT", value_parser = share)]
    shadow: Vec<(String, u32)>,
    /// An endpoint asked when no replica can answer, at its own price; may be given several times, the first is asked first
    #[arg(long, value_name = "ENDPOINT")]
    fallback: Vec<String>,
    /// Where an external server publishes its KV cache, such as tcp://10.0.0.7:5557; once for each URL, in their order
    #[arg(long, value_name = "ADDRESS")]
    kv_events: Vec<String>,
    /// Empty a list; may be given several times
    #[arg(long, value_enum, value_name = "LIST")]
    clear: Vec<PolicyList>,
    #[command(flatten)]
    change: ChangeArguments,
}

/// Lists of a routing policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyList {
    /// Who answers a share
    Canary,
    /// Who gets copies
    Shadow,
    /// Who is asked when nobody can answer
    Fallback,
    /// Where KV caches are published
    KvEvents,
}

/// `next=5` or `next=0.5`: a name and thousandths.
fn share(text: &str) -> Result<(String, u32), String> {
    let wrong = || format!("`{text}` is no share; write ENDPOINT=PERCENT, such as next=5 or next=0.5");
    let (name, percent) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
    let percent = percent.trim_end_matches('%');
    let (whole, tenth) = percent.split_once('.').unwrap_or((percent, "0"));
    let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u32>().ok());
    match (number(whole).flatten(), number(tenth).flatten()) {
        (Some(whole), Some(tenth)) if whole <= 100 && tenth <= 9 => Ok((name.to_owned(), whole * 10 + tenth)),
        _ => Err(wrong()),
    }
}

/// What may be changed about an endpoint while it serves.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct SettingArguments {
    #[command(flatten)]
    limits: LimitArguments,
    /// Time without a request after which an endpoint with --min 0 sleeps, such as 10m
    #[arg(long, value_name = "LENGTH")]
    idle: Option<Span>,
    /// Who may call it
    #[arg(long, value_enum, value_name = "WHO")]
    visibility: Option<VisibilityArgument>,
    /// Euros per million prompt tokens, for this endpoint alone
    #[arg(long, value_name = "EUROS", value_parser = values::euros, allow_negative_numbers = true)]
    price_prompt: Option<Micros>,
    /// Euros per million cached prompt tokens
    #[arg(long, value_name = "EUROS", value_parser = values::euros, allow_negative_numbers = true)]
    price_cached: Option<Micros>,
    /// Euros per million generated tokens
    #[arg(long, value_name = "EUROS", value_parser = values::euros, allow_negative_numbers = true)]
    price_completion: Option<Micros>,
}

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum VisibilityArgument {
    /// Projects of the same tenant
    Tenant,
    /// Only the project that owns it
    Project,
    /// Every tenant of the site; only an operator can set this
    Site,
}

impl SettingArguments {
    fn over(self, mut spec: EndpointSpec) -> EndpointSpec {
        spec.limits = self.limits.over(spec.limits);
        if let Some(idle) = self.idle {
            spec.idle_seconds = u32::try_from(idle.0.as_secs()).unwrap_or(u32::MAX);
        }
        if let Some(visibility) = self.visibility {
            spec.visibility = match visibility {
                VisibilityArgument::Tenant => Visibility::Tenant,
                VisibilityArgument::Project => Visibility::Project,
                VisibilityArgument::Site => Visibility::Site,
            };
        }
        if self.price_prompt.or(self.price_cached).or(self.price_completion).is_some() {
            // What is not named is never free by accident.
            let now = spec.price.unwrap_or(TokenPrice::STANDARD);
            let prompt = self.price_prompt.unwrap_or(now.prompt);
            // Whoever names no price for cached tokens means that of the prompt.
            let cached = self.price_cached.unwrap_or_else(|| if spec.price.is_some() { now.cached } else { prompt });
            spec.price =
                Some(TokenPrice { prompt, cached, completion: self.price_completion.unwrap_or(now.completion) });
        }
        spec
    }
}

impl EndpointCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => {
                let empty = "no endpoint yet; make one: galerne endpoint create NAME --model MODEL";
                resources::list::<Endpoint>(session, empty).await
            }
            Self::Show(show) => resources::show::<Endpoint>(session, &show.name).await,
            Self::Create(arguments) => create(session, *arguments).await,
            Self::RegisterExternal(arguments) => register(session, *arguments).await,
            Self::Update { name, settings, change } => {
                resources::edit::<Endpoint>(session, &name, change, "updated", |spec| settings.over(spec)).await
            }
            Self::Scale { name, min, max, change } => scale(session, &name, min, max, change).await,
            Self::Route(arguments) => route(session, *arguments).await,
            Self::Meter(arguments) => meter::run(session, *arguments).await,
            Self::Pause { name, change } => {
                let paused = |spec| EndpointSpec { paused: true, ..spec };
                resources::edit::<Endpoint>(session, &name, change, "paused", paused).await
            }
            Self::Resume { name, change } => {
                let open = |spec| EndpointSpec { paused: false, ..spec };
                resources::edit::<Endpoint>(session, &name, change, "resumed", open).await
            }
            Self::Delete(delete) => {
                resources::delete::<Endpoint>(session, &delete, |endpoint| {
                    let ready = display::counted(i64::from(endpoint.status.replicas_ready), "ready replica");
                    format!(
                        "endpoint `{}` goes: callers get 404; requests in flight are finished first ({ready})",
                        endpoint.name
                    )
                })
                .await
            }
        }
    }
}

async fn create(session: &mut Session, arguments: CreateArguments) -> Result<(), Failure> {
    let model = resources::find::<Model>(session, &arguments.model).await?;
    let (context_tokens, sequences, threads) = (arguments.context, arguments.sequences, arguments.threads);
    let backend = Backend::Worker { model_id: model.id, context_tokens, sequences, threads };
    let spec = arguments.settings.over(spec(backend, arguments.min, arguments.max));
    resources::create::<Endpoint>(session, &arguments.name, spec, arguments.change).await?;
    say_next(session, &arguments.name);
    Ok(())
}

async fn register(session: &mut Session, arguments: ExternalArguments) -> Result<(), Failure> {
    let count = u32::try_from(arguments.urls.len()).unwrap_or(u32::MAX);
    let backend = Backend::External {
        urls: arguments.urls,
        upstream_model: arguments.upstream_model,
        context_tokens: arguments.context,
        power: arguments.watts.map(|watts| Milliwatts(i64::from(watts) * 1000)),
        residency: arguments.residency,
    };
    let spec = arguments.settings.over(spec(backend, count, count));
    resources::create::<Endpoint>(session, &arguments.name, spec, arguments.change).await?;
    say_next(session, &arguments.name);
    Ok(())
}

async fn route(session: &mut Session, arguments: RouteArguments) -> Result<(), Failure> {
    let RouteArguments { name, canary, shadow, fallback, kv_events, clear, change } = arguments;
    if canary.is_empty() && shadow.is_empty() && fallback.is_empty() && kv_events.is_empty() && clear.is_empty() {
        return Err(Failure::usage("nothing to set was given")
            .hint(format!("send a twentieth elsewhere: galerne endpoint route {name} --canary OTHER=5"))
            .hint(format!("see how requests are routed: galerne route explain {name}")));
    }
    let canary = shares(session, canary).await?;
    let shadow = shares(session, shadow).await?;
    let mut others = Vec::with_capacity(fallback.len());
    for name in fallback {
        others.push(resources::find::<Endpoint>(session, &name).await?.id);
    }
    resources::edit::<Endpoint>(session, &name, change, "routed", |mut spec| {
        let routing = &mut spec.routing;
        set(&mut routing.canary, canary, clear.contains(&PolicyList::Canary));
        set(&mut routing.shadow, shadow, clear.contains(&PolicyList::Shadow));
        set(&mut routing.fallback, others, clear.contains(&PolicyList::Fallback));
        set(&mut routing.kv_events, kv_events, clear.contains(&PolicyList::KvEvents));
        spec
    })
    .await
}

async fn shares(session: &Session, named: Vec<(String, u32)>) -> Result<Vec<Share>, Failure> {
    let mut shares = Vec::with_capacity(named.len());
    for (name, thousandths) in named {
        shares.push(Share { endpoint_id: resources::find::<Endpoint>(session, &name).await?.id, thousandths });
    }
    Ok(shares)
}

fn set<T>(list: &mut Vec<T>, given: Vec<T>, clear: bool) {
    if clear || !given.is_empty() {
        *list = given;
    }
}

fn say_next(session: &mut Session, name: &str) {
    session.output.note(format!("how it comes up: galerne why endpoint/{name}"));
    session.output.note(format!("talk to it:      galerne chat {name}"));
}

/// What an endpoint is when nothing but its backend is said.
pub(crate) fn spec(backend: Backend, replicas_min: u32, replicas_max: u32) -> EndpointSpec {
    EndpointSpec {
        backend,
        replicas_min,
        replicas_max,
        idle_seconds: 600,
        limits: RateLimits::default(),
        visibility: Visibility::default(),
        price: None,
        paused: false,
        routing: RoutingPolicy::default(),
        metering: Metering::default(),
    }
}

async fn scale(
    session: &mut Session,
    name: &str,
    min: Option<u32>,
    max: Option<u32>,
    change: ChangeArguments,
) -> Result<(), Failure> {
    if min.or(max).is_none() {
        return Err(Failure::usage("neither --min nor --max was given"));
    }
    resources::edit::<Endpoint>(session, name, change, "scaled", |spec| {
        let replicas_min = min.unwrap_or(spec.replicas_min);
        EndpointSpec { replicas_min, replicas_max: max.unwrap_or_else(|| spec.replicas_max.max(replicas_min)), ..spec }
    })
    .await
}

impl Shown for Endpoint {
    const LEVEL: Level = Level::Project;
    const COLUMNS: &'static [Column] = &[
        Column::Word("name"),
        Column::Word("state"),
        Column::Number("ready"),
        Column::Word("serves"),
        Column::Text("why"),
    ];

    fn cells(&self, names: &Names) -> Vec<String> {
        let why = match self.status.state {
            EndpointState::Ready => String::new(),
            _ => self.status.reason.text.clone(),
        };
        let ready = format!("{}/{}", self.status.replicas_ready, self.status.replicas_wanted);
        vec![self.name.clone(), display::word(&self.status.state), ready, serves(&self.spec.backend, names), why]
    }

    fn facts(&self, names: &Names) -> Facts {
        let (spec, status) = (&self.spec, &self.status);
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("state", display::word(&status.state)).add("because", &status.reason.text);
        facts.add("serves", serves(&spec.backend, names));
        facts.add("replicas", format!("{} ready of {} wanted", status.replicas_ready, status.replicas_wanted));
        facts.add("may have", format!("{} to {}", spec.replicas_min, spec.replicas_max));
        if spec.replicas_min == 0 {
            facts.add("sleeps after", format!("{} s without a request", spec.idle_seconds));
        }
        facts.add("limits", limits_text(spec.limits)).add("visible to", display::word(&spec.visibility));
        facts.maybe("price", spec.price.map(price));
        let shares = |shares: &[Share]| {
            let each =
                |share: &Share| format!("{} {}", names.of(&share.endpoint_id), display::thousandths(share.thousandths));
            (!shares.is_empty()).then(|| shares.iter().map(each).collect::<Vec<_>>().join(", "))
        };
        facts.maybe("canary", shares(&spec.routing.canary)).maybe("shadow", shares(&spec.routing.shadow));
        let fallback: Vec<String> = spec.routing.fallback.iter().map(|id| names.of(id)).collect();
        facts.maybe("falls back to", (!fallback.is_empty()).then(|| fallback.join(", ")));
        let kv_events = &spec.routing.kv_events;
        facts.maybe("KV events", (!kv_events.is_empty()).then(|| kv_events.join(", ")));
        facts.maybe("last request", status.last_request_at.map(display::instant));
        facts
    }

    async fn look_up(session: &Session, names: &mut Names) -> Result<(), Failure> {
        session.names::<Model>(names).await?;
        session.names::<Endpoint>(names).await
    }
}

fn serves(backend: &Backend, names: &Names) -> String {
    match backend {
        Backend::Worker { model_id, .. } => names.of(&model_id),
        Backend::External { urls, upstream_model, .. } => match urls.as_slice() {
            [url] => format!("{upstream_model} at {url}"),
            urls => format!("{upstream_model} at {} servers", urls.len()),
        },
    }
}

/// A price in words.
pub(crate) fn price(price: TokenPrice) -> String {
    let [prompt, cached, completion] = [price.prompt, price.cached, price.completion].map(Micros::euros);
    format!("{prompt} € prompt, {cached} € cached, {completion} € completion, per million tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_name_and_a_percentage_with_one_decimal() {
        assert_eq!(share("next=5"), Ok(("next".to_owned(), 50)));
        assert_eq!(share("a=b=0.5%"), Ok(("a=b".to_owned(), 5)));
        assert_eq!(share("next=100"), Ok(("next".to_owned(), 1_000)));
        for wrong in ["next", "=5", "next=", "next=101", "next=0.55", "next=-1", "next=5.x", "next=+5"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
