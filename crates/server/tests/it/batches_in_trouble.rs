//! Batches when something goes away under them: the lease, the answer to a change, an input, answers.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};

use crate::batches::{Bed, ended, line, lines, usage};
use crate::files::{form, known, upload};
use crate::site::{Client, Site, start};

async fn database(site: &Site) -> AnyConnection {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", site.folder.path().join("galerne.db").display());
    AnyConnection::connect(&url).await.expect("opens beside")
}

async fn change(db: &mut AnyConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.expect("changed");
}

/// Objects of the segments that are recorded.
async fn recorded(db: &mut AnyConnection) -> Vec<String> {
    let rows = sqlx::query("SELECT object FROM batch_segment ORDER BY number").fetch_all(db).await.expect("reads");
    rows.iter().map(|row| row.get("object")).collect()
}

fn slow(count: usize) -> Vec<String> {
    (0..count).map(|n| line(&format!("r{n}"), &format!("{n} slow-100"))).collect()
}

async fn some_are_kept(bed: &Bed, id: &str) {
    bed.until("some are kept", async || {
        bed.client().got(&format!("/v1/batches/{id}")).await["request_counts"]["completed"].as_i64() > Some(5)
    })
    .await;
}

fn names(lines: &[Value]) -> Vec<String> {
    let mut names: Vec<String> =
        lines.iter().map(|line| line["custom_id"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

fn of(count: usize) -> Vec<String> {
    let mut names: Vec<String> = (0..count).map(|n| format!("r{n}")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_server_that_lost_the_lease_records_no_answer_and_the_next_one_goes_on() {
    let bed = Bed::new().await;
    let id = bed.batch(&slow(150)).await;
    some_are_kept(&bed, &id).await;
    let mut db = database(&bed.site).await;
    change(&mut db, "UPDATE lease SET holder = 'thief', epoch = epoch + 1 WHERE name = 'server'").await;
    let before = recorded(&mut db).await;
    let asked = bed.engine.asked_in_all();
    bed.until("more is answered", async || bed.engine.asked_in_all() > asked + 14).await;
    let Bed { site, engine, tasks } = bed;
    let Site { folder, running, operator } = site;
    running.drain().await;
    assert_eq!(recorded(&mut db).await, before, "it is not its batch any more");
    db.close().await.expect("closes");
    let running = start(folder.path(), &[]).await.expect("starts again");
    let client = Client { url: running.url.clone(), ..operator };
    let batch = ended(&client, &id).await;
    assert_eq!(batch["request_counts"], json!({"total": 150, "completed": 150, "failed": 0}), "{batch}");
    assert_eq!(names(&lines(&client, &batch["output_file_id"]).await), of(150), "each once");
    running.drain().await;
    drop((tasks, engine));
}

#[tokio::test]
async fn answers_whose_recording_was_not_heard_of_are_kept_once() {
    let bed = Bed::new().await;
    let mut db = database(&bed.site).await;
    change(
        &mut db,
        "CREATE TRIGGER deaf BEFORE INSERT ON batch_segment BEGIN SELECT RAISE(ABORT, 'the line is cut'); END",
    )
    .await;
    let id = bed.batch(&slow(150)).await;
    let folder: PathBuf = bed.site.folder.path().join("objects/batches").join(&id);
    let written = || {
        let entries = std::fs::read_dir(&folder).into_iter().flatten();
        let mut names = entries.map(|entry| entry.expect("reads").file_name().into_string().expect("ASCII"));
        names.find(|name| !name.contains('#'))
    };
    bed.until("answers are written", async || written().is_some()).await;
    let name = written().expect("waited for");
    let text = std::fs::read_to_string(folder.join(&name)).expect("whole");
    let numbers: Vec<u64> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(&line[1..]).expect("JSON after its kind");
            line["id"].as_str().and_then(|id| id.rsplit_once('_')).expect("a number").1.parse().expect("a number")
        })
        .collect();
    assert!(!numbers.is_empty());
    // What the engine takes for failed was done after all.
    let row = format!("'{id}', 1, 'batches/{id}/{name}', '{}', '[]', 1", json!(numbers));
    let heard = format!(
        "BEGIN; DROP TRIGGER deaf; INSERT INTO batch_segment (batch_id, number, object, lines, records, settled) \
         VALUES ({row}); COMMIT"
    );
    change(&mut db, &heard).await;
    db.close().await.expect("closes");
    let batch = bed.ended(&id).await;
    assert_eq!(batch["request_counts"], json!({"total": 150, "completed": 150, "failed": 0}), "{batch}");
    assert_eq!(names(&lines(bed.client(), &batch["output_file_id"]).await), of(150), "each once");
    assert_eq!(bed.engine.asked_in_all(), 150, "none is made again");
    bed.until("all is settled", async || {
        usage(bed.client()).await.values().filter(|record| record["outcome"] == "completed").count() == 150
    })
    .await;
    bed.end().await;
}

#[tokio::test]
async fn a_batch_whose_input_and_some_answers_are_gone_ends_and_tells_every_request() {
    let bed = Bed::new().await;
    let id = bed.batch(&slow(100)).await;
    some_are_kept(&bed, &id).await;
    let input = bed.client().got(&format!("/v1/batches/{id}")).await["input_file_id"].clone();
    let Bed { site, engine, tasks } = bed;
    let mut db = database(&site).await;
    let Site { folder, running, operator } = site;
    running.drain().await;
    let objects = folder.path().join("objects");
    std::fs::remove_file(objects.join("files").join(input.as_str().expect("an id"))).expect("was there");
    let segments = recorded(&mut db).await;
    db.close().await.expect("closes");
    std::fs::remove_file(objects.join(&segments[0])).expect("was there");
    let running = start(folder.path(), &[]).await.expect("starts again");
    let client = Client { url: running.url.clone(), ..operator };
    let batch = ended(&client, &id).await;
    assert_eq!((&batch["status"], &batch["errors"]["data"][0]["code"]), (&json!("failed"), &json!("input_file_gone")));
    let errors = lines(&client, &batch["error_file_id"]).await;
    let count = |code: &str| errors.iter().filter(|line| line["error"]["code"] == code).count();
    assert!(count("answers_lost") > 0, "{:?}", errors[0]);
    assert_eq!(count("answers_lost") + count("batch_failed"), errors.len());
    let answered = match &batch["output_file_id"] {
        Value::Null => 0,
        file => lines(&client, file).await.len(),
    };
    assert_eq!(answered + errors.len(), 100, "each request is told");
    assert_eq!(
        batch["request_counts"],
        json!({"total": 100, "completed": answered, "failed": errors.len()}),
        "and counted where it is told"
    );
    let content = format!("/v1/files/{}/content", input.as_str().expect("an id"));
    let gone = client.get(&content).await;
    assert_eq!((gone.status, &gone.json["error"]["code"]), (404, &json!("not_found")), "{}", gone.text);
    running.drain().await;
    drop((tasks, engine));
}

#[tokio::test]
async fn what_is_made_of_a_private_file_is_for_its_owner_alone() {
    let bed = Bed::new().await;
    let colleague = bed.site.person("default", "member").await;
    known(&colleague).await;
    let text = format!("{}\n{}", line("a", "x"), line("b", "bad"));
    let private = form(&[("purpose", "batch"), ("visibility", "user")], Some(("b.jsonl", text.as_bytes())));
    let file = upload(bed.client(), "/v1/files", &private).await.json["id"].clone();
    let body = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let made = bed.client().post("/v1/batches", &body).await;
    let id = made.json["id"].as_str().expect("an id").to_owned();
    let batch = bed.ended(&id).await;
    for made in ["output_file_id", "error_file_id"] {
        let path = format!("/v1/files/{}", batch[made].as_str().expect("a file"));
        assert_eq!(bed.client().get(&path).await.status, 200, "{made}");
        assert_eq!(colleague.get(&path).await.status, 404, "{made}");
    }
    let inline = format!("/v1/batch/jobs/{id}?inline=true");
    assert_eq!(bed.client().got(&inline).await["outputs"].as_array().map(Vec::len), Some(1));
    assert!(colleague.got(&inline).await["outputs"].is_null());
    let shared = bed.batch(&[line("a", "x")]).await;
    let output = bed.ended(&shared).await["output_file_id"].clone();
    let path = format!("/v1/files/{}", output.as_str().expect("a file"));
    assert_eq!(colleague.get(&path).await.status, 200, "of a file for everybody it is for everybody");
    bed.end().await;
}

#[tokio::test]
async fn a_project_that_keeps_files_is_not_deleted() {
    let site = Site::new().await;
    site.tenant("acme").await;
    let owner = site.person("acme", "owner").await;
    known(&owner).await;
    let file = upload(&owner, "/v1/files", &form(&[("purpose", "user_data")], Some(("a", b"secret")))).await;
    assert_eq!(file.status, 200, "{}", file.text);
    let project = "/api/v1/projects/main?tenant=acme";
    let refused = site.operator.delete(project, 1).await;
    assert_eq!((refused.status, refused.code()), (409, "in_use"), "{}", refused.text);
    assert!(refused.text.contains("keeps 1 files of 6 bytes"), "{}", refused.text);
    let path = format!("/v1/files/{}", file.json["id"].as_str().expect("an id"));
    assert_eq!(owner.raw("DELETE", &path, &[], None).await.status, 200);
    let refused = site.operator.delete(project, 1).await;
    assert!(refused.text.contains("still spends in it"), "what is left is its key: {}", refused.text);
    site.running.drain().await;
}

/// Waits for what another task does.
async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !reached().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn two_databases_with_one_place_remove_nothing_of_each_other() {
    let place = tempfile::tempdir().expect("a folder");
    let flags = [("objects", place.path().display().to_string())];
    let first = Site::with(&flags).await;
    let mark = place.path().join("site");
    until("the first has marked the place", async || mark.exists()).await;
    let kept = upload(&first.operator, "/v1/files", &form(&[("purpose", "user_data")], Some(("a", b"kept")))).await;
    let id = kept.json["id"].as_str().expect("an id").to_owned();
    let object = place.path().join("files").join(&id);
    let age = || {
        let old = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
        let file = std::fs::OpenOptions::new().append(true).open(&object).expect("is there");
        file.set_modified(old).expect("ours");
    };
    age();
    let second = Site::with(&flags).await;
    let mut db = database(&second).await;
    let marks = "SELECT COUNT(*) AS n FROM counter WHERE name = 'objects'";
    until("the second has looked at the mark", async || {
        sqlx::query(marks).fetch_one(&mut db).await.expect("reads").get::<i64, _>("n") == 1
    })
    .await;
    let own = upload(&second.operator, "/v1/files", &form(&[("purpose", "user_data")], Some(("b", b"own")))).await;
    assert_eq!(own.status, 200, "{}", own.text);
    let Site { folder, running, .. } = second;
    running.drain().await;
    assert!(object.exists(), "it does not know whose it is");
    first.running.drain().await;
    // An operator who says that the place is the second one's alone.
    std::fs::remove_file(&mark).expect("was there");
    let running = start(folder.path(), &flags).await.expect("starts again");
    until("the sweep takes what nobody knows", async || !object.exists()).await;
    running.drain().await;
}
