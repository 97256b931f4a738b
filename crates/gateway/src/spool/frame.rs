//! One entry of a segment: length (u32), CRC-32 (u32), one byte for its kind, JSON; all little-endian.
//!
//! A frame that does not check is damage: readers look for the next one that does, and count the bytes between.

use galerne_model::ids::{EndpointId, KeyId, PriceBookId, PrincipalId, ProjectId, RequestId, TenantId};
use galerne_model::ledger::{BatchTerms, EnergyMethod, Operation, Outcome, Quantities, UsageRecord};
use galerne_model::units::Micros;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Length and checksum before each payload.
const HEAD_BYTES: usize = 8;
/// Longest frame; a usage record with the longest values of every field takes about 1 400 bytes.
pub(super) const FRAME_MAX_BYTES: usize = 2_048;

const KIND_HOLD: u8 = b'H';
const KIND_USAGE: u8 = b'U';

/// Money reserved for a request that has been admitted; ended by the usage record of the same request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The request.
    pub request_id: RequestId,
    /// When it was admitted.
    pub started_at: Timestamp,
    /// Who pays.
    pub tenant_id: TenantId,
    /// Inside which project.
    pub project_id: ProjectId,
    /// Who called.
    pub principal_id: PrincipalId,
    /// With which key.
    pub key_id: KeyId,
    /// What was called.
    pub endpoint_id: EndpointId,
    /// Kind of work.
    pub operation: Operation,
    /// Money reserved.
    pub held_micros: Micros,
    /// The price book in force.
    pub price_book_id: Option<PriceBookId>,
    /// The batch it is made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchTerms>,
}

impl Hold {
    /// The record of a request of which nothing is known but that it was admitted. `sequence` is given by the spool.
    pub fn unsettled(&self, ended_at: Timestamp) -> UsageRecord {
        UsageRecord {
            source: 0,
            sequence: 0,
            request_id: self.request_id,
            started_at: self.started_at,
            ended_at,
            tenant_id: self.tenant_id,
            project_id: self.project_id,
            principal_id: self.principal_id,
            key_id: self.key_id,
            endpoint_id: self.endpoint_id,
            replica_id: None,
            operation: self.operation,
            outcome: Outcome::Interrupted,
            http_status: 0,
            held_micros: self.held_micros,
            quantities: Quantities::default(),
            energy_method: EnergyMethod::Unknown,
            price_book_id: self.price_book_id,
            first_token_micros: None,
            work: None,
            batch: self.batch,
            terms: None,
        }
    }
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Hold(Box<Hold>),
    Usage(Box<UsageRecord>),
}

/// The frame of a hold.
pub(super) fn hold_frame(hold: &Hold) -> Vec<u8> {
    frame(KIND_HOLD, hold)
}

/// The frame of a usage record.
pub(super) fn usage_frame(record: &UsageRecord) -> Vec<u8> {
    frame(KIND_USAGE, record)
}

fn frame<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_MAX_BYTES);
    bytes.extend_from_slice(&[0; HEAD_BYTES]);
    bytes.push(kind);
    serde_json::to_writer(&mut bytes, value).expect("plain structs of numbers and texts serialise into memory");
    debug_assert!(bytes.len() <= FRAME_MAX_BYTES, "every field has a bounded length");
    let payload = &bytes[HEAD_BYTES..];
    let length = u32::try_from(payload.len()).expect("bounded above");
    let check = crc32fast::hash(payload);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..HEAD_BYTES].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// Reads frames one after the other.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    /// Everything before is read; what remains after the last frame is a torn tail.
    pub(super) at: usize,
    /// Bytes skipped between frames that check.
    pub(super) damaged: usize,
}

impl<'a> Frames<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, damaged: 0 }
    }

    /// Bytes after the last frame that checks.
    pub(super) fn torn(&self) -> usize {
        self.bytes.len() - self.at
    }
}

impl Iterator for Frames<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        for start in self.at..self.bytes.len() {
            if let Some((entry, length)) = parse(&self.bytes[start..]) {
                self.damaged += start - self.at;
                self.at = start + length;
                return Some(entry);
            }
        }
        None
    }
}

