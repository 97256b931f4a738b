//! What is asked of a report: which time, in which buckets, of whom, added up by what.

use galerne_api::error::Code;
use galerne_gateway::Refusal;
use galerne_store::UsageGroup;

use crate::surface::{number, unknown_parameter};

/// Which report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Completions,
    Embeddings,
    Costs,
}

/// What sums are kept apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    Project,
    User,
    ApiKey,
    Model,
    Batch,
    ServiceTier,
    LineItem,
}

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Minute,
    Hour,
    Day,
}

/// A bucket, in seconds since 1970; its end is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: i64,
    pub(super) end: i64,
    /// Where the whole interval begins that it is part of.
    pub(super) aligned: i64,
}

/// The buckets of one answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) spans: Vec<Span>,
    pub(super) from: i64,
    pub(super) until: i64,
    /// Where the next page begins.
    pub(super) next: Option<i64>,
}

/// A report that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) report: Report,
    pub(super) width: Width,
    pub(super) group_by: Vec<By>,
    pub(super) line_items: Vec<String>,
    start: i64,
    end: i64,
    limit: i64,
    projects: Vec<String>,
    users: Vec<String>,
    keys: Vec<String>,
    models: Vec<String>,
    batch: Option<bool>,
}

impl Width {
    pub(super) const fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// Buckets of a page: how many when nothing is said, and the most; OpenAI's numbers.
    const fn limits(self, report: Report) -> (i64, i64) {
        match (report, self) {
            (Report::Costs, _) => (7, 180),
            (_, Self::Minute) => (60, 1_440),
            (_, Self::Hour) => (24, 168),
            (_, Self::Day) => (7, 31),
        }
    }
}

impl Asked {
    pub(super) fn parse(report: Report, query: &[(String, String)], now: i64) -> Result<Self, Refusal> {
        let mut asked = Self {
            report,
            width: Width::Day,
            group_by: Vec::new(),
            line_items: Vec::new(),
            start: 0,
            end: now,
            limit: 0,
            projects: Vec::new(),
            users: Vec::new(),
            keys: Vec::new(),
            models: Vec::new(),
            batch: None,
        };
        let (mut start, mut limit, mut page) = (None, None, None);
        for (name, value) in query {
            // Clients write a list as `name=a&name=b`, or with brackets.
            let plain = name.strip_suffix("[]").unwrap_or(name);
            let is_usage = report != Report::Costs;
            match plain {
                "start_time" => start = Some(number("start_time", value, 0..=i64::from(u32::MAX))?),
                "end_time" => asked.end = number("end_time", value, 0..=i64::from(u32::MAX))?,
                "bucket_width" => asked.width = width(report, value)?,
                "limit" => limit = Some(value),
                "page" => page = Some(cursor(value)?),
                "group_by" => asked.group_by.push(by(report, value)?),
                "project_ids" => asked.projects.push(value.clone()),
                "api_key_ids" => asked.keys.push(value.clone()),
                "user_ids" if is_usage => asked.users.push(value.clone()),
                "models" if is_usage => asked.models.push(value.clone()),
                "batch" if report == Report::Completions => asked.batch = Some(truth(value)?),
                "line_items" if !is_usage => asked.line_items.push(value.clone()),
                _ => return Err(unknown_parameter(name)),
            }
        }
        let Some(start) = start else {
            let text = "`start_time` is missing: seconds since 1970, the first that counts";
            return Err(Refusal::new(Code::InvalidQuery, text).param("start_time"));
        };
        if asked.end <= start {
            let text = "`end_time` must be after `start_time`";
            return Err(Refusal::new(Code::InvalidQuery, text).param("end_time"));
        }
        let (usual, most) = asked.width.limits(report);
        asked.limit = limit.map_or(Ok(usual), |text| number("limit", text, 1..=most))?;
        asked.start = page.unwrap_or(start).max(start);
        Ok(asked)
    }

    /// Whole intervals of UTC; the first and the last are cut to what was asked for.
    pub(super) fn page(&self) -> Page {
        let width = self.width.seconds();
        let mut spans = Vec::new();
        let mut aligned = self.start.div_euclid(width) * width;
        let mut start = self.start;
        while start < self.end && i64::try_from(spans.len()).unwrap_or(i64::MAX) < self.limit {
            let end = (aligned + width).min(self.end);
            spans.push(Span { start, end, aligned });
            (start, aligned) = (aligned + width, aligned + width);
        }
        let until = spans.last().map_or(self.start, |span| span.end);
        Page { spans, from: self.start, until, next: (until < self.end).then_some(until) }
    }

    /// Whether what was used is of whom the report is asked about.
    pub(super) fn admits(&self, group: &UsageGroup, model: &str) -> bool {
        let is_in = |list: &[String], id: &str| list.is_empty() || list.iter().any(|wanted| wanted == id);
        is_in(&self.projects, &group.project_id.to_string())
            && is_in(&self.users, &group.principal_id.to_string())
            && is_in(&self.keys, &group.key_id.to_string())
            && is_in(&self.models, model)
            && self.batch.is_none_or(|batch| batch == group.price_percent.is_some())
    }
}

