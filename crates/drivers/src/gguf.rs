//! Facts from the head of a GGUF file (versions 2 and 3, little-endian), without an inference engine.
//!
//! A file is hostile until read: no count, length or offset in it is believed before it has been held
//! against the length of the file, and nothing is allocated by a number that the file merely claims.
//! Deliberately absent: the weights themselves, and any opinion on whether an engine can run them.

mod bounded;
mod facts;
mod model_facts;
mod quantisation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use bounded::Bounded;
pub use facts::GgufFacts;
use quantisation::TensorType;

/// Most entries of metadata: real models carry 20 to 60.
const ENTRIES_MAX: u64 = 65_536;
/// Most tensors: the largest open mixture models stay below 5,000.
const TENSORS_MAX: u64 = 65_536;
/// Most dimensions of a tensor (`GGML_MAX_DIMS`).
const DIMENSIONS_MAX: u32 = 4;
/// Longest key or tensor name; the format allows 65,535 bytes for a key and ggml 64 for a tensor.
const NAME_MAX_BYTES: u64 = 65_535;
/// Longest string that is kept: chat templates are 0.3 to 30 kB. Longer ones are skipped.
const TEXT_KEPT_MAX_BYTES: u64 = 1024 * 1024;
/// Longest numeric array that is kept: per-layer head counts. Vocabularies are only counted.
const ARRAY_KEPT_MAX: u64 = 1_024;
/// Strings that are kept, all together.
const KEPT_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Largest head: 256k-word vocabularies with merges take about 20 MB.
const HEAD_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// Why a file is not a GGUF model that can be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are something else.
    #[error("the file does not begin with `GGUF`, so it is not a GGUF model")]
    NotGguf,
    /// A version this reader does not know.
    #[error("GGUF version {0} is not supported; versions 2 and 3 are")]
    Version(u32),
    /// Written for big-endian machines.
    #[error("the GGUF file is big-endian, which no supported engine reads here")]
    BigEndian,
    /// The file ends before its own head does, or before its last tensor.
    #[error("the GGUF file is truncated: it has {file_bytes} bytes and needs at least {needed_bytes}")]
    Truncated {
        /// Length of the file.
        file_bytes: u64,
        /// The smallest length that its head asks for.
        needed_bytes: u64,
    },
    /// Something in the head contradicts the format.
    #[error("the GGUF head is not valid at byte {at}: {what}")]
    Invalid {
        /// Offset of the finding.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// The file could not be read.
    #[error("the GGUF file could not be read")]
    Io(#[source] std::io::Error),
}

impl GgufError {
    /// Public error code; each has a page in `docs/errors`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotGguf | Self::Version(_) | Self::BigEndian | Self::Invalid { .. } | Self::Truncated { .. } => {
                "gguf_invalid"
            }
            Self::Io(_) => "data_dir_unusable",
        }
    }
}

/// One value of the metadata, as far as it is kept.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Bool(bool),
    Text(String),
    /// Small arrays of integers.
    Integers(Vec<u64>),
    /// Anything else that has a length: how many elements.
    Counted(u64),
    /// Floats and skipped texts: nothing here depends on them.
    Skipped,
}

/// One tensor of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tensor {
    name: String,
    elements: u64,
    bytes: u64,
    kind: TensorType,
}

/// Reads the head of the model file at `path`.
pub fn read_file(path: &Path) -> Result<GgufFacts, GgufError> {
    let file = File::open(path).map_err(GgufError::Io)?;
    let length = file.metadata().map_err(GgufError::Io)?.len();
    read(BufReader::with_capacity(64 * 1024, file), length)
}

