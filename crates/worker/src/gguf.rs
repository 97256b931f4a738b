//! Reading the header of a GGUF file before the engine sees it: llama.cpp aborts the process on some broken files, and allocates
//! what a hostile one asks for. Everything here is bounded by the length of the file and by `limits`.
//! Deliberately absent: tensor data, and every key the worker does not need.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::limits;
use crate::refusal::Refusal;

mod adapter;

pub(crate) use adapter::{AdapterHeader, inspect_adapter};

/// What the header of a model file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub architecture: String,
    pub file_bytes: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    pub layers: u64,
    pub embedding_length: u64,
    pub feed_forward_length: u64,
    /// Numbers per token and layer in the attention cache, keys and values, summed over the layers.
    pub cache_values_per_token: u64,
    pub context_length: u64,
    pub vocabulary: u64,
    pub chat_template: Option<String>,
}

/// What is wrong with a model file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("cannot read the file")]
    Io(#[source] std::io::Error),
    #[error("the file ends at byte {length} inside its header")]
    Truncated { length: u64 },
    #[error("{0}")]
    Broken(String),
}

impl Problem {
    /// As shown to whoever started the worker.
    #[must_use]
    pub(crate) fn refusal(&self, path: &Path) -> Refusal {
        let path = path.display();
        match self {
            Self::Io(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Refusal::new("model_missing", format!("there is no model file `{path}`"), "galerne model pull")
            }
            Self::Io(e) => Refusal::new(
                "model_unreadable",
                format!("cannot read the model file `{path}`: {e}"),
                "check the file's owner and mode",
            ),
            Self::Truncated { .. } | Self::Broken(_) => Refusal::new(
                "model_invalid",
                format!("`{path}` is not a usable GGUF model: {self}"),
                "fetch it again and compare its SHA-256: galerne model pull",
            ),
        }
    }
}

/// Reads and checks the header of a model file.
pub(crate) fn inspect(path: &Path) -> Result<Header, Problem> {
    let (source, length) = open(path)?;
    read(source, length)
}

fn open(path: &Path) -> Result<(BufReader<File>, u64), Problem> {
    let file = File::open(path).map_err(Problem::Io)?;
    let meta = file.metadata().map_err(Problem::Io)?;
    if !meta.is_file() {
        return Err(Problem::Broken("it is not a regular file".into()));
    }
    Ok((BufReader::with_capacity(64 * 1024, file), meta.len()))
}

/// Reads and checks a header from `source`, which has `length` bytes.
pub(crate) fn read<R: Read + Seek>(source: R, length: u64) -> Result<Header, Problem> {
    let Parsed { facts, tensor_bytes, .. } = parse(source, length)?;
    facts.header(length, tensor_bytes)
}

/// What any header holds.
struct Parsed {
    facts: Facts,
    tensors: Vec<Tensor>,
    /// Of all tensors.
    tensor_bytes: u64,
}

/// A tensor, as the header describes it.
struct Tensor {
    name: String,
    sizes: [u64; 4],
    kind: u32,
    /// In the data.
    offset: u64,
    bytes: u64,
}

fn parse<R: Read + Seek>(source: R, length: u64) -> Result<Parsed, Problem> {
    let mut reader = Reader { source, at: 0, length };
    let (tensors, keys) = reader.preamble()?;
    let mut facts = Facts::default();
    for _ in 0..keys {
        let name = reader.string()?;
        let value = reader.value(&name)?;
        facts.0.insert(name, value);
    }
    let alignment = facts.number("general.alignment").unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return broken(format!("the alignment {alignment} is no small power of two"));
    }
    let tensors: Vec<Tensor> = (0..tensors).map(|_| reader.tensor(alignment)).collect::<Result<_, _>>()?;
    let data_at = reader.at.next_multiple_of(alignment);
    let mut tensor_bytes = 0_u64;
    for Tensor { name, offset, bytes, .. } in &tensors {
        let end = data_at.checked_add(*offset).and_then(|at| at.checked_add(*bytes));
        if end.is_none_or(|end| end > length) {
            return broken(format!(
                "tensor `{name}` needs {bytes} bytes at {offset} of the data, the file has {} bytes of data (truncated?)",
                length.saturating_sub(data_at)
            ));
        }
        tensor_bytes = tensor_bytes.saturating_add(*bytes);
    }
    Ok(Parsed { facts, tensors, tensor_bytes })
}

#[derive(Debug)]
enum Value {
    Number(u64),
    Real(f32),
    Text(String),
    Numbers(Vec<u64>),
    /// Length of an array that is not kept.
    Length(u64),
    Skipped,
}

