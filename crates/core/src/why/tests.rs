use galerne_model::event::Actor;
use galerne_model::ids::{
    BatchId, BudgetId, EndpointId, EventId, KeyId, PrincipalId, ProjectId, ReplicaId, RequestId, TenantId,
};
use galerne_model::inference::{Backend, ReplicaSpec, ReplicaStatus};
use galerne_model::ledger::{BatchTerms, Operation, Quantities};
use galerne_model::money::{BudgetSpec, BudgetStatus, BudgetSubject};
use galerne_model::units::{MicrogramsCo2e, Millijoules, Picos, Tokens};
use uuid::Uuid;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect("written by hand")
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn euros(micros: i64) -> Amounts {
    Amounts::money(Micros(micros))
}

fn lines(reason: &Reason) -> Vec<String> {
    let mark = |r: &Reason| format!("{} {}", if r.holds { '✓' } else { '⨯' }, r.text);
    std::iter::once(mark(reason)).chain(reason.because.iter().map(mark)).collect()
}

fn record(outcome: Outcome) -> UsageRecord {
    UsageRecord {
        source: 1,
        sequence: 1,
        request_id: RequestId::from_uuid(id(1)),
        started_at: at("2026-11-22T10:00:00Z"),
        ended_at: at("2026-11-22T10:00:02Z"),
        tenant_id: TenantId::from_uuid(id(1)),
        project_id: ProjectId::from_uuid(id(1)),
        principal_id: PrincipalId::from_uuid(id(1)),
        key_id: KeyId::from_uuid(id(1)),
        endpoint_id: EndpointId::from_uuid(id(1)),
        replica_id: Some(ReplicaId::from_uuid(id(1))),
        operation: Operation::Chat,
        outcome,
        http_status: 200,
        held_micros: Micros(40),
        quantities: Quantities {
            prompt_tokens: Tokens(31),
            cached_tokens: Tokens(0),
            completion_tokens: Tokens(9),
            micros: Micros(10),
            picos: Picos(50_000),
            millijoules: Millijoules(1_234),
            co2e_micrograms: MicrogramsCo2e(10),
        },
        energy_method: EnergyMethod::Estimated,
        price_book_id: None,
        first_token_micros: Some(120_000),
        work: None,
        batch: None,
        terms: None,
    }
}

#[test]
fn a_completed_request_accounts_for_time_tokens_money_and_energy() {
    assert_eq!(
        lines(&request(&record(Outcome::Completed), "small")),
        [
            "✓ `small` answered it whole (HTTP 200)",
            "✓ its first token came after 120 ms, its last after 2000 ms",
            "✓ 31 prompt tokens were computed, 0 reused, 9 generated",
            "✓ 0.000010 € were charged of 0.000040 € held, by the endpoint's own price, or without one",
            "✓ 1.234 J and 0.000010 g CO₂e, estimated",
        ]
    );
}

#[test]
fn a_request_of_a_batch_says_so_and_at_which_price() {
    let batch_id = BatchId::from_uuid(id(7));
    let batch = Some(BatchTerms { batch_id, price_percent: 50 });
    let reason = request(&UsageRecord { batch, ..record(Outcome::Completed) }, "small");
    let money = format!(
        "✓ 0.000010 € were charged of 0.000040 € held, by the endpoint's own price, or without one, at 50 % of it as a request of {batch_id}"
    );
    assert_eq!(lines(&reason)[3], money);
    let next: Vec<_> = reason.next.iter().filter_map(|next| next.command.clone()).collect();
    assert_eq!(next, [format!("galerne batch show {batch_id}")]);
}

#[test]
fn a_failed_request_points_to_its_endpoint() {
    let reason = request(&UsageRecord { replica_id: None, http_status: 503, ..record(Outcome::Failed) }, "small");
    assert_eq!(reason.next[0].command.as_deref(), Some("galerne why endpoint/small"));
    assert_eq!(reason.because.last().map(|part| part.code.as_str()), Some("no_replica"));
}

