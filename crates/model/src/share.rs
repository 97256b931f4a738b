//! Shares of budgets: what a gateway in a process of its own may still spend of one.
//!
//! Counted exactly, in picos of a euro, because shares are compared with limits (docs/decisions/0039). What the ledger
//! settles of a gateway's usage is taken from its share in the same transaction, so that money is either lent or spent.
//! INVARIANT: a share is never below nothing, of any commodity.

use crate::ledger::Quantities;
use crate::money::Amounts;
use crate::units::{MicrogramsCo2e, Micros, Millijoules, PICOS_PER_MICRO};

/// What is lent to one gateway of one budget in one period, less what is settled of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BudgetShare {
    picos: i128,
    millijoules: i64,
    co2e_micrograms: i64,
}

impl BudgetShare {
    /// A share of whole units.
    pub fn of(amounts: &Amounts) -> Self {
        let mut share = Self::default();
        share.lend(amounts);
        share
    }

    /// As it is kept: micros and what is left below one, millijoules, micrograms.
    pub fn from_kept([micros, picos, millijoules, co2e_micrograms]: [i64; 4]) -> Self {
        let picos = in_picos(Micros(micros)) + i128::from(picos);
        Self { picos: picos.max(0), millijoules: millijoules.max(0), co2e_micrograms: co2e_micrograms.max(0) }
    }

    /// What [`BudgetShare::from_kept`] reads; nothing when it is more money than can be kept.
    pub fn kept(&self) -> Option<[i64; 4]> {
        let unit = i128::from(PICOS_PER_MICRO);
        let micros = i64::try_from(self.picos.div_euclid(unit)).ok()?;
        let picos = i64::try_from(self.picos.rem_euclid(unit)).ok()?;
        Some([micros, picos, self.millijoules, self.co2e_micrograms])
    }

    /// More is lent.
    pub fn lend(&mut self, amounts: &Amounts) {
        self.picos += in_picos(amounts.micros).max(0);
        self.millijoules = self.millijoules.saturating_add(amounts.millijoules.0.max(0));
        self.co2e_micrograms = self.co2e_micrograms.saturating_add(amounts.co2e_micrograms.0.max(0));
    }

    /// Some comes back unspent.
    pub fn give_back(&mut self, amounts: &Amounts) {
        let Amounts { micros, millijoules, co2e_micrograms } = *amounts;
        self.take(in_picos(micros), millijoules, co2e_micrograms);
    }

    /// What was spent of it is in the ledger now. More than there is of it was spent before the budget was known, or is
    /// energy above its hold: it is the budget's, and takes no other share.
    pub fn settle(&mut self, charged: &Quantities) {
        let picos = in_picos(charged.micros) + i128::from(charged.picos.0);
        self.take(picos, charged.millijoules, charged.co2e_micrograms);
    }

    /// Picos of a euro, whole ones of the rest.
    pub const fn picos(&self) -> i128 {
        self.picos
    }

    /// In whole units, rounded down: never more than there is.
    pub fn rounded_down(&self) -> Amounts {
        let micros = self.picos.div_euclid(i128::from(PICOS_PER_MICRO));
        Amounts {
            micros: Micros(i64::try_from(micros).unwrap_or(i64::MAX)),
            millijoules: Millijoules(self.millijoules),
            co2e_micrograms: MicrogramsCo2e(self.co2e_micrograms),
        }
    }

    /// Whether there is nothing of it.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn take(&mut self, picos: i128, millijoules: Millijoules, co2e_micrograms: MicrogramsCo2e) {
        self.picos = (self.picos - picos.max(0)).max(0);
        self.millijoules = self.millijoules.saturating_sub(millijoules.0.max(0)).max(0);
        self.co2e_micrograms = self.co2e_micrograms.saturating_sub(co2e_micrograms.0.max(0)).max(0);
    }
}

fn in_picos(micros: Micros) -> i128 {
    i128::from(micros.0) * i128::from(PICOS_PER_MICRO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Picos;

    #[test]
    fn a_share_reads_back_as_it_was_kept_and_is_never_below_nothing() {
        let mut share = BudgetShare::of(&Amounts::money(Micros(10)));
        let used = Quantities { micros: Micros(3), picos: Picos(400_000), ..Quantities::default() };
        share.settle(&used);
        assert_eq!(share.kept(), Some([6, 600_000, 0, 0]));
        assert_eq!(share.kept().map(BudgetShare::from_kept), Some(share));
        assert_eq!(share.rounded_down().micros, Micros(6));
        share.give_back(&Amounts::money(Micros(7)));
        assert!(share.is_nothing());
        share.settle(&used);
        assert!(share.is_nothing());
        share.give_back(&Amounts::money(Micros(-5)));
        assert!(share.is_nothing(), "nothing comes back as less than nothing");
    }
}
