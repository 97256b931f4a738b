//! The spool's own format, read from a disk that may have kept anything.

use galerne_model::ids::{EndpointId, KeyId, PrincipalId, ProjectId, RequestId, TenantId};
use galerne_model::ledger::Operation;
use galerne_model::units::Micros;
use jiff::Timestamp;
use uuid::Uuid;

use super::frame::{Entry, Frames, Hold, hold_frame, usage_frame};
use crate::fuzz::Dice;

/// Length, checksum and kind; what follows is JSON.
const FRAME_MIN_BYTES: usize = 10;

/// Bytes as a segment: each is in a frame, damaged or torn off, and what was written whole beside damage is read whole.
pub fn frames(input: &[u8]) {
    let (mut dice, bytes) = Dice::of(input);
    let (found, damaged, torn) = read(bytes);
    let framed = bytes.len().checked_sub(damaged + torn).expect("no byte is counted twice");
    assert!(framed >= found.len() * FRAME_MIN_BYTES && (framed > 0) != found.is_empty(), "{framed} in {found:?}");
    let hold = hold(dice.below(1 << 20) as u128);
    let cut = dice.below(bytes.len() + 1);
    // Damage before it and behind.
    let between = [&bytes[..cut], &hold_frame(&hold), &bytes[cut..]].concat();
    let (found, ..) = read(&between);
    assert!(found.contains(&Entry::Hold(Box::new(hold.clone()))), "a whole frame is not read");
    let record = hold.unsettled(Timestamp::UNIX_EPOCH);
    let written = usage_frame(&record);
    assert_eq!(read(&written).0, [Entry::Usage(Box::new(record))], "what was written is not what is read");
    assert_eq!(read(&written[..dice.below(written.len())]).0, [], "half a frame is read");
}

fn read(bytes: &[u8]) -> (Vec<Entry>, usize, usize) {
    let mut frames = Frames::new(bytes);
    let found: Vec<Entry> = frames.by_ref().collect();
    (found, frames.damaged, frames.torn())
}

fn hold(n: u128) -> Hold {
    Hold {
        request_id: RequestId::from_uuid(Uuid::from_u128(n)),
        started_at: Timestamp::UNIX_EPOCH,
        tenant_id: TenantId::from_uuid(Uuid::from_u128(1)),
        project_id: ProjectId::from_uuid(Uuid::from_u128(2)),
        principal_id: PrincipalId::from_uuid(Uuid::from_u128(3)),
        key_id: KeyId::from_uuid(Uuid::from_u128(4)),
        endpoint_id: EndpointId::from_uuid(Uuid::from_u128(5)),
        operation: Operation::Chat,
        held_micros: Micros(7),
        price_book_id: None,
        batch: None,
    }
}
