//! Lines of keys: a key and the ones that follow it by rotation, named by the first.
//!
//! What keys spend is kept key by key; a budget on one of them counts the line, so that two keys of a rotation cannot
//! spend the same money. INVARIANT: the line of a key never changes.

use std::collections::{BTreeMap, HashMap};

use galerne_model::ids::KeyId;
use sqlx::Row;

use crate::error::StoreError;
use crate::store::{Reader, Tx};

const LINE: &str = "SELECT line_id FROM key_line WHERE key_id = $1";
const MEMBERS: &str = "SELECT key_id FROM key_line WHERE line_id = $1 ORDER BY key_id";
const ALL: &str = "SELECT key_id, line_id FROM key_line";
const FOLLOW: &str = "INSERT INTO key_line (key_id, line_id) VALUES ($1, $2)";

impl Reader {
    /// The first key of a key's line: the key itself unless it follows another.
    pub async fn key_line(&mut self, key_id: KeyId) -> Result<KeyId, StoreError> {
        match sqlx::query(LINE).bind(key_id.to_string()).fetch_optional(self.conn()).await? {
            Some(row) => parse(&row.try_get::<String, _>("line_id")?),
            None => Ok(key_id),
        }
    }

    /// All keys of a key's line, deleted ones too, the first one first.
    pub async fn keys_of_line(&mut self, key_id: KeyId) -> Result<Vec<KeyId>, StoreError> {
        let first = self.key_line(key_id).await?;
        let mut keys = vec![first];
        for row in sqlx::query(MEMBERS).bind(first.to_string()).fetch_all(self.conn()).await? {
            keys.push(parse(&row.try_get::<String, _>("key_id")?)?);
        }
        Ok(keys)
    }

    /// The first key of the line of every key that follows another.
    pub async fn key_lines(&mut self) -> Result<HashMap<KeyId, KeyId>, StoreError> {
        let rows = sqlx::query(ALL).fetch_all(self.conn()).await?;
        rows.iter()
            .map(|row| {
                let (key_id, line_id): (String, String) = (row.try_get("key_id")?, row.try_get("line_id")?);
                Ok((parse(&key_id)?, parse(&line_id)?))
            })
            .collect()
    }
}

impl Tx {
    /// Puts a new key into the line of the key it follows.
    pub async fn follow_key(&mut self, key_id: KeyId, follows: KeyId) -> Result<(), StoreError> {
        let line_id = self.key_line(follows).await?;
        let query = sqlx::query(FOLLOW).bind(key_id.to_string()).bind(line_id.to_string());
        query.execute(self.conn()).await?;
        Ok(())
    }
}

/// The first key of each key's line, from who replaced whom.
pub(crate) fn lines_of(replaced_by: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let before: BTreeMap<&String, &String> = replaced_by.iter().map(|(old, new)| (new, old)).collect();
    let mut lines = BTreeMap::new();
    for key in before.keys() {
        let mut first = *key;
        // No line is longer than all of them; a circle, which no rotation makes, ends there too.
        for _ in 0..=before.len() {
            match before.get(first) {
                Some(older) => first = older,
                None => break,
            }
        }
        lines.insert((*key).clone(), first.clone());
    }
    lines
}

fn parse(text: &str) -> Result<KeyId, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt(format!("a line of keys names `{text}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_named_by_the_key_that_followed_none() {
        let pairs = [("a", "b"), ("b", "c"), ("x", "y")];
        let replaced = pairs.map(|(old, new)| (old.to_owned(), new.to_owned())).into_iter().collect();
        let lines = lines_of(&replaced);
        let expected = [("b", "a"), ("c", "a"), ("y", "x")];
        assert_eq!(lines, expected.map(|(key, line)| (key.to_owned(), line.to_owned())).into_iter().collect());
    }
}
