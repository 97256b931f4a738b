//! The batches of KV events that vLLM publishes (SGLang in the same form): `BlockStored`, `BlockRemoved`, `AllBlocksCleared`.
//!
//! Earlier versions encode a batch and its events as lists with the kind first, later ones as maps with it under `type`.
//! Hashes are integers or bytes. Blocks of adapters, of other memory than the GPU's, and of further cache groups are left
//! out: they say nothing of the prompts that are routed here, or would count twice.

use galerne_core::routing::KvEvent;

use super::msgpack::{self, Value};

/// A batch that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUnderstood;

/// The places of fields in events that are lists, after their kind.
const STORED: [&str; 7] =
    ["block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name"];
const REMOVED: [&str; 2] = ["block_hashes", "medium"];

pub(super) fn read(payload: &[u8]) -> Result<Vec<KvEvent>, NotUnderstood> {
    let batch = msgpack::read(payload).ok_or(NotUnderstood)?;
    let events = match &batch {
        Value::List(parts) => parts.get(1),
        Value::Map(fields) => field(fields, "events"),
        _ => None,
    };
    let Some(Value::List(events)) = events else { return Err(NotUnderstood) };
    let mut read = Vec::with_capacity(events.len());
    for event in events {
        read.extend(Event::of(event).and_then(|event| event.read()).ok_or(NotUnderstood)?);
    }
    Ok(read)
}

enum Event<'v, 'a> {
    List(&'a str, &'v [Value<'a>]),
    Map(&'a str, &'v [(Value<'a>, Value<'a>)]),
}

impl<'v, 'a> Event<'v, 'a> {
    fn of(event: &'v Value<'a>) -> Option<Self> {
        match event {
            Value::List(parts) => match parts.split_first()? {
                (Value::Text(kind), parts) => Some(Self::List(kind, parts)),
                _ => None,
            },
            Value::Map(fields) => match field(fields, "type")? {
                Value::Text(kind) => Some(Self::Map(kind, fields)),
                _ => None,
            },
            _ => None,
        }
    }

    fn kind(&self) -> &'a str {
        match self {
            Self::List(kind, _) | Self::Map(kind, _) => kind,
        }
    }

    fn get(&self, name: &str) -> Option<&'v Value<'a>> {
        let value = match self {
            Self::Map(_, fields) => field(fields, name),
            Self::List(kind, parts) => {
                let names: &[&str] = if *kind == "BlockStored" { &STORED } else { &REMOVED };
                parts.get(names.iter().position(|known| *known == name)?)
            }
        };
        value.filter(|value| **value != Value::Nil)
    }

    /// Nothing when it is not understood, no event when it does not concern us.
    fn read(&self) -> Option<Option<KvEvent>> {
        let is_elsewhere = self.get("medium").is_some_and(|medium| *medium != Value::Text("GPU"));
        let is_other_group = self.get("group_idx").is_some_and(|group| *group != Value::Integer(0));
        let is_adapters = self.get("lora_id").or_else(|| self.get("lora_name")).is_some();
        let is_ours = !is_elsewhere && !is_other_group && !is_adapters;
        let hashes = || match self.get("block_hashes")? {
            Value::List(hashes) => hashes.iter().map(hash).collect::<Option<Vec<u64>>>(),
            _ => None,
        };
        let event = match self.kind() {
            "BlockStored" => {
                let Some(Value::List(tokens)) = self.get("token_ids") else { return None };
                let tokens = tokens.iter().map(|token| number(token)?.try_into().ok()).collect::<Option<Vec<u32>>>()?;
                let parent = match self.get("parent_block_hash") {
                    None => None,
                    Some(parent) => Some(hash(parent)?),
                };
                let block_tokens = u32::try_from(number(self.get("block_size")?)?).ok().filter(|size| *size > 0)?;
                KvEvent::Stored { hashes: hashes()?, parent, tokens, block_tokens }
            }
            "BlockRemoved" => KvEvent::Removed { hashes: hashes()? },
            "AllBlocksCleared" => KvEvent::Cleared,
            // A kind that a later version made.
            _ => return Some(None),
        };
        Some(is_ours.then_some(event))
    }
}

fn field<'v, 'a>(fields: &'v [(Value<'a>, Value<'a>)], name: &str) -> Option<&'v Value<'a>> {
    fields.iter().find(|(key, _)| *key == Value::Text(name)).map(|(_, value)| value)
}

fn number(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Integer(number) => Some(*number),
        _ => None,
    }
}

