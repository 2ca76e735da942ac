//! Parse, resolve, run, report, exit.

use clap::Parser as _;
use conductor::cli::Cli;
use conductor::error::ExitCode;
use conductor::{command, interrupt, report};
use std::io::{IsTerminal as _, Write as _};
use std::process;

fn main() {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
            // Help that cannot be printed is nobody's loss.
            let _ = error.print();
            if code != ExitCode::Ok && command::wants_json() {
                report::json_failure(code);
            }
            process::exit(code as i32);
        }
    };
    if let Err(error) = interrupt::install() {
        eprintln!("warning: signals cannot be caught ({error}); Ctrl-C ends at once");
    }
    std::panic::set_hook(Box::new(|panic| {
        let mut stderr = std::io::stderr();
        let _ = writeln!(stderr, "error: this is a bug of xtask: {panic}");
        let _ = writeln!(stderr, "hint: please report it with this text; nothing half-made was published");
    }));
    let exit = std::panic::catch_unwind(|| command::run(cli, std::io::stderr().is_terminal())).unwrap_or(ExitCode::Bug);
    process::exit(exit as i32);
}
