//! Budgets of which a gateway in a process of its own has a share: real sockets, a real database, one process for both.

use serde_json::{Value, json};

use crate::gateways::{at, chat, endpoint, eventually, key, start};
use crate::site::{self, Client, Reply, Site};

/// What a request of these tests costs: ten prompt tokens and five of answer.
const COSTS: i64 = 20;

/// A key `limited` with a budget `small` of so many micros on it, and prices that are easy to count.
async fn limited(site: &Site, limit_micros: i64) -> String {
    let price = json!({"prompt": 1_000_000, "cached": 1_000_000, "completion": 2_000_000});
    site.operator.made("/api/v1/price-books", &json!({"name": "easy", "spec": {"default": price, "models": []}})).await;
    let secret = key(site, "limited", &["inference"]).await;
    let key_id = site.operator.got("/api/v1/keys/limited").await["id"].clone();
    let subject = json!({"kind": "key", "key_id": key_id});
    let spec = json!({"subject": subject, "limit_micros": limit_micros, "period": "total"});
    site.operator.made("/api/v1/budgets", &json!({"name": "small", "spec": spec})).await;
    secret
}

/// Asks until something else than an answer comes back; says how many answers there were, and what came then.
async fn exhaust(client: &Client) -> (i64, Reply) {
    for answers in 0..5_000 {
        let reply = client.post("/v1/chat/completions", &chat()).await;
        if reply.status != 200 {
            return (answers, reply);
        }
    }
    panic!("the budget never ends");
}

fn code(reply: &Reply) -> &str {
    reply.json["error"]["code"].as_str().unwrap_or("")
}

/// What is spent of the budget once all usage is settled, in micros.
async fn spent(operator: &Client, answers: i64) -> i64 {
    let mut spent = 0;
    eventually("the usage is settled", async || {
        spent = operator.got("/api/v1/budgets/small").await["status"]["spent_micros"].as_i64().unwrap_or(0);
        spent >= answers * COSTS
    })
    .await;
    spent
}