struct Reader<R> {
    source: R,
    at: u64,
    length: u64,
}

impl<R: Read + Seek> Reader<R> {
    /// Magic, version, number of tensors and keys.
    fn preamble(&mut self) -> Result<(u64, u64), Problem> {
        let magic = self.bytes::<4>()?;
        if &magic != b"GGUF" {
            return broken(format!("it begins with {magic:02x?} instead of `GGUF`"));
        }
        let version = u32::from_le_bytes(self.bytes()?);
        if !(2..=3).contains(&version) {
            return broken(format!("GGUF version {version} is not 2 or 3 (or the file is big-endian)"));
        }
        let (tensors, keys) = (self.u64()?, self.u64()?);
        if tensors > limits::GGUF_ENTRIES || keys > limits::GGUF_ENTRIES {
            return broken(format!(
                "{tensors} tensors and {keys} keys; at most {} each are read",
                limits::GGUF_ENTRIES
            ));
        }
        Ok((tensors, keys))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Problem> {
        self.source.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Problem::Truncated { length: self.length },
            _ => Problem::Io(e),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn u64(&mut self) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn string(&mut self) -> Result<String, Problem> {
        let length = self.u64()?;
        if length > limits::GGUF_STRING_BYTES {
            return broken(format!("a string of {length} bytes; at most {} are read", limits::GGUF_STRING_BYTES));
        }
        if length > self.length - self.at.min(self.length) {
            return Err(Problem::Truncated { length: self.length });
        }
        let mut bytes = vec![0; usize::try_from(length).expect("bounded above")];
        self.fill(&mut bytes)?;
        // Some tokenisers hold broken characters; keys and names the worker uses are ASCII.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Problem> {
        let end = self.at.checked_add(bytes).filter(|&end| end <= self.length);
        let end = end.ok_or(Problem::Truncated { length: self.length })?;
        let step = i64::try_from(bytes).map_err(|_| Problem::Truncated { length: self.length })?;
        self.source.seek(SeekFrom::Current(step)).map_err(Problem::Io)?;
        self.at = end;
        Ok(())
    }

    fn value(&mut self, name: &str) -> Result<Value, Problem> {
        let kind = self.u32()?;
        match kind {
            STRING => Ok(Value::Text(self.string()?)),
            ARRAY => self.array(name),
            _ => self.scalar(kind, name),
        }
    }

    fn scalar(&mut self, kind: u32, name: &str) -> Result<Value, Problem> {
        Ok(match kind {
            0 | 7 => Value::Number(u64::from(self.bytes::<1>()?[0])),
            2 => Value::Number(u64::from(u16::from_le_bytes(self.bytes()?))),
            4 => Value::Number(u64::from(self.u32()?)),
            5 => Value::Number(u64::try_from(i32::from_le_bytes(self.bytes()?)).unwrap_or(0)),
            10 => Value::Number(self.u64()?),
            11 => Value::Number(u64::try_from(i64::from_le_bytes(self.bytes()?)).unwrap_or(0)),
            6 => Value::Real(f32::from_le_bytes(self.bytes()?)),
            1 | 3 | 12 => {
                self.skip(scalar_bytes(kind).expect("listed"))?;
                Value::Skipped
            }
            _ => return broken(format!("key `{name}` has the unknown type {kind}")),
        })
    }

    fn array(&mut self, name: &str) -> Result<Value, Problem> {
        let kind = self.u32()?;
        let count = self.u64()?;
        if kind == STRING {
            // Each string has at least its length of 8 bytes: a count beyond that is a lie.
            if count > (self.length - self.at.min(self.length)) / 8 {
                return Err(Problem::Truncated { length: self.length });
            }
            for _ in 0..count {
                let bytes = self.u64()?;
                self.skip(bytes)?;
            }
            return Ok(Value::Length(count));
        }
        let Some(size) = scalar_bytes(kind) else {
            return broken(format!("key `{name}` is an array of the unknown type {kind}"));
        };
        if matches!(kind, 4 | 5) && count <= KEPT_NUMBERS {
            let numbers: Result<Vec<u64>, Problem> = (0..count).map(|_| Ok(u64::from(self.u32()?))).collect();
            return numbers.map(Value::Numbers);
        }
        self.skip(count.checked_mul(size).ok_or(Problem::Truncated { length: self.length })?)?;
        Ok(Value::Length(count))
    }

    fn tensor(&mut self, alignment: u64) -> Result<Tensor, Problem> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return broken(format!("tensor `{name}` has {dimensions} dimensions; at most 4 exist"));
        }
        let mut sizes = [1_u64; 4];
        for size in sizes.iter_mut().take(dimensions as usize) {
            *size = self.u64()?;
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        if !offset.is_multiple_of(alignment) {
            return broken(format!("tensor `{name}` starts at {offset}, which is not aligned to {alignment}"));
        }
        let bytes = tensor_bytes(kind, sizes);
        let bytes = bytes.ok_or_else(|| {
            Problem::Broken(format!("tensor `{name}` has an impossible shape {sizes:?} or the unknown type {kind}"))
        })?;
        Ok(Tensor { name, sizes, kind, offset, bytes })
    }
}

/// Values per token of the longest number arrays kept: one entry per layer.
const KEPT_NUMBERS: u64 = 4096;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn scalar_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Bytes of a tensor of ggml type `kind`; `None` when the type is unknown or the shape impossible.
fn tensor_bytes(kind: u32, sizes: [u64; 4]) -> Option<u64> {
    let (block, bytes) = match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        21 => (256, 110),
        22 => (256, 82),
        23 => (256, 136),
        24 => (1, 1),
        27 | 28 => (1, 8),
        29 => (256, 56),
        34 => (256, 54),
        35 => (256, 66),
        39 => (32, 17),
        40 => (64, 36),
        41 => (128, 18),
        42 => (64, 18),
        _ => return None,
    };
    let [row, rest @ ..] = sizes;
    if !row.is_multiple_of(block) || sizes.contains(&0) {
        return None;
    }
    rest.into_iter().try_fold((row / block).checked_mul(bytes)?, u64::checked_mul)
}

