//! Who calls, and what they may do: the only place where requests meet `core::authorize`.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use galerne_api::error::{Code, Problem};
use galerne_core::authorize::{self, Action, Noun, Verb};
use galerne_model::event::Actor;
use galerne_model::identity::{ApiKey, KeyScope, Principal, RoleBinding, RoleBindingSpec, Scope};
use galerne_model::ids::{ProjectId, RequestId, TenantId};
use galerne_model::token;
use http::header;

use super::refusal::{Denial, Refusal};
use crate::app::App;

/// The request as `frame` met it; in the extensions of every request.
#[derive(Debug, Clone)]
pub(crate) struct Met {
    pub(crate) request_id: RequestId,
    pub(crate) address: Option<String>,
}

/// Somebody with a key that may be used.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Arc<Principal>,
    pub(crate) key: Arc<ApiKey>,
    pub(crate) roles: Vec<Arc<RoleBinding>>,
    pub(crate) tenant_id: TenantId,
    pub(crate) project_id: ProjectId,
    pub(crate) actor: Actor,
    bindings: Vec<RoleBindingSpec>,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let met = parts.extensions.get::<Met>().expect("`frame` is around every route").clone();
        let actor = Actor { address: met.address, request_id: Some(met.request_id), ..Actor::default() };
        let secret = secret(parts, &actor)?;
        let digest = app.pepper().digest(&secret);
        let known = app.directory().known();
        let Some(key) = known.key(&digest) else {
            return Err(unknown(Code::InvalidKey, "the API key is not known here", actor));
        };
        let actor = Actor { principal_id: Some(key.spec.principal_id), key_id: Some(key.id), ..actor };
        let now = App::now();
        check_life(key, now, &actor)?;
        let principal = known.principal(key.spec.principal_id).filter(|principal| !principal.spec.disabled);
        let (Some(principal), Some(tenant_id), Some(project_id)) = (principal, key.tenant_id, key.project_id) else {
            return Err(of_key(key, Code::InvalidKey, "the principal of this API key is disabled or gone", actor));
        };
        app.directory().touch(key, now);
        let roles = known.roles(principal.id).to_vec();
        let bindings = roles.iter().map(|role| role.spec.clone()).collect();
        Ok(Self {
            principal: Arc::clone(principal),
            key: Arc::clone(key),
            roles,
            tenant_id,
            project_id,
            actor,
            bindings,
        })
    }
}

fn secret(parts: &Parts, actor: &Actor) -> Result<String, Refusal> {
    let Some(value) = parts.headers.get(header::AUTHORIZATION) else {
        let refusal = Refusal::new(Code::Unauthenticated, "the request carries no API key");
        return Err(refusal.hint("send `Authorization: Bearer galerne_…`; `galerne` takes it from `GALERNE_API_KEY`"));
    };
    let text = value.to_str().unwrap_or("");
    let bearer = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("bearer ")).map(|_| text[7..].trim());
    let Some(secret) = bearer else {
        return Err(unknown(Code::InvalidKey, "the `Authorization` header is not `Bearer` and a key", actor.clone()));
    };
    match token::check_key(secret) {
        Ok(()) => Ok(secret.to_owned()),
        Err(bad) => Err(unknown(Code::InvalidKey, &bad.to_string(), actor.clone())),
    }
}

fn check_life(key: &ApiKey, now: jiff::Timestamp, actor: &Actor) -> Result<(), Refusal> {
    if let Some(at) = key.status.revoked_at.filter(|at| *at <= now) {
        return Err(of_key(key, Code::KeyRevoked, &format!("the API key was revoked at {at}"), actor.clone()));
    }
    match key.spec.expires_at.filter(|at| *at <= now) {
        Some(at) => Err(of_key(key, Code::KeyExpired, &format!("the API key expired at {at}"), actor.clone())),
        None => Ok(()),
    }
}

fn unknown(code: Code, detail: &str, actor: Actor) -> Refusal {
    let denial = Denial {
        actor,
        action: "key.use".to_owned(),
        tenant_id: None,
        project_id: None,
        resource: None,
        text: detail.to_owned(),
    };
    Refusal::Denied(Box::new(Problem::new(code, detail)), Box::new(denial))
}

fn of_key(key: &ApiKey, code: Code, detail: &str, actor: Actor) -> Refusal {
    let denial = Denial {
        actor,
        action: "key.use".to_owned(),
        tenant_id: key.tenant_id,
        project_id: key.project_id,
        resource: Some(key.id.to_string()),
        text: detail.to_owned(),
    };
    Refusal::Denied(Box::new(Problem::new(code, detail).hint("`galerne key create` makes a new one")), Box::new(denial))
}

