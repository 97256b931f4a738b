//! Back ends, model and context: loaded, checked and described, or refused with the reason.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use llama_cpp_2::LlamaBackendDeviceType;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_backend::{LlamaBackend, load_backends_from_path};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use super::{Baseline, Settings, native};
use crate::complaint;
use crate::fingerprint::Fingerprint;
use crate::gguf::Header;
use crate::limits;
use crate::loaded::{self, Loaded, Task};
use crate::manner::Manner;
use crate::markup::{self, Markup, Specials};
use crate::refusal::Refusal;
use crate::template::ChatTemplate;
use crate::vocabulary::{self, Frame, Gap, Vocabulary};

/// A model in memory. The back end must outlive it.
pub(super) struct Opened {
    pub(super) model: Arc<LlamaModel>,
    backend: LlamaBackend,
    backend_name: String,
}

/// Loads back ends and model.
pub(super) fn open(settings: &Settings) -> Result<Opened, Refusal> {
    native::report_aborts();
    llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
    let backend_name = backends(settings.baseline)?;
    let backend = LlamaBackend::init().map_err(|e| failed("the back end cannot be initialised", &e))?;
    complaint::forget();
    let model = LlamaModel::load_from_file(&backend, &settings.model, &LlamaModelParams::default()).map_err(|e| {
        Refusal::new(
            "engine_load",
            format!("llama.cpp cannot load the model: {}", complaint::since_last(&e)),
            "try another quantisation of it or a newer Galerne; the log has the details",
        )
    })?;
    Ok(Opened { model: Arc::new(model), backend, backend_name })
}

/// Loads the back ends beside the executable and checks that the processor's wide instructions are used.
pub(crate) fn backends(baseline: Baseline) -> Result<String, Refusal> {
    let directory = backend_directory()?;
    load_backends_from_path(&directory);
    let features = native::cpu_features();
    if features.is_empty() {
        return Err(Refusal::new(
            "engine_backend",
            format!("no back end for this processor was found in `{}`", directory.display()),
            "the libraries named libggml-cpu-* must lie beside galerne-worker: make",
        ));
    }
    let variant = native::cpu_variant().unwrap_or_else(|| "cpu".into());
    let wide = if cfg!(target_arch = "aarch64") { ["NEON", "DOTPROD"].as_slice() } else { ["AVX2"].as_slice() };
    let missing: Vec<&str> = wide.iter().copied().filter(|name| !features.iter().any(|f| f == name)).collect();
    if baseline == Baseline::Refuse && !missing.is_empty() {
        return Err(Refusal::new(
            "engine_baseline_cpu",
            format!(
                "the CPU variant `{variant}` runs without {}; it would be five to ten times slower than this engine can be",
                missing.join(" and ")
            ),
            "use a machine whose processor has them and keep all libggml-cpu-* libraries beside galerne-worker; by \
             hand it starts with --allow-baseline",
        ));
    }
    let devices = llama_cpp_2::list_llama_ggml_backend_devices();
    let gpus = devices.into_iter().filter(|device| device.device_type == LlamaBackendDeviceType::Gpu);
    let names: Vec<String> = gpus.map(|gpu| format!("{} {}", gpu.name, gpu.description)).chain([variant]).collect();
    Ok(names.join(", "))
}

/// Libraries lie beside the executable, or in `engine/` beside it.
fn backend_directory() -> Result<PathBuf, Refusal> {
    let executable = std::env::current_exe().map_err(|e| failed("the executable's own path is unknown", &e))?;
    let own = executable.parent().unwrap_or_else(|| Path::new("/")).to_path_buf();
    let inner = own.join("engine");
    Ok(if has_cpu_backend(&inner) { inner } else { own })
}

fn has_cpu_backend(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libggml-cpu"))
    })
}