/// Reads the head of a model of `length` bytes and checks that every tensor lies inside it.
pub fn read<R: Read + Seek>(source: R, length: u64) -> Result<GgufFacts, GgufError> {
    let mut input = Bounded::new(source, length, HEAD_MAX_BYTES);
    let head = read_preamble(&mut input)?;
    let entries = read_entries(&mut input, head.entry_count)?;
    let alignment = alignment(&entries, &input)?;
    let (tensors, last_byte) = read_tensors(&mut input, head.tensor_count, alignment)?;
    let data_start = input.position().next_multiple_of(alignment);
    let needed_bytes = data_start.checked_add(last_byte).ok_or_else(|| input.invalid("tensor offsets overflow"))?;
    if tensors.is_empty() {
        return Err(input.invalid("there is no tensor in it (a vocabulary file?)"));
    }
    if needed_bytes > length {
        return Err(GgufError::Truncated { file_bytes: length, needed_bytes });
    }
    facts::gather(head.version, &entries, &tensors, length).map_err(|what| input.invalid(&what))
}

struct Preamble {
    version: u32,
    tensor_count: u64,
    entry_count: u64,
}

fn read_preamble<R: Read + Seek>(input: &mut Bounded<R>) -> Result<Preamble, GgufError> {
    let mut magic = [0u8; 4];
    match input.fill(&mut magic) {
        Ok(()) if &magic == b"GGUF" => {}
        Ok(()) | Err(GgufError::Truncated { .. }) => return Err(GgufError::NotGguf),
        Err(other) => return Err(other),
    }
    let version = input.u32()?;
    if matches!(version.swap_bytes(), 1..=3) {
        return Err(GgufError::BigEndian);
    }
    if !matches!(version, 2 | 3) {
        return Err(GgufError::Version(version));
    }
    let tensor_count = input.u64()?;
    let entry_count = input.u64()?;
    if tensor_count > TENSORS_MAX {
        return Err(input.invalid(&format!("it claims {tensor_count} tensors, more than {TENSORS_MAX}")));
    }
    if entry_count > ENTRIES_MAX {
        return Err(input.invalid(&format!("it claims {entry_count} metadata entries, more than {ENTRIES_MAX}")));
    }
    Ok(Preamble { version, tensor_count, entry_count })
}

fn read_entries<R: Read + Seek>(input: &mut Bounded<R>, count: u64) -> Result<BTreeMap<String, Value>, GgufError> {
    let mut entries = BTreeMap::new();
    let mut kept_bytes = 0u64;
    for _ in 0..count {
        let key = input.text(NAME_MAX_BYTES)?;
        let kind = input.u32()?;
        let value = read_value(input, kind)?;
        kept_bytes += key.len() as u64 + if let Value::Text(text) = &value { text.len() as u64 } else { 16 };
        if kept_bytes > KEPT_MAX_BYTES {
            return Err(input.invalid("the metadata texts are larger than 8 MiB together"));
        }
        if entries.insert(key, value).is_some() {
            return Err(input.invalid("a metadata key appears twice"));
        }
    }
    Ok(entries)
}

