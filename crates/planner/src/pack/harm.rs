//! What a place costs those who come later.

use super::SingleAsk;
use super::demand::{Outlook, hundredths};
use super::state::{Pick, State};
use crate::fleet::ModelSpec;
use crate::request::Gpus;
use crate::units::GPU_MILLI;

/// The most important first; the smaller the better. Of equals, the node with the lowest number is taken, so that a
/// site fills from one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Harm {
    /// How scarce the node's GPU model is.
    scarcity: u8,
    /// Fragmentation that it brings, in hundredths of the logistic function: equal within what is chance.
    fragmentation: u8,
    /// GPUs (in tenths) that lose the CPU beside them.
    starved: i16,
    /// Other slices for which the GPU has no place afterwards.
    slices_lost: u8,
    /// What was free on the GPU that it takes: the tightest that fits.
    gpu_milli: u16,
    /// What stays free on the node: nodes are filled one after another.
    left_milli: u16,
}

/// What judges places: the demand, and what GPUs can be cut into.
pub(super) struct Judge<'a> {
    pub(super) outlook: &'a Outlook,
    pub(super) models: &'a [ModelSpec],
}

impl Judge<'_> {
    /// The least harmful way to give an ask its part of a node in this state; `None` when it does not fit.
    pub(super) fn best(
        &self,
        state: &State,
        fragmented: impl FnOnce() -> i64,
        ask: &SingleAsk,
    ) -> Option<(Harm, Pick)> {
        let mut fragmented_before = None;
        let mut fragmented = Some(fragmented);
        let mut best: Option<(Harm, Pick)> = None;
        state.picks(ask, self.models, |pick| {
            let before = *fragmented_before.get_or_insert_with(|| fragmented.take().map_or(0, |value| value()));
            let harm = self.harm(state, before, ask, pick);
            if best.is_none_or(|(least, _)| harm < least) {
                best = Some((harm, pick));
            }
        });
        best
    }

    fn harm(&self, state: &State, fragmented: i64, ask: &SingleAsk, pick: Pick) -> Harm {
        let after = state.after(ask, pick);
        let gain = fragmented - self.outlook.fragmented(&after, self.models);
        let starved = self.outlook.starved_tenths(self.outlook.starved(&after) - self.outlook.starved(state));
        let scarcity = self.outlook.scarcity.get(usize::from(state.kind.model.0)).copied().unwrap_or(0);
        Harm {
            scarcity: if ask.gpus == Gpus::Whole(0) { 0 } else { scarcity },
            fragmentation: 100 - hundredths(gain),
            starved: i16::try_from(starved).unwrap_or(if starved < 0 { i16::MIN } else { i16::MAX }),
            slices_lost: self.slices_lost(state, pick),
            gpu_milli: match pick {
                Pick::Whole(0) => 0,
                Pick::Whole(_) => GPU_MILLI,
                Pick::Milli(gpu, _) | Pick::Slice(gpu, _) => u16::try_from(gpu.amount()).unwrap_or(GPU_MILLI),
            },
            left_milli: u16::try_from(after.free_milli()).unwrap_or(u16::MAX),
        }
    }

    fn slices_lost(&self, state: &State, pick: Pick) -> u8 {
        let Pick::Slice(gpu, slots) = pick else { return 0 };
        let Some(model) = self.models.get(usize::from(state.kind.model.0)) else { return 0 };
        let (free, rest) = (gpu.free_slots(), gpu.free_slots() & !slots);
        let positions = model.slices.iter().flat_map(|slice| &slice.positions);
        let lost = positions.filter(|position| *position & !free == 0 && *position & !rest != 0).count();
        u8::try_from(lost).unwrap_or(u8::MAX)
    }
}
