//! Shell completions and manual pages, made of the definition of the command line.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::{Program, usage};
use crate::error::Error;

/// Returns the script that completes `slipring` in this shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Program::command(), "slipring", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Returns the manual page of a command, or of the program.
pub(crate) fn page(command: Option<&str>) -> Result<String, Error> {
    let mut program = Program::command();
    // Fills in what the commands inherit, and their full names.
    program.build();
    let found = match command {
        None => Some(program),
        Some(name) => program.find_subcommand(name).cloned(),
    };
    let name = command.unwrap_or_default();
    let found = found.ok_or_else(|| usage(format!("unknown command '{name}'")))?;
    let failed = |e| Error::failure(format!("cannot make the manual: {e}"));
    render(&found).map_err(failed)
}

fn render(command: &Command) -> io::Result<String> {
    let title = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let version = command.get_version().unwrap_or_default();
    // The parts at the end of the help become sections, with their lines as they are.
    let endings = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.clone().after_help(None::<&str>))
        .title(title)
        .source(format!("slipring {version}"))
        .manual("slipring");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_opts().next().is_some() || command.get_positionals().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    for section in endings.split("\n\n") {
        let (title, lines) = section.split_once(":\n").unwrap_or(("Notes", section));
        writeln!(page, ".SH {}\n.nf", title.to_uppercase())?;
        for line in lines.lines() {
            // `\&` keeps a leading dot from being read as a request.
            writeln!(page, "\\&{}", line.replace('\\', "\\e").replace('-', "\\-"))?;
        }
        writeln!(page, ".fi")?;
    }
    Ok(String::from_utf8_lossy(&page).into_owned())
}
