//! The top level of a JSON object, unparsed, and a writer for such objects.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{invalid, without_place};
use crate::refusal::Refusal;

/// Top-level fields of a body; OpenAI's largest request has about 40.
pub(super) const FIELDS_MAX: usize = 256;
/// Objects in a list, of messages or of what a replica answers: an object of two bytes takes some two hundred in memory.
pub(crate) const LIST_MAX: usize = 32_768;

/// The top level of a JSON object, values unparsed, in order.
#[derive(Debug)]
pub(crate) struct Fields<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| *value).filter(|value| value.get() != "null")
    }

    /// Whether the field is there, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(field, _)| field == name)
    }

    /// Reads a field; `null` counts as absent.
    pub(super) fn read<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|error| {
            let shown: String = value.get().chars().take(40).collect();
            invalid(name, format!("`{name}` cannot be `{shown}`: {}", without_place(&error)))
        })
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                // Small: a list may hold thousands of empty objects.
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    if fields.iter().any(|(field, _)| *field == name) {
                        return Err(A::Error::custom(format_args!("the field `{name}` occurs twice")));
                    }
                    if fields.len() == FIELDS_MAX {
                        return Err(A::Error::custom(format_args!("there are more than {FIELDS_MAX} fields")));
                    }
                    fields.push((name, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A list of JSON objects, each at its top level only; at most [`LIST_MAX`].
#[derive(Debug)]
pub(crate) struct List<'a>(pub(crate) Vec<Fields<'a>>);

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Objects;
        impl<'de> Visitor<'de> for Objects {
            type Value = List<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of JSON objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<'de>, A::Error> {
                let mut list = Vec::new();
                while let Some(object) = seq.next_element()? {
                    if list.len() == LIST_MAX {
                        return Err(A::Error::custom(format_args!("there are more than {LIST_MAX} entries")));
                    }
                    list.push(object);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Objects)
    }
}

/// A field name, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Writes a JSON object from parts that are JSON already.
pub(crate) struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes);
        out.push(b'{');
        Self(out)
    }

    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        serde_json::to_writer(&mut self.0, name).expect("texts serialise into memory");
        self.0.push(b':');
        self.0.extend_from_slice(json.as_bytes());
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        let json = serde_json::to_string(text).expect("texts serialise into memory");
        self.raw(name, &json);
    }

    pub(crate) fn into_text(self) -> String {
        String::from_utf8(self.finish()).expect("made of texts")
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
