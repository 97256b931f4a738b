//! Authorization: who may do what, where. Deny by default.
//!
//! A request needs both: a key whose scopes name the kind of action, and a role that grants it at a scope around
//! the target. All rights are in two tables, [`class_of`] and [`grants`]; there is nothing else to read.
//! INVARIANT: no role below operator grants anything outside its own tenant, but reading what the site offers
//! to everybody (models, prices).
//! INVARIANT: what a caller may not read is answered like what does not exist: see [`refuse`].
//!
//! Targets: a resource is judged at the scope that owns it. A project is owned by its tenant, so its own owner
//! cannot lift the limits set on it; a tenant is owned by the site.

use galerne_model::identity::{KeyScope, Role, RoleBindingSpec, Scope};

/// What is acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Noun {
    /// A tenant.
    Tenant,
    /// A project.
    Project,
    /// A user or service account.
    Principal,
    /// A role given to a principal.
    RoleBinding,
    /// An API key.
    ApiKey,
    /// A limit on money.
    Budget,
    /// A version of the price book.
    PriceBook,
    /// A server.
    Node,
    /// Weights.
    Model,
    /// A download of a model.
    Pull,
    /// A model at a stable name.
    Endpoint,
    /// An engine behind an endpoint.
    Replica,
    /// What requests used and cost.
    Usage,
    /// Balances, transfers and readings.
    Ledger,
    /// The log of events.
    Event,
    /// A copy of the state.
    Backup,
    /// Answers of models on `/v1`.
    Inference,
    /// A gateway in a process of its own: to be one.
    Gateway,
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// See it.
    Read,
    /// Make a new one.
    Create,
    /// Change it.
    Update,
    /// Remove it.
    Delete,
    /// Call it (inference), or be it (a gateway).
    Use,
}

/// A verb on a noun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Action {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub noun: Noun,
}

/// Why an action is denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Denial {
    /// Stable code: `key_scope_missing`, `role_missing`, `action_unknown`, `grant_too_wide`.
    pub code: &'static str,
    /// One sentence for people.
    pub text: String,
    /// What would allow it, as one phrase each.
    pub needs: Vec<String>,
}

/// How a denial is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The caller may not know that the target exists: answer as if it did not.
    NotFound,
    /// The caller may see the target; say what is missing.
    Forbidden(Denial),
}

/// Kinds of action that roles are given. Private: callers speak of verbs and nouns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Class {
    /// Models, endpoints, replicas, downloads, the project and tenant themselves.
    ReadResources,
    /// Price books: what anything costs.
    ReadPrices,
    /// People, keys, roles.
    ReadIdentities,
    /// Budgets, usage, cost.
    ReadUsage,
    /// Events.
    ReadEvents,
    /// Balances, transfers, readings.
    ReadLedger,
    /// Nodes and backups.
    ReadSite,
    /// Models, endpoints, downloads.
    ChangeResources,
    /// Projects, people, roles.
    ManageIdentities,
    /// Keys.
    ManageKeys,
    /// Budgets.
    ManageMoney,
    /// Tenants, prices, nodes, backups.
    OperateSite,
    /// Inference.
    UseInference,
    /// The secrets and usage of the whole site, as a gateway needs them.
    BeGateway,
}

/// Every role, most powerful first.
pub const ROLES: [Role; 5] = [Role::Operator, Role::Owner, Role::Member, Role::Viewer, Role::Auditor];

