//! `kiln completions` and `kiln man`: what packagers install beside the binary.

use clap::Command;
use kiln::Error;

use crate::args::{self, CompletionsArgs, ManArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::stdout;

/// Prints the completion script of a shell.
pub(super) fn completions(args: &CompletionsArgs) -> Outcome<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "kiln", &mut script);
    stdout::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

/// Prints one manual page, or writes all of them to a directory.
pub(super) fn man(args: &ManArgs) -> Outcome<Exit> {
    let Some(dir) = &args.dir else {
        stdout::print(&page(&args.command)?)?;
        return Ok(Exit::Success);
    };
    std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(args::command(), dir)).map_err(
        |e| Error::environment(format!("cannot write the manual pages to `{}`", dir.display())).because(e),
    )?;
    Ok(Exit::Success)
}

/// Returns the page of the command that `path` leads to.
fn page(path: &[String]) -> Outcome<String> {
    let mut command = args::command();
    // Fills in the names and usage lines of the subcommands.
    command.build();
    for name in path {
        let known = names(&command);
        command = command.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::usage(format!("there is no command `{}`", path.join(" ")), format!("there is {known}"))
        })?;
    }
    let mut page = Vec::new();
    let title = command.get_display_name().unwrap_or("kiln").to_owned();
    clap_mangen::Man::new(command)
        .title(title)
        .render(&mut page)
        .map_err(|e| Error::internal("cannot render the manual page").because(e))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn names(command: &Command) -> String {
    let names: Vec<String> = command.get_subcommands().map(|c| format!("`{}`", c.get_name())).collect();
    if names.is_empty() { "none below it".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &[&str]) -> Outcome<String> {
        page(&path.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_command_has_a_page() {
        assert!(of(&[]).unwrap().contains("Exit codes"));
        let build = of(&["build"]).unwrap();
        assert!(build.contains(".TH kiln-build 1"), "{build}");
        assert!(build.contains("\\-\\-metadata\\-file"));
        assert!(of(&["registry", "serve"]).unwrap().contains("kiln\\-registry\\-serve"));
    }

    #[test]
    fn a_page_that_is_none_is_a_usage_error() {
        let failure = of(&["biuld"]).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert_eq!(failure.error().message, "there is no command `biuld`");
    }
}
