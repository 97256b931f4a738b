use std::path::Path;

use super::{chosen, data_folder};

fn words(only: &[&str]) -> Vec<String> {
    only.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn an_unknown_benchmark_is_refused_with_the_names_of_all() {
    let error = chosen(&words(&["b1", "b2"])).err().unwrap().to_string();
    assert!(error.contains("`b2`") && error.contains("b1,b3,b4,b5,b6"), "{error}");
}

#[test]
fn nothing_chosen_is_everything() {
    assert_eq!(chosen(&[]).unwrap().len(), 5);
    assert_eq!(chosen(&words(&["B3", " b5"])).unwrap().len(), 2);
}

#[test]
fn a_missing_folder_is_named_with_what_to_type() {
    let all = chosen(&[]).unwrap();
    let error = data_folder(Some(Path::new("/nowhere/at/all")), &all).unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all") && error.contains("DATA=FOLDER"), "{error}");
    let here = data_folder(Some(Path::new(env!("CARGO_MANIFEST_DIR"))), &all).unwrap_err().to_string();
    assert!(here.contains("no folder `openb`"), "{here}");
}