/// Decides whether a caller with these roles and key scopes may do `action` to something owned by `target`.
pub fn decide(
    bindings: &[RoleBindingSpec],
    key_scopes: &[KeyScope],
    action: Action,
    target: Scope,
) -> Result<(), Denial> {
    let class = class_of(action).ok_or_else(|| no_such_action(action))?;
    let scope = scope_needed(class);
    if !key_scopes.contains(&scope) {
        return Err(Denial {
            code: "key_scope_missing",
            text: format!("this key may not {action}: it lacks the scope `{}`", scope_word(scope)),
            needs: vec![format!("a key with the scope `{}`", scope_word(scope))],
        });
    }
    if bindings.iter().any(|binding| grants_at(binding, class, target)) {
        return Ok(());
    }
    let roles: Vec<String> =
        who_can(action).iter().map(|role| format!("the role `{}` {}", role_word(*role), place(target))).collect();
    Err(Denial {
        code: "role_missing",
        text: format!("you may not {action} {}: none of your roles grants it there", place(target)),
        needs: roles,
    })
}

/// Roles that grant an action at a scope around its target.
pub fn who_can(action: Action) -> Vec<Role> {
    let Some(class) = class_of(action) else { return Vec::new() };
    ROLES.into_iter().filter(|role| grants(*role, class)).collect()
}

/// Whether the caller's roles let it know that a resource exists.
///
/// Key scopes do not enter: a key without `read` is refused alike whether or not the resource exists.
pub fn visible(bindings: &[RoleBindingSpec], noun: Noun, target: Scope) -> bool {
    class_of(Action { verb: Verb::Read, noun })
        .is_some_and(|class| bindings.iter().any(|b| grants_at(b, class, target)))
}

/// [`decide`], and how a denial is to be told.
pub fn refuse(
    bindings: &[RoleBindingSpec],
    key_scopes: &[KeyScope],
    action: Action,
    target: Scope,
) -> Result<(), Refusal> {
    decide(bindings, key_scopes, action, target).map_err(|denial| {
        if denial.code == "key_scope_missing" || visible(bindings, action.noun, target) {
            Refusal::Forbidden(denial)
        } else {
            Refusal::NotFound
        }
    })
}

/// Whether the caller may give (or take away) a role. Nobody gives more than they have: the operator's role comes
/// from an operator, holds only at the site, and any other needs the right to manage people around its scope.
pub fn may_grant(bindings: &[RoleBindingSpec], key_scopes: &[KeyScope], grant: &RoleBindingSpec) -> Result<(), Denial> {
    decide(bindings, key_scopes, Action { verb: Verb::Create, noun: Noun::RoleBinding }, grant.scope)?;
    let is_operator = bindings.iter().any(is_operator);
    match (grant.role, grant.scope) {
        (Role::Operator, Scope::Site) if is_operator => Ok(()),
        (Role::Operator, Scope::Site | Scope::Tenant { .. } | Scope::Project { .. }) => Err(Denial {
            code: "grant_too_wide",
            text: "the role `operator` is given by operators and holds for the whole site".to_owned(),
            needs: vec!["the role `operator` at the site, given at scope `site`".to_owned()],
        }),
        (
            Role::Owner | Role::Member | Role::Viewer | Role::Auditor,
            Scope::Site | Scope::Tenant { .. } | Scope::Project { .. },
        ) => Ok(()),
    }
}

/// Whether the caller may make a key that acts as a principal with the roles `theirs`: only if it could give that
/// principal every one of those roles, or a key would be a way to more rights.
pub fn may_act_for(
    bindings: &[RoleBindingSpec],
    key_scopes: &[KeyScope],
    theirs: &[RoleBindingSpec],
) -> Result<(), Denial> {
    theirs.iter().try_for_each(|binding| may_grant(bindings, key_scopes, binding))
}

/// Whether `outer` contains `inner`.
pub fn covers(outer: Scope, inner: Scope) -> bool {
    match (outer, inner) {
        (Scope::Site, Scope::Site | Scope::Tenant { .. } | Scope::Project { .. }) => true,
        (Scope::Tenant { tenant_id: outer }, Scope::Tenant { tenant_id } | Scope::Project { tenant_id, .. }) => {
            outer == tenant_id
        }
        (Scope::Project { .. }, Scope::Project { .. }) => outer == inner,
        (Scope::Tenant { .. } | Scope::Project { .. }, Scope::Site) | (Scope::Project { .. }, Scope::Tenant { .. }) => {
            false
        }
    }
}

