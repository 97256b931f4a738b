//! Alerts: which thresholds of a budget are newly reached, and what is remembered of them.
//!
//! INVARIANT: of what is remembered and what is told, each threshold of a commodity is in exactly one, once per period and
//! limit: the caller records both in one transaction, and a threshold is then told once, whatever restarts between.
//! A changed limit forgets the thresholds that are not reached under it, so that they are told when they are.

use galerne_model::money::{Alerted, Amounts, BudgetSpec, Commodity, Told};
use jiff::Timestamp;

/// A threshold that was reached and not told yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alert {
    /// Of what, at how many per cent, of which limit.
    pub told: Told,
    /// What was spent of it.
    pub spent: i64,
}

/// What is to be told now that `spent` was settled in the period from `period_start`, and what to remember afterwards.
pub fn alerts(
    spec: &BudgetSpec,
    period_start: Timestamp,
    spent: &Amounts,
    before: Option<&Alerted>,
) -> (Vec<Alert>, Option<Alerted>) {
    let limits = spec.limits();
    let known = before.filter(|alerted| alerted.period_start == period_start);
    let is_told = |commodity: Commodity, percent: u8| {
        known.is_some_and(|alerted| {
            alerted.told.iter().any(|told| told.commodity == commodity && told.percent == percent)
        })
    };
    let reached = limits.iter().flat_map(|(commodity, limit)| {
        let spent = spent.of(commodity);
        let percents = spec.alert_at.iter().filter(move |percent| is_reached(**percent, spent, limit));
        percents.map(move |percent| Alert { told: Told { commodity, percent: *percent, limit }, spent })
    });
    let reached: Vec<Alert> = reached.collect();
    let alerts = reached.iter().filter(|alert| !is_told(alert.told.commodity, alert.told.percent)).copied().collect();
    // What was told under another limit or threshold and is still reached is in `reached`; what is not, is armed again
    // where the limit moved, and stays told where it did not: a reversal makes no threshold news.
    let mut told: Vec<Told> = reached.iter().map(|alert| alert.told).collect();
    let kept = known.into_iter().flat_map(|alerted| &alerted.told).filter(|told| {
        limits.of(told.commodity) == Some(told.limit)
            && !reached.iter().any(|alert| (alert.told.commodity, alert.told.percent) == (told.commodity, told.percent))
    });
    told.extend(kept);
    told.sort_unstable();
    told.dedup();
    let alerted = (!told.is_empty()).then_some(Alerted { period_start, told });
    (alerts, alerted)
}

fn is_reached(percent: u8, spent: i64, limit: i64) -> bool {
    // Nothing spent reaches nothing, also of a limit of 0.
    spent > 0 && i128::from(spent) * 100 >= i128::from(limit) * i128::from(percent)
}

#[cfg(test)]
mod tests {
    use galerne_model::ids::ProjectId;
    use galerne_model::money::{BudgetPeriod, BudgetSubject};
    use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn spec(micros: i64, millijoules: Option<i64>) -> BudgetSpec {
        let subject = BudgetSubject::Project { project_id: ProjectId::from_uuid(Uuid::from_u128(1)) };
        BudgetSpec {
            limit_millijoules: millijoules.map(Millijoules),
            ..BudgetSpec::money(subject, Micros(micros), BudgetPeriod::Month)
        }
    }

    fn spent(micros: i64, millijoules: i64) -> Amounts {
        Amounts { micros: Micros(micros), millijoules: Millijoules(millijoules), co2e_micrograms: MicrogramsCo2e::ZERO }
    }

    fn told(alerts: &[Alert]) -> Vec<(Commodity, u8)> {
        alerts.iter().map(|alert| (alert.told.commodity, alert.told.percent)).collect()
    }

    const NOVEMBER: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn each_threshold_of_each_commodity_is_told_once_in_a_period() {
        let spec = spec(100, Some(1_000));
        let (first, seen) = alerts(&spec, NOVEMBER, &spent(49, 949), None);
        assert_eq!(told(&first), [(Commodity::Energy, 50), (Commodity::Energy, 80)], "a jump tells each it passes");
        let (second, seen) = alerts(&spec, NOVEMBER, &spent(50, 950), seen.as_ref());
        assert_eq!(told(&second), [(Commodity::Money, 50), (Commodity::Energy, 95)]);
        assert_eq!(alerts(&spec, NOVEMBER, &spent(51, 2_000), seen.as_ref()), (vec![], seen.clone()));
        let december = Timestamp::from_second(86_400).expect("in range");
        let (again, _) = alerts(&spec, december, &spent(50, 0), seen.as_ref());
        assert_eq!(told(&again), [(Commodity::Money, 50)], "a new period");
    }

    #[test]
    fn a_reversal_makes_no_threshold_news_and_a_raised_limit_does() {
        let (_, seen) = alerts(&spec(100, None), NOVEMBER, &spent(96, 0), None);
        let (none, seen) = alerts(&spec(100, None), NOVEMBER, &spent(40, 0), seen.as_ref());
        assert_eq!(none, []);
        let (none, seen) = alerts(&spec(100, None), NOVEMBER, &spent(96, 0), seen.as_ref());
        assert_eq!(none, []);
        let (none, seen) = alerts(&spec(190, None), NOVEMBER, &spent(96, 0), seen.as_ref());
        assert_eq!(none, [], "50 % was told");
        let (news, _) = alerts(&spec(190, None), NOVEMBER, &spent(152, 0), seen.as_ref());
        assert_eq!(told(&news), [(Commodity::Money, 80)]);
    }

    #[test]
    fn nothing_spent_of_no_money_is_no_alert() {
        assert_eq!(alerts(&spec(0, None), NOVEMBER, &spent(0, 0), None), (vec![], None));
    }

    proptest! {
        /// However settlements are looked at, together they tell each threshold that the last one reaches, once.
        #[test]
        fn looks_tell_together_what_was_reached_and_nothing_twice(limit in 0i64..1_000, steps in proptest::collection::vec(0i64..200, 1..30)) {
            let spec = spec(limit, None);
            let (mut sum, mut seen, mut all) = (0, None, Vec::new());
            for step in steps {
                sum += step;
                let (news, after) = alerts(&spec, NOVEMBER, &spent(sum, 0), seen.as_ref());
                all.extend(told(&news));
                seen = after;
            }
            let reached: Vec<_> = spec.alert_at.iter().filter(|p| sum > 0 && sum * 100 >= limit * i64::from(**p)).map(|p| (Commodity::Money, *p)).collect();
            prop_assert_eq!(all, reached);
        }
    }
}
