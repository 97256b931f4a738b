//! Typed ids: a word, an underscore, and a UUIDv7 in 32 lower-case hex digits, so that text order is time order.
//!
//! Ids are minted at the edge (`from_uuid(Uuid::now_v7())`); decisions receive them.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Why a text is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id; one looks like `{kind}_` followed by 32 hex digits")]
pub struct BadId {
    /// The kind of id that was expected, e.g. `tenant`.
    pub kind: &'static str,
    /// What was given, cut to 64 characters.
    pub text: String,
}

/// Room for the longest text of an id.
const TEXT_MAX_BYTES: usize = 48;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The word before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// Wraps a UUID minted by the caller.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID inside.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(written($prefix, self.0, &mut [0; TEXT_MAX_BYTES]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                parse($prefix, text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(written($prefix, self.0, &mut [0; TEXT_MAX_BYTES]))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text { kind: $prefix }).map(Self)
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "_[0-9a-f]{32}$")))
                    .into()
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}
    )*};
}

ids! {
    /// A customer that is isolated and pays.
    TenantId = "tenant";
    /// Owns resources inside a tenant.
    ProjectId = "project";
    /// A user or a service account.
    PrincipalId = "principal";
    /// A role given to a principal at a scope.
    RoleBindingId = "binding";
    /// An API key (never its secret).
    KeyId = "key";
    /// A limit on money.
    BudgetId = "budget";
    /// One version of the price book.
    PriceBookId = "prices";
    /// A server we manage.
    NodeId = "node";
    /// Model weights under a name.
    ModelId = "model";
    /// A running or finished download of a model.
    PullId = "pull";
    /// A model at a stable name.
    EndpointId = "endpoint";
    /// One engine process (or external server) behind an endpoint.
    ReplicaId = "replica";
    /// One request through the gateway.
    RequestId = "request";
    /// One thing that happened.
    EventId = "event";
    /// One entry of the ledger.
    TransferId = "transfer";
    /// One energy reading.
    ReadingId = "reading";
    /// A backup of the state.
    BackupId = "backup";
    /// A file that was uploaded, or that a batch made.
    FileId = "file";
    /// Requests that are answered when there is room.
    BatchId = "batch";
}

/// The text of an id. Records of requests have a dozen of them, so it is made without the machinery of formats.
fn written<'a>(kind: &'static str, uuid: Uuid, room: &'a mut [u8; TEXT_MAX_BYTES]) -> &'a str {
    let (word, rest) = room.split_at_mut(kind.len());
    word.copy_from_slice(kind.as_bytes());
    rest[0] = b'_';
    let digits = uuid.simple().encode_lower(&mut rest[1..]).len();
    std::str::from_utf8(&room[..kind.len() + 1 + digits]).expect("letters, an underscore and digits")
}

/// Reads the text of an id where it stands.
struct Text {
    kind: &'static str,
}

impl serde::de::Visitor<'_> for Text {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the id of a {}", self.kind)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Uuid, E> {
        parse(self.kind, text).map_err(E::custom)
    }
}

fn parse(kind: &'static str, text: &str) -> Result<Uuid, BadId> {
    let bad = || BadId { kind, text: text.chars().take(64).collect() };
    let hex = text.strip_prefix(kind).and_then(|rest| rest.strip_prefix('_')).ok_or_else(bad)?;
    let lower_hex = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !lower_hex {
        return Err(bad());
    }
    Uuid::try_parse(hex).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_own_text() {
        let id = TenantId::from_uuid(Uuid::from_u128(0x0197_2f00_0000_7000_8000_0000_0000_0001));
        assert_eq!(id.to_string(), "tenant_01972f00000070008000000000000001");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn an_id_of_another_kind_or_case_is_refused_by_name() {
        let text = "project_01972f00000070008000000000000001";
        let bad = text.parse::<TenantId>().expect_err("a project id is not a tenant id");
        assert_eq!(bad.kind, "tenant");
        assert!("tenant_01972F00000070008000000000000001".parse::<TenantId>().is_err());
        assert!("tenant_é1972f0000007000800000000000000".parse::<TenantId>().is_err());
    }
}
