//! Adapters (LoRA) of the served model: their files, checked before llama.cpp sees them, and those that requests may name.
//! INVARIANT: an adapter's weights stay in memory while anything holds its `Adapter`: the list here, a request being prepared,
//! one that waits, one being answered. The engine frees them when only it is left.
//! Deliberately absent: who may attach what; whoever reaches the worker's port may name files of one folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::fingerprint::Fingerprint;
use crate::gguf::{self, AdapterHeader};
use crate::limits;

/// One attaching of one file; never used again, so that nothing computed with one adapter can be taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AdapterId(pub u64);

/// An attached adapter.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub id: AdapterId,
    /// What requests call it.
    pub name: String,
    /// The file, as it was named.
    pub root: String,
    /// Unix seconds.
    pub attached_at: i64,
    /// How much of it is added to the model.
    pub scale: f32,
    /// Of the file and the scale.
    pub fingerprint: Fingerprint,
}

/// Why an adapter cannot be attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("this worker takes no adapters; hint: start it with `--adapters FOLDER`, the folder of their files")]
    Closed,
    #[error("there is no file `{0}` in the folder of adapters; hint: give its name, or its path in that folder")]
    Missing(String),
    #[error("{0}")]
    File(String),
    #[error("it adapts the architecture `{found}`, this model's is `{served}`")]
    Architecture { found: String, served: String },
    #[error("it needs {needed} MiB, {available} MiB are available")]
    Memory { needed: u64, available: u64 },
}

/// The adapters that requests may name, and where their files lie.
#[derive(Debug, Default)]
pub(crate) struct Adapters {
    folder: Option<PathBuf>,
    named: Mutex<BTreeMap<String, Arc<Adapter>>>,
    /// Held by whoever attaches one.
    pub(crate) attaching: tokio::sync::Mutex<LastId>,
}

/// The last id that was given.
#[derive(Debug, Default)]
pub(crate) struct LastId(u64);

impl LastId {
    pub(crate) fn next(&mut self) -> AdapterId {
        self.0 += 1;
        AdapterId(self.0)
    }
}

impl Adapters {
    pub(crate) fn in_folder(folder: Option<PathBuf>) -> Self {
        Self { folder, ..Self::default() }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Adapter>> {
        self.list().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Adapter>> {
        self.list().values().cloned().collect()
    }

    pub(crate) fn add(&self, adapter: Arc<Adapter>) {
        self.list().insert(adapter.name.clone(), adapter);
    }

    /// From here on requests that name it are refused; those that did are answered.
    pub(crate) fn remove(&self, name: &str) -> Option<Arc<Adapter>> {
        self.list().remove(name)
    }

    fn list(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Adapter>>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that `named` means: in the folder, whatever links and dots say.
    pub(crate) fn file(&self, named: &str) -> Result<PathBuf, Unfit> {
        let folder = self.folder.as_ref().ok_or(Unfit::Closed)?;
        let missing = || Unfit::Missing(named.chars().take(200).collect());
        let folder = folder.canonicalize().map_err(|_| missing())?;
        let path = folder.join(named).canonicalize().map_err(|_| missing())?;
        if path.starts_with(&folder) && path.is_file() { Ok(path) } else { Err(missing()) }
    }
}

/// Reads a file's head: what llama.cpp would abort on, and what the model is not made for, is refused here.
pub(crate) fn check(path: &Path, architecture: &str, available: Option<u64>) -> Result<AdapterHeader, Unfit> {
    let header = gguf::inspect_adapter(path).map_err(|problem| Unfit::File(format!("it cannot be used: {problem}")))?;
    if header.architecture != architecture {
        return Err(Unfit::Architecture { found: header.architecture, served: architecture.to_owned() });
    }
    // The weights, and the graph that grows by them.
    let needed = header.tensor_bytes.saturating_add(limits::ADAPTER_SPARE_BYTES);
    match available {
        Some(available) if available < needed => {
            Err(Unfit::Memory { needed: needed.div_ceil(1 << 20), available: available >> 20 })
        }
        _ => Ok(header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_folder_are_taken_whatever_their_path_says() {
        let root = tempfile::tempdir().expect("a directory");
        let folder = root.path().join("adapters");
        std::fs::create_dir_all(folder.join("team")).expect("created");
        std::fs::write(folder.join("team/a.gguf"), "x").expect("written");
        std::fs::write(root.path().join("secret"), "x").expect("written");
        std::os::unix::fs::symlink(root.path().join("secret"), folder.join("link")).expect("linked");
        let adapters = Adapters::in_folder(Some(folder.clone()));
        let inside = folder.canonicalize().expect("there").join("team/a.gguf");
        assert_eq!(adapters.file("team/a.gguf").expect("inside"), inside);
        assert_eq!(adapters.file(inside.to_str().expect("UTF-8")).expect("inside"), inside);
        for outside in ["../secret", "link", "team", "team/../../secret", "/etc/passwd", "none.gguf", ""] {
            assert!(matches!(adapters.file(outside), Err(Unfit::Missing(_))), "{outside}");
        }
        assert!(matches!(Adapters::default().file("team/a.gguf"), Err(Unfit::Closed)));
    }
}
