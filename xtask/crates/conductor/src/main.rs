//! Parse, run, exit.

use clap::Parser as _;
use conductor::cli::{self, Cli};
use conductor::{command, crash, interrupt, tr};
use std::io::IsTerminal as _;
use std::process;

fn main() {
    crash::install();
    command::choose_language();
    let exit = match Cli::try_parse() {
        Ok(cli) => {
            if let Err(error) = interrupt::install() {
                eprintln!("{}", tr!("warning: signals cannot be caught ({error}); Ctrl-C ends at once", error));
            }
            command::run(cli, std::io::stderr().is_terminal())
        }
        Err(error) => command::finish(cli::told(error)),
    };
    process::exit(exit as i32);
}
