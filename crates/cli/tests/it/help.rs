//! Help, completions and explanations.

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};
use galerne_api::error::Code;
use galerne_cli::Arguments;
use insta::assert_snapshot;

use crate::galerne;

const NOBODY: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn help_names_every_command_and_exit_code() {
    assert_snapshot!("help", galerne(NOBODY, None, &["--help"]).await.err);
    assert_snapshot!("help_up", galerne(NOBODY, None, &["up", "--help"]).await.err);
    assert_snapshot!("help_chat", galerne(NOBODY, None, &["chat", "-h"]).await.err);
}

#[test]
fn the_command_line_is_sound_and_every_word_has_a_help_text() {
    let command = Arguments::command();
    command.clone().debug_assert();
    let mut open = vec![command];
    while let Some(command) = open.pop() {
        let name = command.get_name().to_owned();
        assert!(command.get_about().is_some(), "{name} does not say what it does");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {} does not say what it is", argument.get_id());
        }
        open.extend(command.get_subcommands().cloned());
    }
}

/// Commands in backticks of a text, such as `galerne why endpoint/NAME`.
fn commands_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("galerne ") && !code.contains('\n'))
}

/// What is wrong with a command as it stands in a text. A text may leave out what is plain from it, but not name what is
/// not there.
fn wrong_command(typed: &str) -> Option<String> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument};
    let typed = typed.split(['|', '#']).next().unwrap_or(typed);
    let error = Arguments::try_parse_from(typed.split_whitespace()).err()?;
    let partial =
        matches!(error.kind(), DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | MissingRequiredArgument);
    (!partial).then(|| error.render().to_string())
}

#[test]
fn every_command_that_a_page_names_can_be_typed() {
    for code in Code::ALL {
        for typed in commands_in(code.page()) {
            assert_eq!(wrong_command(typed), None, "{code}: `{typed}`");
        }
    }
}

#[tokio::test]
async fn completions_are_made_for_every_shell() {
    for (shell, mark) in
        [("bash", "complete -F _galerne"), ("zsh", "#compdef galerne"), ("fish", "complete -c galerne")]
    {
        let outcome = galerne(NOBODY, None, &["completions", shell]).await;
        assert_eq!(outcome.exit, 0, "{shell}: {}", outcome.err);
        assert!(outcome.out.contains(mark) && outcome.out.contains("catalogue"), "{shell}: {}", &outcome.out[..200]);
    }
}

#[tokio::test]
async fn every_code_is_explained() {
    for code in Code::ALL {
        let outcome = galerne(NOBODY, Some(80), &["explain", code.as_str()]).await;
        assert_eq!(outcome.exit, 0, "{code}: {}", outcome.err);
        assert!(outcome.out.contains("## What to do"), "{code}: {}", outcome.out);
    }
    let list = galerne(NOBODY, Some(80), &["explain"]).await;
    assert_eq!(
        list.out.lines().filter(|line| line.contains('_') || line.starts_with(char::is_alphabetic)).count(),
        Code::ALL.len() + 1,
        "{}",
        list.out
    );
}

/// Lines of the shell blocks of a document, and what its backticks quote, that begin with the program's name.
fn commands_of_document(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = commands_in(text).map(str::to_owned).collect();
    for (index, block) in text.split("```").enumerate() {
        if index % 2 == 1 {
            commands.extend(block.lines().filter(|line| line.starts_with("galerne ")).map(str::to_owned));
        }
    }
    commands
}

#[test]
fn every_command_that_a_document_names_can_be_typed() {
    let documents = [
        ("README.md", include_str!("../../../../README.md")),
        ("CONTRIBUTING.md", include_str!("../../../../CONTRIBUTING.md")),
        ("CHANGELOG.md", include_str!("../../../../CHANGELOG.md")),
        ("docs/ARCHITECTURE.md", include_str!("../../../../docs/ARCHITECTURE.md")),
    ];
    let mut seen = 0;
    for (name, text) in documents {
        for typed in commands_of_document(text) {
            let wrong = wrong_command(&typed);
            assert_eq!(wrong, None, "{name}: `{typed}`");
            seen += 1;
        }
    }
    assert!(seen > 10, "commands are found in the documents");
    assert!(wrong_command("galerne model fetch x").is_some() && wrong_command("galerne cost --weekly").is_some());
}