fn read_value<R: Read + Seek>(input: &mut Bounded<R>, kind: u32) -> Result<Value, GgufError> {
    Ok(match kind {
        0 => Value::Unsigned(u64::from(input.u8()?)),
        1 => Value::Signed(i64::from(i8::from_le_bytes(input.bytes()?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(input.bytes()?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(input.bytes()?))),
        4 => Value::Unsigned(u64::from(input.u32()?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(input.bytes()?))),
        6 => skip(input, 4)?,
        7 => match input.u8()? {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(input.invalid(&format!("{other} is not a truth value"))),
        },
        8 => read_text(input)?,
        9 => read_array(input)?,
        10 => Value::Unsigned(input.u64()?),
        11 => Value::Signed(i64::from_le_bytes(input.bytes()?)),
        12 => skip(input, 8)?,
        other => return Err(input.invalid(&format!("metadata type {other} is unknown"))),
    })
}

fn skip<R: Read + Seek>(input: &mut Bounded<R>, bytes: u64) -> Result<Value, GgufError> {
    input.skip(bytes)?;
    Ok(Value::Skipped)
}

fn read_text<R: Read + Seek>(input: &mut Bounded<R>) -> Result<Value, GgufError> {
    let length = input.u64()?;
    if length > TEXT_KEPT_MAX_BYTES {
        return skip(input, length);
    }
    Ok(Value::Text(input.text_of(length)?))
}

fn read_array<R: Read + Seek>(input: &mut Bounded<R>) -> Result<Value, GgufError> {
    let kind = input.u32()?;
    let count = input.u64()?;
    let width: u64 = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        8 => {
            // A string costs at least its eight length bytes, so a false count ends at the end of the file.
            input.check_left(count.saturating_mul(8))?;
            for _ in 0..count {
                let length = input.u64()?;
                input.skip(length)?;
            }
            return Ok(Value::Counted(count));
        }
        9 => return Err(input.invalid("arrays of arrays are not supported")),
        other => return Err(input.invalid(&format!("array element type {other} is unknown"))),
    };
    if count > ARRAY_KEPT_MAX || matches!(kind, 6 | 12) {
        let bytes = count.checked_mul(width).ok_or_else(|| input.invalid("an array length overflows"))?;
        input.skip(bytes)?;
        return Ok(Value::Counted(count));
    }
    let mut integers = Vec::new();
    for _ in 0..count {
        match read_value(input, kind)? {
            Value::Unsigned(n) => integers.push(n),
            Value::Signed(n) => integers.push(u64::try_from(n).unwrap_or(0)),
            Value::Bool(b) => integers.push(u64::from(b)),
            Value::Text(_) | Value::Integers(_) | Value::Counted(_) | Value::Skipped => {}
        }
    }
    Ok(Value::Integers(integers))
}

fn alignment<R: Read + Seek>(entries: &BTreeMap<String, Value>, input: &Bounded<R>) -> Result<u64, GgufError> {
    match entries.get("general.alignment") {
        None => Ok(32),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=65_536).contains(n) => Ok(*n),
        Some(_) => Err(input.invalid("`general.alignment` must be a power of two from 8 to 65536")),
    }
}

/// The tensors, and the end of the one that reaches furthest into the data part.
fn read_tensors<R: Read + Seek>(
    input: &mut Bounded<R>,
    count: u64,
    alignment: u64,
) -> Result<(Vec<Tensor>, u64), GgufError> {
    let mut tensors = Vec::new();
    let mut last_byte = 0u64;
    for _ in 0..count {
        let name = input.text(NAME_MAX_BYTES)?;
        let dimension_count = input.u32()?;
        if dimension_count > DIMENSIONS_MAX {
            return Err(
                input.invalid(&format!("a tensor has {dimension_count} dimensions, more than {DIMENSIONS_MAX}"))
            );
        }
        let mut elements = 1u64;
        let mut row = 1u64;
        for dimension in 0..dimension_count {
            let size = input.u64()?;
            row = if dimension == 0 { size } else { row };
            elements = elements.checked_mul(size).ok_or_else(|| input.invalid("tensor dimensions overflow"))?;
        }
        let id = input.u32()?;
        let kind = TensorType::from_id(id).ok_or_else(|| input.invalid(&format!("tensor type {id} is unknown")))?;
        let offset = input.u64()?;
        if elements == 0 || !row.is_multiple_of(kind.block_elements) {
            return Err(input.invalid(&format!(
                "the size of tensor `{}` does not fit its type {}",
                shown(&name),
                kind.name
            )));
        }
        if !offset.is_multiple_of(alignment) {
            return Err(input.invalid(&format!("tensor `{}` is not aligned to {alignment} bytes", shown(&name))));
        }
        let bytes = (elements / kind.block_elements)
            .checked_mul(kind.block_bytes)
            .ok_or_else(|| input.invalid("tensor dimensions overflow"))?;
        let end = offset.checked_add(bytes).ok_or_else(|| input.invalid("a tensor offset overflows"))?;
        last_byte = last_byte.max(end);
        tensors.push(Tensor { name, elements, bytes, kind });
    }
    Ok((tensors, last_byte))
}

/// A name from a file, fit to be printed.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
