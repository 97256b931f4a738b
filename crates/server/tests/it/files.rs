//! Files on `/v1`: what is uploaded is read back by its project, by nobody else, and not after it is gone.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};

use crate::site::{Client, Reply, Site, start};

pub(crate) const BOUNDARY: &str = "----galerne";

pub(crate) fn form(fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(head.as_bytes());
    }
    if let Some((name, bytes)) = file {
        let head = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\ncontent-type: text/html\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

pub(crate) async fn upload(client: &Client, path: &str, body: &[u8]) -> Reply {
    let media = format!("multipart/form-data; boundary={BOUNDARY}");
    client.raw("POST", path, &[], Some((&media, body))).await
}

async fn uploaded(client: &Client, fields: &[(&str, &str)], bytes: &[u8]) -> Value {
    let reply = upload(client, "/v1/files", &form(fields, Some(("../a b.jsonl", bytes)))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

/// Waits until the gateway has heard of a new key.
pub(crate) async fn known(client: &Client) {
    for _ in 0..200 {
        if get(client, "/v1/models").await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the gateway never hears of a new key");
}

async fn get(client: &Client, path: &str) -> Reply {
    client.raw("GET", path, &[], None).await
}

fn objects(site: &Site) -> PathBuf {
    site.folder.path().join("objects/files")
}

fn kept(site: &Site) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(objects(site)) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("reads").file_name().into_string().expect("ASCII")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_is_read_back_whole_and_in_parts_and_then_deleted() {
    let site = Site::new().await;
    let bytes = b"{\"a\":1}\n\n{\"b\":2}";
    let file = uploaded(&site.operator, &[("purpose", "batch")], bytes).await;
    let id = file["id"].as_str().expect("an id");
    assert_eq!(file["object"], "file");
    assert_eq!((&file["bytes"], &file["num_lines"]), (&json!(bytes.len()), &json!(2)));
    assert_eq!((&file["filename"], &file["purpose"]), (&json!("a b.jsonl"), &json!("batch")));
    let life = file["expires_at"].as_i64().expect("30 days") - file["created_at"].as_i64().expect("an instant");
    assert_eq!(life, 2_592_000);
    assert_eq!(get(&site.operator, &format!("/v1/files/{id}")).await.json, file);
    let openai = get(&site.operator, &format!("/openai/v1/files/{id}")).await.json;
    let mut fields: Vec<&String> = openai.as_object().expect("an object").keys().collect();
    fields.sort();
    assert_eq!(
        fields,
        ["bytes", "created_at", "expires_at", "filename", "id", "object", "purpose", "status", "status_details"]
    );
    let mistral = get(&site.operator, &format!("/mistral/v1/files/{id}")).await.json;
    assert_eq!((&mistral["sample_type"], &mistral["source"]), (&json!("batch_request"), &json!("upload")));
    assert!(mistral.get("status").is_none());

    let path = format!("/v1/files/{id}/content");
    let whole = get(&site.operator, &path).await;
    assert_eq!((whole.status, whole.text.as_bytes()), (200, &bytes[..]));
    assert_eq!(whole.headers["content-type"], "application/octet-stream", "not what the uploader says");
    assert_eq!(whole.headers["x-content-type-options"], "nosniff");
    let part = site.operator.raw("GET", &path, &[("range", "bytes=1-3")], None).await;
    assert_eq!((part.status, part.text.as_str()), (206, "\"a\""));
    assert_eq!(part.headers["content-range"], "bytes 1-3/16");
    let beyond = site.operator.raw("GET", &path, &[("range", "bytes=99-")], None).await;
    assert_eq!((beyond.status, &beyond.json["error"]["code"]), (416, &json!("range_not_satisfiable")));

    assert_eq!(kept(&site), [id]);
    let gone = site.operator.raw("DELETE", &format!("/v1/files/{id}"), &[], None).await;
    assert_eq!(gone.json, json!({ "id": id, "object": "file", "deleted": true }));
    assert_eq!(kept(&site), [] as [&str; 0], "the bytes are gone");
    for path in [format!("/v1/files/{id}"), path] {
        let reply = get(&site.operator, &path).await;
        assert_eq!((reply.status, &reply.json["error"]["code"]), (404, &json!("not_found")), "{path}");
        assert!(reply.headers.contains_key("x-request-id"));
    }
    let events = site.operator.got(&format!("/api/v1/events?resource={id}")).await;
    let actions: Vec<&Value> = events["items"].as_array().expect("a list").iter().map(|e| &e["action"]).collect();
    assert_eq!(actions, ["file.delete", "file.create"]);
    site.running.drain().await;
}

#[tokio::test]
async fn another_project_has_no_part_in_a_file() {
    let site = Site::new().await;
    site.tenant("acme").await;
    site.tenant("other").await;
    let (acme, other) = (site.person("acme", "owner").await, site.person("other", "owner").await);
    known(&acme).await;
    known(&other).await;
    let file = uploaded(&acme, &[("purpose", "user_data")], b"secret").await;
    let id = file["id"].as_str().expect("an id");
    for (method, path) in [("GET", ""), ("GET", "/content"), ("GET", "/url"), ("DELETE", "")] {
        let path = format!("/v1/files/{id}{path}");
        let reply = other.raw(method, &path, &[], None).await;
        assert_eq!(reply.status, 404, "{method} {path}");
        let stranger = site.client(None).raw(method, &path, &[], None).await;
        assert_eq!(stranger.status, 401, "{method} {path}");
    }
    assert_eq!(get(&other, "/v1/files").await.json["data"], json!([]));
    let after = get(&other, &format!("/v1/files?after={id}")).await;
    assert_eq!((after.status, &after.json["error"]["code"]), (400, &json!("invalid_cursor")));
    assert_eq!(get(&acme, "/v1/files").await.json["data"], json!([file]));
    let own = uploaded(&acme, &[("purpose", "user_data"), ("visibility", "user")], b"mine").await;
    let colleague = site.person("acme", "member").await;
    known(&colleague).await;
    assert_eq!(get(&colleague, "/v1/files").await.json["data"], json!([file]), "one is for its uploader alone");
    assert_eq!(get(&colleague, &format!("/v1/files/{}", own["id"].as_str().expect("an id"))).await.status, 404);
    site.running.drain().await;
}

#[tokio::test]
async fn a_link_opens_one_file_without_a_key_and_only_as_it_was_signed() {
    let site = Site::new().await;
    let [first, second] = [b"first", b"other"].map(|bytes| (bytes, &site.operator));
    let first = uploaded(first.1, &[("purpose", "user_data")], first.0).await;
    let second = uploaded(second.1, &[("purpose", "user_data")], second.0).await;
    let id = |file: &Value| file["id"].as_str().expect("an id").to_owned();
    let link = get(&site.operator, &format!("/v1/files/{}/url?expiry=1", id(&first))).await.json;
    let url = link["url"].as_str().expect("a link");
    let path = url.strip_prefix(&site.operator.url).expect("a link to where it was asked");
    let stranger = site.client(None);
    assert_eq!(get(&stranger, path).await.text, "first");
    let until = path.split_once("expires=").expect("until when").1.split('&').next().expect("a number");
    let later = (until.parse::<i64>().expect("a number") + 1).to_string();
    for (what, changed) in [
        ("another file", path.replace(&id(&first), &id(&second))),
        ("a longer time", path.replace(until, &later)),
        ("another signature", path.replace("signature=", "signature=0")),
    ] {
        let reply = get(&stranger, &changed).await;
        assert_eq!((reply.status, &reply.json["error"]["code"]), (403, &json!("link_invalid")), "{what}");
    }
    for expiry in ["0", "169", "x"] {
        let reply = get(&site.operator, &format!("/v1/files/{}/url?expiry={expiry}", id(&first))).await;
        assert_eq!(reply.status, 400, "{expiry}");
    }
    site.operator.raw("DELETE", &format!("/v1/files/{}", id(&first)), &[], None).await;
    assert_eq!(get(&stranger, path).await.status, 404, "a link dies with its file");
    site.running.drain().await;
}

#[tokio::test]
async fn what_is_not_understood_is_refused_and_leaves_nothing() {
    let site = Site::new().await;
    let some = Some(("a", &b"x"[..]));
    for (path, body, param) in [
        ("/v1/files", form(&[], some), "purpose"),
        ("/v1/files", form(&[("purpose", "batch")], None), "file"),
        ("/v1/files", form(&[("purpose", "assistants")], some), "purpose"),
        ("/v1/files", form(&[("purpose", "batch_output")], some), "purpose"),
        ("/v1/files", form(&[("purpose", "batch"), ("colour", "red")], some), "colour"),
        ("/v1/files", form(&[("purpose", "batch"), ("expires_after[seconds]", "3600")], some), "expires_after.anchor"),
        ("/v1/files", form(&[("purpose", "batch"), ("expiry", "721")], some), "expiry"),
        ("/v1/files", form(&[("purpose", "batch"), ("visibility", "all")], some), "visibility"),
        ("/openai/v1/files", form(&[("purpose", "batch"), ("expiry", "24")], some), "expiry"),
        (
            "/mistral/v1/files",
            form(&[("purpose", "batch"), ("expires_after[seconds]", "9")], some),
            "expires_after[seconds]",
        ),
    ] {
        let reply = upload(&site.operator, path, &body).await;
        if path.starts_with("/mistral") {
            assert_eq!((reply.status, &reply.json["param"]), (400, &json!(param)), "{}", reply.text);
            continue;
        }
        assert_eq!((reply.status, &reply.json["error"]["param"]), (400, &json!(param)), "{}", reply.text);
    }
    let half = form(&[("purpose", "batch")], some);
    let reply = upload(&site.operator, "/v1/files", &half[..half.len() - 30]).await;
    assert_eq!((reply.status, &reply.json["error"]["code"]), (400, &json!("invalid_body")), "{}", reply.text);
    let reply = site.operator.raw("POST", "/v1/files", &[], Some(("application/json", b"{}"))).await;
    assert_eq!((reply.status, &reply.json["error"]["code"]), (400, &json!("invalid_body")));
    let reply = site.operator.raw("PUT", "/v1/files", &[], None).await;
    assert_eq!((reply.status, &reply.json["error"]["code"]), (405, &json!("method_not_allowed")));
    // Heads and preambles that never end: what the reader keeps of them is bounded.
    let endless = "a".repeat(1024 * 1024);
    for body in [
        format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{endless}"),
        format!("--{BOUNDARY}\r\nx-padding: {endless}\r\n\r\n"),
        format!("{endless}--{BOUNDARY}\r\n"),
    ] {
        let reply = upload(&site.operator, "/v1/files", body.as_bytes()).await;
        assert_eq!((reply.status, &reply.json["error"]["code"]), (413, &json!("body_too_large")), "{}", reply.text);
    }
    // What comes after the file may still speak against it.
    let late = String::from_utf8(form(&[], some)).expect("text").replace(&format!("--{BOUNDARY}--"), "")
        + &String::from_utf8(form(&[("purpose", "vision")], None)).expect("text");
    assert_eq!(upload(&site.operator, "/v1/files", late.as_bytes()).await.status, 400);
    assert_eq!(get(&site.operator, "/v1/files").await.json["data"], json!([]));
    assert_eq!(kept(&site), [] as [&str; 0]);
    site.running.drain().await;
}

#[tokio::test]
async fn lists_go_by_openais_cursor_and_by_mistrals_pages() {
    let site = Site::new().await;
    let mut ids = Vec::new();
    for purpose in ["batch", "user_data", "fine-tune"] {
        ids.push(uploaded(&site.operator, &[("purpose", purpose)], b"{}").await["id"].clone());
    }
    let list = async |query: &str| {
        let reply = get(&site.operator, &format!("/v1/files{query}")).await.json;
        let found: Vec<Value> =
            reply["data"].as_array().expect("a list").iter().map(|file| file["id"].clone()).collect();
        (found, reply["has_more"].clone(), reply["total"].clone())
    };
    let [a, b, c] = [ids[0].clone(), ids[1].clone(), ids[2].clone()];
    assert_eq!(list("").await, (vec![c.clone(), b.clone(), a.clone()], json!(false), Value::Null));
    assert_eq!(list("?limit=2").await, (vec![c.clone(), b.clone()], json!(true), Value::Null));
    let after = format!("?limit=2&after={}", b.as_str().expect("an id"));
    assert_eq!(list(&after).await, (vec![a.clone()], json!(false), Value::Null));
    assert_eq!(list("?order=asc&limit=1").await.0, vec![a.clone()]);
    assert_eq!(list("?purpose=user_data").await.0, vec![b.clone()]);
    assert_eq!(list("?page=1&page_size=2").await, (vec![a.clone()], json!(false), json!(3)));
    assert_eq!(list("?page=0&sample_type=instruct&sample_type=batch_request").await.2, json!(2));
    assert_eq!(list("?page=0&source=mistral").await.2, json!(0));
    assert_eq!(list("?page=0&search=A%20B").await.2, json!(3));
    for bad in ["?limit=0", "?limit=10001", "?order=up", "?colour=red", "?limit=1&page=0"] {
        let reply = get(&site.operator, &format!("/v1/files{bad}")).await;
        assert_eq!((reply.status, &reply.json["error"]["code"]), (400, &json!("invalid_query")), "{bad}");
    }
    assert_eq!(get(&site.operator, "/openai/v1/files?page=0").await.status, 400);
    assert_eq!(get(&site.operator, "/mistral/v1/files?after=x").await.status, 400);
    site.running.drain().await;
}

#[tokio::test]
async fn a_start_removes_what_an_end_half_way_left_and_what_has_expired() {
    let site = Site::new().await;
    let stays = uploaded(&site.operator, &[("purpose", "user_data")], b"stays").await;
    let over = uploaded(&site.operator, &[("purpose", "batch")], b"over").await;
    let id = |file: &Value| file["id"].as_str().expect("an id").to_owned();
    let folder = objects(&site);
    let Site { folder: data, running, operator } = site;
    running.drain().await;
    let orphan = format!("file_{}", uuid::Uuid::now_v7().simple());
    let fresh = format!("file_{}", uuid::Uuid::now_v7().simple());
    let old = SystemTime::now() - Duration::from_secs(2 * 3600);
    for (name, written_at) in [(&orphan, old), (&id(&stays), old), (&fresh, SystemTime::now())] {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(name)).expect("opens");
        file.set_modified(written_at).expect("ours");
    }
    let url = format!("sqlite://{}", data.path().join("galerne.db").display());
    sqlx::any::install_default_drivers();
    let mut db = sqlx::AnyConnection::connect(&url).await.expect("opens");
    let text = format!(
        "UPDATE file SET expires_at = 1, body = json_set(body, '$.expires_at', '2001-01-01T00:00:00Z') WHERE id = '{}'",
        id(&over)
    );
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut db).await.expect("ours");
    db.close().await.expect("closes");

    let running = start(data.path(), &[]).await.expect("starts again");
    let client = Client { url: running.url.clone(), ..operator };
    assert_eq!(get(&client, &format!("/v1/files/{}", id(&over))).await.status, 404, "at once");
    let mut wanted = [id(&stays), fresh];
    wanted.sort();
    let left = || {
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .expect("reads")
            .map(|entry| entry.expect("reads").file_name().into_string().expect("ASCII"))
            .collect();
        names.sort();
        names
    };
    for _ in 0..200 {
        if left() == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(left(), wanted);
    assert_eq!(get(&client, &format!("/v1/files/{}/content", id(&stays))).await.text, "stays");
    running.drain().await;
}

#[tokio::test]
async fn a_project_keeps_no_byte_above_its_limit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refused = start(folder.path(), &[("project_files_gb", "0".to_owned())]).await;
    let running = refused.expect("none is a limit");
    let key = running.first_key.clone();
    let client = Client { http: reqwest::Client::new(), url: running.url.clone(), key };
    let reply = upload(&client, "/v1/files", &form(&[("purpose", "batch")], Some(("a", b"x")))).await;
    assert_eq!((reply.status, &reply.json["error"]["code"]), (403, &json!("files_quota_exceeded")), "{}", reply.text);
    assert!(!folder.path().join("objects/files").exists(), "its body was not read");
    running.drain().await;
}
