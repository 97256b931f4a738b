//! Reason trees on a terminal: ✓ holds, ⨯ blocks, ↳ what to do next, cheapest first, with the command to type.

use galerne_model::reason::Reason;
use owo_colors::OwoColorize;

use crate::failure::Failure;
use crate::output::Output;
use crate::table::wrap;

/// Writes a reason and everything below it.
pub(crate) fn write(output: &mut Output, reason: &Reason) -> Result<(), Failure> {
    write_at(output, reason, 0)?;
    let mut steps = Vec::new();
    collect_steps(reason, &mut steps);
    for (text, command) in steps {
        output.line(format!("{} {text}{}", "↳".cyan(), if command.is_some() { ":" } else { "" }))?;
        if let Some(command) = command {
            output.line(format!("    {}", command.bold()))?;
        }
    }
    Ok(())
}

fn write_at(output: &mut Output, reason: &Reason, depth: usize) -> Result<(), Failure> {
    let mark = if reason.holds { "✓".green().to_string() } else { "⨯".red().to_string() };
    let indent = "  ".repeat(depth);
    let room = output.width().map(|width| usize::from(width).saturating_sub(indent.len() + 2).max(20));
    for (index, line) in wrap(&reason.text, room).iter().enumerate() {
        let lead = if index == 0 { mark.as_str() } else { " " };
        output.line(format!("{indent}{lead} {line}"))?;
    }
    reason.because.iter().try_for_each(|part| write_at(output, part, depth + 1))
}

/// Next steps of the whole tree in reading order, each once.
fn collect_steps<'a>(reason: &'a Reason, steps: &mut Vec<(&'a str, Option<&'a str>)>) {
    for step in &reason.next {
        let step = (step.text.as_str(), step.command.as_deref());
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    for part in &reason.because {
        collect_steps(part, steps);
    }
}
