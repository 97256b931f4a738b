//! Budgets under pressure: never overspent, refused with numbers, and used to the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_gateway::SpoolLimits;
use galerne_model::ids::{KeyId, ProjectId, TenantId};
use galerne_model::money::BudgetSubject;
use proptest::prelude::*;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::site::{Ledger, PICOS, Site, add_key, budget, chat_body, key_entry, receive, snapshot, uuid};

#[tokio::test]
async fn a_budget_refuses_with_the_numbers_and_the_largest_answer_that_fits() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    snapshot.add_budget(budget(1, BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(1)) }, 1_000));
    let site = Site::start(snapshot).await;
    let reply = site.chat(json!({"max_tokens": 999})).await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.header("x-should-retry")),
        (402, "budget_exhausted", "false")
    );
    let message = reply.message();
    assert!(
        message.contains("budget `budget-1` has 0.001000 €") && message.contains("0.000000 € are spent"),
        "{message}"
    );
    assert!(message.contains("0.001000 € are left"), "{message}");
    let fits: u32 = message
        .split("`max_tokens` of ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert_eq!(site.chat(json!({"max_tokens": fits + 1})).await.status, 402);
    assert_eq!(site.chat(json!({"max_tokens": fits})).await.status, 200);
}

#[tokio::test]
async fn a_prompt_that_alone_is_too_dear_is_told_its_price_and_what_to_do() {
    let mut snapshot = snapshot(&[]);
    snapshot.add_budget(budget(1, BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(1)) }, 100));
    let site = Site::start(snapshot).await;
    let body = chat_body(json!({"max_tokens": 5}));
    let reply = site.chat(json!({"max_tokens": 5})).await;
    assert_eq!((reply.status, reply.code().as_str()), (402, "budget_exhausted"));
    // Each byte at most a token, and 512 of a template; a micro each.
    let alone = body.to_string().len() + 512;
    let says = format!(
        "0.000100 € are left, and its prompt alone may cost 0.{alone:06} €; hint: send a shorter prompt, or have the limit raised: galerne budget set budget-1 --limit EUROS"
    );
    assert!(reply.message().ends_with(&says), "{}", reply.message());
}

#[tokio::test]
async fn the_cost_in_the_header_is_what_the_caller_pays_and_not_more() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let site = Site::start(snapshot(&[&engine.url])).await;
    // The engine says that it made more than it was allowed, which the provider bears.
    let reply = site.chat(json!({"max_tokens": 8, "x_tokens": 2_000})).await;
    let record = site.settled(1).await.swap_remove(0);
    assert!(record.quantities.micros > record.held_micros, "{record:?}");
    let held = record.held_micros.0;
    assert_eq!(reply.header("x-galerne-cost-eur"), format!("0.{held:06}000000"));
}

