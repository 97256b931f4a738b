//! What configurations mean, and what is said about bad ones.

use std::collections::BTreeMap;

use galerne_api::error::Code;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("HOME".to_owned(), "/srv/ada".to_owned())]);
    all.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    all
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn without_anything_the_defaults_hold_and_nothing_is_public() {
    let layers = Layers::read(None, &environment(&[]), &[]).expect("no problem");
    let config = Config::from_layers(&layers).expect("sound");
    assert_eq!(config.data, PathBuf::from("/srv/ada/.local/share/galerne"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.pue_thousandths, 1_000);
    assert!(config.listen.ip().is_loopback());
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let file = file("listen = \"127.0.0.1:1\"\nzone = \"DE\"\npue = 1.25\n");
    let env = environment(&[("GALERNE_LISTEN", "127.0.0.1:2"), ("GALERNE_ZONE", "SE")]);
    let layers = Layers::read(Some(file.path()), &env, &[("listen", "127.0.0.1:3".to_owned())]).expect("no problem");
    let config = Config::from_layers(&layers).expect("sound");
    assert_eq!((config.listen.port(), config.zone.as_str(), config.pue_thousandths), (3, "SE", 1_250));
    let shown = show(&layers);
    let origin =
        |key: &str| shown.iter().find(|shown| shown.key == key).map(|shown| shown.origin.clone()).expect("listed");
    assert_eq!(origin("listen"), "flag");
    assert_eq!(origin("zone"), "environment GALERNE_ZONE");
    assert!(origin("pue").starts_with("file "));
    assert_eq!(origin("log"), "default");
}

#[test]
fn all_problems_are_reported_together() {
    let layers = Layers::read(
        None,
        &environment(&[
            ("GALERNE_PUE", "0.9"),
            ("GALERNE_LISTEN", "here"),
            ("GALERNE_LOG", "loud"),
            ("GALERNE_TLS_CERT", "x"),
        ]),
        &[],
    );
    let bad = Config::from_layers(&layers.expect("known options")).expect_err("bad");
    let keys: Vec<&str> = bad.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["listen", "tls_cert", "pue", "log"]);
    assert_eq!(bad.code(), Code::ConfigInvalid);
}

#[test]
fn an_unknown_option_names_the_nearest() {
    let file = file("lsiten = \"127.0.0.1:1\"\n");
    let bad = Layers::read(Some(file.path()), &environment(&[]), &[]).expect_err("unknown");
    assert_eq!(bad.problems[0].hint, "did you mean `listen`?");
}

#[test]
fn a_public_address_needs_tls() {
    let of = |listen: &str| {
        let layers = Layers::read(None, &environment(&[]), &[("listen", listen.to_owned())]).expect("known");
        Config::from_layers(&layers).map(|config| config.listen.to_string()).map_err(|bad| bad.code())
    };
    for public in ["0.0.0.0:8080", "[::]:8080", "192.168.1.2:80", "8.8.8.8:80", "[::ffff:127.0.0.1]:80", "[fe80::1]:80"]
    {
        assert_eq!(of(public), Err(Code::PublicBindNeedsTls), "{public}");
    }
    for here in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:80"] {
        assert_eq!(of(here).as_deref(), Ok(here));
    }
    assert_eq!(of("localhost:9000").as_deref(), Ok("127.0.0.1:9000"));
    for none in ["example.org:80", "8080", ":8080", "localhost", "localhost:x", "1.2.3.4:80000", ""] {
        assert_eq!(of(none), Err(Code::ConfigInvalid), "{none}: a name may be public, and the rest is nothing");
    }
    let env = environment(&[("GALERNE_LISTEN", "0.0.0.0:8080")]);
    let layers = Layers::read(None, &env, &[]).expect("known");
    assert_eq!(Config::from_layers(&layers).expect_err("refused").code(), Code::PublicBindNeedsTls);
}

#[test]
fn passwords_are_not_shown() {
    let env = environment(&[("GALERNE_DATABASE", "postgres://u:hunter2@db/galerne")]);
    let layers = Layers::read(None, &env, &[]).expect("known");
    assert!(show(&layers).iter().all(|shown| !shown.value.contains("hunter2")));
}

#[test]
fn events_go_only_where_nobody_can_read_them_and_with_a_secret_nobody_else_has() {
    use std::os::unix::fs::PermissionsExt;
    let secret = file("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    let path = secret.path().display().to_string();
    let of = |url: Option<&str>, path: Option<&str>| {
        let mut flags = Vec::new();
        flags.extend(url.map(|url| ("events_url", url.to_owned())));
        flags.extend(path.map(|path| ("events_secret_file", path.to_owned())));
        let layers = Layers::read(None, &environment(&[]), &flags).expect("known options");
        Config::from_layers(&layers).map(|config| config.events.map(|receiver| receiver.origin()))
    };
    let https = "https://siem.example/galerne?token=t";
    assert_eq!(of(None, None), Ok(None));
    assert_eq!(of(Some(https), Some(&path)), Ok(Some("https://siem.example".to_owned())));
    for (url, path, says) in [
        (Some(https), None, "`events_secret_file` is missing"),
        (None, Some(path.as_str()), "`events_url` is missing"),
        (Some("http://siem.example/"), Some(&path), "only over `https`"),
        (Some(https), Some("/nonexistent"), "cannot be read"),
    ] {
        let bad = of(url, path).expect_err("a problem");
        assert!(bad.to_string().contains(says), "{bad}");
        assert!(!bad.to_string().contains("token"), "{bad}");
    }
    std::fs::set_permissions(secret.path(), std::fs::Permissions::from_mode(0o640)).expect("ours");
    assert!(of(Some(https), Some(&path)).expect_err("a problem").to_string().contains("can be read by others"));
    let layers = Layers::read(None, &environment(&[("GALERNE_EVENTS_URL", https)]), &[]).expect("known options");
    let shown = show(&layers).into_iter().find(|option| option.key == "events_url").expect("listed");
    assert_eq!((shown.value.as_str(), shown.origin.as_str()), ("(hidden)", "environment GALERNE_EVENTS_URL"));
}
