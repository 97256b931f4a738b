//! Amounts as budgets count them: picos of a euro, millijoules, micrograms, each too wide to overflow.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};

use galerne_model::money::{Amounts, Commodity};
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, PICOS_PER_MICRO};

use super::Used;

/// One amount of each commodity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parts {
    picos: i128,
    millijoules: i128,
    micrograms: i128,
}

impl Parts {
    pub(super) fn of(amounts: &Amounts) -> Self {
        let whole = |commodity| Self::whole(commodity, amounts.of(commodity));
        Self {
            picos: whole(Commodity::Money),
            millijoules: whole(Commodity::Energy),
            micrograms: whole(Commodity::Carbon),
        }
    }

    /// Money alone.
    #[cfg(test)]
    pub(super) fn picos(picos: i128) -> Self {
        Self { picos, ..Self::default() }
    }

    pub(super) fn used(used: &Used) -> Self {
        Self {
            picos: used.charge.in_picos(),
            millijoules: i128::from(used.energy.0),
            micrograms: i128::from(used.carbon.0),
        }
    }

    /// An amount in the base unit of its commodity, counted in parts.
    pub(super) fn whole(commodity: Commodity, amount: i64) -> i128 {
        i128::from(amount) * Self::per_unit(commodity)
    }

    pub(super) fn rounded_down(commodity: Commodity, parts: i128) -> i64 {
        i64::try_from(parts.div_euclid(Self::per_unit(commodity))).unwrap_or(i64::MAX)
    }

    /// The same upwards: at least as much.
    pub(super) fn whole_up(commodity: Commodity, parts: i128) -> i64 {
        let unit = Self::per_unit(commodity);
        i64::try_from((parts + unit - 1).div_euclid(unit)).unwrap_or(i64::MAX)
    }

    pub(super) const fn at(&self, commodity: Commodity) -> i128 {
        match commodity {
            Commodity::Money => self.picos,
            Commodity::Energy => self.millijoules,
            Commodity::Carbon => self.micrograms,
        }
    }

    pub(super) fn rounded_up(&self) -> Amounts {
        let up = |commodity| Self::whole_up(commodity, self.at(commodity));
        Amounts {
            micros: Micros(up(Commodity::Money)),
            millijoules: Millijoules(up(Commodity::Energy)),
            co2e_micrograms: MicrogramsCo2e(up(Commodity::Carbon)),
        }
    }

    const fn per_unit(commodity: Commodity) -> i128 {
        match commodity {
            // Not `From`, which is no constant; both fit.
            Commodity::Money => PICOS_PER_MICRO as i128,
            Commodity::Energy | Commodity::Carbon => 1,
        }
    }
}

impl Add for Parts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            picos: self.picos + other.picos,
            millijoules: self.millijoules + other.millijoules,
            micrograms: self.micrograms + other.micrograms,
        }
    }
}

impl Sub for Parts {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            picos: self.picos - other.picos,
            millijoules: self.millijoules - other.millijoules,
            micrograms: self.micrograms - other.micrograms,
        }
    }
}

impl AddAssign for Parts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Parts {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Parts {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}