#[test]
fn a_budget_names_who_spent_most_and_when_it_starts_again() {
    let budget = Budget {
        id: BudgetId::from_uuid(id(1)),
        tenant_id: None,
        project_id: None,
        name: "lab".into(),
        generation: 1,
        created_at: at("2026-11-01T00:00:00Z"),
        updated_at: at("2026-11-01T00:00:00Z"),
        spec: BudgetSpec::money(
            BudgetSubject::Project { project_id: ProjectId::from_uuid(id(1)) },
            Micros(5_000_000),
            BudgetPeriod::Month,
        ),
        status: BudgetStatus::default(),
    };
    let spenders = [
        ("key a".to_owned(), euros(2_000_000)),
        ("key b".to_owned(), euros(3_000_000)),
        ("key c".to_owned(), euros(0)),
    ];
    let view = BudgetView {
        budget: &budget,
        spent: euros(5_000_000),
        held: HeldNow::default(),
        lent: &[],
        spenders: &spenders,
        now: at("2026-11-22T10:00:00Z"),
    };
    let reason = super::budget(&view);
    assert_eq!(
        lines(&reason),
        [
            "⨯ 5.000000 € of 5.000000 € are spent, 0.000000 € are left",
            "✓ it starts again at 2026-12-01T00:00:00Z",
            "✓ key b spent 3.000000 €",
            "✓ key a spent 2.000000 €",
        ]
    );
    assert_eq!(reason.next[0].command.as_deref(), Some("galerne budget set lab --limit EUROS"));
    let overspent = super::budget(&BudgetView { spent: euros(5_000_001), ..view });
    assert!(overspent.text.ends_with("0.000000 € are left"), "a lowered limit: {}", overspent.text);
    assert!(super::budget(&BudgetView { spent: euros(1), ..view }).holds);
    // What runs now is part of why the next request is refused.
    let held = HeldNow { requests: 3, amounts: euros(1_999_999), oldest_at: Some(at("2026-11-22T09:59:00Z")) };
    let busy = super::budget(&BudgetView { spent: euros(3_000_000), held, ..view });
    assert!(busy.holds && busy.text.contains("1.999999 € held for requests that run, 0.000001 € are left"), "{busy:?}");
    let part = busy.because.iter().find(|part| part.code == "held").expect("told apart");
    assert!(part.text.contains("3 requests") && part.text.contains("09:59"), "{part:?}");
    // So is what other gateways may spend.
    let lent = [("the gateway of spool 7".to_owned(), euros(400_000)), ("the gateway of spool 8".to_owned(), euros(1))];
    let away = super::budget(&BudgetView { spent: euros(3_000_000), lent: &lent, ..view });
    assert!(away.text.contains("0.400001 € lent to gateways, 1.599999 € are left"), "{}", away.text);
    assert!(lines(&away).contains(&"✓ the gateway of spool 7 may spend 0.400000 € of it".to_owned()), "{away:?}");
    let full = HeldNow { amounts: euros(2_000_000), ..held };
    let full = super::budget(&BudgetView { spent: euros(3_000_000), held: full, ..view });
    assert_eq!((full.holds, full.code.as_str()), (false, "budget_held"));
}

#[test]
fn a_budget_tells_first_of_the_commodity_that_refuses() {
    let subject = BudgetSubject::Project { project_id: ProjectId::from_uuid(id(1)) };
    let spec = BudgetSpec {
        limit_millijoules: Some(Millijoules(7_200_000_000)),
        limit_co2e_micrograms: Some(MicrogramsCo2e(1_000_000)),
        ..BudgetSpec::money(subject, Micros(5_000_000), BudgetPeriod::Total)
    };
    let budget = Budget {
        id: BudgetId::from_uuid(id(1)),
        tenant_id: None,
        project_id: None,
        name: "lab".into(),
        generation: 1,
        created_at: at("2026-11-01T00:00:00Z"),
        updated_at: at("2026-11-01T00:00:00Z"),
        spec,
        status: BudgetStatus::default(),
    };
    let spent = Amounts {
        micros: Micros(1_000_000),
        millijoules: Millijoules(7_200_000_001),
        co2e_micrograms: MicrogramsCo2e(400_000),
    };
    let spenders = [("key a".to_owned(), spent)];
    let now = at("2026-11-22T10:00:00Z");
    let held = HeldNow::default();
    let reason = super::budget(&BudgetView { budget: &budget, spent, held, lent: &[], spenders: &spenders, now });
    assert_eq!(
        lines(&reason)[..3],
        [
            "⨯ 2.000000 kWh of 2.000000 kWh are spent, 0.000 J are left",
            "✓ 1.000000 € of 5.000000 € are spent, 4.000000 € are left; a request is admitted if its worst case fits into that",
            "✓ 0.400000 g CO₂e of 1.000000 g CO₂e are spent, 0.600000 g CO₂e are left; a request is admitted if its worst case fits into that",
        ]
    );
    assert_eq!(reason.next[0].command.as_deref(), Some("galerne budget set lab --limit-kwh KWH"));
    assert_eq!(lines(&reason)[4], "✓ key a spent 1.000000 €, 2.000000 kWh, 0.400000 g CO₂e");
}

