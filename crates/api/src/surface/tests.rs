use super::*;

#[test]
fn fields_are_sorted_and_unique_so_that_a_search_finds_each() {
    for call in Call::ALL {
        assert!(call.fields().windows(2).all(|pair| pair[0].name < pair[1].name), "{call:?}");
        for field in call.fields() {
            assert_eq!(call.field(Dialect::Union, field.name), Ok(field), "{call:?}");
        }
    }
}

#[test]
fn a_name_to_send_instead_is_a_field_of_the_call() {
    for call in Call::ALL {
        for field in call.fields() {
            if let Fate::Renamed(name) = field.fate {
                assert!(call.field(Dialect::Union, name).is_ok(), "{call:?}: `{}` becomes `{name}`", field.name);
            }
        }
    }
}

#[test]
fn whatever_is_refused_says_why() {
    for field in Call::ALL.iter().flat_map(|call| call.fields()) {
        if matches!(field.fate, Fate::Refused | Fate::Only(_) | Fate::NoEffect) {
            assert!(!field.note.is_empty(), "`{}`", field.name);
        }
        assert!(!field.note.contains('|') && !field.note.ends_with('.'), "`{}` breaks the table", field.name);
    }
}

#[test]
fn an_exact_surface_has_its_own_fields_only() {
    assert!(Call::Chat.field(Dialect::Mistral, "random_seed").is_ok());
    assert!(matches!(Call::Chat.field(Dialect::OpenAi, "random_seed"), Err(Unknown::Elsewhere(_))));
    assert!(matches!(Call::Chat.field(Dialect::Mistral, "seed"), Err(Unknown::Elsewhere(_))));
    assert!(Call::Chat.field(Dialect::Union, "min_p").is_ok());
    for exact in [Dialect::OpenAi, Dialect::Mistral] {
        assert!(matches!(Call::Chat.field(exact, "min_p"), Err(Unknown::Elsewhere(_))));
    }
    assert_eq!(Call::Chat.field(Dialect::OpenAi, "temprature"), Err(Unknown::Nowhere(Some("temperature"))));
}

#[test]
fn kinds_are_told_by_how_json_begins() {
    assert!(Takes::Number.fits("-1.5") && !Takes::Number.fits("\"1\"") && !Takes::Number.fits("true"));
    assert!(Takes::TextOrList.fits("[1]") && Takes::TextOrList.fits("\"a\"") && !Takes::TextOrList.fits("{}"));
    assert!(Takes::FlagOrNumber.fits("false") && Takes::FlagOrNumber.fits("0") && !Takes::Flag.fits("0"));
}

#[test]
fn a_surface_is_told_by_its_path() {
    for dialect in Dialect::ALL {
        assert_eq!(Dialect::of_path(&format!("{}/chat/completions", dialect.prefix())), dialect);
    }
    assert_eq!(Dialect::of_path("/tokenize"), Dialect::Union);
}

#[test]
fn a_path_is_not_served_served_otherwise_or_nobodys() {
    let not_served = |dialect, method, path| matches!(find(dialect, method, path), Found::NotServed(_));
    assert!(not_served(Dialect::Union, "GET", "/v1/fine_tuning/jobs"));
    assert!(not_served(Dialect::OpenAi, "POST", "/openai/v1/threads/thread_1/runs/run_2/cancel"));
    assert!(not_served(Dialect::Mistral, "GET", "/mistral/v1/agents/a/versions/3"));
    assert!(not_served(Dialect::Union, "GET", "/v1/chat/completions"), "OpenAI lists stored completions there");
    assert!(not_served(Dialect::Union, "DELETE", "/v1/models/m"));
    let allowed = |list: &[&'static str]| Found::WrongMethod { allowed: list.to_vec() };
    assert_eq!(find(Dialect::Mistral, "GET", "/mistral/v1/chat/completions"), allowed(&["POST"]));
    assert_eq!(find(Dialect::Union, "PATCH", "/v1/models/org/m"), allowed(&["GET"]));
    assert_eq!(find(Dialect::Union, "PUT", "/v1/files"), allowed(&["GET", "POST"]));
    let fim = Known { path: "/v1/fim/completions", of: Of::Mistral };
    assert_eq!(find(Dialect::OpenAi, "POST", "/openai/v1/fim/completions"), Found::Elsewhere(fim));
    let Found::Nowhere { nearest } = find(Dialect::OpenAi, "POST", "/openai/v1/chat/completion") else { panic!() };
    assert_eq!(nearest.first(), Some(&"/v1/chat/completions"));
}

#[test]
fn no_route_is_both_served_and_not() {
    for route in SERVED.iter().chain(routes::BESIDE) {
        for (_, of, path, methods) in routes::not_served() {
            let same = path == route.path && methods.split(' ').any(|method| method == route.method);
            assert!(!same, "{} {path} of {of:?}", route.method);
        }
    }
}

#[test]
fn the_page_says_what_the_tables_say() {
    let committed = include_str!("../../../../docs/gateway.md");
    let at = committed.find("## Routes\n").expect("the page has its tables");
    let (have, want) = (&committed[at..], page());
    let differs = have.lines().zip(want.lines()).find(|(have, want)| have != want);
    assert_eq!(differs, None, "run: cargo run -p galerne-api --example gateway_page");
    assert_eq!(have.len(), want.len(), "run: cargo run -p galerne-api --example gateway_page");
}
