use galerne_model::ids::{PrincipalId, ProjectId, TenantId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const NOUNS: [Noun; 18] = [
    Noun::Tenant,
    Noun::Project,
    Noun::Principal,
    Noun::RoleBinding,
    Noun::ApiKey,
    Noun::Budget,
    Noun::PriceBook,
    Noun::Node,
    Noun::Model,
    Noun::Pull,
    Noun::Endpoint,
    Noun::Replica,
    Noun::Usage,
    Noun::Ledger,
    Noun::Event,
    Noun::Backup,
    Noun::Inference,
    Noun::Gateway,
];
const VERBS: [Verb; 5] = [Verb::Read, Verb::Create, Verb::Update, Verb::Delete, Verb::Use];
const ALL_SCOPES: [KeyScope; 5] =
    [KeyScope::Inference, KeyScope::Read, KeyScope::Write, KeyScope::Admin, KeyScope::Gateway];

fn tenant(n: u128) -> Scope {
    Scope::Tenant { tenant_id: TenantId::from_uuid(Uuid::from_u128(n)) }
}

fn project(t: u128, n: u128) -> Scope {
    Scope::Project {
        tenant_id: TenantId::from_uuid(Uuid::from_u128(t)),
        project_id: ProjectId::from_uuid(Uuid::from_u128(n)),
    }
}

fn binding(role: Role, scope: Scope) -> RoleBindingSpec {
    RoleBindingSpec { principal_id: PrincipalId::from_uuid(Uuid::from_u128(9)), role, scope }
}

fn action(verb: Verb, noun: Noun) -> Action {
    Action { verb, noun }
}

/// One letter per verb: R C U D, and X for use; `.` where denied, `-` where no such action exists.
fn row(role: Role, at: Scope, noun: Noun, target: Scope) -> String {
    let mark = |(verb, letter): (&Verb, char)| {
        let action = action(*verb, noun);
        match decide(&[binding(role, at)], &ALL_SCOPES, action, target) {
            Ok(()) => letter,
            Err(denial) if denial.code == "action_unknown" => '-',
            Err(_) => '.',
        }
    };
    VERBS.iter().zip("RCUDX".chars()).map(mark).collect()
}

#[test]
fn the_whole_table_inside_a_project_is_as_written_here() {
    let at = project(1, 1);
    let mut table = String::new();
    for noun in NOUNS {
        let cells: Vec<String> =
            ROLES.map(|role| row(role, if role == Role::Operator { Scope::Site } else { at }, noun, at)).to_vec();
        table.push_str(&format!("{:<20} {}\n", noun.to_string(), cells.join(" ")));
    }
    let expected = "\
tenants              RCUD- R...- R...- R...- R...-
projects             RCUD- RCUD- R...- R...- R...-
principals           RCUD- RCUD- ....- ....- R...-
role bindings        RCUD- RCUD- ....- ....- R...-
keys                 RCUD- RCUD- ....- ....- R...-
budgets              RCUD- RCUD- R...- R...- R...-
prices               RCUD- R...- R...- R...- R...-
nodes                RCUD- ....- ....- ....- R...-
models               RCUD- RCUD- RCUD- R...- R...-
downloads            RCUD- RCUD- RCUD- R...- R...-
endpoints            RCUD- RCUD- RCUD- R...- R...-
replicas             R---- R---- R---- R---- R----
usage                R---- R---- R---- R---- R----
the ledger           R---- R---- .---- .---- R----
events               R---- R---- .---- .---- R----
backups              RCUD- ....- ....- ....- R...-
models through `/v1` ----X ----X ----X ----. ----.
gateways             ----X ----. ----. ----. ----.
";
    assert_eq!(table, expected, "operator, owner, member, viewer, auditor:\n{table}");
}

#[test]
fn a_tenants_owner_reads_what_the_site_offers_and_changes_none_of_it() {
    let rows = NOUNS.map(|noun| format!("{noun} {}", row(Role::Owner, tenant(1), noun, Scope::Site)));
    let readable: Vec<&String> = rows.iter().filter(|row| row.contains(" R")).collect();
    assert_eq!(readable.len(), 7, "tenants, projects, prices, models, downloads, endpoints, replicas: {readable:?}");
    assert!(rows.iter().all(|row| !row.ends_with(['C', 'U', 'D', 'X']) && !row.contains("CUD")), "{rows:?}");
}

#[test]
fn a_key_needs_the_scope_of_the_action() {
    let owner = [binding(Role::Owner, tenant(1))];
    let cases = [
        (action(Verb::Use, Noun::Inference), KeyScope::Inference),
        (action(Verb::Read, Noun::Endpoint), KeyScope::Read),
        (action(Verb::Update, Noun::Endpoint), KeyScope::Write),
        (action(Verb::Create, Noun::ApiKey), KeyScope::Admin),
        (action(Verb::Update, Noun::Budget), KeyScope::Admin),
    ];
    for (action, needed) in cases {
        for scope in ALL_SCOPES {
            let decision = decide(&owner, &[scope], action, tenant(1));
            assert_eq!(decision.is_ok(), scope == needed, "{action} with {scope:?}");
        }
    }
    let denial = decide(&owner, &[KeyScope::Inference], cases[1].0, tenant(1)).expect_err("no read scope");
    assert_eq!(denial.text, "this key may not read endpoints: it lacks the scope `read`");
    assert_eq!(denial.needs, ["a key with the scope `read`"]);
}

#[test]
fn a_denial_says_what_would_help() {
    let viewer = [binding(Role::Viewer, project(1, 1))];
    let denial = decide(&viewer, &ALL_SCOPES, action(Verb::Create, Noun::Endpoint), project(1, 1))
        .expect_err("viewers only read");
    assert_eq!(denial.code, "role_missing");
    assert_eq!(
        denial.text,
        "you may not create endpoints in project_00000000000000000000000000000001: none of your roles grants it there"
    );
    assert_eq!(denial.needs[1], "the role `owner` in project_00000000000000000000000000000001");
}

#[test]
fn what_may_not_be_read_does_not_exist_for_the_caller() {
    let member = [binding(Role::Member, project(1, 1))];
    let delete = |noun, target| refuse(&member, &ALL_SCOPES, action(Verb::Delete, noun), target);
    assert_eq!(delete(Noun::Endpoint, project(1, 2)), Err(Refusal::NotFound), "another project");
    assert_eq!(delete(Noun::Endpoint, project(2, 3)), Err(Refusal::NotFound), "another tenant");
    assert_eq!(delete(Noun::ApiKey, project(1, 1)), Err(Refusal::NotFound), "a noun members may not read");
    assert!(
        matches!(delete(Noun::Budget, project(1, 1)), Err(Refusal::Forbidden(_))),
        "readable, not theirs to change"
    );
    let no_read = refuse(&member, &[KeyScope::Inference], action(Verb::Read, Noun::Endpoint), project(2, 3));
    assert!(
        matches!(no_read, Err(Refusal::Forbidden(d)) if d.code == "key_scope_missing"),
        "alike for what exists and what does not"
    );
}

#[test]
fn a_project_is_judged_at_its_tenant_so_its_owner_cannot_lift_its_limits() {
    let owner = [binding(Role::Owner, project(1, 1))];
    assert!(decide(&owner, &ALL_SCOPES, action(Verb::Update, Noun::Project), tenant(1)).is_err());
    assert!(decide(&owner, &ALL_SCOPES, action(Verb::Read, Noun::Project), tenant(1)).is_ok());
}

#[test]
fn an_operator_role_at_a_narrow_scope_grants_nothing() {
    let fake = [binding(Role::Operator, tenant(1))];
    for noun in NOUNS {
        assert!(!row(Role::Operator, tenant(1), noun, tenant(1)).contains(['R', 'C', 'U', 'D', 'X']), "{noun}");
    }
    assert!(may_grant(&fake, &ALL_SCOPES, &binding(Role::Viewer, tenant(1))).is_err());
}

#[test]
fn nobody_gives_more_than_they_have() {
    let operator = [binding(Role::Operator, Scope::Site)];
    let owner = [binding(Role::Owner, project(1, 1))];
    assert_eq!(may_grant(&operator, &ALL_SCOPES, &binding(Role::Operator, Scope::Site)), Ok(()));
    assert!(may_grant(&operator, &ALL_SCOPES, &binding(Role::Operator, tenant(1))).is_err(), "it would mean nothing");
    assert!(
        may_grant(&[binding(Role::Owner, Scope::Site)], &ALL_SCOPES, &binding(Role::Operator, Scope::Site)).is_err()
    );
    for role in ROLES {
        let inside = may_grant(&owner, &ALL_SCOPES, &binding(role, project(1, 1)));
        assert_eq!(inside.is_ok(), role != Role::Operator, "{role:?}");
        assert!(may_grant(&owner, &ALL_SCOPES, &binding(role, tenant(1))).is_err());
        assert!(may_grant(&owner, &ALL_SCOPES, &binding(role, project(1, 2))).is_err());
    }
    // A key of a more powerful principal would be a way around.
    assert!(
        may_act_for(&owner, &ALL_SCOPES, &[binding(Role::Member, project(1, 1)), binding(Role::Viewer, tenant(1))])
            .is_err()
    );
    assert!(may_act_for(&owner, &ALL_SCOPES, &[binding(Role::Member, project(1, 1))]).is_ok());
    assert!(may_act_for(&owner, &ALL_SCOPES, &operator).is_err());
}

fn any_scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::Site),
        (1u128..3).prop_map(tenant),
        (1u128..3, 1u128..3).prop_map(|(t, p)| project(t, t * 10 + p))
    ]
}

