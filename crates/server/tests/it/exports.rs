//! Costs as others read them: the FOCUS report and OpenAI's organization routes say what the ledger says, to the last digit.

use std::collections::BTreeMap;

use galerne_core::rating::{self, TokenCounts};
use galerne_model::identity::ServiceTier;
use galerne_model::ids::RequestId;
use galerne_model::ledger::{
    BatchTerms, Country, EnergyMethod, Operation, Outcome, Quantities, UsageRecord, UsageTerms,
};
use galerne_model::money::TokenPrice;
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Tokens};
use galerne_store::Store;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::site::{Client, Site, external, id};

/// One spool of a gateway that does not run.
const SOURCE: i64 = 4_711;
const RECORDS: i64 = 600;

/// The same draws each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: i64) -> i64 {
        // Knuth's multiplier; the high bits are the better ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).expect("31 bits") % most
    }

    fn once_in(&mut self, many: i64) -> bool {
        self.below(many) == 0
    }
}

struct Books {
    site: Site,
    owner: Client,
    tenant: String,
    projects: [String; 2],
    store: Store,
}

fn start() -> Timestamp {
    "2026-10-29T00:00:00Z".parse().expect("an instant")
}

/// A tenant with two projects, and a ledger of five days over the end of a month that was drawn for them.
async fn books() -> Books {
    let site = Site::new().await;
    let (tenant, main) = site.tenant("acme").await;
    let side = site.operator.made("/api/v1/projects", &json!({"name": "side", "tenant": "acme", "spec": {}})).await;
    let owner = site.person("acme", "owner").await;
    let mut body = external("answers");
    (body["tenant"], body["project"]) = (json!("acme"), json!("main"));
    let endpoint = site.operator.made("/api/v1/endpoints", &body).await;
    let who = owner.got("/api/v1/whoami").await;
    let url = galerne_server::StoreUrl::sqlite(site.folder.path().join("galerne.db"));
    let store = Store::open(&url).await.expect("the same database");
    let books = Books { site, owner, tenant, projects: [main, id(&side)], store };
    let mut dice = Dice(42);
    let records: Vec<UsageRecord> = (1..=RECORDS).map(|n| books.draw(&mut dice, n, &who, &id(&endpoint))).collect();
    books.store.settle_batch(SOURCE, &records).await.expect("settles");
    for record in records.iter().filter(|record| record.sequence % 40 == 7) {
        let transfer = books.store.usage_transfer(record.request_id).await.expect("reads").expect("is there");
        books.store.reverse(transfer, start()).await.expect("reverses");
    }
    books
}

impl Books {
    fn draw(&self, dice: &mut Dice, n: i64, who: &Value, endpoint: &str) -> UsageRecord {
        let prices =
            [(1_500_001, 250_000, 3_000_007), (100_000, 50_000, 300_000), (0, 0, 0), (750_000, 125_000, 1_500_003)];
        let (prompt, cached, completion) = prices[usize::try_from(dice.below(4)).expect("four")];
        let price = TokenPrice { prompt: Micros(prompt), cached: Micros(cached), completion: Micros(completion) };
        let tokens = TokenCounts {
            prompt: Tokens(dice.below(5_000)),
            cached: Tokens(dice.below(300)),
            completion: Tokens(dice.below(2_000)),
        };
        let charge = rating::charge(&price, tokens).expect("small");
        let terms = UsageTerms {
            price,
            service_tier: ServiceTier::ALL[usize::try_from(dice.below(3)).expect("three")],
            country: [None, Country::of("FR"), Country::of("SE")][usize::try_from(dice.below(3)).expect("three")],
        };
        // Some were held at less than they came to, some ended unseen, some are of before terms were kept.
        let held =
            if dice.once_in(9) { Micros(dice.below(charge.micros.0.max(1))) } else { Micros(charge.micros.0 + 1) };
        let started_at = start() + SignedDuration::from_secs(dice.below(5 * 86_400));
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        UsageRecord {
            source: SOURCE,
            sequence: n,
            request_id: RequestId::from_uuid(Uuid::from_u128(0x4711_0000 + n.unsigned_abs() as u128)),
            started_at,
            ended_at: started_at + SignedDuration::from_secs(1),
            tenant_id: self.tenant.parse().expect("an id"),
            project_id: self.projects[usize::try_from(dice.below(2)).expect("two")].parse().expect("an id"),
            principal_id: text(&who["principal"]["id"]).parse().expect("an id"),
            key_id: text(&who["key"]["id"]).parse().expect("an id"),
            endpoint_id: endpoint.parse().expect("an id"),
            replica_id: Some(galerne_model::ids::ReplicaId::from_uuid(Uuid::from_u128(5))),
            operation: if dice.once_in(5) { Operation::Embedding } else { Operation::Chat },
            outcome: if dice.once_in(30) { Outcome::Interrupted } else { Outcome::Completed },
            http_status: 200,
            held_micros: held,
            quantities: Quantities {
                prompt_tokens: tokens.prompt,
                cached_tokens: tokens.cached,
                completion_tokens: tokens.completion,
                micros: charge.micros,
                picos: charge.picos,
                millijoules: Millijoules(dice.below(90_000)),
                co2e_micrograms: MicrogramsCo2e(dice.below(7_000)),
            },
            energy_method: [EnergyMethod::Measured, EnergyMethod::Estimated]
                [usize::try_from(dice.below(2)).expect("two")],
            price_book_id: None,
            first_token_micros: None,
            work: None,
            batch: dice.once_in(8).then(|| BatchTerms {
                batch_id: galerne_model::ids::BatchId::from_uuid(Uuid::from_u128(8)),
                price_percent: 50,
            }),
            terms: (!dice.once_in(12)).then_some(terms),
        }
    }