/// A context for the task.
///
/// Generation: cells of its own for each sequence (`prefix` says why).
/// Embeddings: each step is computed from nothing, so the cache is one step long.
pub(super) fn context<'m>(opened: &'m Opened, settings: &Settings) -> Result<LlamaContext<'m>, Refusal> {
    let threads = i32::try_from(settings.threads).unwrap_or(i32::MAX);
    let base = LlamaContextParams::default().with_n_threads(threads).with_n_threads_batch(threads).with_no_perf(true);
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let parameters = match settings.task {
        Task::Generate => base
            .with_n_ctx(NonZeroU32::new(number(settings.context * settings.sequences)))
            .with_n_batch(number(limits::STEP_TOKENS))
            .with_n_ubatch(number(limits::STEP_TOKENS))
            .with_n_seq_max(number(settings.sequences))
            .with_kv_unified(false),
        Task::Embed => base
            .with_n_ctx(NonZeroU32::new(number(settings.context)))
            .with_n_batch(number(settings.context))
            // An encoder sees its whole text at once: no smaller parts.
            .with_n_ubatch(number(settings.context))
            .with_n_seq_max(number(settings.sequences))
            .with_kv_unified(true)
            .with_pooling_type(pooling(&opened.model))
            .with_embeddings(true),
    };
    complaint::forget();
    opened.model.new_context(&opened.backend, parameters).map_err(|e| {
        Refusal::new(
            "engine_buffers",
            format!(
                "llama.cpp cannot set up {} sequences of {} tokens: {}",
                settings.sequences,
                settings.context,
                complaint::since_last(&e)
            ),
            "lower the context or the number of sequences; the log has the details",
        )
    })
}

/// The model's own way of pooling, or the mean for models that were not made for embeddings.
fn pooling(model: &LlamaModel) -> LlamaPoolingType {
    let named = model.meta_val_str("general.architecture").ok().and_then(|architecture| {
        let kind = model.meta_val_str(&format!("{architecture}.pooling_type")).ok()?;
        kind.parse::<u32>().ok().filter(|&kind| kind != 0)
    });
    if named.is_some() { LlamaPoolingType::Unspecified } else { LlamaPoolingType::Mean }
}

/// What the HTTP side needs to know of the model.
pub(super) fn describe(opened: &Opened, settings: &Settings, header: &Header, load_ms: u64) -> Result<Loaded, Refusal> {
    let vocabulary = LlamaVocabulary::new(Arc::clone(&opened.model), header.chat_template.as_deref());
    let bos = vocabulary.special_text(opened.model.vocab().bos());
    let eos = vocabulary.special_text(opened.model.vocab().eos());
    let template =
        header.chat_template.as_deref().map(|source| ChatTemplate::new(source, bos.clone(), eos)).transpose();
    let template = template.map_err(|e| {
        Refusal::new(
            "model_template",
            format!("the model's chat template cannot be used: {e}"),
            "report the model: its Jinja template uses what Galerne does not know",
        )
    })?;
    let manner = Manner::of(header.chat_template.as_deref().unwrap_or_default());
    let fingerprint =
        fingerprint(settings, &opened.backend_name).map_err(|e| failed("its files cannot be read", &e))?;
    Ok(Loaded {
        fingerprint,
        marks: loaded::marks(&vocabulary),
        vocabulary: Arc::new(vocabulary),
        template,
        manner,
        grammars: OnceLock::new(),
        bos,
        backend: opened.backend_name.clone(),
        context: settings.context,
        load_ms,
        architecture: header.architecture.clone(),
    })
}

/// Of the program, its libraries, the weights, and how they are served.
fn fingerprint(settings: &Settings, backend: &str) -> std::io::Result<Fingerprint> {
    let numbers = [settings.context, settings.sequences, limits::STEP_TOKENS].map(|n| (n as u64).to_le_bytes());
    let served =
        numbers.iter().fold(Fingerprint::default(), |print, number| print.with(number)).with(backend.as_bytes());
    let print = served.with_file(&settings.model)?.with_file(&std::env::current_exe()?)?;
    let directory = backend_directory().map_err(|refusal| std::io::Error::other(refusal.message))?;
    let mut libraries: Vec<PathBuf> = std::fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
    let is_library = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"));
    libraries.retain(is_library);
    libraries.sort();
    libraries.iter().try_fold(print, |print, library| print.with_file(library))
}

struct LlamaVocabulary {
    model: Arc<LlamaModel>,
    /// Texts that stand for control tokens where markup is obeyed.
    controls: Specials,
    /// Texts that are one token wherever they stand.
    defined: Specials,
    /// Those of the control tokens that llama.cpp would take from plain text as well.
    turns: Specials,
    longest: usize,
}