fn any_binding() -> impl Strategy<Value = RoleBindingSpec> {
    (0usize..5, any_scope()).prop_map(|(role, scope)| binding(ROLES[role], scope))
}

fn any_action() -> impl Strategy<Value = Action> {
    (0usize..5, 0usize..17).prop_map(|(verb, noun)| action(VERBS[verb], NOUNS[noun]))
}

fn tenant_of(scope: Scope) -> Option<TenantId> {
    match scope {
        Scope::Site => None,
        Scope::Tenant { tenant_id } | Scope::Project { tenant_id, .. } => Some(tenant_id),
    }
}

proptest! {
    #[test]
    fn walls_between_tenants_hold(bindings in proptest::collection::vec(any_binding(), 0..4), action in any_action(), target in any_scope()) {
        let inside: Vec<_> = bindings.into_iter().filter(|b| b.scope != Scope::Site).collect();
        let foreign = tenant_of(target).is_some_and(|t| inside.iter().all(|b| tenant_of(b.scope) != Some(t)));
        if foreign {
            prop_assert!(decide(&inside, &ALL_SCOPES, action, target).is_err());
            prop_assert!(!visible(&inside, action.noun, target));
        }
    }

    #[test]
    fn more_roles_never_take_a_right_away_and_no_roles_give_none(bindings in proptest::collection::vec(any_binding(), 0..4), more in any_binding(), action in any_action(), target in any_scope()) {
        prop_assert!(decide(&[], &ALL_SCOPES, action, target).is_err());
        if decide(&bindings, &ALL_SCOPES, action, target).is_ok() {
            let mut all = bindings;
            all.push(more);
            prop_assert!(decide(&all, &ALL_SCOPES, action, target).is_ok());
        }
    }

    #[test]
    fn what_can_be_changed_can_be_seen(bindings in proptest::collection::vec(any_binding(), 0..4), action in any_action(), target in any_scope()) {
        if action.verb != Verb::Use && decide(&bindings, &ALL_SCOPES, action, target).is_ok() {
            prop_assert!(visible(&bindings, action.noun, target));
        }
    }

    #[test]
    fn granted_roles_never_exceed_the_givers(giver in proptest::collection::vec(any_binding(), 0..3), gift in any_binding(), action in any_action(), target in any_scope()) {
        // An auditor appointed by an owner reads nodes and backups of the owner's scope, where there are none.
        let of_the_site = matches!(action.noun, Noun::Node | Noun::Backup);
        if !of_the_site && may_grant(&giver, &ALL_SCOPES, &gift).is_ok() && decide(&[gift], &ALL_SCOPES, action, target).is_ok() {
            prop_assert!(decide(&giver, &ALL_SCOPES, action, target).is_ok());
        }
    }
}