fn wrong(name: &str, text: String) -> Refusal {
    Refusal::new(Code::InvalidQuery, text).param(name)
}

fn width(report: Report, text: &str) -> Result<Width, Refusal> {
    match (report, text) {
        (_, "1d") => Ok(Width::Day),
        (Report::Completions | Report::Embeddings, "1h") => Ok(Width::Hour),
        (Report::Completions | Report::Embeddings, "1m") => Ok(Width::Minute),
        (Report::Costs, _) => Err(wrong("bucket_width", "`bucket_width` of costs is `1d`".to_owned())),
        _ => Err(wrong("bucket_width", "`bucket_width` is `1m`, `1h` or `1d`".to_owned())),
    }
}

fn by(report: Report, text: &str) -> Result<By, Refusal> {
    match (text, report) {
        ("project_id", _) => Ok(By::Project),
        ("user_id", _) => Ok(By::User),
        ("api_key_id", _) => Ok(By::ApiKey),
        ("model", Report::Completions | Report::Embeddings) => Ok(By::Model),
        ("batch", Report::Completions) => Ok(By::Batch),
        ("service_tier", Report::Completions) => Ok(By::ServiceTier),
        ("line_item", Report::Costs) => Ok(By::LineItem),
        _ => {
            let shown: String = text.chars().take(60).collect();
            let known = match report {
                Report::Completions => "`project_id`, `user_id`, `api_key_id`, `model`, `batch`, `service_tier`",
                Report::Embeddings => "`project_id`, `user_id`, `api_key_id`, `model`",
                Report::Costs => "`project_id`, `user_id`, `api_key_id`, `line_item`",
            };
            Err(wrong("group_by", format!("`group_by` cannot be `{shown}` here; it can be {known}")))
        }
    }
}

fn truth(text: &str) -> Result<bool, Refusal> {
    text.parse().map_err(|_| wrong("batch", "`batch` is `true` or `false`".to_owned()))
}

fn cursor(text: &str) -> Result<i64, Refusal> {
    let at =
        text.strip_prefix("page_").and_then(|at| at.parse().ok()).filter(|at| (0..=i64::from(u32::MAX)).contains(at));
    at.ok_or_else(|| {
        Refusal::new(Code::InvalidCursor, "`page` is not a `next_page` of this report; start without it").param("page")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(report: Report, query: &str) -> Result<Asked, Refusal> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Asked::parse(report, &pairs, 1_000_000)
    }

    #[test]
    fn buckets_are_whole_intervals_cut_to_what_was_asked_for_and_pages_follow_without_a_gap() {
        let mut query = "start_time=90000&end_time=500000&limit=2".to_owned();
        let (mut spans, mut pages) = (Vec::new(), 0);
        loop {
            let page = asked(Report::Completions, &query).expect("sound").page();
            assert!((1..=2).contains(&page.spans.len()));
            spans.extend(page.spans.iter().map(|span| (span.start, span.end)));
            pages += 1;
            let Some(next) = page.next else { break };
            query = format!("start_time=90000&end_time=500000&limit=2&page=page_{next}");
        }
        let days = [(90_000, 172_800), (172_800, 259_200), (259_200, 345_600), (345_600, 432_000), (432_000, 500_000)];
        assert_eq!((spans, pages), (days.to_vec(), 3));
    }

    #[test]
    fn lists_come_with_brackets_or_without() {
        let query = "start_time=0&group_by[]=model&group_by=batch&project_ids[]=a&project_ids[]=b&batch=true";
        let asked = asked(Report::Completions, query).expect("sound");
        assert_eq!(asked.group_by, [By::Model, By::Batch]);
        assert_eq!(
            (asked.projects, asked.batch, asked.end),
            (vec!["a".to_owned(), "b".to_owned()], Some(true), 1_000_000)
        );
    }

    #[test]
    fn what_a_report_does_not_have_is_refused_by_name() {
        let message = |report, query: &str| asked(report, query).expect_err("it is refused").message().to_owned();
        assert!(message(Report::Completions, "end_time=5").contains("`start_time` is missing"));
        assert!(message(Report::Completions, "start_time=5&end_time=5").contains("`end_time`"));
        assert_eq!(message(Report::Costs, "start_time=0&bucket_width=1h"), "`bucket_width` of costs is `1d`");
        assert!(
            message(Report::Completions, "start_time=0&group_by=api_source")
                .contains("`group_by` cannot be `api_source`")
        );
        assert!(message(Report::Embeddings, "start_time=0&batch=true").contains("no parameter `batch`"));
        assert!(message(Report::Completions, "start_time=0&limit=32").contains("from 1 to 31"));
        assert!(message(Report::Completions, "start_time=0&bucket_width=1m&limit=1441").contains("from 1 to 1440"));
        assert!(message(Report::Costs, "start_time=0&page=x").contains("`page`"));
    }
}