/// A name of a block: all that matters is that other blocks have others.
fn hash(value: &Value<'_>) -> Option<u64> {
    match value {
        Value::Integer(number) => Some(u64::from_le_bytes(number.to_le_bytes()[..8].try_into().ok()?)),
        // The end of a SHA-256 is as good as its whole here.
        Value::Bytes(bytes) => {
            let mut end = [0; 8];
            let from = bytes.len().saturating_sub(8);
            end[..bytes.len() - from].copy_from_slice(&bytes[from..]);
            Some(u64::from_le_bytes(end))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `msgspec.msgpack.encode` of a batch of vLLM's, by hand: `[ts, [events], rank]`, events as lists with their kind first.
    fn as_lists() -> Vec<u8> {
        let mut bytes = vec![0x93, 0xcb];
        bytes.extend(1_760_000_000.5f64.to_be_bytes());
        bytes.push(0x93);
        bytes.extend([0x97, 0xab]);
        bytes.extend(b"BlockStored");
        bytes.extend([0x92, 0xcf, 0xff, 0, 0, 0, 0, 0, 0, 1, 0x02, 0xc0]);
        bytes.extend([0x94, 0x0a, 0x0b, 0xcd, 1, 0, 0x0d, 0x02, 0xc0, 0xa3]);
        bytes.extend(b"GPU");
        bytes.extend([0x93, 0xac]);
        bytes.extend(b"BlockRemoved");
        bytes.extend([0x91, 0x02, 0xc0]);
        bytes.extend([0x91, 0xb0]);
        bytes.extend(b"AllBlocksCleared");
        bytes.push(0x00);
        bytes
    }

    #[test]
    fn batches_as_lists_are_read() {
        let stored = KvEvent::Stored {
            hashes: vec![0xff00_0000_0000_0001, 2],
            parent: None,
            tokens: vec![10, 11, 256, 13],
            block_tokens: 2,
        };
        assert_eq!(read(&as_lists()), Ok(vec![stored, KvEvent::Removed { hashes: vec![2] }, KvEvent::Cleared]));
    }

    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.push(0xa0 | u8::try_from(text.len()).expect("short"));
        bytes.extend(text.as_bytes());
    }

    /// The later form: maps, hashes as bytes.
    fn as_maps(medium: &str) -> Vec<u8> {
        let mut bytes = vec![0x82];
        text(&mut bytes, "ts");
        bytes.push(0x01);
        text(&mut bytes, "events");
        bytes.extend([0x91, 0x87]);
        text(&mut bytes, "type");
        text(&mut bytes, "BlockStored");
        text(&mut bytes, "block_hashes");
        bytes.extend([0x91, 0xc4, 10, 9, 9, 1, 0, 0, 0, 0, 0, 0, 0]);
        text(&mut bytes, "parent_block_hash");
        bytes.extend([0xc4, 2, 5, 0]);
        text(&mut bytes, "token_ids");
        bytes.extend([0x92, 1, 2]);
        text(&mut bytes, "block_size");
        bytes.push(2);
        text(&mut bytes, "lora_id");
        bytes.push(0xc0);
        text(&mut bytes, "medium");
        text(&mut bytes, medium);
        bytes
    }

    #[test]
    fn batches_as_maps_are_read_and_other_memory_is_left_out() {
        let stored = KvEvent::Stored { hashes: vec![1], parent: Some(5), tokens: vec![1, 2], block_tokens: 2 };
        assert_eq!(read(&as_maps("GPU")), Ok(vec![stored]));
        assert_eq!(read(&as_maps("CPU")), Ok(vec![]));
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        for bytes in [&[][..], &[0xc0], &[0x91, 1], &[0x92, 1, 0x91, 0x91, 0xa1, b'x', 7], &[0x92, 1, 0x91, 7]] {
            assert_eq!(read(bytes), Err(NotUnderstood), "{bytes:?}");
        }
        for cut in 0..as_lists().len() {
            assert_eq!(read(&as_lists()[..cut]), Err(NotUnderstood), "cut at {cut}");
        }
        assert_eq!(read(&[0x92, 1, 0x91, 0x91, 0xa3, b'N', b'e', b'w']), Ok(vec![]), "a later version's kind");
    }
}