/// What kind of action this is; nothing when the verb does not exist for the noun.
fn class_of(action: Action) -> Option<Class> {
    use Noun::{
        ApiKey, Backup, Budget, Endpoint, Event, Gateway, Inference, Ledger, Model, Node, PriceBook, Principal,
        Project, Pull, Replica, RoleBinding, Tenant, Usage,
    };
    use Verb::{Create, Delete, Read, Update, Use};
    Some(match (action.noun, action.verb) {
        (Model | Pull | Endpoint | Replica | Project | Tenant, Read) => Class::ReadResources,
        (PriceBook, Read) => Class::ReadPrices,
        (Principal | RoleBinding | ApiKey, Read) => Class::ReadIdentities,
        (Budget | Usage, Read) => Class::ReadUsage,
        (Event, Read) => Class::ReadEvents,
        (Ledger, Read) => Class::ReadLedger,
        (Node | Backup, Read) => Class::ReadSite,
        (Model | Pull | Endpoint, Create | Update | Delete) => Class::ChangeResources,
        (Project | Principal | RoleBinding, Create | Update | Delete) => Class::ManageIdentities,
        (ApiKey, Create | Update | Delete) => Class::ManageKeys,
        (Budget, Create | Update | Delete) => Class::ManageMoney,
        (Tenant | PriceBook | Node | Backup, Create | Update | Delete) => Class::OperateSite,
        (Inference, Use) => Class::UseInference,
        (Gateway, Use) => Class::BeGateway,
        // Loops and the ledger write these; nobody does by hand.
        (Replica | Usage | Event | Ledger, Create | Update | Delete) => return None,
        (Inference | Gateway, Read | Create | Update | Delete) => return None,
        (
            Tenant | Project | Principal | RoleBinding | ApiKey | Budget | PriceBook | Node | Model | Pull | Endpoint
            | Replica | Usage | Ledger | Event | Backup,
            Use,
        ) => {
            return None;
        }
    })
}

/// The table of rights: what a role grants at its scope and below.
fn grants(role: Role, class: Class) -> bool {
    use Class::{
        BeGateway, ChangeResources, ManageIdentities, ManageKeys, ManageMoney, OperateSite, ReadEvents, ReadIdentities,
        ReadLedger, ReadPrices, ReadResources, ReadSite, ReadUsage, UseInference,
    };
    match (role, class) {
        (
            Role::Operator,
            ReadResources | ReadPrices | ReadIdentities | ReadUsage | ReadEvents | ReadLedger | ReadSite,
        ) => true,
        (
            Role::Operator,
            ChangeResources | ManageIdentities | ManageKeys | ManageMoney | OperateSite | UseInference | BeGateway,
        ) => true,

        (Role::Owner, ReadResources | ReadPrices | ReadIdentities | ReadUsage | ReadEvents | ReadLedger) => true,
        (Role::Owner, ChangeResources | ManageIdentities | ManageKeys | ManageMoney | UseInference) => true,
        (Role::Owner, ReadSite | OperateSite | BeGateway) => false,

        (Role::Member, ReadResources | ReadPrices | ReadUsage | ChangeResources | UseInference) => true,
        (Role::Member, ReadIdentities | ReadEvents | ReadLedger | ReadSite) => false,
        (Role::Member, ManageIdentities | ManageKeys | ManageMoney | OperateSite | BeGateway) => false,

        (Role::Viewer, ReadResources | ReadPrices | ReadUsage) => true,
        (Role::Viewer, ReadIdentities | ReadEvents | ReadLedger | ReadSite) => false,
        (
            Role::Viewer,
            ChangeResources | ManageIdentities | ManageKeys | ManageMoney | OperateSite | UseInference | BeGateway,
        ) => false,

        (
            Role::Auditor,
            ReadResources | ReadPrices | ReadIdentities | ReadUsage | ReadEvents | ReadLedger | ReadSite,
        ) => true,
        (
            Role::Auditor,
            ChangeResources | ManageIdentities | ManageKeys | ManageMoney | OperateSite | UseInference | BeGateway,
        ) => false,
    }
}

