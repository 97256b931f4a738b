//! Prices per million tokens. A change makes a new version of the price book; old ones stay for the records made under them.

use clap::{Args, Subcommand};
use galerne_api::client::{Client, ListOptions};
use galerne_api::v1::catalogue::CatalogueEntry;
use galerne_model::inference::Model;
use galerne_model::money::{DIGEST_PREFIX, ModelPrice, PriceBook, PriceBookSpec, TokenPrice};
use galerne_model::units::Micros;

use crate::commands::values;
use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, Level, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts, Table};

/// The word for the price of any model without an entry.
const DEFAULT: &str = "default";

/// Verbs of `galerne price`.
#[derive(Debug, Subcommand)]
pub enum PriceCommand {
    /// Show the prices in force
    Show,
    /// List the versions of the price book, newest last
    #[command(alias = "list")]
    History,
    /// Set the price of a model, from now on
    Set(SetArguments),
}

/// Options of `galerne price set`.
#[derive(Debug, Args)]
pub struct SetArguments {
    /// Which: a name of the catalogue, `sha256:DIGEST` of weights, a model here (its digest is taken), what an external
    /// server calls its model, or `default` for every model without a price of its own
    model: String,
    /// Euros per million prompt tokens
    #[arg(long, value_name = "EUROS", value_parser = values::euros, allow_negative_numbers = true)]
    prompt: Micros,
    /// Euros per million cached prompt tokens [default: that of the prompt]
    #[arg(long, value_name = "EUROS", value_parser = values::euros, allow_negative_numbers = true)]
    cached: Option<Micros>,
    /// Euros per million generated tokens
    #[arg(long, value_name = "EUROS", value_parser = values::euros, allow_negative_numbers = true)]
    completion: Micros,
    #[command(flatten)]
    change: ChangeArguments,
}

impl PriceCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Show => show(session).await,
            Self::History => resources::list::<PriceBook>(session, "no price book yet").await,
            Self::Set(arguments) => set(session, arguments).await,
        }
    }
}

async fn newest(client: &Client) -> Result<Option<PriceBook>, Failure> {
    let books = client.list_all::<PriceBook>(&ListOptions::default()).await?;
    Ok(books.into_iter().max_by_key(|book| book.id))
}

async fn show(session: &mut Session) -> Result<(), Failure> {
    let book = newest(&session.client()?).await?;
    if session.is_json() {
        return session.output.json(&book);
    }
    let Some(book) = book else {
        session.output.note(
            "no price book yet: everything has the standard price; set one: galerne price set default --prompt 0.10 --completion 0.40",
        );
        return Ok(());
    };
    let columns = [
        Column::Word("model"),
        Column::Number("prompt €/M"),
        Column::Number("cached €/M"),
        Column::Number("completion €/M"),
    ];
    let mut table = Table::new(&columns);
    let entries = book.spec.models.iter().map(|entry| (entry.model.clone(), entry.price));
    for (model, price) in std::iter::once((DEFAULT.to_owned(), book.spec.default)).chain(entries) {
        table.row([model, price.prompt.euros(), price.cached.euros(), price.completion.euros()]);
    }
    table.write(&mut session.output, "")?;
    session.output.note(format!("version `{}`, in force since {}", book.name, display::instant(book.created_at)));
    Ok(())
}

async fn set(session: &mut Session, arguments: SetArguments) -> Result<(), Failure> {
    let before = newest(&session.client()?).await?;
    let version = before.as_ref().and_then(|book| book.name.strip_prefix('v')?.parse::<u64>().ok()).unwrap_or(0) + 1;
    let price = TokenPrice {
        prompt: arguments.prompt,
        cached: arguments.cached.unwrap_or(arguments.prompt),
        completion: arguments.completion,
    };
    let model = named(session, arguments.model).await?;
    let spec = with_price(before.map(|book| book.spec).unwrap_or_default(), &model, price);
    // Two who change prices at once both take the next number: the second is refused instead of undoing the first.
    let name = format!("v{version}");
    resources::create::<PriceBook>(session, &name, spec, arguments.change).await?;
    Ok(())
}

/// What the book is to know the model by. The name that somebody pulled a model under is none: anybody can choose one.
async fn named(session: &mut Session, asked: String) -> Result<String, Failure> {
    if asked == DEFAULT || asked.starts_with(DIGEST_PREFIX) {
        return Ok(asked);
    }
    let client = session.client()?;
    let catalogue: Vec<CatalogueEntry> = client.read_all("/api/v1/catalogue", &[]).await?;
    if catalogue.iter().any(|entry| entry.name == asked) {
        return Ok(asked);
    }
    let models = client.list_all::<Model>(&session.place).await?;
    let Some(model) = models.into_iter().find(|model| model.name == asked) else {
        session.output.note(format!(
            "neither the catalogue nor a model here is called `{asked}`: this prices what external servers call so"
        ));
        return Ok(asked);
    };
    let digest = format!("{DIGEST_PREFIX}{}", model.spec.sha256);
    session
        .output
        .note(format!("`{asked}` is priced by the digest of its weights, whatever anybody calls them: {digest}"));
    Ok(digest)
}

fn with_price(mut spec: PriceBookSpec, model: &str, price: TokenPrice) -> PriceBookSpec {
    if model == DEFAULT {
        spec.default = price;
        return spec;
    }
    match spec.models.iter_mut().find(|entry| entry.model == model) {
        Some(entry) => entry.price = price,
        None => spec.models.push(ModelPrice { model: model.to_owned(), price }),
    }
    spec
}

impl Shown for PriceBook {
    const LEVEL: Level = Level::Site;
    const COLUMNS: &'static [Column] =
        &[Column::Word("version"), Column::Word("in force since"), Column::Number("models"), Column::Text("default")];

    fn cells(&self, _names: &Names) -> Vec<String> {
        let default = super::endpoint::price(self.spec.default);
        vec![self.name.clone(), display::instant(self.created_at), self.spec.models.len().to_string(), default]
    }

    fn facts(&self, _names: &Names) -> Facts {
        let mut facts = Facts::new();
        facts.add("version", &self.name).add("default", super::endpoint::price(self.spec.default));
        facts
    }
}
