//! One command's run: where it writes and whom it asks.

use std::cell::OnceCell;
use std::collections::HashMap;

use galerne_api::client::{self, Client, ListOptions};
use galerne_api::error::Code;
use galerne_api::v1::identity::Whoami;
use galerne_model::identity::Scope;

use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::profile::Profile;
use crate::resources::{Level, Shown};

/// Every tenant, as the API writes it.
const EVERYWHERE: &str = "*";

/// Where a command writes, whom it asks, and as whom.
pub(crate) struct Session {
    pub(crate) output: Output,
    pub(crate) profile: Profile,
    /// The tenant and project that were named; absent means those of the key.
    pub(crate) place: ListOptions,
    client: OnceCell<Client>,
    runs_site: OnceCell<bool>,
}

impl Session {
    pub(crate) fn new(output: Output, profile: Profile, place: ListOptions) -> Self {
        Self { output, profile, place, client: OnceCell::new(), runs_site: OnceCell::new() }
    }

    /// The client, made at its first use: some commands need none.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let client = connect(&self.profile)?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output.format() == Format::Json
    }

    /// Tenant and project for a new resource of a kind.
    pub(crate) fn owner(&self, level: Level) -> (Option<String>, Option<String>) {
        match level {
            Level::Site => (None, None),
            Level::Tenant => (self.place.tenant.clone(), None),
            Level::Project => (self.place.tenant.clone(), self.place.project.clone()),
        }
    }

    /// Where reports look: what was named, else the whole site for who has a role on it, else the key's own tenant.
    pub(crate) async fn reach(&self) -> Result<ListOptions, Failure> {
        if self.place.tenant.is_some() || self.place.project.is_some() || !self.runs_site().await? {
            return Ok(self.place.clone());
        }
        Ok(ListOptions { tenant: Some(EVERYWHERE.to_owned()), ..ListOptions::default() })
    }

    async fn runs_site(&self) -> Result<bool, Failure> {
        if let Some(known) = self.runs_site.get() {
            return Ok(*known);
        }
        let who: Whoami = self.client()?.read("/api/v1/whoami", &[]).await?;
        let found = who.roles.iter().any(|role| role.spec.scope == Scope::Site);
        Ok(*self.runs_site.get_or_init(|| found))
    }

    /// Names of everything of a kind that may be seen, by id. Who may not list them sees ids.
    pub(crate) async fn names<K: Shown>(&self, names: &mut Names) -> Result<(), Failure> {
        let around = match K::LEVEL {
            Level::Site | Level::Tenant => self.reach().await?,
            Level::Project => self.place.clone(),
        };
        let page = ListOptions { limit: Some(galerne_model::limits::PAGE_MAX), ..around };
        let listed = self.client()?.read::<Listed>(&format!("/api/v1/{}", K::PLURAL), &page.pairs()).await;
        match listed {
            Ok(listed) => {
                names.by_id.extend(listed.items.into_iter().map(|item| (item.id, item.name)));
                Ok(())
            }
            Err(failure) if matches!(failure.code(), Code::Forbidden | Code::ScopeMissing | Code::NotFound) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// A client for what the profile names.
pub(crate) fn connect(profile: &Profile) -> Result<Client, Failure> {
    let ca = match &profile.ca_file {
        None => None,
        Some(path) => Some(std::fs::read(path).map_err(|error| {
            Failure::new(Code::TlsInvalid, format!("`{}` cannot be read", path.display())).because_of(&error)
        })?),
    };
    let key = profile.key().map(str::to_owned);
    // An address that is none is told before a key that is missing for it.
    let client = Client::new(profile.url(), key.as_ref().ok().cloned(), ca.as_deref())?;
    key.map(|_| client)
}

#[derive(serde::Deserialize)]
struct Listed {
    items: Vec<Named>,
}

#[derive(serde::Deserialize)]
struct Named {
    id: String,
    name: String,
}

/// Names by id, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_id: HashMap<String, String>,
}

impl Names {
    /// Adds one that is known already.
    pub(crate) fn add(&mut self, id: &impl ToString, name: &str) {
        self.by_id.insert(id.to_string(), name.to_owned());
    }

    /// The name, else the id itself.
    pub(crate) fn of(&self, id: &impl ToString) -> String {
        let id = id.to_string();
        self.by_id.get(&id).cloned().unwrap_or(id)
    }
}

impl From<client::Failure> for Failure {
    fn from(failure: client::Failure) -> Self {
        let (code, hint) = (failure.code(), failure.hint());
        match failure {
            client::Failure::Problem(problem) => Self::problem(*problem),
            client::Failure::Write { source } => Self::stdout(&source),
            other => {
                let mut said = Self::new(code, other.to_string());
                // The layers between say nothing but that there are layers.
                if let Some(cause) =
                    std::iter::successors(std::error::Error::source(&other), |error| error.source()).last()
                {
                    said = said.because(cause.to_string());
                }
                match hint {
                    // The one end speaks TLS and the other does not.
                    Some(_) if said.speaks_of("InvalidContentType") => {
                        said.hint("this server speaks no TLS: give its address with http://")
                    }
                    // It runs and answers: what it shows is not believed.
                    Some(_) if said.speaks_of("certificate") => said
                        .hint("give the address that its certificate names: --url https://NAME:PORT, or galerne up --public-url")
                        .hint("trust it, or who signed it: --ca-file FILE.pem; galerne login keeps that"),
                    Some(_) if said.speaks_of("invalid HTTP version") => {
                        said.hint("this server speaks TLS: give its address with https://")
                    }
                    Some(hint) => said.hint(hint),
                    None => said,
                }
            }
        }
    }
}