    /// What the ledger has of a project, by its balance.
    async fn balance(&self, project: &str) -> Value {
        let balances = self.site.operator.got("/api/v1/ledger/balances?tenant=acme").await;
        let all = balances["items"].as_array().expect("a list");
        let own = all.iter().find(|balance| balance["owner"]["project_id"] == project).expect("it used something");
        own["quantities"].clone()
    }

    async fn report(&self, more: &str) -> Vec<BTreeMap<String, String>> {
        let path = format!("/api/v1/costs/export?format=focus&from=2026-10-29&until=2026-11-03{more}");
        let reply = self.owner.get(&path).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, "text/csv"), "{}", reply.text);
        assert!(!reply.text.contains('"'), "no name here needs quotes");
        let mut lines = reply.text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        let head = lines.next().expect("a heading");
        lines.map(|cells| head.iter().cloned().zip(cells).collect()).collect()
    }
}

fn number(quantities: &Value, name: &str) -> i128 {
    i128::from(quantities[name].as_i64().unwrap_or_else(|| panic!("`{name}` in {quantities}")))
}

/// A decimal in parts of 10⁻ⁿ, exactly.
fn parts(text: &str, places: usize) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    assert!(fraction.len() <= places, "{text} has more than {places} decimals");
    format!("{whole}{fraction:0<places$}").parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn sum<'a>(rows: impl IntoIterator<Item = &'a BTreeMap<String, String>>, column: &str, places: usize) -> i128 {
    rows.into_iter().map(|row| if row[column].is_empty() { 0 } else { parts(&row[column], places) }).sum()
}

#[tokio::test]
async fn a_focus_report_adds_up_to_the_ledger_to_the_last_digit() {
    let books = books().await;
    let rows = books.report("").await;
    assert!(rows.len() > 100, "{} rows", rows.len());
    for project in &books.projects {
        let own: Vec<_> = rows.iter().filter(|row| row["SubAccountId"] == *project).collect();
        let ledger = books.balance(project).await;
        let charged = number(&ledger, "micros") * 1_000_000 + number(&ledger, "picos");
        for cost in ["BilledCost", "EffectiveCost"] {
            assert_eq!(sum(own.iter().copied(), cost, 12), charged, "{cost} of {project}");
        }
        let tokens: i128 =
            ["prompt_tokens", "cached_tokens", "completion_tokens"].map(|name| number(&ledger, name)).iter().sum();
        assert_eq!(sum(own.iter().copied(), "ConsumedQuantity", 1), tokens * 10);
        assert_eq!(sum(own.iter().copied(), "x_EnergyJoules", 3), number(&ledger, "millijoules"));
        assert_eq!(sum(own.iter().copied(), "x_Gco2e", 6), number(&ledger, "co2e_micrograms"));
    }
    let millijoules = sum(&rows, "x_EnergyJoules", 3);
    // To the nearest 10⁻¹² of a kilowatt-hour, over all.
    assert_eq!(sum(&rows, "x_EnergyKwh", 12), (millijoules * 1_000_000_000_000 + 1_800_000_000) / 3_600_000_000);
    let ids: std::collections::BTreeSet<_> =
        rows.iter().map(|row| (&row["ChargePeriodStart"], &row["BillingPeriodStart"])).collect();
    assert!(ids.contains(&(&"2026-10-31T00:00:00Z".to_owned(), &"2026-10-01T00:00:00Z".to_owned())), "{ids:?}");
    assert!(ids.contains(&(&"2026-11-01T00:00:00Z".to_owned(), &"2026-11-01T00:00:00Z".to_owned())), "{ids:?}");
    for row in &rows {
        assert_eq!((row["BillingAccountName"].as_str(), row["ResourceName"].as_str()), ("acme", "answers"));
        if !row["ListUnitPrice"].is_empty() {
            let product = parts(&row["ListUnitPrice"], 6) * parts(&row["PricingQuantity"], 6);
            assert_eq!(product, parts(&row["ListCost"], 12), "{row:?}");
            assert_eq!(parts(&row["PricingQuantity"], 6) * 10, parts(&row["ConsumedQuantity"], 1), "{row:?}");
        }
    }
    assert!(rows.iter().any(|row| row["ListUnitPrice"].is_empty() && row["SkuMeter"] == "Tokens"), "records of before");
    assert!(rows.iter().any(|row| row["ListCost"] != row["BilledCost"] && row["SkuMeter"] != "Tokens"), "above a hold");
    for (residency, tier) in [("FR", "flex"), ("SE", "priority"), ("", "default")] {
        assert!(
            rows.iter().any(|row| row["x_Residency"] == residency && row["x_ServiceTier"] == tier),
            "{residency} {tier}"
        );
    }
    let one = books.report("&project=side").await;
    assert!(!one.is_empty() && one.iter().all(|row| row["SubAccountName"] == "side"));
}

