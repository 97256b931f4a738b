//! Pages of lists.

use std::str::FromStr;

use galerne_api::error::Code;
use galerne_api::v1::Page;
use galerne_model::limits::{PAGE_DEFAULT, PAGE_MAX};
use serde::Deserialize;

use super::refusal::Refusal;

/// What every list takes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParams {
    pub(crate) tenant: Option<String>,
    pub(crate) project: Option<String>,
    pub(crate) limit: Option<u32>,
    pub(crate) cursor: Option<String>,
}

/// What a list takes that belongs to nobody.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageParams {
    pub(crate) limit: Option<u32>,
    pub(crate) cursor: Option<String>,
}

/// The length of a page.
pub(crate) fn limit(asked: Option<u32>) -> Result<u32, Refusal> {
    match asked.unwrap_or(PAGE_DEFAULT) {
        0 => Err(Refusal::new(Code::InvalidQuery, "`limit` must be at least 1")),
        more if more > PAGE_MAX => Err(Refusal::new(Code::InvalidQuery, format!("`limit` is at most {PAGE_MAX}"))),
        fine => Ok(fine),
    }
}

/// A cursor that is a number in the order of the list.
pub(crate) fn sequence(cursor: Option<&str>) -> Result<Option<i64>, Refusal> {
    cursor.map(|text| text.parse().ok().filter(|number| *number >= 0).ok_or_else(bad_cursor)).transpose()
}

/// A cursor that is the id of the last one shown.
pub(crate) fn after_id<I: FromStr>(cursor: Option<&str>) -> Result<Option<String>, Refusal> {
    cursor.map(|text| text.parse::<I>().map(|_| text.to_owned()).map_err(|_| bad_cursor())).transpose()
}

fn bad_cursor() -> Refusal {
    Refusal::new(Code::InvalidCursor, "`cursor` is not one that this list handed out")
        .hint("start again without `cursor`")
}

/// Cuts a list that is small enough to be whole in memory; the cursor is the position.
pub(crate) fn cut<T>(all: Vec<T>, params: &PageParams) -> Result<Page<T>, Refusal> {
    let limit = limit(params.limit)? as usize;
    let start = usize::try_from(sequence(params.cursor.as_deref())?.unwrap_or(0)).unwrap_or(usize::MAX);
    let more = all.len() > start.saturating_add(limit);
    let items = all.into_iter().skip(start).take(limit).collect();
    Ok(Page { items, next_cursor: more.then(|| (start + limit).to_string()) })
}