#[derive(Debug, Default)]
struct Facts(HashMap<String, Value>);

impl Facts {
    fn number(&self, key: &str) -> Option<u64> {
        match self.0.get(key)? {
            Value::Number(number) => Some(*number),
            Value::Numbers(numbers) => numbers.iter().copied().max(),
            Value::Real(_) | Value::Text(_) | Value::Length(_) | Value::Skipped => None,
        }
    }

    fn header(&self, file_bytes: u64, tensor_bytes: u64) -> Result<Header, Problem> {
        let Some(Value::Text(architecture)) = self.0.get("general.architecture") else {
            return broken("the key `general.architecture` is missing".to_owned());
        };
        let of = |key: &str| self.number(&format!("{architecture}.{key}"));
        let needed = |key: &str| match of(key) {
            Some(number @ 1..=1_000_000) => Ok(number),
            found => {
                broken(format!("the key `{architecture}.{key}` is {found:?}; a number of 1 to 1,000,000 is needed"))
            }
        };
        let layers = needed("block_count")?;
        let embedding_length = needed("embedding_length")?;
        let heads = of("attention.head_count").unwrap_or(1).max(1);
        let head = embedding_length / heads;
        let key_length = of("attention.key_length").unwrap_or(head);
        let value_length = of("attention.value_length").unwrap_or(head);
        let cache_heads = match self.0.get(&format!("{architecture}.attention.head_count_kv")) {
            Some(Value::Numbers(per_layer)) => per_layer.iter().fold(0_u64, |a, b| a.saturating_add(*b)),
            _ => of("attention.head_count_kv").unwrap_or(heads).saturating_mul(layers),
        };
        let vocabulary = match self.0.get("tokenizer.ggml.tokens") {
            Some(Value::Length(count)) => *count,
            _ => return broken("it holds no tokeniser".to_owned()),
        };
        let chat_template = match self.0.get("tokenizer.chat_template") {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        Ok(Header {
            architecture: architecture.clone(),
            file_bytes,
            tensor_bytes,
            layers,
            embedding_length,
            feed_forward_length: of("feed_forward_length").unwrap_or_else(|| embedding_length.saturating_mul(4)),
            cache_values_per_token: cache_heads.saturating_mul(key_length.saturating_add(value_length)),
            context_length: of("context_length").unwrap_or(2048),
            vocabulary,
            chat_template,
        })
    }
}

fn broken<T>(text: String) -> Result<T, Problem> {
    Err(Problem::Broken(text))
}

#[cfg(test)]
impl Header {
    /// The header of SmolLM2-135M.
    pub(crate) fn small() -> Self {
        Self {
            architecture: "llama".into(),
            file_bytes: 98_362_432,
            tensor_bytes: 96_600_000,
            layers: 30,
            embedding_length: 576,
            feed_forward_length: 1536,
            cache_values_per_token: 11_520,
            context_length: 8192,
            vocabulary: 49_152,
            chat_template: None,
        }
    }
}

#[cfg(test)]
mod tests;
