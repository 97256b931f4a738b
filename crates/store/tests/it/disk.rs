//! A real full disk: a file system of a few megabytes, mounted for one child process only.
//! (Where no file system may be mounted, `store::tests` shows the same with a limit inside SQLite.)

use std::process::Command;

use crate::kill::writer;

#[test]
fn a_full_disk_stops_a_commit_whole_and_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]).arg(folder.path()).arg(writer());
        command.output()
    };
    let mounted = unshare("mount -t tmpfs -o size=6m tmpfs \"$1\"");
    if !mounted.is_ok_and(|probe| probe.status.success()) {
        println!("not run: this system lets nobody mount a file system");
        return;
    }
    let script = "mount -t tmpfs -o size=7m tmpfs \"$1\" && head -c 1000000 /dev/zero > \"$1/ballast\" \
        && exec \"$2\" fill \"sqlite:$1/galerne.db\" \"$1/ballast\"";
    let output = unshare(script).expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let written: u32 = said.trim().strip_prefix("full after ").expect("a verdict").parse().expect("a number");
    assert!(written > 20, "{written} projects of 20 kB in 6 MB");
}
