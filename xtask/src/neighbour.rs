//! Programs that xtask starts: as a person would start them, without what `cargo run` told xtask alone.

use std::process::Command;

/// What cargo sets for a program it runs (The Cargo Book, "Environment variables"). A cargo below would hand it to
/// build scripts that compare it, ring's among them, and compile half the workspace again.
const ONLY_FOR_XTASK: [&str; 20] = [
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_MANIFEST_PATH",
    "CARGO_PKG_AUTHORS",
    "CARGO_PKG_DESCRIPTION",
    "CARGO_PKG_HOMEPAGE",
    "CARGO_PKG_LICENSE",
    "CARGO_PKG_LICENSE_FILE",
    "CARGO_PKG_NAME",
    "CARGO_PKG_README",
    "CARGO_PKG_REPOSITORY",
    "CARGO_PKG_RUST_VERSION",
    "CARGO_PKG_VERSION",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
    // With it, a program that cannot find its libraries would find them here.
    "LD_LIBRARY_PATH",
];

/// A command that knows nothing of xtask.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for name in ONLY_FOR_XTASK {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_told_xtask_reaches_no_other_program() {
        assert!(std::option_env!("CARGO_PKG_NAME").is_some());
        let output = command("env").output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let leaked: Vec<&str> =
            told.lines().filter(|line| line.starts_with("CARGO_PKG_") || line.starts_with("CARGO_MANIFEST_")).collect();
        assert!(leaked.is_empty(), "{leaked:?}");
    }
}
