//! The kinds that the generic routes serve, each with its rules.

use galerne_model::identity::{ModelLimits, Principal, Project, RateLimits, RoleBinding, Tenant};
use galerne_model::inference::{Endpoint, Model, Replica};
use galerne_model::limits::{NAME_MAX_CHARS, TEXT_MAX_CHARS};
use galerne_model::money::{Budget, PriceBook, TokenPrice};
use galerne_model::node::Node;
use utoipa_axum::router::OpenApiRouter;

use super::managed::Managed;
use super::{create, delete, read, update};
use crate::app::App;
use crate::http::operation as op;
use crate::http::refusal::Refusal;

mod budget;
mod endpoint;
mod model;
mod node;
mod people;
mod prices;
mod role;
mod tenancy;

/// Largest integer that every JSON reader keeps exactly.
const JSON_INTEGER_MAX: i64 = (1 << 53) - 1;

/// Models with limits of their own, of one key or project.
const MODEL_LIMITS_MAX: usize = 64;

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let router = changing::<Tenant>(reading::<Tenant>(router));
    let router = changing::<Project>(reading::<Project>(router));
    let router = changing::<Principal>(reading::<Principal>(router));
    let router = changing::<RoleBinding>(reading::<RoleBinding>(router));
    let router = changing::<Budget>(reading::<Budget>(router));
    let router = creating::<PriceBook>(reading::<PriceBook>(router));
    let router = model::routes(reading::<Model>(router));
    let router = changing::<Endpoint>(reading::<Endpoint>(router));
    let router = reading::<Replica>(router);
    updating::<Node>(reading::<Node>(router))
}

fn collection<K: Managed>() -> String {
    format!("/api/v1/{}", K::PLURAL)
}

fn member<K: Managed>() -> String {
    format!("/api/v1/{}/{{name}}", K::PLURAL)
}

fn noun<K: Managed>() -> String {
    K::NOUN.replace('-', "_")
}

pub(crate) fn reading<K: Managed>(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let (list, get) = (format!("list_{}", K::PLURAL.replace('-', "_")), format!("get_{}", noun::<K>()));
    let router = op::get(&collection::<K>(), &list, "those the caller may see")
        .placed()
        .answers_kinds::<K>()
        .on(router, read::many::<K>);
    op::get(&member::<K>(), &get, "one, by name or id").placed().answers_kind::<K>(200).on(router, read::one::<K>)
}

pub(crate) fn creating<K: Managed>(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let id = format!("create_{}", noun::<K>());
    op::post(&collection::<K>(), &id, "make one")
        .create_body::<K>()
        .answers_kind::<K>(201)
        .answers_kind::<K>(200)
        .on(router, create::create::<K>)
}

fn updating<K: Managed>(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let id = format!("update_{}", noun::<K>());
    op::put(&member::<K>(), &id, "replace what is asked of one")
        .update_body::<K>()
        .answers_kind::<K>(200)
        .on(router, update::update::<K>)
}

fn changing<K: Managed>(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let router = updating::<K>(creating::<K>(router));
    let id = format!("delete_{}", noun::<K>());
    op::delete(&member::<K>(), &id, "delete one; the answer is what it was")
        .answers_kind::<K>(200)
        .on(router, delete::delete::<K>)
}

fn check_text(path: &str, text: &str) -> Result<(), Refusal> {
    let length = text.chars().count();
    if length <= TEXT_MAX_CHARS {
        Ok(())
    } else {
        Err(Refusal::invalid(path, format!("{length} characters are more than {TEXT_MAX_CHARS}")))
    }
}

pub(crate) fn check_limits(path: &str, limits: RateLimits) -> Result<(), Refusal> {
    let all = [
        ("requests_per_minute", limits.requests_per_minute),
        ("tokens_per_minute", limits.tokens_per_minute),
        ("concurrent_requests", limits.concurrent_requests),
    ];
    match all.into_iter().find(|(_, limit)| *limit == Some(0)) {
        Some((name, _)) => Err(Refusal::invalid(
            &format!("{path}.{name}"),
            "0 would let nothing through: leave it out, or pause or revoke instead",
        )),
        None => Ok(()),
    }
}

pub(crate) fn check_model_limits(path: &str, all: &[ModelLimits]) -> Result<(), Refusal> {
    if all.len() > MODEL_LIMITS_MAX {
        return Err(Refusal::invalid(path, format!("at most {MODEL_LIMITS_MAX} models have limits of their own here")));
    }
    for (index, one) in all.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if one.model.is_empty() || one.model.chars().count() > NAME_MAX_CHARS {
            return Err(Refusal::invalid(&format!("{path}.model"), "name an endpoint, as callers write it in `model`"));
        }
        if all[..index].iter().any(|other| other.model == one.model) {
            return Err(Refusal::invalid(&format!("{path}.model"), format!("`{}` has limits already", one.model)));
        }
        if one.limits == RateLimits::default() {
            return Err(Refusal::invalid(&format!("{path}.limits"), "this limits nothing: leave the model out"));
        }
        check_limits(&format!("{path}.limits"), one.limits)?;
    }
    Ok(())
}

fn check_price(path: &str, price: TokenPrice) -> Result<(), Refusal> {
    let all = [("prompt", price.prompt), ("cached", price.cached), ("completion", price.completion)];
    match all.into_iter().find(|(_, micros)| !(0..=JSON_INTEGER_MAX).contains(&micros.0)) {
        Some((name, _)) => {
            Err(Refusal::invalid(&format!("{path}.{name}"), "a price is not negative and stays below 2^53 micros"))
        }
        None => Ok(()),
    }
}
