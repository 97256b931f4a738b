use galerne_model::batch::{BatchStatus, Surface};
use galerne_model::file::Visibility;
use galerne_model::ids::{BatchId, KeyId, PrincipalId, ProjectId, TenantId};
use galerne_model::ledger::Operation;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const HELD: Load =
    Load { replicas: 1, seats_each: Some(16), limit: None, live: 0, waiting: 0, quiet_micros: None, wakes: false };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_780_000_000 + second).expect("in range")
}

fn batch(state: BatchState) -> Batch {
    let id = Uuid::from_u128(1);
    Batch {
        id: BatchId::from_uuid(id),
        tenant_id: TenantId::from_uuid(id),
        project_id: ProjectId::from_uuid(id),
        principal_id: PrincipalId::from_uuid(id),
        key_id: KeyId::from_uuid(id),
        surface: Surface::OpenAi,
        operation: Operation::Chat,
        model: None,
        inputs: Vec::new(),
        visibility: Visibility::Project,
        metadata: std::collections::BTreeMap::new(),
        output_life_seconds: None,
        countries: Vec::new(),
        created_at: at(0),
        expires_at: at(86_400),
        status: BatchStatus { state, ..BatchStatus::default() },
    }
}

const GOOD: Facts<'_> = Facts { key_refused: None, left: 5, in_flight: 2 };

#[test]
fn an_idle_endpoint_gives_batches_every_seat_but_one() {
    assert_eq!(room(&HELD), Room { most: 15, why: RoomReason::Seats });
    assert_eq!(room(&Load { replicas: 3, ..HELD }).most, 47);
    assert_eq!(room(&Load { seats_each: Some(1), ..HELD }).most, 1, "a single seat is shared in time");
    assert_eq!(room(&Load { seats_each: None, ..HELD }).most, 7);
    assert_eq!(room(&Load { quiet_micros: Some(QUIET_MICROS), ..HELD }).most, 15);
    assert_eq!(room(&Load { limit: Some(4), ..HELD }).most, 3, "one of those it may have");
}

#[test]
fn batches_keep_out_of_the_way_of_live_requests() {
    let live = |live| room(&Load { live, ..HELD });
    assert_eq!(live(1), Room { most: 2, why: RoomReason::LiveRuns });
    assert_eq!(live(7).most, 1);
    assert_eq!(live(8).most, 0, "half of the seats are taken");
    assert_eq!(room(&Load { quiet_micros: Some(QUIET_MICROS - 1), ..HELD }).most, 2, "somebody was there just now");
    assert_eq!(room(&Load { seats_each: Some(4), live: 1, ..HELD }).most, 0, "a small engine has no seat to spare");
}

#[test]
fn an_endpoint_without_replicas_is_woken_by_one_request_if_it_can_be() {
    let none = Load { replicas: 0, ..HELD };
    assert_eq!(room(&none), Room { most: 0, why: RoomReason::NoReplica });
    assert_eq!(room(&Load { wakes: true, ..none }), Room { most: 1, why: RoomReason::Waking });
}

#[test]
fn tenants_take_turns_and_then_batches() {
    let turn = |batch: u32, tenant: u32, in_flight: u32| Turn { batch, tenant, in_flight };
    assert_eq!(next_turn::<u32, u32>(&[]), None);
    assert_eq!(next_turn(&[turn(1, 1, 0), turn(2, 2, 0)]), Some(1), "the oldest");
    assert_eq!(next_turn(&[turn(1, 1, 1), turn(2, 1, 0), turn(3, 2, 1)]), Some(2), "the batch with the fewest");
    assert_eq!(next_turn(&[turn(1, 1, 1), turn(2, 1, 1), turn(3, 2, 1)]), Some(3), "the tenant with the fewest");
}