fn parse(bytes: &[u8]) -> Option<(Entry, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (check, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if !(2..=FRAME_MAX_BYTES - HEAD_BYTES).contains(&length) {
        return None;
    }
    let payload = rest.get(..length)?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*check) {
        return None;
    }
    let (&kind, json) = payload.split_first()?;
    let entry = match kind {
        KIND_HOLD => Entry::Hold(serde_json::from_slice(json).ok()?),
        KIND_USAGE => Entry::Usage(serde_json::from_slice(json).ok()?),
        _ => return None,
    };
    Some((entry, HEAD_BYTES + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use galerne_model::ids::BatchId;
    use uuid::Uuid;

    fn hold(n: u128) -> Hold {
        Hold {
            request_id: RequestId::from_uuid(Uuid::from_u128(n)),
            started_at: Timestamp::MAX,
            tenant_id: TenantId::from_uuid(Uuid::from_u128(1)),
            project_id: ProjectId::from_uuid(Uuid::from_u128(2)),
            principal_id: PrincipalId::from_uuid(Uuid::from_u128(3)),
            key_id: KeyId::from_uuid(Uuid::from_u128(4)),
            endpoint_id: EndpointId::from_uuid(Uuid::from_u128(5)),
            operation: Operation::Embedding,
            held_micros: Micros(i64::MIN),
            price_book_id: Some(PriceBookId::from_uuid(Uuid::from_u128(6))),
            batch: Some(BatchTerms { batch_id: BatchId::from_uuid(Uuid::max()), price_percent: u8::MAX }),
        }
    }

    #[test]
    fn the_longest_record_fits_a_frame() {
        use galerne_model::identity::ServiceTier;
        use galerne_model::ids::ReplicaId;
        use galerne_model::ledger::{Country, UsageTerms};
        use galerne_model::money::TokenPrice;
        use galerne_model::units::{MicrogramsCo2e, Millijoules, Picos, Tokens};
        let mut record = hold(9).unsettled(Timestamp::MIN);
        record.source = i64::MIN;
        record.sequence = i64::MIN;
        record.replica_id = Some(ReplicaId::from_uuid(Uuid::max()));
        record.first_token_micros = Some(i64::MIN);
        let least = Micros(i64::MIN);
        let price = TokenPrice { prompt: least, cached: least, completion: least };
        record.terms = Some(UsageTerms { price, service_tier: ServiceTier::Priority, country: Country::of("FR") });
        record.quantities = Quantities {
            prompt_tokens: Tokens(i64::MIN),
            cached_tokens: Tokens(i64::MIN),
            completion_tokens: Tokens(i64::MIN),
            micros: Micros(i64::MIN),
            picos: Picos(i64::MIN),
            millijoules: Millijoules(i64::MIN),
            co2e_micrograms: MicrogramsCo2e(i64::MIN),
        };
        let frame = usage_frame(&record);
        assert!(frame.len() <= FRAME_MAX_BYTES, "{} bytes", frame.len());
        assert_eq!(Frames::new(&frame).next(), Some(Entry::Usage(Box::new(record))));
    }

    #[test]
    fn a_record_of_before_terms_were_kept_is_read_without_them() {
        let mut record = hold(9).unsettled(Timestamp::UNIX_EPOCH);
        let before = serde_json::to_value(&record).expect("serialises");
        assert!(before.get("terms").is_none(), "an older program reads it too: {before}");
        let frame = frame(KIND_USAGE, &before);
        assert_eq!(Frames::new(&frame).next(), Some(Entry::Usage(Box::new(record.clone()))));
        record.first_token_micros = Some(1);
        assert_ne!(Frames::new(&frame).next(), Some(Entry::Usage(Box::new(record))));
    }

    #[test]
    fn a_tail_torn_at_any_byte_costs_only_the_torn_frame() {
        let whole = [hold_frame(&hold(1)), hold_frame(&hold(2))].concat();
        let first = hold_frame(&hold(1)).len();
        for cut in first..whole.len() {
            let mut frames = Frames::new(&whole[..cut]);
            assert_eq!(frames.next(), Some(Entry::Hold(Box::new(hold(1)))));
            assert_eq!(frames.next(), None);
            assert_eq!((frames.at, frames.torn(), frames.damaged), (first, cut - first, 0));
        }
    }

    #[test]
    fn one_flipped_byte_anywhere_costs_only_its_own_frame() {
        let one = hold_frame(&hold(1));
        let whole = [one.clone(), hold_frame(&hold(2))].concat();
        for at in 0..one.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let mut frames = Frames::new(&bytes);
            assert_eq!(frames.next(), Some(Entry::Hold(Box::new(hold(2)))), "byte {at}");
            assert_eq!((frames.damaged, frames.torn()), (one.len(), 0));
        }
    }
}