/// Options of all commands, with their dashes.
fn options() -> BTreeSet<String> {
    let (mut open, mut options) = (vec![Arguments::command()], BTreeSet::new());
    while let Some(command) = open.pop() {
        options.extend(command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?))));
        open.extend(command.get_subcommands().cloned());
    }
    options
}

/// What is wrong with the quotes of a text that says what to do.
fn wrong_quotes(todo: &str, options: &BTreeSet<String>) -> Option<String> {
    let quotes: Vec<&str> = todo.split('`').skip(1).step_by(2).collect();
    if quotes.is_empty()
        || !todo.matches('`').count().is_multiple_of(2)
        || quotes.iter().any(|quote| quote.trim().is_empty())
    {
        return Some(format!("it quotes nothing to type or to look at: {todo}"));
    }
    // Commands are parsed by another test; this is what a text names of them in passing.
    let named = quotes.iter().flat_map(|quote| quote.split_whitespace()).filter(|word| word.starts_with("--"));
    let mut unknown = named.filter(|word| !options.contains(*word));
    unknown.next().map(|word| format!("no command has `{word}`"))
}

#[test]
fn every_page_quotes_what_to_type_or_look_at_and_only_options_that_are_there() {
    let options = options();
    for code in Code::ALL {
        let todo = code.page().split("## What to do").nth(1).expect("another test looks for it");
        assert_eq!(wrong_quotes(todo, &options), None, "{code}");
    }
    for wrong in ["try again", "type `` again", "type `galerne", "start it with `--dta DIR`"] {
        assert!(wrong_quotes(wrong, &options).is_some(), "{wrong}");
    }
}

/// The first words of every command that a text names: `galerne model pull`, as far as they are words.
fn words_after_name(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let is_word = |word: &&str| {
        word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    text.match_indices("galerne ").map(move |(at, name)| {
        let rest = text[at + name.len()..].lines().next().unwrap_or_default();
        rest.split(' ').map(|word| word.trim_end_matches(['`', '"', ',', ':'])).take_while(is_word).take(2).collect()
    })
}

/// Whether the words lead to a command, as far as commands have commands below them.
fn leads_somewhere(words: &[&str]) -> bool {
    let mut command = Arguments::command();
    for word in words {
        if !command.has_subcommands() {
            return true;
        }
        match command.find_subcommand(word) {
            Some(below) => command = below.clone(),
            None => return false,
        }
    }
    true
}

/// What the sources write like a command and is none: the salt of the machine's digest.
const NO_COMMAND: [&str; 2] = ["node", "facts"];

/// Hints stand in the sources of all crates: each command they name is one that can be typed.
#[test]
fn every_command_that_a_hint_names_is_there() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lies beside others");
    let (mut folders, mut wrong, mut seen) = (vec![crates.to_owned()], Vec::new(), 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources").map(|entry| entry.expect("readable")) {
            let path = entry.path();
            if path.is_dir() {
                // Tests name what is not there, on purpose.
                folders.extend((entry.file_name() != "tests").then_some(path));
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                for words in words_after_name(&text).filter(|words| !words.is_empty()) {
                    seen += 1;
                    if !leads_somewhere(&words) && words != NO_COMMAND {
                        wrong.push(format!("{}: galerne {}", path.display(), words.join(" ")));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty() && seen > 50, "{seen} commands: {wrong:#?}");
    assert!(
        !leads_somewhere(&["model", "fetch"]) && !leads_somewhere(&["modl"]) && leads_somewhere(&["model", "pull"])
    );
}