async fn lent(operator: &Client) -> bool {
    let why = operator.got("/api/v1/why/budget/small").await;
    why["reason"]["because"].as_array().expect("parts").iter().any(|part| part["code"] == "lent")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_spend_one_budget_to_its_end_and_no_micro_more() {
    let site = Site::new().await;
    endpoint(&site).await;
    let secret = limited(&site, 4_000).await;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = start(&site, folder.path(), &key(&site, "gateway", &["gateway"]).await).await;
    let (here, there) = (site.client(Some(&secret)), at(&site, &gateway, &secret));
    eventually("the gateway has a share", async || {
        there.post("/v1/chat/completions", &chat()).await.status == 200 && lent(&site.operator).await
    })
    .await;
    // Both at once, so that each needs what the other has.
    let ((at_here, last_here), (at_there, last_there)) = tokio::join!(exhaust(&here), exhaust(&there));
    for last in [&last_here, &last_there] {
        let may_be = ["budget_exhausted", "overloaded"];
        assert!(may_be.contains(&code(last)), "{} {}", last.status, last.text);
    }
    // Whoever was late in a race may have more: what is left comes to whoever asks.
    let (more, last) = exhaust(&there).await;
    assert_eq!((last.status, code(&last)), (402, "budget_exhausted"), "{}", last.text);
    let (rest, last) = exhaust(&here).await;
    assert_eq!((last.status, code(&last)), (402, "budget_exhausted"), "{}", last.text);
    let answers = at_here + at_there + more + rest;
    let spent = spent(&site.operator, answers).await;
    assert!(spent <= 4_000, "{spent} of 4000 micros");
    assert!(at_there + more > 0, "the gateway answered some");
    let asked = last.header("x-galerne-budget-asked-micros").parse::<i64>().expect("a number");
    assert!(4_000 - spent < asked, "{spent} are spent, and a request of {asked} was refused");
    gateway.drain().await;
    eventually("what it had is given back", async || !lent(&site.operator).await).await;
    let check = site.operator.post("/api/v1/ledger/check", &json!({})).await;
    assert_eq!(check.json["closes"], true, "{}", check.text);
    site.running.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_alone_spends_its_share_and_stops_and_a_new_control_plane_knows_what_it_lent() {
    const LIMIT: i64 = 20_000;
    let site = Site::new().await;
    endpoint(&site).await;
    let secret = limited(&site, LIMIT).await;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = start(&site, folder.path(), &key(&site, "gateway", &["gateway"]).await).await;
    let there = at(&site, &gateway, &secret);
    eventually("the gateway has a share", async || {
        there.post("/v1/chat/completions", &chat()).await.status == 200 && lent(&site.operator).await
    })
    .await;
    let Site { folder: data, running, operator } = site;
    let address = running.address.to_string();
    running.drain().await;
    let (alone, last) = exhaust(&there).await;
    assert_eq!((last.status, code(&last)), (503, "control_plane_away"), "{}", last.text);
    assert!(!last.header("retry-after").is_empty(), "{:?}", last.headers);
    assert!(alone > 0 && alone * COSTS < LIMIT / 2, "{alone} answers from a share of {LIMIT}");
    let running = site::start(data.path(), &[("listen", address)]).await.expect("it starts again");
    // Of what it lent before its end it lends nothing twice.
    let here = Client { key: Some(secret.clone()), ..operator.clone() };
    let (at_here, _) = exhaust(&here).await;
    let mut at_there = 0;
    eventually("the gateway hears it, and that nothing is left", async || {
        let (more, last) = exhaust(&there).await;
        at_there += more;
        code(&last) == "budget_exhausted"
    })
    .await;
    let spent = spent(&operator, alone + at_here + at_there).await;
    assert!(spent <= LIMIT, "{spent} of {LIMIT} micros");
    gateway.drain().await;
    running.drain().await;
}

/// The protocol by hand, for what a gateway that is well does not do.
struct ByHand {
    client: Client,
    session: String,
    number: i64,
}

impl ByHand {
    async fn join(client: &Client, instance: &str) -> Self {
        let join = json!({"version": 1, "name": "g", "source": 5, "instance": instance, "program": "0"});
        let joined = client.post("/agent/v1/gateways", &join).await;
        assert_eq!(joined.status, 201, "{}", joined.text);
        let session = joined.json["session"].as_str().expect("a session").to_owned();
        Self { client: client.clone(), session, number: 0 }
    }

    async fn report(&mut self, shares: Value) -> Reply {
        self.number += 1;
        self.send(self.number, shares).await
    }

    async fn send(&self, number: i64, shares: Value) -> Reply {
        let report = json!({"number": number, "busy": [], "woken": [], "shares": shares});
        self.client.post(&format!("/agent/v1/gateways/{}/reports", self.session), &report).await
    }
}

fn ask(budget: &Value, give_back: i64, need: i64) -> Value {
    let amounts = |micros: i64| json!({"micros": micros, "millijoules": 0, "co2e_micrograms": 0});
    json!([{"budget_id": budget, "give_back": amounts(give_back), "need": amounts(need), "spare": amounts(0)}])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_silent_gateway_was_lent_is_nobody_elses_until_it_comes_back() {
    let site = Site::new().await;
    endpoint(&site).await;
    let secret = limited(&site, 4_000).await;
    let budget = site.operator.got("/api/v1/budgets/small").await["id"].clone();
    let here = site.client(Some(&secret));
    assert_eq!(here.post("/v1/chat/completions", &chat()).await.status, 200);
    let gateway = site.client(Some(&key(&site, "gateway", &["gateway"]).await));
    let mut first = ByHand::join(&gateway, "a").await;
    let mut told = Value::Null;
    eventually("it is lent what it needs", async || {
        told = first.report(ask(&budget, 0, 3_500)).await.json;
        told["shares"][0]["share"]["micros"] == 3_500
    })
    .await;
    assert_eq!(told["shares"][0]["supply"], "given");
    // It is silent from now on: who asks is refused with the numbers, also while the session is remembered.
    let (_, last) = exhaust(&here).await;
    assert!(["budget_exhausted", "overloaded"].contains(&code(&last)), "{}", last.text);
    let spool = site.operator.got("/api/v1/why/budget/small").await.to_string();
    assert!(spool.contains("the gateway of spool 5 may spend 0.003500 €"), "{spool}");
    let early = site.operator.post("/api/v1/spools/5/forsake", &json!({"reason": "its disk is gone"})).await;
    assert_eq!((early.status, early.code()), (409, "wrong_state"), "{}", early.text);
    // The next process of its spool has what it had, and gives it back; what arrives late from the one before is not heard.
    let old = first;
    let mut next = ByHand::join(&gateway, "b").await;
    let told = next.report(json!([])).await.json;
    assert_eq!(told["shares"][0]["share"]["micros"], 3_500, "{told}");
    assert_eq!(old.send(9, ask(&budget, 3_500, 0)).await.code(), "gateway_replaced");
    let told = next.report(ask(&budget, 3_400, 0)).await.json;
    assert_eq!(told["shares"][0]["share"]["micros"], 100, "{told}");
    let late = next.send(1, ask(&budget, 100, 0)).await;
    assert_eq!((late.status, late.code()), (422, "invalid_value"), "{}", late.text);
    let told = next.report(json!([])).await.json;
    assert_eq!(told["shares"][0]["share"]["micros"], 100, "nothing was given back twice: {told}");
    eventually("what came back is spent here", async || here.post("/v1/chat/completions", &chat()).await.status == 200)
        .await;
    // Who asks for more than there is gets all there is, and is told so.
    let told = next.report(ask(&budget, 0, 1_000_000)).await.json;
    assert_ne!(told["shares"][0]["supply"], "given", "{told}");
    eventually("all that is left is lent", async || {
        next.report(ask(&budget, 0, 1_000_000)).await.json["shares"][0]["supply"] == "exhausted"
    })
    .await;
    site.running.drain().await;
}
