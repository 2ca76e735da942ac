//! Parse, run, exit.

use clap::Parser as _;
use conductor::cli::{self, Cli};
use conductor::{command, crash, interrupt};
use std::io::IsTerminal as _;
use std::process;

fn main() {
    crash::install();
    let exit = match Cli::try_parse() {
        Ok(cli) => {
            if let Err(error) = interrupt::install() {
                eprintln!("warning: signals cannot be caught ({error}); Ctrl-C ends at once");
            }
            command::run(cli, std::io::stderr().is_terminal())
        }
        Err(error) => command::finish(cli::told(error)),
    };
    process::exit(exit as i32);
}
