//! Requests that could be held by the fleet, all of it in service and empty.

use crate::refusal::{Refusal, RequestRule};
use crate::request::{Gpus, Request, Shape};
use crate::units::{At, MAX_TENANT_CLASSES, ModelId};

use super::{Census, Composition, Kind, in_calendar, place};

impl Census {
    /// Whether the fleet could ever hold the request.
    pub fn check_request(&self, request: &Request) -> Result<(), Refusal> {
        let refuse = |rule| Refusal::Request { request: request.id, rule };
        self.check_terms(request).map_err(refuse)?;
        self.check_shape(&request.shape).map_err(refuse)
    }

    /// Whether a demand is made of shapes that make sense. They may be larger than the fleet: others may ask for them.
    pub fn check_demand(&self, frequencies: &[(Shape, u32)]) -> Result<(), Refusal> {
        let refuse = |at: usize| move |rule| Refusal::Demand { at, rule };
        (0..).zip(frequencies).try_for_each(|(at, (shape, _))| self.check_form(shape).map_err(refuse(at)))
    }

    /// All but the shape: queue, class, times.
    pub fn check_terms(&self, request: &Request) -> Result<(), RequestRule> {
        match place(request.queue.0).and_then(|at| self.inner.get(at)) {
            None => return Err(RequestRule::UnknownQueue { queue: request.queue }),
            Some(true) => return Err(RequestRule::InnerQueue { queue: request.queue }),
            Some(false) => {}
        }
        if usize::from(request.class.0) >= MAX_TENANT_CLASSES {
            return Err(RequestRule::TenantClass { class: request.class.0 });
        }
        let instants = [Some(request.submitted_at), request.deadline, request.not_before];
        if let Some(at) = instants.into_iter().flatten().find(|at| !in_calendar(*at)) {
            return Err(RequestRule::Instant { at });
        }
        if request.run_seconds == Some(0) {
            return Err(RequestRule::NoRunTime);
        }
        check_deadline(request)
    }

    /// The shape alone, so that its answer can be kept for all requests of the same shape.
    pub fn check_shape(&self, shape: &Shape) -> Result<(), RequestRule> {
        self.check_form(shape)?;
        self.check_room(shape)
    }

    /// Whether the shape makes sense, wherever it would lie.
    pub(super) fn check_form(&self, shape: &Shape) -> Result<(), RequestRule> {
        let (min, max) = (shape.nodes.min, shape.nodes.max);
        if max == 0 || min == 0 {
            return Err(RequestRule::NoNodes);
        }
        if min > max {
            return Err(RequestRule::MinAboveMax { min, max });
        }
        if shape.expected_watts > shape.peak_watts {
            let (expected_watts, peak_watts) = (shape.expected_watts, shape.peak_watts);
            return Err(RequestRule::ExpectedAbovePeak { expected_watts, peak_watts });
        }
        let known = u32::try_from(self.models.len()).unwrap_or(u32::MAX);
        let unknown = shape.models & u64::MAX.checked_shl(known).unwrap_or(0);
        if unknown != 0 {
            return Err(RequestRule::UnknownModel { model: ModelId(first_bit(unknown)) });
        }
        match shape.gpus {
            Gpus::Whole(0) if shape.cpu_milli == 0 && shape.memory_mib == 0 => Err(RequestRule::Nothing),
            Gpus::Whole(_) => Ok(()),
            Gpus::Milli(milli) if !(1..=999).contains(&milli) => Err(RequestRule::Milli { milli }),
            Gpus::Milli(_) => Ok(()),
            Gpus::Slice(slice) => {
                let models = shape.models.count_ones();
                if models != 1 {
                    return Err(RequestRule::SliceModels { models });
                }
                let model = ModelId(first_bit(shape.models));
                let profiles = &self.models[usize::from(model.0)].slices;
                match profiles.get(usize::from(slice.0)) {
                    Some(_) => Ok(()),
                    None => Err(RequestRule::UnknownSlice { slice, model }),
                }
            }
        }
    }

    /// Whether enough nodes, near enough to each other, could each hold one member when empty.
    fn check_room(&self, shape: &Shape) -> Result<(), RequestRule> {
        let able = self.able(shape)?;
        let members =
            |nodes: &Composition| nodes.iter().filter(|(kind, _)| able[*kind]).map(|(_, count)| *count).sum::<u32>();
        let nodes = shape.nodes.min;
        let most = members(&self.whole);
        if most < u32::from(nodes) {
            return Err(RequestRule::LargerThanFleet { nodes, most });
        }
        let Some(level) = shape.within else { return Ok(()) };
        let most = self.levels[level as usize].iter().map(members).max().unwrap_or(0);
        if most < u32::from(nodes) {
            return Err(RequestRule::LargerThanDomain { nodes, level, most });
        }
        Ok(())
    }

    /// For each kind of node whether it can hold one member when empty; refuses a shape that none can.
    fn able(&self, shape: &Shape) -> Result<Vec<bool>, RequestRule> {
        let gpus = match shape.gpus {
            Gpus::Whole(gpus) => gpus,
            Gpus::Milli(_) | Gpus::Slice(_) => 1,
        };
        let allowed = |kind: &&Kind| {
            (shape.models == 0 || shape.models >> kind.model.0 & 1 == 1)
                && (shape.residencies == 0 || shape.residencies >> kind.residency & 1 == 1)
        };
        let with_gpus = |kind: &&Kind| kind.gpus >= gpus;
        let with_cpu = |kind: &&Kind| kind.cpu_milli >= shape.cpu_milli;
        let kinds = || self.kinds.iter().filter(allowed);
        let largest = kinds().map(|kind| kind.gpus).max().ok_or(RequestRule::NoSuchNode)?;
        if largest < gpus {
            return Err(RequestRule::Gpus { gpus, largest });
        }
        let largest_milli = kinds().filter(with_gpus).map(|kind| kind.cpu_milli).max().unwrap_or(0);
        if largest_milli < shape.cpu_milli {
            return Err(RequestRule::Cpu { cpu_milli: shape.cpu_milli, largest_milli });
        }
        let largest_mib = kinds().filter(with_gpus).filter(with_cpu).map(|kind| kind.memory_mib).max().unwrap_or(0);
        if largest_mib < shape.memory_mib {
            return Err(RequestRule::Memory { memory_mib: shape.memory_mib, largest_mib });
        }
        let able =
            |kind: &Kind| allowed(&kind) && with_gpus(&kind) && with_cpu(&kind) && kind.memory_mib >= shape.memory_mib;
        Ok(self.kinds.iter().map(able).collect())
    }
}

fn check_deadline(request: &Request) -> Result<(), RequestRule> {
    let Some(deadline) = request.deadline else { return Ok(()) };
    let submitted_at = request.submitted_at;
    if deadline <= submitted_at {
        return Err(RequestRule::DeadlineBeforeSubmission { deadline, submitted_at });
    }
    let begin = request.not_before.map_or(submitted_at, |at| at.max(submitted_at));
    let earliest = At(begin.0 + i64::from(request.run_seconds.unwrap_or(0)));
    if earliest > deadline {
        return Err(RequestRule::DeadlineTooEarly { deadline, earliest });
    }
    Ok(())
}

/// The lowest bit of a mask that is not zero.
fn first_bit(mask: u64) -> u8 {
    u8::try_from(mask.trailing_zeros()).unwrap_or(0)
}
