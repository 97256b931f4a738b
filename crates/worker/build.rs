//! With the engine: gathers llama.cpp's shared libraries in `engine/` beside the executables of this profile, and tells the
//! executable to look for them beside itself and there. The CPU back ends are opened at run time from the same place.
#![allow(clippy::disallowed_methods, reason = "a build script's configuration is its environment")]

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_LLAMA_BACKENDS_DIR");
    if std::env::var_os("CARGO_FEATURE_LLAMA").is_none() {
        return;
    }
    for directory in ["$ORIGIN", "$ORIGIN/engine"] {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{directory}");
    }
    let back_ends =
        PathBuf::from(std::env::var_os("DEP_LLAMA_BACKENDS_DIR").expect("llama-cpp-sys-2 tells its directory"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let engine = out.ancestors().nth(3).expect("cargo's layout is profile/build/package/out").join("engine");
    std::fs::create_dir_all(&engine).expect("the target directory is writable");
    let built = back_ends.parent().expect("a directory inside another");
    // Libraries are linked under their name with the major version; back ends are opened under their plain name.
    let is_linked = |name: &str| name.rsplit_once(".so.").is_some_and(|(_, version)| !version.contains('.'));
    gather(&built.join("lib"), &engine, is_linked);
    gather(&built.join("lib64"), &engine, is_linked);
    gather(&back_ends, &engine, |name| name.ends_with(".so"));
}

/// Copies the shared libraries whose names are wanted, following links.
fn gather(from: &Path, to: &Path, is_wanted: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if is_wanted(&name.to_string_lossy()) {
            let target = to.join(&name);
            // A running worker may have the old file open: replace it, do not write into it.
            let fresh = to.join(format!("{}.new", name.to_string_lossy()));
            std::fs::copy(entry.path(), &fresh).expect("the library can be copied");
            std::fs::rename(&fresh, &target).expect("the library can be put in place");
        }
    }
}
