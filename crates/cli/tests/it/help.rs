//! Help, completions and explanations.

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

#[test]
fn every_command_that_a_page_names_can_be_typed() {
    let mut wrong = Vec::new();
    for code in Code::ALL {
        for typed in commands_in(code.page()) {
            let words = typed.split('|').next().unwrap_or(typed).split_whitespace();
            let Err(error) = Arguments::try_parse_from(words) else { continue };
            use clap::error::ErrorKind::{
                DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument,
            };
            // A page may leave out what is plain from it, but not name what is not there.
            let partial = matches!(
                error.kind(),
                DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | MissingRequiredArgument
            );
            if !partial {
                wrong.push(format!("{code}: `{typed}`: {}", error.render()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
