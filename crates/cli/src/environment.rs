//! The environment, read once: where the profile lives. Everything else that is read from it is an option in `arguments`
//! or of the server's configuration.

use std::path::PathBuf;

/// Galerne's folder by the XDG base directory specification: `$XDG_CONFIG_HOME/galerne`, else `~/.config/galerne`.
pub fn config_folder() -> PathBuf {
    from_variables(variable)
}

fn from_variables(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    // Without a home (a bare container) the working folder is better than the root of the disk.
    let home = || variable("HOME").unwrap_or_else(|| PathBuf::from(".")).join(".config");
    // The specification says: a relative path is to be ignored.
    variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute()).unwrap_or_else(home).join("galerne")
}

#[allow(clippy::disallowed_methods, reason = "this module is where the command line reads the environment")]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_follows_the_specification() {
        let folder = |xdg: &str| {
            let xdg = PathBuf::from(xdg);
            from_variables(|name| match name {
                "HOME" => Some(PathBuf::from("/srv/ada")),
                "XDG_CONFIG_HOME" => Some(xdg.clone()),
                _ => None,
            })
        };
        assert_eq!(folder("/etc/ada"), PathBuf::from("/etc/ada/galerne"));
        assert_eq!(folder("relative"), PathBuf::from("/srv/ada/.config/galerne"));
    }
}
