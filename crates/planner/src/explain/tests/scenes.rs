//! The situations, in the order of the transcripts. Only add at the end: their numbers are names.

mod giving;
mod near;
mod order;
mod place;
mod share;

use super::scene::Scene;

/// All, each with the name of its file.
pub(super) fn all() -> Vec<(&'static str, Scene)> {
    let mut all = place::scenes();
    all.extend(share::scenes());
    all.extend(order::scenes());
    all.extend(giving::scenes());
    all.extend(near::scenes());
    all
}