/// Which key scope an action needs.
fn scope_needed(class: Class) -> KeyScope {
    match class {
        Class::ReadResources | Class::ReadPrices | Class::ReadIdentities | Class::ReadUsage => KeyScope::Read,
        Class::ReadEvents | Class::ReadLedger | Class::ReadSite => KeyScope::Read,
        Class::ChangeResources => KeyScope::Write,
        Class::ManageIdentities | Class::ManageKeys | Class::ManageMoney | Class::OperateSite => KeyScope::Admin,
        Class::UseInference => KeyScope::Inference,
        Class::BeGateway => KeyScope::Gateway,
    }
}

fn grants_at(binding: &RoleBindingSpec, class: Class, target: Scope) -> bool {
    // The operator's role means nothing at a narrower scope.
    let role_holds = binding.role != Role::Operator || is_operator(binding);
    role_holds
        && grants(binding.role, class)
        && (covers(binding.scope, target) || offered_downwards(class, binding.scope, target))
}

/// What the site or a tenant offers to everybody inside it: resources it owns itself, and prices.
fn offered_downwards(class: Class, holder: Scope, target: Scope) -> bool {
    let offered = match class {
        Class::ReadResources | Class::ReadPrices => true,
        Class::ReadIdentities | Class::ReadUsage | Class::ReadEvents | Class::ReadLedger | Class::ReadSite => false,
        Class::ChangeResources | Class::ManageIdentities | Class::ManageKeys | Class::ManageMoney => false,
        Class::OperateSite | Class::UseInference | Class::BeGateway => false,
    };
    offered && covers(target, holder)
}

fn is_operator(binding: &RoleBindingSpec) -> bool {
    binding.role == Role::Operator && binding.scope == Scope::Site
}

fn no_such_action(action: Action) -> Denial {
    Denial { code: "action_unknown", text: format!("nobody may {action}: only Galerne itself does"), needs: Vec::new() }
}

fn place(scope: Scope) -> String {
    match scope {
        Scope::Site => "at the site".to_owned(),
        Scope::Tenant { tenant_id } => format!("in {tenant_id}"),
        Scope::Project { project_id, .. } => format!("in {project_id}"),
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Operator => "operator",
        Role::Owner => "owner",
        Role::Member => "member",
        Role::Viewer => "viewer",
        Role::Auditor => "auditor",
    }
}

fn scope_word(scope: KeyScope) -> &'static str {
    match scope {
        KeyScope::Inference => "inference",
        KeyScope::Read => "read",
        KeyScope::Write => "write",
        KeyScope::Admin => "admin",
        KeyScope::Gateway => "gateway",
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = match self.verb {
            Verb::Read => "read",
            Verb::Create => "create",
            Verb::Update => "change",
            Verb::Delete => "delete",
            Verb::Use => "use",
        };
        write!(f, "{verb} {}", self.noun)
    }
}

impl std::fmt::Display for Noun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tenant => "tenants",
            Self::Project => "projects",
            Self::Principal => "principals",
            Self::RoleBinding => "role bindings",
            Self::ApiKey => "keys",
            Self::Budget => "budgets",
            Self::PriceBook => "prices",
            Self::Node => "nodes",
            Self::Model => "models",
            Self::Pull => "downloads",
            Self::Endpoint => "endpoints",
            Self::Replica => "replicas",
            Self::Usage => "usage",
            Self::Ledger => "the ledger",
            Self::Event => "events",
            Self::Backup => "backups",
            Self::Inference => "models through `/v1`",
            Self::Gateway => "gateways",
        })
    }
}

#[cfg(test)]
mod tests;
