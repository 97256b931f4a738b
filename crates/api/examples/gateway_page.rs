//! Prints the tables of `docs/gateway.md` anew: `cargo run -p galerne-api --example gateway_page`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/gateway.md");
    let text = std::fs::read_to_string(&path)?;
    let written = text.split("## Routes\n").next().unwrap_or_default();
    std::fs::write(&path, format!("{written}{}", galerne_api::surface::page()))
}