#[test]
fn a_denial_says_who_from_where_and_what_to_do() {
    let denied = Event {
        id: EventId::from_uuid(id(1)),
        sequence: 7,
        at: at("2026-11-22T10:00:00Z"),
        actor: Actor {
            principal_id: Some(PrincipalId::from_uuid(id(2))),
            address: Some("192.0.2.7".into()),
            ..Actor::default()
        },
        action: "endpoint.delete".into(),
        tenant_id: None,
        project_id: None,
        resource: Some("endpoint_x".into()),
        decision: Decision::Denied,
        before_digest: None,
        after_digest: None,
        text: "you may not delete endpoints here".into(),
    };
    assert_eq!(
        lines(&event(&denied)),
        [
            "⨯ you may not delete endpoints here",
            "✓ principal_00000000000000000000000000000002 acted from 192.0.2.7",
            "✓ it was `endpoint.delete` on endpoint_x at 2026-11-22T10:00:00Z",
        ]
    );
    assert_eq!(event(&denied).next[0].command.as_deref(), Some("galerne whoami"));
    assert!(event(&Event { decision: Decision::Allowed, ..denied }).next.is_empty());
}

#[test]
fn stuck_is_a_deadline_that_has_passed() {
    let now = at("2026-11-22T10:00:00Z");
    let status = ReplicaStatus {
        state: ReplicaState::Draining,
        reason: Reason::default(),
        url: None,
        context_tokens: None,
        sequences: None,
        abilities: None,
        restarts: 0,
        deadline_at: Some(at("2026-11-22T09:59:00Z")),
        since: at("2026-11-22T09:58:40Z"),
    };
    let backend =
        Backend::External { urls: vec![], upstream_model: "m".into(), context_tokens: 1, power: None, residency: None };
    let replica = Replica {
        id: ReplicaId::from_uuid(id(1)),
        tenant_id: None,
        project_id: None,
        name: "r".into(),
        generation: 1,
        created_at: now,
        updated_at: now,
        spec: ReplicaSpec {
            endpoint_id: EndpointId::from_uuid(id(1)),
            endpoint_generation: 1,
            backend,
            index: 0,
            node_id: None,
        },
        status,
    };
    assert_eq!(
        stuck(&replica, now).expect("a minute late").text,
        "replica 0 is draining since 2026-11-22T09:58:40Z and should have left that state by 2026-11-22T09:59:00Z"
    );
    assert_eq!(stuck(&replica, at("2026-11-22T09:59:05Z")), None, "the loop looks every few seconds");
}

/// What the gateway writes of a refused request.
fn refusal() -> Event {
    Event {
        id: EventId::from_uuid(id(1)),
        sequence: 7,
        at: at("2026-11-22T10:00:00Z"),
        actor: Actor { key_id: Some(KeyId::from_uuid(id(3))), address: Some("192.0.2.7".into()), ..Actor::default() },
        action: "inference.use".into(),
        tenant_id: None,
        project_id: None,
        resource: Some("endpoint_x".into()),
        decision: Decision::Denied,
        before_digest: None,
        after_digest: None,
        text: "rate_limited: this key may make 2 requests per minute and has made them".into(),
    }
}

#[test]
fn a_refused_request_is_explained_by_what_its_caller_was_told() {
    let reason = refused(&refusal(), Some("rate_limited"));
    assert_eq!(
        lines(&reason),
        [
            "⨯ this key may make 2 requests per minute and has made them",
            "✓ somebody acted with key_00000000000000000000000000000003 from 192.0.2.7",
            "✓ it was `inference.use` on endpoint_x at 2026-11-22T10:00:00Z",
        ]
    );
    assert_eq!(reason.next[0].command.as_deref(), Some("galerne explain rate_limited"));
    let unknown = refused(&Event { text: "you may not".into(), ..refusal() }, None);
    assert_eq!((unknown.text.as_str(), unknown.next.len()), ("you may not", 0));
}

#[test]
fn a_request_that_was_only_counted_is_said_to_be_so() {
    let mut sum = refusal();
    sum.text = "rate_limited: 40 more refused like this until 2026-11-22T10:01:00Z".into();
    let reason = counted(&[sum]);
    assert!(reason.text.starts_with("it has no record of its own") && !reason.holds, "{}", reason.text);
    let part = &reason.because[0];
    assert_eq!(
        part.text,
        "since 2026-11-22T10:00:00Z, rate_limited: 40 more refused like this until 2026-11-22T10:01:00Z"
    );
    assert_eq!(part.next[0].command.as_deref(), Some("galerne why event/event_00000000000000000000000000000001"));
}
