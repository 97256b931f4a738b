//! Where the energy of an endpoint's replicas is read.

use clap::Args;
use galerne_model::inference::Endpoint;
use galerne_model::power::{Metering, PowerSource};

use crate::failure::Failure;
use crate::resources::{self, ChangeArguments};
use crate::session::Session;

/// Options of `galerne endpoint meter`.
#[derive(Debug, Args)]
pub struct MeterArguments {
    /// Its name or id
    name: String,
    /// A meter, one for each replica in their order: nvml:UUID,UUID or rapl (of the server's host),
    /// file:///PATH#SERIES, <http://HOST:PORT/metrics#SERIES>
    #[arg(long = "at", value_name = "METER")]
    sources: Vec<PowerSource>,
    /// What a computed prompt token weighs when requests share energy [default: 1]
    #[arg(long, value_name = "N")]
    prefill_weight: Option<u32>,
    /// What a generated token weighs [default: 10]
    #[arg(long, value_name = "N")]
    decode_weight: Option<u32>,
    /// Take the meters away; requests are estimated again
    #[arg(long, conflicts_with_all = ["sources", "prefill_weight", "decode_weight"])]
    none: bool,
    #[command(flatten)]
    change: ChangeArguments,
}

pub(super) async fn run(session: &mut Session, arguments: MeterArguments) -> Result<(), Failure> {
    let MeterArguments { name, sources, prefill_weight, decode_weight, none, change } = arguments;
    if sources.is_empty() && prefill_weight.or(decode_weight).is_none() && !none {
        return Err(Failure::usage("no meter was given")
            .hint(format!("read a GPU of this host: galerne endpoint meter {name} --at nvml:GPU-UUID"))
            .hint("see what a request used: galerne why REQUEST"));
    }
    resources::edit::<Endpoint>(session, &name, change, "metered", |mut spec| {
        if none {
            spec.metering = Metering::default();
        }
        let metering = &mut spec.metering;
        if !sources.is_empty() {
            metering.sources = sources;
        }
        metering.prefill_weight = prefill_weight.or(metering.prefill_weight);
        metering.decode_weight = decode_weight.or(metering.decode_weight);
        spec
    })
    .await
}
