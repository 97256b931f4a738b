//! The run that is guided by coverage: libFuzzer, on the target that its first folder is called after.
//! Built and started by `cargo xtask fuzz`, which adds the compiler's flags.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use galerne_fuzz::{Target, find};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let folder = std::env::args().skip(1).find(|word| !word.starts_with('-')).expect("usage: galerne-fuzz FOLDER…");
        let named = Path::new(&folder).ancestors().filter_map(Path::file_name).find_map(|name| find(name.to_str()?));
        let target = named.expect("the first folder is called as a target is");
        TARGET.set(target).ok().expect("set once");
        // libFuzzer reads it after this.
        if let Some(path) = std::env::args().find_map(|word| word.strip_prefix("-dict=").map(str::to_owned)) {
            std::fs::write(path, target.dictionary()).expect("the dictionary is written");
        }
    },
    |input: &[u8]| {
        TARGET.get().expect("set at the start").check(input);
    }
);
