//! `test [SUITE…]`: the suites of xtask.toml.

use super::suite::{self, Kind};
use crate::cli;
use crate::error::Result;
use crate::project::Project;
use crate::report::Sink;
use crate::settings::{Settings, variables};

pub fn test(settings: &Settings, project: &Project, sink: Sink, args: &cli::Test) -> Result<()> {
    variables::refuse_old("test", &settings.environment)?;
    let kind = Kind { name: "suite", declared: &project.declaration.suite };
    suite::run(settings, project, sink, &kind, &args.suites, &args.require)
}