impl LlamaVocabulary {
    fn new(model: Arc<LlamaModel>, template: Option<&str>) -> Self {
        let vocab = model.vocab();
        let (mut controls, mut defined, mut turns) = (vec![], vec![], vec![]);
        let (mut longest, mut piece) = (1, vec![]);
        for token in vocab.tokens() {
            piece.clear();
            vocab.token_to_piece_into(token, &mut piece, true, None);
            longest = longest.max(piece.len());
            let kind = vocab.attr(token);
            let text = || vocab.text(token).map(|text| text.to_bytes().to_vec());
            let is_turn = |text: &Vec<u8>| template.is_some_and(|template| markup::is_turn_markup(text, template));
            // As llama.cpp reads them: both kinds stand for themselves only where markup is obeyed.
            if kind.contains(LlamaTokenAttr::Control) || kind.contains(LlamaTokenAttr::Unknown) {
                controls.extend(text());
            } else if kind.contains(LlamaTokenAttr::UserDefined) {
                let text = text();
                if text.as_ref().is_some_and(is_turn) {
                    turns.extend(text.clone());
                    controls.extend(text);
                } else {
                    defined.extend(text);
                }
            }
        }
        let [controls, defined, turns] = [controls, defined, turns].map(Specials::new);
        Self { model, controls, defined, turns, longest }
    }

    fn special_text(&self, token: LlamaToken) -> String {
        if token.0 < 0 {
            return String::new();
        }
        String::from_utf8_lossy(&self.model.vocab().token_to_piece(token, true, None)).into_owned()
    }
}

impl std::fmt::Debug for LlamaVocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LlamaVocabulary").field("size", &self.size()).finish()
    }
}

impl Vocabulary for LlamaVocabulary {
    fn tokenize(&self, text: &str, frame: Frame, markup: Markup) -> Vec<i32> {
        let vocab = self.model.vocab();
        let is_framed = frame == Frame::Added;
        // A token that ends every text must come once: such models (encoders) have short contexts, their texts stay whole.
        let every = if is_framed && vocab.should_add_eos() { usize::MAX } else { limits::SPECIALS_AT_ONCE };
        let mut tokens = Vec::with_capacity(text.len() / 2 + 8);
        let mut first = is_framed;
        for part in vocabulary::parts(text, &self.defined, every) {
            let inner = match markup {
                Markup::Obeyed => vocabulary::parts(part, &self.controls, every),
                Markup::Plain => markup::cut_inside(part, &self.turns),
            };
            for part in inner {
                vocab.tokenize_into(part.as_bytes(), &mut tokens, first, markup == Markup::Obeyed);
                first = false;
            }
        }
        tokens.into_iter().map(|token| token.0).collect()
    }

    fn piece(&self, token: i32) -> Vec<u8> {
        self.model.vocab().token_to_piece(LlamaToken(token), true, None)
    }

    fn plain_piece(&self, token: i32) -> Vec<u8> {
        self.model.vocab().token_to_piece(LlamaToken(token), false, None)
    }

    fn ends(&self) -> Vec<i32> {
        let vocab = self.model.vocab();
        vocab.tokens().filter(|&token| vocab.is_eog(token)).map(|token| token.0).collect()
    }

    fn gap(&self) -> Option<Gap> {
        let vocab = self.model.vocab();
        let [prefix, suffix, middle] = [vocab.fim_pre().0, vocab.fim_suf().0, vocab.fim_mid().0];
        if prefix >= 0 && suffix >= 0 && middle >= 0 {
            return Some(Gap::Middle { prefix, suffix, middle });
        }
        // Mistral's, which llama.cpp does not know.
        let control = |text: &str| match self.tokenize(text, Frame::Left, Markup::Obeyed).as_slice() {
            [token] if vocab.is_control(LlamaToken(*token)) => Some(*token),
            _ => None,
        };
        Some(Gap::Continued { suffix: control("[SUFFIX]")?, prefix: control("[PREFIX]")? })
    }

    fn controls(&self) -> &Specials {
        &self.controls
    }

    fn longest(&self) -> usize {
        self.longest
    }

    fn size(&self) -> usize {
        usize::try_from(self.model.n_vocab()).unwrap_or(0)
    }
}

fn failed(what: &str, why: &dyn std::error::Error) -> Refusal {
    Refusal::new("engine_load", format!("{what}: {why}"), "the log on stderr has the details")
}
