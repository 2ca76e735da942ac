//! `lint [NAME…]`: the linters of xtask.toml. Each must have files to look at, and none may change one.

use super::suite::{self, Kind};
use crate::cli;
use crate::error::Result;
use crate::project::Project;
use crate::report::Sink;
use crate::settings::Settings;

pub fn lint(settings: &Settings, project: &Project, sink: Sink, args: &cli::Lint) -> Result<()> {
    let kind = Kind { name: "linter", declared: &project.declaration.linter };
    suite::run(settings, project, sink, &kind, &args.linters, &args.require)
}