impl Caller {
    pub(crate) fn bindings(&self) -> &[RoleBindingSpec] {
        &self.bindings
    }

    pub(crate) fn scopes(&self) -> &[KeyScope] {
        &self.key.spec.scopes
    }

    /// Whether the caller may; says nothing, writes nothing.
    pub(crate) fn can(&self, verb: Verb, noun: Noun, target: Scope) -> bool {
        authorize::decide(&self.bindings, self.scopes(), Action { verb, noun }, target).is_ok()
    }

    /// Lets the caller through, or refuses: as if it did not exist where it may not be seen.
    pub(crate) fn may(&self, verb: Verb, noun: Noun, target: Scope, about: &About<'_>) -> Result<(), Refusal> {
        let action = Action { verb, noun };
        // A list without a name hides nothing, and a new thing hides nothing from who has a role around or inside its place: say what is missing.
        let touches = |scope| authorize::covers(scope, target) || authorize::covers(target, scope);
        let names_nothing = about.name.is_empty();
        if names_nothing || (verb == Verb::Create && self.bindings.iter().any(|binding| touches(binding.scope))) {
            let decided = authorize::decide(&self.bindings, self.scopes(), action, target);
            return decided.map_err(|denial| self.forbid(&denial, target, about));
        }
        authorize::refuse(&self.bindings, self.scopes(), action, target).map_err(|refusal| match refusal {
            authorize::Refusal::Forbidden(denial) => self.forbid(&denial, target, about),
            authorize::Refusal::NotFound => {
                let problem = match Refusal::not_found(about.noun, about.name) {
                    Refusal::Problem(problem) | Refusal::Denied(problem, _) => problem,
                    Refusal::Replay { .. } => unreachable!("`not_found` makes a problem"),
                };
                let text = format!("may not {action}, and was told that it does not exist");
                Refusal::Denied(problem, Box::new(self.denial(target, about, text)))
            }
        })
    }

    /// Lets a list through when anything in it could be seen.
    pub(crate) fn may_list(&self, noun: Noun, target: Scope, about: &About<'_>) -> Result<(), Refusal> {
        let inside =
            self.bindings.iter().map(|binding| binding.scope).filter(|scope| authorize::covers(target, *scope));
        if inside.into_iter().any(|scope| self.can(Verb::Read, noun, scope)) {
            return Ok(());
        }
        let action = Action { verb: Verb::Read, noun };
        match authorize::decide(&self.bindings, self.scopes(), action, target) {
            Ok(()) => Ok(()),
            Err(denial) => Err(self.forbid(&denial, target, about)),
        }
    }

    /// Refuses what a rule of `core` denied.
    pub(crate) fn forbid(&self, denial: &authorize::Denial, target: Scope, about: &About<'_>) -> Refusal {
        let code = if denial.code == "key_scope_missing" { Code::ScopeMissing } else { Code::Forbidden };
        let mut problem = Problem::new(code, denial.text.clone());
        if !denial.needs.is_empty() {
            problem = problem.hint(format!("it takes {}", denial.needs.join(" or ")));
        }
        Refusal::Denied(Box::new(problem), Box::new(self.denial(target, about, denial.text.clone())))
    }

    fn denial(&self, target: Scope, about: &About<'_>, text: String) -> Denial {
        // The event belongs to whose wall was touched, so that they can see it.
        let (tenant_id, project_id) = match target {
            Scope::Site => (Some(self.tenant_id), None),
            Scope::Tenant { tenant_id } => (Some(tenant_id), None),
            Scope::Project { tenant_id, project_id } => (Some(tenant_id), Some(project_id)),
        };
        let action = format!("{}.{}", about.noun, about.verb);
        Denial { actor: self.actor.clone(), action, tenant_id, project_id, resource: about.id.clone(), text }
    }
}

/// What a question of rights is about, for messages and events.
#[derive(Debug, Clone)]
pub(crate) struct About<'a> {
    /// The noun of commands.
    pub(crate) noun: &'a str,
    /// The verb of events.
    pub(crate) verb: &'a str,
    /// What the caller called it.
    pub(crate) name: &'a str,
    /// Its id, where there is one thing.
    pub(crate) id: Option<String>,
}

impl<'a> About<'a> {
    /// Something without a single resource.
    pub(crate) const fn all(noun: &'a str, verb: &'a str) -> Self {
        Self { noun, verb, name: "", id: None }
    }
}