/// Hammers a site from many clients and checks that no budget was overspent, by the ledger's count in picos.
async fn hammer(limits: [i64; 3], requests: Vec<(u8, u32, bool, u8)>) {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    // Keys 1 and 2 share tenant and project 1.
    let mut second = key_entry(1);
    second.id = KeyId::from_uuid(uuid(2));
    add_key(&mut snapshot, 2, second);
    // Key 3 follows key 2 by a rotation: in the overlap both work, and they share the budget of the line.
    let (first_of_line, follower) = (KeyId::from_uuid(uuid(2)), KeyId::from_uuid(uuid(3)));
    let mut third = key_entry(1);
    third.id = follower;
    add_key(&mut snapshot, 3, third);
    snapshot.lines.insert(follower, first_of_line);
    let subjects = [
        BudgetSubject::Tenant { tenant_id: TenantId::from_uuid(uuid(1)) },
        BudgetSubject::Project { project_id: ProjectId::from_uuid(uuid(1)) },
        BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(2)) },
    ];
    for (n, (subject, limit)) in (1..).zip(subjects.into_iter().zip(limits)) {
        snapshot.add_budget(budget(n, subject, limit));
    }
    let site = Site::start(snapshot).await;
    let mut clients = Vec::new();
    for client in requests.chunks(requests.len().div_ceil(10).max(1)) {
        let sends: Vec<_> = client
            .iter()
            .map(|(key, max_tokens, stream, how)| {
                let does = ["answer", "answer", "break", "no usage"][usize::from(*how)];
                let body = chat_body(json!({"max_tokens": max_tokens, "stream": stream, "x_do": does}));
                site.post_as(*key, "/v1/chat/completions", &body)
            })
            .collect();
        clients.push(site.tasks.spawn(async move {
            let mut answered = 0;
            for send in sends {
                let reply = receive(send).await;
                assert!(matches!(reply.status, 200 | 402), "{reply:?}");
                answered += usize::from(reply.status == 200);
            }
            answered
        }));
    }
    let mut answered = 0;
    for client in clients {
        answered += client.await.expect("no panic");
    }
    site.is_idle().await;
    assert_eq!(site.settled(answered).await.len(), answered, "one record per admitted request");
    let ledger = site.ledger.lock().expect("whole");
    for (subject, limit) in subjects.iter().zip(limits) {
        let charged = ledger.charged(subject);
        assert!(charged <= i128::from(limit) * PICOS, "{subject:?}: {charged} picos of {limit} micros");
    }
    for record in ledger.records.values() {
        assert!(
            record.quantities.micros < record.held_micros || record.quantities.picos.0 == 0,
            "no charge above its hold"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn no_budget_is_overspent_by_one_pico_with_ten_clients(
        limits in [0i64..20_000, 0i64..20_000, 0i64..10_000],
        requests in proptest::collection::vec((1u8..4, 1u32..400, any::<bool>(), 0u8..4), 60..140),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(hammer(limits, requests));
    }
}

#[tokio::test]
async fn a_budget_is_used_to_its_end_because_holds_are_freed() {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    snapshot.add_budget(budget(1, BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(1)) }, 3_000));
    let site = Site::start(snapshot).await;
    let mut spent = 0;
    while site.chat(json!({"max_tokens": 8})).await.status == 200 {
        spent += 1;
        assert!(spent < 200, "the budget has an end");
    }
    // One request is held at about 620 micros and costs 21.5.
    assert!(spent > 100, "only {spent} requests were answered: holds are not given back");
}

#[tokio::test]
async fn what_the_ledger_has_not_settled_counts_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    snapshot.add_budget(budget(1, BudgetSubject::Key { key_id: KeyId::from_uuid(uuid(1)) }, 900));
    let mut second = key_entry(1);
    second.id = KeyId::from_uuid(uuid(2));
    add_key(&mut snapshot, 2, second);
    snapshot.lines.insert(KeyId::from_uuid(uuid(2)), KeyId::from_uuid(uuid(1)));
    let away = || Arc::new(Mutex::new(Ledger { away: true, ..Ledger::default() }));
    let most = json!({"max_tokens": 100});
    let spent = {
        let site = Site::start_in(dir.path(), snapshot.clone(), SpoolLimits::default(), away()).await;
        let mut answered = 0;
        while site.chat(most.clone()).await.status == 200 {
            answered += 1;
        }
        site.gateway.drain(Duration::from_secs(5)).await;
        answered
    };
    assert!(spent > 0);
    let site = Site::start_in(dir.path(), snapshot.clone(), SpoolLimits::default(), away()).await;
    assert_eq!(
        site.chat(most.clone()).await.status,
        402,
        "the {spent} answers are paid for, though no ledger knows it"
    );
    let follower = receive(site.post_as(2, "/v1/chat/completions", &chat_body(most.clone()))).await;
    assert_eq!(follower.status, 402, "the key that follows has no more left than the line");
    site.gateway.drain(Duration::from_secs(5)).await;
    let site = Site::start_in(dir.path(), snapshot, SpoolLimits::default(), Arc::default()).await;
    assert_eq!(site.settled(spent).await.len(), spent, "and they reach the ledger when it is back");
    assert_eq!(site.chat(most).await.status, 402);
}
