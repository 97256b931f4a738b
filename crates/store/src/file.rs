//! Files: what is known of them, and what a project keeps.
//!
//! INVARIANT: `file_storage` is the sum over a project's rows that are not deleted; both change in one transaction.
//! INVARIANT: a row outlives its object: it is marked deleted, the object goes, then the row.

use galerne_model::file::{File, Kept, Purpose};
use galerne_model::ids::{FileId, ProjectId};
use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::StoreError;
use crate::store::{Reader, Store, Tx};

const KEEP: &str = "INSERT INTO file_storage (project_id, bytes, files) VALUES ($1, $2, 1) \
    ON CONFLICT (project_id) DO UPDATE SET bytes = file_storage.bytes + $2, files = file_storage.files + 1 \
    WHERE file_storage.bytes + $2 <= $3 AND file_storage.files + 1 <= $4 RETURNING bytes";
const GIVE_BACK: &str = "UPDATE file_storage SET bytes = bytes - $2, files = files - 1 WHERE project_id = $1";
const KEPT: &str = "SELECT bytes, files FROM file_storage WHERE project_id = $1";
const INSERT: &str = "INSERT INTO file (id, project_id, purpose, bytes, expires_at, deleted_at, body) \
    VALUES ($1, $2, $3, $4, $5, NULL, $6)";
const GET: &str = "SELECT body FROM file WHERE id = $1 AND deleted_at IS NULL";
const DELETE: &str = "UPDATE file SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL RETURNING body";
const FORGET: &str = "DELETE FROM file WHERE id = $1 AND deleted_at IS NOT NULL";
const DELETED: &str = "SELECT id FROM file WHERE deleted_at IS NOT NULL ORDER BY deleted_at LIMIT $1";
const EXPIRED: &str = "SELECT body FROM file WHERE expires_at <= $1 AND deleted_at IS NULL \
    AND (expires_at > $2 OR (expires_at = $2 AND id > $3)) ORDER BY expires_at, id LIMIT $4";
// Not a count: the one number that objects and database have in common.
const MARK: &str = "INSERT INTO counter (name, value) VALUES ('objects', $1) ON CONFLICT (name) DO NOTHING";
const MARKED: &str = "SELECT value FROM counter WHERE name = 'objects'";
const UNMARK: &str = "DELETE FROM counter WHERE name = 'objects'";
const KNOWN: &str = "SELECT COUNT(*) AS n FROM file WHERE id = $1";

macro_rules! list {
    ($compare:literal, $order:literal) => {
        concat!(
            "SELECT body FROM file WHERE project_id = $1 AND deleted_at IS NULL ",
            "AND (CAST($2 AS TEXT) IS NULL OR id ",
            $compare,
            " $2) AND (CAST($3 AS TEXT) IS NULL OR purpose = $3) ",
            "AND (expires_at IS NULL OR expires_at > $4) ORDER BY id ",
            $order,
            " LIMIT $5"
        )
    };
}

const OLDEST: &str = list!(">", "ASC");
const NEWEST: &str = list!("<", "DESC");

/// In which order a list comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    #[default]
    Newest,
    /// The oldest first.
    Oldest,
}

/// Which files of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileQuery {
    /// The project.
    pub project_id: ProjectId,
    /// Only those after this one, in the order asked for.
    pub after: Option<FileId>,
    /// Only for this.
    pub purpose: Option<Purpose>,
    /// In which order.
    pub order: Order,
    /// Most files.
    pub limit: i64,
}

/// A project keeps too much to keep this as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRefused {
    /// What it keeps.
    pub kept: Kept,
}

impl Tx {
    /// Writes a new file, unless its project would then keep more than `most`.
    pub async fn file_insert(&mut self, file: &File, most: Kept) -> Result<Result<(), FileRefused>, StoreError> {
        let bytes = number(file.bytes)?;
        let kept = sqlx::query(KEEP)
            .bind(file.project_id.to_string())
            .bind(bytes)
            .bind(i64::try_from(most.bytes).unwrap_or(i64::MAX))
            .bind(i64::try_from(most.files).unwrap_or(i64::MAX))
            .fetch_optional(self.conn())
            .await?;
        // A first row is written whatever the limit says, so that there is one to refuse the next with.
        let is_over = |row: &AnyRow| Ok::<_, StoreError>(row.try_get::<i64, _>("bytes")? > number(most.bytes)?);
        let refused = match &kept {
            None => true,
            Some(row) => is_over(row)?,
        };
        if refused {
            let kept = self.file_storage(file.project_id).await?;
            let first = if kept.files == 1 && kept.bytes == file.bytes { Kept::default() } else { kept };
            return Ok(Err(FileRefused { kept: first }));
        }
        sqlx::query(INSERT)
            .bind(file.id.to_string())
            .bind(file.project_id.to_string())
            .bind(word(file.purpose)?)
            .bind(bytes)
            .bind(file.expires_at.map(Timestamp::as_microsecond))
            .bind(json(file)?)
            .execute(self.conn())
            .await?;
        Ok(Ok(()))
    }

