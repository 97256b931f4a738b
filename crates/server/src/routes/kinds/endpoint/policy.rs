//! What an endpoint's routing policy may say.

use std::collections::BTreeSet;

use galerne_core::authorize::{Noun, Verb};
use galerne_model::ids::EndpointId;
use galerne_model::inference::{Backend, Endpoint, RoutingPolicy, Share};
use galerne_store::{StoreError, Tx};

use crate::http::caller::Caller;
use crate::http::refusal::Refusal;
use crate::routes::managed::Managed as _;

/// Endpoints in one list of a policy: each is a lookup for every request.
const LIST_MAX: usize = 8;
/// Thousandths in the whole.
const WHOLE: u32 = 1_000;
/// Longest address.
const ADDRESS_MAX: usize = 300;

pub(super) async fn check(tx: &mut Tx, caller: &Caller, draft: &Endpoint) -> Result<(), Refusal> {
    let RoutingPolicy { canary, shadow, fallback, kv_events } = &draft.spec.routing;
    check_shares("spec.routing.canary", canary)?;
    check_shares("spec.routing.shadow", shadow)?;
    if fallback.len() > LIST_MAX {
        return Err(Refusal::invalid("spec.routing.fallback", format!("it takes at most {LIST_MAX} endpoints")));
    }
    let ids = |shares: &[Share]| shares.iter().map(|share| share.endpoint_id).collect::<Vec<_>>();
    let lists = [("canary", ids(canary)), ("shadow", ids(shadow)), ("fallback", fallback.clone())];
    for (list, ids) in lists {
        let mut seen = BTreeSet::new();
        for (index, id) in ids.into_iter().enumerate() {
            let path = if list == "fallback" {
                format!("spec.routing.{list}[{index}]")
            } else {
                format!("spec.routing.{list}[{index}].endpoint_id")
            };
            if id == draft.id {
                return Err(Refusal::invalid(&path, format!("`{}` cannot be named in its own policy", draft.name)));
            }
            if !seen.insert(id) {
                return Err(Refusal::invalid(&path, "this endpoint is named twice"));
            }
            check_endpoint(tx, caller, draft, id, &path, list).await?;
        }
    }
    check_kv_events(&draft.spec.backend, kv_events)
}

fn check_shares(path: &str, shares: &[Share]) -> Result<(), Refusal> {
    if shares.len() > LIST_MAX {
        return Err(Refusal::invalid(path, format!("it takes at most {LIST_MAX} endpoints")));
    }
    for (index, share) in shares.iter().enumerate() {
        if share.thousandths == 0 || share.thousandths > WHOLE {
            let path = format!("{path}[{index}].thousandths");
            return Err(Refusal::invalid(&path, format!("{} is not between 1 and {WHOLE}", share.thousandths)));
        }
    }
    let sum: u32 = shares.iter().map(|share| share.thousandths).sum();
    if sum > WHOLE {
        return Err(Refusal::invalid(path, format!("the shares add up to {sum} thousandths, more than {WHOLE}")));
    }
    Ok(())
}

/// A policy cannot hand requests of a project to another's endpoint that its callers do not see, nor the prompts of one
/// tenant to another: canaries and shadows are in the same project. A fallback is asked under the caller's own rights.
async fn check_endpoint(
    tx: &mut Tx,
    caller: &Caller,
    draft: &Endpoint,
    id: EndpointId,
    path: &str,
    list: &str,
) -> Result<(), Refusal> {
    let missing = || {
        Refusal::invalid(path, format!("there is no endpoint `{id}`"))
            .hint("`galerne endpoint list` shows those there are")
    };
    let other = match tx.get::<Endpoint>(id).await {
        Err(StoreError::NotFound { .. }) => return Err(missing()),
        other => other?,
    };
    if !caller.can(Verb::Read, Noun::Endpoint, other.read_scope()) {
        return Err(missing());
    }
    if list != "fallback" && (other.tenant_id, other.project_id) != (draft.tenant_id, draft.project_id) {
        let text = format!("`{}` is in another project; a {list} is in the same project", other.name);
        return Err(Refusal::invalid(path, text));
    }
    Ok(())
}

fn check_kv_events(backend: &Backend, addresses: &[String]) -> Result<(), Refusal> {
    let path = "spec.routing.kv_events";
    if addresses.is_empty() {
        return Ok(());
    }
    let Backend::External { urls, .. } = backend else {
        return Err(Refusal::invalid(path, "only external servers publish them; our worker's cache is predicted"));
    };
    if addresses.len() != urls.len() {
        let text = format!("there are {} addresses for {} URLs: give one for each", addresses.len(), urls.len());
        return Err(Refusal::invalid(path, text));
    }
    for (index, address) in addresses.iter().enumerate() {
        let port = address.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':'));
        let is_one = port.is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', '@', '*', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !is_one || address.len() > ADDRESS_MAX {
            return Err(Refusal::invalid(&format!("{path}[{index}]"), "write it as `tcp://HOST:PORT`"));
        }
    }
    Ok(())
}
