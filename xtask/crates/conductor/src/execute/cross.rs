//! Zig, put where cargo, go and build scripts find it as the compiler of another platform.

use super::Workshop;
use crate::cache::key::Inputs;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::plan;
use crate::toolchain::cross::Cross;
use crate::tr;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;

impl Workshop<'_> {
    /// Adds the programs that stand for zig to PATH, with what names them to a tool.
    pub(super) fn with_zig(
        &self,
        cross: Cross,
        variables: BTreeMap<String, String>,
        environment: &mut BTreeMap<String, OsString>,
    ) -> Result<()> {
        let (declared, pins) = plan::zig(self.project, cross)?;
        let zig = self.store.tree(&Inputs::WheelSet(pins).key()).join(&declared.path);
        let folder = self.settings.workspace.cross(&cross.name());
        for (name, text) in cross.programs(&zig) {
            let path = folder.join(name);
            if files::read_if_present(&path)?.is_none_or(|bytes| bytes != text.as_bytes()) {
                files::publish_with(&path, 0o755, |output| output.write_all(text.as_bytes()))?;
            }
        }
        // Zig takes linker arguments apart at commas.
        if folder.to_string_lossy().contains(',') {
            let message =
                tr!("zig cannot link below {folder}: it takes a path apart at commas", folder = folder.display());
            return Err(Error::new(Code::BadName, message).hint(tr!("move the checkout to a path without commas")));
        }
        let path = environment.get("PATH").cloned().unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path)))
            .map_err(|error| Error::bug(tr!("the path of this checkout cannot be put on PATH")).because(error))?;
        environment.insert("PATH".to_owned(), path);
        // C libraries that zig compiles for a target; beside the build, so that a home folder stays as it was.
        for name in ["ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"] {
            environment.insert(name.to_owned(), self.settings.workspace.cross("cache").into());
        }
        environment.extend(variables.into_iter().map(|(name, value)| (name, value.into())));
        Ok(())
    }
}
