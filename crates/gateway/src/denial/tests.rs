use galerne_model::identity::{KeyScope, RateLimits};
use galerne_model::ids::{PrincipalId, ProjectId, TenantId};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_780_000_000 + second).expect("in range")
}

fn stranger(n: u128, address: &str) -> Asker {
    let address = Some(address.parse().expect("an address"));
    let request_id = RequestId::from_uuid(Uuid::from_u128(n));
    Asker { request_id, dialect: Dialect::Union, address, key: None, endpoint_id: None }
}

fn known(n: u128, key: u128) -> Asker {
    let id = Uuid::from_u128(key);
    let key = KeyEntry {
        id: KeyId::from_uuid(id),
        tenant_id: TenantId::from_uuid(id),
        project_id: ProjectId::from_uuid(id),
        principal_id: PrincipalId::from_uuid(id),
        scopes: vec![KeyScope::Inference],
        may_infer: true,
        expires_at: None,
        limits: RateLimits::default(),
        model_limits: Vec::new(),
        service_tier: None,
    };
    Asker { key: Some(Arc::new(key)), ..stranger(n, "192.0.2.1") }
}

/// How many refusals an event tells of.
fn told(event: &Event) -> u64 {
    if event.actor.request_id.is_some() {
        return 1;
    }
    let words = event.text.split(": ").nth(1).expect("a code, then a sentence");
    words.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

fn sum(events: &[Event]) -> u64 {
    events.iter().map(told).sum()
}

#[test]
fn a_refusal_tells_who_what_from_where_and_why_with_the_numbers() {
    let book = DenialBook::default();
    let endpoint_id = EndpointId::from_uuid(Uuid::from_u128(9));
    let asker = Asker { endpoint_id: Some(endpoint_id), ..known(1, 7) };
    book.note(&asker, Code::RateLimited, "this key may make 2 requests per minute", at(0));
    let event = book.take_due(Instant::now()).remove(0);
    assert_eq!((event.action.as_str(), event.decision, event.at), ("inference.use", Decision::Denied, at(0)));
    assert_eq!(event.text, "rate_limited: this key may make 2 requests per minute");
    assert_eq!(event.resource, Some(endpoint_id.to_string()));
    let key = asker.key.expect("known");
    assert_eq!((event.tenant_id, event.project_id), (Some(key.tenant_id), Some(key.project_id)));
    let actor = event.actor;
    assert_eq!((actor.request_id, actor.key_id), (Some(asker.request_id), Some(key.id)));
    assert_eq!(actor.address.as_deref(), Some("192.0.2.1"));
    assert_eq!(book.take_due(Instant::now()), [], "once");
}

#[test]
fn what_a_caller_sent_cannot_move_an_operators_cursor() {
    let book = DenialBook::default();
    book.note(&known(1, 7), Code::ModelNotFound, "no endpoint is named `\u{1b}[2Jé\r\n\u{202e}x`", at(0));
    let text = book.take_all().remove(0).text;
    assert_eq!(text, "model_not_found: no endpoint is named `\u{fffd}[2Jé\u{fffd}\u{fffd}\u{fffd}x`");
}

#[test]
fn a_client_in_a_loop_writes_a_few_events_and_one_sum_that_is_exact() {
    let book = DenialBook::default();
    for n in 0..100_000 {
        book.note(&stranger(n, "192.0.2.1"), Code::InvalidKey, "not known", at(0));
    }
    let singles = book.take_due(Instant::now());
    assert_eq!(singles.len(), limits::DENIALS_SINGLE_PER_GROUP as usize, "counts wait for the end of their window");
    for n in 0..500 {
        book.note(&stranger(n, "192.0.2.1"), Code::InvalidKey, "not known", at(5));
    }
    let mut sums = book.take_all();
    assert_eq!(sums.len(), 1);
    assert_eq!(sum(&singles) + sum(&sums), 100_500);
    let counted = sums.remove(0);
    assert_eq!((counted.actor.address.as_deref(), counted.at), (Some("192.0.2.1"), at(0)));
    assert!(counted.text.contains(&at(5).to_string()), "{}", counted.text);
    assert_eq!(book.take_all(), [], "nothing is told twice");
}

#[test]
fn a_flood_from_everywhere_stays_in_bounds_and_takes_nothing_from_those_who_are_known() {
    let book = DenialBook::default();
    for n in 0..50_000_u32 {
        let address = format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
        book.note(&stranger(n.into(), &address), Code::InvalidKey, "not known", at(0));
    }
    for n in 0..50_000_u128 {
        // Each from a network of its own, and each address once.
        book.note(&stranger(n, &format!("2001:db8:{:x}::1", n % 60_000)), Code::Unauthenticated, "no key", at(1));
    }
    book.note(&known(1, 7), Code::BudgetExhausted, "0 € are left", at(2));
    let events = book.take_all();
    assert_eq!(sum(&events), 100_001);
    let most = limits::DENIALS_SINGLE_STRANGERS_MAX as usize + limits::DENIAL_GROUPS_STRANGERS_MAX + 2 + 1;
    assert!(events.len() <= most, "{} events", events.len());
    let own: Vec<&Event> = events.iter().filter(|event| event.actor.key_id.is_some()).collect();
    assert_eq!(own.len(), 1);
    assert!(own[0].actor.request_id.is_some(), "it can be asked why");
}

#[test]
fn many_keys_stay_in_bounds_too_and_each_event_is_its_own_tenants() {
    let book = DenialBook::default();
    for n in 0..40_000_u128 {
        book.note(&known(n, n % 1_000), Code::RateLimited, "too fast", at(0));
    }
    let events = book.take_all();
    assert_eq!(sum(&events), 40_000);
    let most = limits::DENIALS_SINGLE_KNOWN_MAX as usize + limits::DENIAL_GROUPS_KNOWN_MAX + 1;
    assert!(events.len() <= most, "{} events", events.len());
    for event in &events {
        // The last sum is of keys of many tenants, and so of none.
        let tenant = event.tenant_id.map(TenantId::uuid);
        assert_eq!(tenant, event.actor.key_id.map(KeyId::uuid), "{event:?}");
    }
}

#[test]
fn addresses_of_one_ipv6_network_are_counted_together() {
    let book = DenialBook::default();
    for n in 0..100_u128 {
        book.note(&stranger(n, &format!("2001:db8::{n:x}")), Code::InvalidKey, "not known", at(0));
    }
    let events = book.take_all();
    assert_eq!((events.len(), sum(&events)), (limits::DENIALS_SINGLE_PER_GROUP as usize + 1, 100));
    let counted = events.last().expect("some");
    assert_eq!(counted.actor.address.as_deref(), Some("2001:db8::/64"));
    assert_eq!(events[1].actor.address.as_deref(), Some("2001:db8::1"), "one by one the address is told");
}

#[test]
fn a_window_that_is_over_gives_its_counts_and_a_new_allowance() {
    let book = DenialBook::default();
    let loud = |n| book.note(&known(n, 1), Code::RateLimited, "too fast", at(0));
    (0..50).for_each(loud);
    assert_eq!(book.take_due(Instant::now()).len(), 10);
    let end = Instant::now() + Duration::from_millis(limits::DENIAL_WINDOW_MS);
    assert_eq!(sum(&book.take_due(end)), 40);
    loud(1);
    assert_eq!(book.take_due(Instant::now()).len(), 1, "recorded alone again");
}