    /// Marks a file deleted: nobody sees it any more, and its project keeps less. Its object is still there.
    pub async fn file_delete(&mut self, id: FileId, now: Timestamp) -> Result<Option<File>, StoreError> {
        let row =
            sqlx::query(DELETE).bind(id.to_string()).bind(now.as_microsecond()).fetch_optional(self.conn()).await?;
        let Some(file) = row.as_ref().map(read).transpose()? else { return Ok(None) };
        sqlx::query(GIVE_BACK).bind(file.project_id.to_string()).bind(number(file.bytes)?).execute(self.conn()).await?;
        Ok(Some(file))
    }
}

impl Reader {
    /// A file, if there is one.
    pub async fn file(&mut self, id: FileId) -> Result<Option<File>, StoreError> {
        let row = sqlx::query(GET).bind(id.to_string()).fetch_optional(self.conn()).await?;
        row.as_ref().map(read).transpose()
    }

    /// What a project keeps.
    pub async fn file_storage(&mut self, project_id: ProjectId) -> Result<Kept, StoreError> {
        let row = sqlx::query(KEPT).bind(project_id.to_string()).fetch_optional(self.conn()).await?;
        let Some(row) = row else { return Ok(Kept::default()) };
        let of = |number: i64| {
            u64::try_from(number).map_err(|_| StoreError::Corrupt("a project keeps less than nothing".to_owned()))
        };
        Ok(Kept { bytes: of(row.try_get("bytes")?)?, files: of(row.try_get("files")?)? })
    }

    /// Files of a project that have not expired.
    pub async fn files(&mut self, query: &FileQuery, now: Timestamp) -> Result<Vec<File>, StoreError> {
        let text = match query.order {
            Order::Newest => NEWEST,
            Order::Oldest => OLDEST,
        };
        let rows = sqlx::query(text)
            .bind(query.project_id.to_string())
            .bind(query.after.map(|id| id.to_string()))
            .bind(query.purpose.map(word).transpose()?)
            .bind(now.as_microsecond())
            .bind(query.limit)
            .fetch_all(self.conn())
            .await?;
        rows.iter().map(read).collect()
    }
}

impl Store {
    /// See [`Reader::file`].
    pub async fn file(&self, id: FileId) -> Result<Option<File>, StoreError> {
        self.read_once().await?.file(id).await
    }

    /// See [`Reader::files`].
    pub async fn files(&self, query: &FileQuery, now: Timestamp) -> Result<Vec<File>, StoreError> {
        self.read_once().await?.files(query, now).await
    }

    /// See [`Reader::file_storage`].
    pub async fn file_storage(&self, project_id: ProjectId) -> Result<Kept, StoreError> {
        self.read_once().await?.file_storage(project_id).await
    }

    /// Files whose time is over: those after `after`, by the end of their time.
    pub async fn files_expired(
        &self,
        now: Timestamp,
        after: Option<&File>,
        limit: i64,
    ) -> Result<Vec<File>, StoreError> {
        let mut reader = self.read_once().await?;
        let ended = after.and_then(|file| file.expires_at).map_or(i64::MIN, Timestamp::as_microsecond);
        let rows = sqlx::query(EXPIRED)
            .bind(now.as_microsecond())
            .bind(ended)
            .bind(after.map(|file| file.id.to_string()).unwrap_or_default())
            .bind(limit)
            .fetch_all(reader.conn())
            .await?;
        rows.iter().map(read).collect()
    }

    /// The mark by which the objects of this database are known from another's; `drawn` becomes it where there is none.
    pub async fn objects_mark(&self, drawn: i64) -> Result<i64, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(MARK).bind(drawn).execute(tx.conn()).await?;
        let mark = sqlx::query(MARKED).fetch_one(tx.conn()).await?.try_get("value")?;
        tx.commit().await?;
        Ok(mark)
    }

    /// Files that are deleted and whose objects may still be there.
    pub async fn files_deleted(&self, limit: i64) -> Result<Vec<FileId>, StoreError> {
        let mut reader = self.read_once().await?;
        let rows = sqlx::query(DELETED).bind(limit).fetch_all(reader.conn()).await?;
        rows.iter()
            .map(|row| {
                let text: String = row.try_get("id")?;
                text.parse().map_err(|_| StoreError::Corrupt(format!("`{text}` is not the id of a file")))
            })
            .collect()
    }

    /// Forgets a deleted file whose object is gone.
    pub async fn file_forget(&self, id: FileId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(FORGET).bind(id.to_string()).execute(tx.conn()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Whether there is a row, deleted or not, for an object.
    pub async fn file_is_known(&self, id: FileId) -> Result<bool, StoreError> {
        let mut reader = self.read_once().await?;
        let row = sqlx::query(KNOWN).bind(id.to_string()).fetch_one(reader.conn()).await?;
        Ok(row.try_get::<i64, _>("n")? > 0)
    }
}

/// A database that was restored has another mark: it does not know the objects that were written after its backup.
pub(crate) async fn forget_mark(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query(UNMARK).execute(tx.conn()).await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<File, StoreError> {
    from_json("file", &row.try_get::<String, _>("body")?)
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(kind: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(format!("a {kind} is unreadable: {error}")))
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt(format!("cannot be written as JSON: {error}")))
}

fn word(purpose: Purpose) -> Result<String, StoreError> {
    Ok(json(&purpose)?.trim_matches('"').to_owned())
}

fn number(bytes: u64) -> Result<i64, StoreError> {
    i64::try_from(bytes).map_err(|_| StoreError::Corrupt(format!("{bytes} bytes are more than a file can have")))
}