#[tokio::test]
async fn a_report_is_of_its_tenant_and_of_days_that_can_be() {
    let books = books().await;
    let (_, _) = books.site.tenant("globex").await;
    let other = books.site.person("globex", "owner").await;
    let path = "/api/v1/costs/export?from=2026-10-29&until=2026-11-03";
    let reply = other.get(path).await;
    assert_eq!((reply.status, reply.text.lines().count()), (200, 1), "a heading and nothing of others: {}", reply.text);
    assert_eq!(other.get(&format!("{path}&tenant=acme")).await.status, 404);
    for wrong in ["?from=2026-11-03&until=2026-11-01", "?from=1990-01-01", "?format=csv", "?from=today"] {
        let reply = books.owner.get(&format!("/api/v1/costs/export{wrong}")).await;
        assert_eq!((reply.status, reply.code()), (400, "invalid_query"), "{wrong}: {}", reply.text);
    }
}

/// All buckets of a report, page by page.
async fn buckets(client: &Client, path: &str) -> Vec<Value> {
    let (mut all, mut next) = (Vec::new(), String::new());
    loop {
        let reply = client.get(&format!("{path}{next}")).await;
        assert_eq!(reply.status, 200, "{path}{next}: {}", reply.text);
        assert_eq!(reply.json["object"], "page");
        all.extend(reply.json["data"].as_array().expect("a list").clone());
        let Some(page) = reply.json["next_page"].as_str() else {
            assert_eq!(reply.json["has_more"], false);
            return all;
        };
        next = format!("&page={page}");
    }
}

fn results(buckets: &[Value]) -> Vec<Value> {
    buckets.iter().flat_map(|bucket| bucket["results"].as_array().expect("a list").clone()).collect()
}

fn total(results: &[Value], field: &str) -> i64 {
    results.iter().map(|result| result[field].as_i64().unwrap_or_else(|| panic!("`{field}` in {result}"))).sum()
}

#[tokio::test]
async fn openais_usage_routes_say_what_the_ledger_says_in_buckets_of_any_width() {
    let books = books().await;
    let times = format!("start_time={}&end_time={}", start().as_second(), start().as_second() + 5 * 86_400);
    let mut by_width = Vec::new();
    for (width, count) in [("1d", 5), ("1h", 120)] {
        let path = format!("/v1/organization/usage/completions?{times}&bucket_width={width}&limit=3");
        let all = buckets(&books.owner, &path).await;
        assert_eq!(all.len(), count, "{width}: an empty interval is a bucket too");
        let sums = ["input_tokens", "input_cached_tokens", "output_tokens", "num_model_requests"];
        by_width.push(sums.map(|field| total(&results(&all), field)));
    }
    assert_eq!(by_width[0], by_width[1]);
    let embedded = results(&buckets(&books.owner, &format!("/openai/v1/organization/usage/embeddings?{times}")).await);
    let (mut prompt, mut completion) = (0, 0);
    for project in &books.projects {
        let ledger = books.balance(project).await;
        prompt += number(&ledger, "prompt_tokens") + number(&ledger, "cached_tokens");
        completion += number(&ledger, "completion_tokens");
    }
    assert_eq!(i128::from(by_width[0][0] + total(&embedded, "input_tokens")), prompt);
    assert!(i128::from(by_width[0][2]) < completion, "drawn embeddings have answers, which nobody is told");
    let grouped =
        format!("/v1/organization/usage/completions?{times}&group_by[]=model&group_by[]=batch&group_by=service_tier");
    let grouped = results(&buckets(&books.owner, &grouped).await);
    assert_eq!(total(&grouped, "input_tokens"), by_width[0][0]);
    assert!(grouped.iter().all(|result| result["model"] == "answers" && result["project_id"] == Value::Null));
    assert!(grouped.iter().any(|result| result["batch"] == true && result["service_tier"] == "flex"));
    let one =
        format!("/v1/organization/usage/completions?{times}&group_by=project_id&project_ids={}", books.projects[1]);
    let one = results(&buckets(&books.owner, &one).await);
    assert!(!one.is_empty() && one.iter().all(|result| result["project_id"] == books.projects[1].as_str()));
}

