use super::*;

fn local() -> (tempfile::TempDir, Objects) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let objects = Objects::open(&Place::Folder(folder.path().join("objects"))).expect("opens");
    (folder, objects)
}

async fn whole(objects: &Objects, name: &str) -> Vec<u8> {
    let reading = objects.read(name, None).await.expect("reads");
    let parts: Vec<Bytes> = reading.bytes.try_collect().await.expect("all of it");
    parts.concat()
}

async fn names(objects: &Objects) -> Vec<String> {
    let mut found: Vec<Found> = objects.list().try_collect().await.expect("lists");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.into_iter().map(|found| found.name).collect()
}

/// The same for a folder and for a bucket.
async fn behaves(objects: &Objects) {
    objects.probe().await.expect("it can be used");
    assert_eq!(names(objects).await, [] as [&str; 0], "the probe is taken away");

    objects.put("a/small", Bytes::from_static(b"0123456789")).await.expect("writes");
    assert_eq!(whole(objects, "a/small").await, b"0123456789");
    assert_eq!(objects.read_range("a/small", 2..5).await.expect("reads"), "234");
    let part = objects.read("a/small", Some(7..100)).await.expect("reads");
    assert_eq!((part.size, part.range), (10, 7..10), "what is beyond its end is left out");

    let mut writer = objects.writer("b/large");
    let line: Vec<u8> = (0..=255).collect();
    let count = (2 * PART_BYTES + PART_BYTES / 2) / line.len();
    for _ in 0..count {
        writer.write(&line).await.expect("takes bytes");
        assert!(writer.pending.len() < PART_BYTES, "memory is bounded");
    }
    assert_eq!(names(objects).await, ["a/small"], "nothing appears before it is whole");
    let written = writer.finish().await.expect("finishes");
    assert_eq!(written.bytes, (count * line.len()) as u64);
    let read = whole(objects, "b/large").await;
    assert_eq!(read.len() as u64, written.bytes);
    assert_eq!(hex::encode(Sha256::digest(&read)), written.sha256);

    let mut given_up = objects.writer("c/given-up");
    given_up.write(&vec![7; PART_BYTES + 1]).await.expect("takes bytes");
    given_up.give_up().await;
    let empty = objects.writer("d/empty").finish().await.expect("an object may be empty");
    assert_eq!(empty.bytes, 0);
    assert_eq!(names(objects).await, ["a/small", "b/large", "d/empty"]);
    assert!(whole(objects, "d/empty").await.is_empty());

    for name in ["a/small", "b/large", "d/empty", "never/was"] {
        objects.delete(name).await.expect("removes");
    }
    assert_eq!(names(objects).await, [] as [&str; 0]);
    assert!(matches!(objects.read("a/small", None).await, Err(ObjectError::NotFound(name)) if name == "a/small"));
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

#[test]
fn a_folder_keeps_objects() {
    let (_folder, objects) = local();
    block_on(behaves(&objects));
}

/// With a server of S3's protocol and a bucket on it, `GALERNE_TEST_S3=http://127.0.0.1:PORT/BUCKET`; says so where there is none.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test's configuration is its environment")]
fn a_bucket_keeps_objects() {
    let Ok(place) = std::env::var("GALERNE_TEST_S3") else {
        println!("skipped: GALERNE_TEST_S3 names no server and bucket");
        return;
    };
    let (endpoint, name) = place.rsplit_once('/').expect("address and bucket");
    let prefix = format!("objects-{}", std::process::id());
    let credentials = Credentials { key_id: "test".to_owned(), secret: "test".into(), token: None };
    let (endpoint, region) = (Some(endpoint.to_owned()), "eu-west-3".to_owned());
    let bucket = Bucket { name: name.to_owned(), prefix, endpoint, region, credentials };
    let objects = Objects::open(&Place::Bucket(bucket)).expect("opens");
    block_on(behaves(&objects));
}

#[test]
fn what_a_killed_write_left_is_swept_and_nothing_else() {
    let (folder, objects) = local();
    block_on(objects.put("files/whole", Bytes::from_static(b"x"))).expect("writes");
    let place = folder.path().join("objects/files");
    std::fs::write(place.join("file#1"), b"half").expect("ours");
    std::fs::write(place.join("odd#name"), b"whole").expect("ours");
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    assert_eq!(objects.sweep_unfinished(hour, now).expect("sweeps"), 0, "it may still be written");
    assert_eq!(objects.sweep_unfinished(hour, now + 2 * hour).expect("sweeps"), 1);
    let mut left: Vec<_> = std::fs::read_dir(&place).expect("reads").map(|e| e.expect("reads").file_name()).collect();
    left.sort();
    assert_eq!(left, ["odd#name", "whole"]);
}

#[test]
fn credentials_are_read_from_the_file_that_amazons_tools_read() {
    let text =
        "# ours\n[other]\naws_access_key_id = no\n[default]\naws_access_key_id=AK\naws_secret_access_key = s=c\n";
    let read = Credentials::from_file(text).expect("reads");
    assert_eq!((read.key_id.as_str(), read.secret.expose_secret()), ("AK", "s=c"));
    assert!(read.token.is_none());
    let bad = |text: &str| Credentials::from_file(text).map(|_| ()).expect_err("refused");
    assert_eq!(bad("[default]\nword\n"), BadCredentials::Line(2));
    assert_eq!(bad("aws_access_key_id = AK"), BadCredentials::Missing("aws_secret_access_key"));
}

#[test]
fn half_of_the_credentials_in_the_environment_is_a_mistake() {
    let variables = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert!(Credentials::from_environment(&variables(&[])).expect("says nothing").is_none());
    let half = Credentials::from_environment(&variables(&[("AWS_ACCESS_KEY_ID", "AK")])).map(|_| ());
    assert_eq!(half, Err(BadCredentials::Missing("AWS_SECRET_ACCESS_KEY")));
    let both = variables(&[("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")]);
    assert!(Credentials::from_environment(&both).expect("reads").is_some_and(|read| read.token.is_some()));
}
