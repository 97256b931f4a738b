//! The few functions of llama.cpp that the binding does not wrap. The only unsafe code of the worker.
#![allow(unsafe_code, reason = "calls into llama.cpp; each call says why it is sound")]

use std::ffi::{CStr, CString, c_char};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_sys_2 as sys;

use crate::complaint;

static IS_READY: AtomicBool = AtomicBool::new(false);

/// From here on an abort is no refusal to start.
pub(super) fn announce_ready() {
    IS_READY.store(true, Ordering::Relaxed);
}

/// Lets llama.cpp's last words before `abort()` reach whoever started the worker.
pub(super) fn report_aborts() {
    // SAFETY: a plain function without state is stored; it stays valid for the life of the process.
    unsafe { sys::ggml_set_abort_callback(Some(on_abort)) };
}

extern "C" fn on_abort(message: *const c_char) {
    let text = if message.is_null() {
        "no message".into()
    } else {
        // SAFETY: ggml passes a NUL-terminated string that lives until this function returns.
        unsafe { CStr::from_ptr(message) }.to_string_lossy()
    };
    tracing::error!(why = %without_path(text.trim()), "llama.cpp gives up and ends the process");
    if !IS_READY.load(Ordering::Relaxed) {
        let line = serde_json::json!({
            "ready": false,
            "code": "engine_abort",
            "message": format!("llama.cpp gave up on the model: {}", without_path(text.trim())),
            "hint": "the file may be damaged or need a newer engine: compare its SHA-256",
        });
        // Nothing can be done about a closed pipe in a process that is about to abort.
        drop(writeln!(std::io::stdout(), "{line}"));
    }
}

/// The message without the directories of the machine that compiled llama.cpp: `FILE:LINE: TEXT`.
fn without_path(message: &str) -> &str {
    let path_end = message.find(':').unwrap_or(0);
    message[..path_end].rfind('/').map_or(message, |at| &message[at + 1..])
}

/// Instruction sets that the loaded CPU back end was compiled for, as ggml names them. Empty when none is loaded.
pub(super) fn cpu_features() -> Vec<String> {
    // SAFETY: the registry lives as long as the process; the function found under this documented name has this type
    // (ggml-backend.h), and returns a list that ends with an entry without a name, valid for the life of the back end.
    unsafe {
        let registry = sys::ggml_backend_reg_by_name(c"CPU".as_ptr());
        if registry.is_null() {
            return vec![];
        }
        let address = sys::ggml_backend_reg_get_proc_address(registry, c"ggml_backend_get_features".as_ptr());
        if address.is_null() {
            return vec![];
        }
        let features = std::mem::transmute::<*mut std::ffi::c_void, sys::ggml_backend_get_features_t>(address);
        let Some(features) = features else { return vec![] };
        let mut entry = features(registry);
        let mut names = vec![];
        while !entry.is_null() && !(*entry).name.is_null() {
            let value = CStr::from_ptr((*entry).value).to_bytes();
            if value != b"0" {
                names.push(CStr::from_ptr((*entry).name).to_string_lossy().into_owned());
            }
            entry = entry.add(1);
        }
        names
    }
}

/// The loaded CPU variant, from the name of its library.
pub(super) fn cpu_variant() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (_, name) = line.rsplit_once("/libggml-")?;
        Some(name.strip_suffix(".so")?.to_owned()).filter(|name| name.starts_with("cpu"))
    })
}

/// An adapter's weights in memory, freed with it.
/// INVARIANT: it is made, worn and dropped on the engine's thread, the only one that reads what llama.cpp notes of adapters in the
/// model; the vocabulary, which others read, is no part of that. No context wears it when it is dropped.
pub(super) struct AdapterWeights {
    adapter: LlamaLoraAdapter,
    /// Freeing it takes it off the model's list.
    _model: Arc<LlamaModel>,
}

impl AdapterWeights {
    /// Reads a file; `None` when llama.cpp does not take it, and has said why.
    pub(super) fn load(model: &Arc<LlamaModel>, path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        let shared: &LlamaModel = model;
        // SAFETY: `LlamaModel` is a transparent wrapper around the pointer that is read here, and outlives the adapter by the
        // `Arc` beside it. llama.cpp adds the adapter to a list in the model that only this thread uses (see above), and
        // catches its own exceptions.
        let adapter = unsafe {
            let raw = std::mem::transmute_copy::<LlamaModel, *mut sys::llama_model>(shared);
            sys::llama_adapter_lora_init(raw, path.as_ptr())
        };
        let adapter = NonNull::new(adapter)?;
        // SAFETY: `LlamaLoraAdapter` is a transparent wrapper around such a pointer, and frees nothing by itself.
        let adapter = unsafe { std::mem::transmute::<NonNull<sys::llama_adapter_lora>, LlamaLoraAdapter>(adapter) };
        Some(Self { adapter, _model: Arc::clone(model) })
    }

    /// From here on the context computes with it, and with no other.
    pub(super) fn put_on(&mut self, context: &mut LlamaContext<'_>, scale: f32) {
        context.lora_adapter_set(&mut self.adapter, scale).expect("llama.cpp refuses no adapter of its model");
    }

    /// From here on the context computes with none.
    pub(super) fn take_off(&mut self, context: &mut LlamaContext<'_>) {
        context.lora_adapter_remove(&mut self.adapter).expect("llama.cpp always can");
    }
}

impl Drop for AdapterWeights {
    fn drop(&mut self) {
        // SAFETY: the same transparent wrapper; the pointer came from llama.cpp and is freed once, before its model.
        unsafe {
            let raw = std::mem::transmute_copy::<LlamaLoraAdapter, *mut sys::llama_adapter_lora>(&self.adapter);
            sys::llama_adapter_lora_free(raw);
        }
    }
}

/// Why a model could not be quantised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuantizeError {
    #[error("the path `{0}` holds a zero byte")]
    Path(String),
    #[error("{0}")]
    Failed(String),
}

/// Target of a quantisation: the two formats with repacked kernels (Q4_1 has none and runs at half their speed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantization {
    Q4_0,
    Q8_0,
}

/// Writes `input` to `output` in another format. The back ends must be loaded.
pub(crate) fn quantize(input: &Path, output: &Path, to: Quantization, threads: usize) -> Result<(), QuantizeError> {
    let path = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| QuantizeError::Path(path.display().to_string()))
    };
    let (input, output) = (path(input)?, path(output)?);
    complaint::forget();
    // SAFETY: both strings and the parameters outlive the call; llama.cpp catches its own exceptions.
    let code = unsafe {
        let mut parameters = sys::llama_model_quantize_default_params();
        parameters.ftype = match to {
            Quantization::Q4_0 => sys::LLAMA_FTYPE_MOSTLY_Q4_0,
            Quantization::Q8_0 => sys::LLAMA_FTYPE_MOSTLY_Q8_0,
        };
        parameters.allow_requantize = true;
        parameters.nthread = i32::try_from(threads).unwrap_or(1);
        sys::llama_model_quantize(input.as_ptr(), output.as_ptr(), &raw const parameters)
    };
    if code == 0 {
        return Ok(());
    }
    let otherwise = format!("llama.cpp refused with code {code}");
    Err(QuantizeError::Failed(complaint::since_last(&otherwise)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_is_told_without_the_builder_s_directories() {
        assert_eq!(without_path("/a/b/llama-vocab.cpp:2578: x / y"), "llama-vocab.cpp:2578: x / y");
        assert_eq!(without_path("out of memory"), "out of memory");
    }
}
