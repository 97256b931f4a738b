//! How many requests per second the spool takes: a hold and a usage record each, written and synced in groups of 50 ms.
//!
//! `cargo run --release -p galerne-gateway --example spool_bench -- DIR [REQUESTS] [THREADS]`

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use galerne_gateway::{Hold, Spool, SpoolLimits};
use galerne_model::ids::{EndpointId, KeyId, PrincipalId, ProjectId, RequestId, TenantId};
use galerne_model::ledger::{Operation, Outcome};
use galerne_model::units::Micros;
use jiff::Timestamp;
use uuid::Uuid;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir: PathBuf = arguments.next().ok_or("name a directory on the disk to measure")?.into();
    let requests: usize = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let threads: usize = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let limits = SpoolLimits { max_bytes: u64::MAX / 2, ..SpoolLimits::default() };
    let (spool, _) = Spool::open(&dir, limits, 0, &std::collections::BTreeMap::new(), Timestamp::now())?;
    let began = Instant::now();
    let refused: usize = std::thread::scope(|scope| {
        let work: Vec<_> = (0..threads).map(|_| scope.spawn(|| fill(&spool, requests / threads))).collect();
        work.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let seconds = began.elapsed().as_secs_f64();
    let (rate, bytes) = (requests as f64 / seconds, spool.bytes() / requests as u64);
    writeln!(
        std::io::stdout(),
        "{rate:.0} requests/s with {threads} threads, {bytes} bytes each, {refused} refused for space"
    )?;
    let last = Timestamp::now();
    spool.acknowledge(i64::MAX - 1);
    let freed = Timestamp::now().duration_since(last);
    writeln!(std::io::stdout(), "segments removed in {freed:#}")?;
    spool.stop();
    Ok(())
}

fn fill(spool: &Spool, requests: usize) -> usize {
    let id = Uuid::now_v7();
    let mut refused = 0;
    for _ in 0..requests {
        let hold = Hold {
            request_id: RequestId::from_uuid(Uuid::now_v7()),
            started_at: Timestamp::now(),
            tenant_id: TenantId::from_uuid(id),
            project_id: ProjectId::from_uuid(id),
            principal_id: PrincipalId::from_uuid(id),
            key_id: KeyId::from_uuid(id),
            endpoint_id: EndpointId::from_uuid(id),
            operation: Operation::Chat,
            held_micros: Micros(4_096),
            price_book_id: None,
            batch: None,
        };
        while spool.admit(hold.clone()).is_err() {
            refused += 1;
            std::thread::yield_now();
        }
        let mut record = hold.unsettled(Timestamp::now());
        record.outcome = Outcome::Completed;
        spool.settle(record);
    }
    refused
}
