//! Lists of files: OpenAI's by cursor, Mistral's by page.

use axum::extract::State;
use axum::response::Response;
use galerne_api::error::Code;
use galerne_gateway::Refusal;
use galerne_model::file::File;
use galerne_store::{FileQuery, Order};
use http::Uri;
use serde_json::{Map, Value, json};

use super::shape;
use crate::app::App;
use crate::surface::{self, Guest, Surface};

/// Longest page, and OpenAI's default.
const LIMIT_MAX: usize = 10_000;
/// Mistral's default page.
const PAGE_SIZE: usize = 100;
/// Longest page of Mistral's.
const PAGE_SIZE_MAX: usize = 1_000;

/// What a query asks for.
#[derive(Debug, Default)]
struct Asked {
    after: Option<String>,
    limit: Option<usize>,
    order: Order,
    purpose: Option<String>,
    page: Option<usize>,
    page_size: Option<usize>,
    without_total: bool,
    sample_types: Vec<String>,
    sources: Vec<String>,
    media_types: Vec<String>,
    search: Option<String>,
}

pub(super) async fn list(State(app): State<App>, guest: Guest, uri: Uri) -> Result<Response, Refusal> {
    let asked = Asked::read(&surface::query(&uri)?, guest.surface)?;
    let after = match &asked.after {
        Some(id) => Some(super::find(&app, &guest, id).await.map_err(|_| {
            Refusal::new(Code::InvalidCursor, "`after` is not the id of a file of this project").param("after")
        })?),
        None => None,
    };
    let key = &guest.visitor.key;
    let query = FileQuery {
        project_id: key.project_id,
        after: after.map(|file| file.id),
        purpose: None,
        order: asked.order,
        // A project keeps no more files than one page of OpenAI's has.
        limit: i64::MAX,
    };
    let mut files = app.store().files(&query, App::now()).await.map_err(|error| surface::of_store(&error))?;
    files.retain(|file| file.is_seen_by(key.principal_id) && asked.admits(file, guest.surface));
    let (total, by_page) = (files.len(), asked.is_by_page(guest.surface));
    let (skip, take) = if by_page {
        let size = asked.page_size.unwrap_or(PAGE_SIZE);
        (asked.page.unwrap_or(0).saturating_mul(size), size)
    } else {
        (0, asked.limit.unwrap_or(LIMIT_MAX))
    };
    let has_more = total > skip.saturating_add(take);
    let page: Vec<File> = files.into_iter().skip(skip).take(take).collect();
    let mut out = Map::new();
    out.insert("object".to_owned(), json!("list"));
    out.insert("data".to_owned(), page.iter().map(|file| shape::shown(file, guest.surface)).collect());
    if guest.surface != Surface::Mistral {
        out.insert("first_id".to_owned(), json!(page.first().map(|file| file.id)));
        out.insert("last_id".to_owned(), json!(page.last().map(|file| file.id)));
        out.insert("has_more".to_owned(), json!(has_more));
    }
    if by_page {
        out.insert("total".to_owned(), if asked.without_total { Value::Null } else { json!(total) });
    }
    Ok(surface::json(&Value::Object(out)))
}

impl Asked {
    fn read(pairs: &[(String, String)], surface: Surface) -> Result<Self, Refusal> {
        let (openai, mistral) = (surface != Surface::Mistral, surface != Surface::OpenAi);
        let mut asked = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "after" if openai => asked.after = Some(value.clone()),
                "limit" if openai => asked.limit = Some(surface::number("limit", value, 1..=LIMIT_MAX)?),
                "order" if openai => asked.order = order(value)?,
                "purpose" => asked.purpose = Some(value.clone()),
                "page" if mistral => asked.page = Some(surface::number("page", value, 0..=usize::MAX)?),
                "page_size" if mistral => {
                    asked.page_size = Some(surface::number("page_size", value, 1..=PAGE_SIZE_MAX)?);
                }
                "include_total" if mistral => asked.without_total = value == "false",
                "sample_type" if mistral => asked.sample_types.push(value.clone()),
                "source" if mistral => asked.sources.push(value.clone()),
                "mimetypes" if mistral => asked.media_types.push(value.clone()),
                "search" if mistral => asked.search = Some(value.to_lowercase()),
                _ => return Err(surface::unknown_parameter(name)),
            }
        }
        let by_cursor = asked.after.is_some() || asked.limit.is_some();
        if by_cursor && (asked.page.is_some() || asked.page_size.is_some()) {
            let text = "`after` and `limit` are OpenAI's way through a list, `page` and `page_size` Mistral's: use one";
            return Err(Refusal::new(Code::InvalidQuery, text));
        }
        Ok(asked)
    }

    /// Whether pages are counted: then so is the total.
    fn is_by_page(&self, surface: Surface) -> bool {
        surface == Surface::Mistral || self.page.is_some() || self.page_size.is_some()
    }

    fn admits(&self, file: &File, surface: Surface) -> bool {
        let among = |wanted: &[String], word: &str| wanted.is_empty() || wanted.iter().any(|one| one == word);
        self.purpose.as_deref().is_none_or(|wanted| wanted == shape::purpose(file.purpose, surface))
            && among(&self.sample_types, shape::sample_type(file.purpose))
            && among(&self.sources, shape::source(file.origin))
            && among(&self.media_types, file.media_type.as_deref().unwrap_or(""))
            && self.search.as_deref().is_none_or(|part| file.filename.to_lowercase().contains(part))
    }
}

/// The order that a word asks for.
pub(crate) fn order(word: &str) -> Result<Order, Refusal> {
    match word {
        "asc" => Ok(Order::Oldest),
        "desc" => Ok(Order::Newest),
        _ => Err(Refusal::new(Code::InvalidQuery, "`order` takes `asc` or `desc`").param("order")),
    }
}
