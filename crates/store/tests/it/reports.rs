//! Usage added up by interval and terms: what reports are made of.

use galerne_model::ids::NodeId;
use galerne_model::ledger::{EnergyMethod, Quantities};
use galerne_store::{CostFilter, CostGroup, UsageFilter, UsageGroup};
use jiff::{SignedDuration, Timestamp};

use crate::bed::Bed;
use crate::corrections::{correction, replica_reading};
use crate::sample::{self, later, now, project_id, record, records, tenant_id, uuid};

const MINUTE: i64 = 60_000_000;

fn sum(groups: &[UsageGroup]) -> Quantities {
    let mut sum = Quantities::default();
    for group in groups {
        sum.prompt_tokens += group.quantities.prompt_tokens;
        sum.cached_tokens += group.quantities.cached_tokens;
        sum.completion_tokens += group.quantities.completion_tokens;
        sum.micros += group.quantities.micros;
        sum.picos += group.quantities.picos;
        sum.millijoules += group.quantities.millijoules;
        sum.co2e_micrograms += group.quantities.co2e_micrograms;
    }
    sum
}

/// 300 records over five hours, some of a second project, some above their holds; one corrected, one charged back.
async fn furnish(bed: &Bed) {
    let mut tx = bed.store.begin().await.expect("begins");
    tx.insert(&sample::replica(1, Some(NodeId::from_uuid(uuid(1))))).await.expect("inserts");
    tx.commit().await.expect("commits");
    let mut batch = records(1, 300);
    for record in &mut batch {
        record.started_at = now() + SignedDuration::from_mins(record.sequence);
        record.ended_at = record.started_at + SignedDuration::from_secs(1);
        if record.sequence % 3 == 0 {
            record.project_id = project_id(2);
        }
        if record.sequence % 11 == 0 {
            record.held_micros = galerne_model::units::Micros(7);
        }
    }
    bed.store.settle_batch(1, &batch).await.expect("settles");
    let corrections = vec![correction(4, 2_000, 30)];
    bed.store.post_replica_reading(&replica_reading(2, 10_000, corrections), 1_000).await.expect("books");
    let transfer = bed.store.usage_transfer(record(8).request_id).await.expect("reads").expect("is there");
    bed.store.reverse(transfer, later(900)).await.expect("reverses");
}

pub(crate) async fn groups_add_up_to_what_was_charged_however_wide_they_are(bed: &Bed) {
    furnish(bed).await;
    let days = bed.store.costs(&CostFilter::default(), CostGroup::Project).await.expect("reads");
    let all = UsageFilter { from: Some(now()), until: Some(later(1_000_000)), ..UsageFilter::default() };
    for width in [MINUTE, 60 * MINUTE, 1_440 * MINUTE] {
        let groups = bed.store.usage_groups(&all, width).await.expect("reads");
        assert!(groups.iter().all(|group| group.started_at.as_microsecond() % width == 0), "whole intervals");
        for project in [1, 2] {
            let of = |group: &&UsageGroup| group.project_id == project_id(project);
            let own: Vec<UsageGroup> = groups.iter().filter(of).cloned().collect();
            let row = days.iter().find(|row| row.group == project_id(project).to_string()).expect("it used something");
            assert_eq!(sum(&own), row.quantities, "project {project} by {width}");
        }
        // The one that was charged back is not among them.
        assert_eq!(groups.iter().map(|group| group.requests).sum::<i64>(), 299);
    }
    let minutes = bed.store.usage_groups(&all, MINUTE).await.expect("reads");
    let of = |sequence: i64| {
        let at = now() + SignedDuration::from_mins(sequence);
        let aligned = at.as_microsecond().div_euclid(MINUTE) * MINUTE;
        minutes.iter().find(|group| group.started_at == Timestamp::from_microsecond(aligned).expect("an instant"))
    };
    let corrected = of(4).expect("one each minute");
    assert_eq!((corrected.energy_method, corrected.quantities.millijoules.0), (EnergyMethod::Apportioned, 2_000));
    for sequence in [1, 5, 7, 12] {
        let (group, record) = (of(sequence).expect("one each minute"), record(sequence));
        assert_eq!((group.terms, group.price_percent), (record.terms, record.batch.map(|batch| batch.price_percent)));
    }
}

pub(crate) async fn a_group_is_only_of_the_time_and_the_place_that_is_asked_for(bed: &Bed) {
    furnish(bed).await;
    let from = now() + SignedDuration::from_mins(10);
    let filter = UsageFilter {
        tenant_id: Some(tenant_id(1)),
        project_id: Some(project_id(2)),
        from: Some(from),
        until: Some(from + SignedDuration::from_mins(6)),
    };
    let groups = bed.store.usage_groups(&filter, MINUTE).await.expect("reads");
    // Records 12 and 15: 10 is in the time and of another project, 18 after it.
    assert_eq!(groups.iter().map(|group| group.requests).sum::<i64>(), 2);
    assert!(groups.iter().all(|group| group.project_id == project_id(2)));
    let nobody = UsageFilter { tenant_id: Some(tenant_id(9)), ..filter };
    assert_eq!(bed.store.usage_groups(&nobody, MINUTE).await.expect("reads"), []);
}
