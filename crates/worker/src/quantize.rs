//! Writing a model in another format. Q4_0 and Q8_0 have repacked kernels; the Q4_1 that packages carry has not and runs at
//! half their speed. INVARIANT: the output file exists only when it is whole.

use std::path::Path;

use serde_json::Value;

use crate::refusal::Refusal;

/// A format with fast kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// 4.5 bits per weight: fastest, some loss.
    #[value(name = "q4_0")]
    Q4_0,
    /// 8.5 bits per weight: hardly any loss.
    #[value(name = "q8_0")]
    Q8_0,
}

/// Writes `input` to `output` as `to`; says how large and how long.
#[cfg(not(feature = "llama"))]
pub fn quantize(input: &Path, output: &Path, to: Format, threads: Option<usize>) -> Result<Value, Refusal> {
    tracing::debug!(?input, ?output, ?to, ?threads, "nothing to quantise this with");
    Err(Refusal::engine_absent())
}

/// Writes `input` to `output` as `to`; says how large and how long.
#[cfg(feature = "llama")]
pub fn quantize(input: &Path, output: &Path, to: Format, threads: Option<usize>) -> Result<Value, Refusal> {
    use crate::{engine, gguf, machine};
    let started = std::time::Instant::now();
    let header = gguf::inspect(input).map_err(|problem| problem.refusal(input))?;
    let failed =
        |what: String| Refusal::new("quantize_failed", what, "the log on stderr has the reason; check the disk's room");
    if output.exists() {
        return Err(failed(format!("`{}` exists already", output.display())));
    }
    engine::backends(engine::Baseline::Accept)?;
    llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
    let mut part = output.as_os_str().to_owned();
    part.push(".part");
    let part = std::path::PathBuf::from(part);
    let to = match to {
        Format::Q4_0 => engine::Quantization::Q4_0,
        Format::Q8_0 => engine::Quantization::Q8_0,
    };
    let cores = machine::cores();
    let done = engine::quantize(input, &part, to, threads.unwrap_or(cores).clamp(1, cores));
    let whole = done.map_err(|e| failed(format!("`{}` cannot be written: {e}", output.display()))).and_then(|()| {
        gguf::inspect(&part).map_err(|problem| failed(format!("what was written is not whole: {problem}")))
    });
    let written = match whole {
        Ok(written) => written,
        Err(refusal) => {
            if let Err(e) = std::fs::remove_file(&part) {
                tracing::debug!(error = %e, "nothing to clean up");
            }
            return Err(refusal);
        }
    };
    std::fs::rename(&part, output)
        .map_err(|e| failed(format!("`{}` cannot be put in place: {e}", output.display())))?;
    Ok(serde_json::json!({
        "quantized": true,
        "input_bytes": header.file_bytes,
        "output_bytes": written.file_bytes,
        "ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
}