#[test]
fn a_batch_ends_for_the_first_reason_there_is() {
    assert_eq!(step(&batch(BatchState::Validating), &GOOD, at(0)), Step::Validate);
    assert_eq!(step(&batch(BatchState::Running), &GOOD, at(0)), Step::Run);
    let ends = |batch: &Batch, facts: &Facts<'_>, now| match step(batch, facts, now) {
        Step::End(end, _) => Some(end),
        Step::Validate | Step::Run | Step::Wait | Step::Finish | Step::Rest => None,
    };
    for state in [BatchState::Validating, BatchState::Running] {
        let mut cancelled = batch(state);
        assert_eq!(ends(&cancelled, &GOOD, at(86_399)), None);
        assert_eq!(ends(&cancelled, &GOOD, at(86_400)), Some(BatchEnd::Expired));
        let refused = Facts { key_refused: Some("the key was revoked"), ..GOOD };
        assert_eq!(ends(&cancelled, &refused, at(0)), Some(BatchEnd::Stopped));
        assert_eq!(ends(&cancelled, &refused, at(86_400)), Some(BatchEnd::Expired));
        cancelled.status.cancel_at = Some(at(9));
        assert_eq!(ends(&cancelled, &refused, at(86_400)), Some(BatchEnd::Cancelled));
    }
    let done = Facts { left: 0, in_flight: 0, ..GOOD };
    let mut late = batch(BatchState::Running);
    late.status.cancel_at = Some(at(9));
    assert_eq!(ends(&late, &done, at(90_000)), Some(BatchEnd::Completed), "nothing was left to stop");
    assert_eq!(step(&batch(BatchState::Running), &Facts { left: 0, ..GOOD }, at(0)), Step::Wait);
    assert_eq!(step(&batch(BatchState::Ending), &GOOD, at(0)), Step::Wait);
    assert_eq!(step(&batch(BatchState::Ending), &done, at(0)), Step::Finish);
    assert_eq!(step(&batch(BatchState::Ended), &done, at(0)), Step::Rest);
}

#[test]
fn what_stands_in_the_way_of_everybody_costs_a_request_no_try() {
    let of = |status, failures| verdict(Reply { status, retry_after_ms: None, failures });
    assert_eq!(of(200, 0), Verdict::Answered);
    for status in [408, 429, 503] {
        assert_eq!(of(status, FAILURES_MAX), Verdict::Later { wait_ms: 2_000 }, "{status}");
    }
    assert_eq!(of(402, 0), Verdict::Later { wait_ms: 30_000 });
    let said = |ms| verdict(Reply { status: 429, retry_after_ms: Some(ms), failures: 0 });
    assert_eq!(said(7_000), Verdict::Later { wait_ms: 7_000 });
    assert_eq!((said(0), said(u64::MAX)), (Verdict::Later { wait_ms: 500 }, Verdict::Later { wait_ms: 60_000 }));
    for status in [500, 502, 504] {
        assert_eq!(of(status, 0), Verdict::Again { wait_ms: 1_000 }, "{status}");
        assert_eq!(of(status, FAILURES_MAX - 1), Verdict::Refused, "{status}");
    }
    for status in [400, 404, 413, 422, 501] {
        assert_eq!(of(status, 0), Verdict::Refused, "{status}");
    }
    assert_eq!((of(401, 0), of(403, 0)), (Verdict::Stop, Verdict::Stop));
}

#[test]
fn a_batch_says_why_it_is_where_it_is_and_what_can_be_done() {
    let mut shown = batch(BatchState::Running);
    shown.status.reason = "live requests are being answered".to_owned();
    let reason = why(&shown);
    assert_eq!(
        (reason.code.as_str(), reason.holds, reason.text.as_str()),
        ("batch_running", false, "live requests are being answered")
    );
    assert!(
        reason.next[0].command.as_deref().is_some_and(|command| command.starts_with("galerne batch cancel batch_"))
    );
    shown.status.state = BatchState::Ended;
    shown.status.end = Some(BatchEnd::Failed);
    shown.status.faults.push(galerne_model::batch::Fault {
        code: "empty_file".to_owned(),
        message: "m".to_owned(),
        param: None,
        line: Some(3),
    });
    assert_eq!(why(&shown).because[0].text, "line 3: m");
    shown.status.end = Some(BatchEnd::Completed);
    assert!(why(&shown).holds);
}

proptest! {
    #[test]
    fn live_requests_always_find_what_batches_leave(
        replicas in 0u32..64, seats in proptest::option::of(0u32..512), live in 0u32..5_000, waiting in 0u32..3,
        limit in proptest::option::of(0u32..100), quiet in proptest::option::of(0i64..10_000_000), wakes: bool,
    ) {
        let load = Load { replicas, seats_each: seats, limit, live, waiting, quiet_micros: quiet, wakes };
        let all = replicas.saturating_mul(seats.unwrap_or(SEATS_UNKNOWN).max(1)).min(limit.unwrap_or(u32::MAX));
        let most = room(&load).most;
        prop_assert!(waiting == 0 || most == 0);
        prop_assert!(most <= all.max(1));
        prop_assert!(all < 2 || most < all, "a seat stays free");
        if live > 0 && replicas > 0 {
            prop_assert!(most == 0 || most + live <= all / 2);
        }
        let busier = room(&Load { live: live + 1, ..load }).most;
        prop_assert!(busier <= most, "more live traffic never gives batches more");
    }

    #[test]
    fn a_request_is_not_tried_for_ever(status in 500u16..600) {
        let mut failures = 0;
        while let Verdict::Again { .. } = verdict(Reply { status, retry_after_ms: None, failures }) {
            failures += 1;
            prop_assert!(failures < FAILURES_MAX);
        }
    }
}