#[tokio::test]
async fn openais_costs_are_the_ledgers_euros() {
    let books = books().await;
    let times = format!("start_time={}&end_time={}", start().as_second(), start().as_second() + 5 * 86_400);
    let path = format!("/v1/organization/costs?{times}&limit=2&group_by=project_id");
    // The text of the answer: a program that reads its numbers may make floats of them.
    let first = books.owner.get(&path).await;
    let exact = first.text.split("\"value\":").nth(1).and_then(|rest| rest.split(',').next()).expect("an amount");
    assert_eq!(exact.split_once('.').map(|(_, decimals)| decimals.len()), Some(12), "{}", first.text);
    let all = results(&buckets(&books.owner, &path).await);
    for project in &books.projects {
        let own: f64 = all.iter().filter(|result| result["project_id"] == project.as_str()).map(euros).sum();
        let ledger = books.balance(project).await;
        let charged = number(&ledger, "micros") as f64 / 1e6 + number(&ledger, "picos") as f64 / 1e12;
        assert!((own - charged).abs() < 1e-9, "{own} and {charged}");
    }
    assert!(all.iter().all(|result| result["amount"]["currency"] == "eur"));
    let items = results(&buckets(&books.owner, &format!("/v1/organization/costs?{times}&group_by=line_item")).await);
    let names: std::collections::BTreeSet<&str> = items.iter().filter_map(|item| item["line_item"].as_str()).collect();
    let expected =
        ["answers, cached_input_tokens", "answers, input_tokens", "answers, output_tokens", "answers, tokens"];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
    let (by_item, by_project): (f64, f64) = (items.iter().map(euros).sum(), all.iter().map(euros).sum());
    assert!((by_item - by_project).abs() < 1e-9, "{by_item} and {by_project}");
}

fn euros(result: &Value) -> f64 {
    result["amount"]["value"].as_f64().expect("a number")
}

#[tokio::test]
async fn an_organization_is_read_by_who_may_read_it_and_nobody_else() {
    let books = books().await;
    let path = format!("/v1/organization/costs?start_time={}", start().as_second());
    let refused = |client: Client| {
        let path = path.clone();
        async move {
            let reply = client.get(&path).await;
            (reply.status, reply.json["error"]["code"].as_str().unwrap_or("").to_owned())
        }
    };
    assert_eq!(refused(books.site.client(None)).await, (401, "unauthenticated".to_owned()));
    let who = books.owner.got("/api/v1/whoami").await;
    let principal = who["principal"]["id"].as_str().expect("an id");
    let inferring = books.site.key("acme", principal, &["inference"]).await;
    assert_eq!(refused(books.site.client(Some(&inferring))).await, (403, "scope_missing".to_owned()));
    let reading = books.site.key("acme", principal, &["read"]).await;
    assert_eq!(books.site.client(Some(&reading)).get(&path).await.status, 200, "no right to infer is needed");
    books.site.tenant("globex").await;
    let other = books.site.person("globex", "viewer").await;
    let days = 31 * 86_400;
    let path =
        format!("/v1/organization/costs?start_time={}&end_time={}", start().as_second(), start().as_second() + days);
    assert_eq!(results(&buckets(&other, &path).await), Vec::<Value>::new(), "nothing of another tenant");
    let wrong = other.get(&format!("{path}&bucket_width=1h")).await;
    assert_eq!((wrong.status, wrong.json["error"]["param"].as_str()), (400, Some("bucket_width")), "{}", wrong.text);
    assert_eq!(other.get("/mistral/v1/organization/costs").await.status, 404, "it is no route of Mistral's");
}
