//! Every path of a repository and of the cache. Nobody else joins path segments of ours.
//!
//! ```text
//! <repo>/                        <cache>/            ($XTASK_CACHE_DIR, else $XDG_CACHE_HOME/xtask, else ~/.cache/xtask)
//!   xtask.toml   xtask.lock        CACHEDIR.TAG
//!   xtask.local.toml               store-v2/         see cache/store.rs
//!   dist/{lib,bin}/                downloads-v1/     the gateway's: verified files by hash, resumable partials
//!   models/<name>/
//!   target/xtask/
//!     tool/                        the launcher's: conductor and gateway
//!     native/<library>/            cargo's target folder, never candle-binding/target
//!     cross/<platform>/            zig by the names of a C compiler
//!     test/<suite>/                the same for tests
//!     link/<digest>/               libraries as the Go linker sees them
//!     run/                         generated configuration of a running stack
//!     logs/<run>/<step>.log        whole output of each child, the last 20 runs; <run>-offline with --offline
//!     last/<step>.json             inputs of the last result here, for reasons
//!     placed/<step>.json           what was put into dist/ and models/, for `clean`
//!     gate, users/                 who is using this checkout, see cache/gate.rs
//!     stat-index.json
//! ```

use crate::platform::Platform;
use std::path::{Path, PathBuf};

/// What ends the name of the logs of a run that was to contact nobody: what its tools say blames no mirror.
pub const OFFLINE: &str = "-offline";

/// A checkout that declares itself in `xtask.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    pub root: PathBuf,
}

impl Workspace {
    pub fn declaration(&self) -> PathBuf {
        self.root.join("xtask.toml")
    }
    pub fn pins(&self) -> PathBuf {
        self.root.join("xtask.lock")
    }
    pub fn local(&self) -> PathBuf {
        self.root.join("xtask.local.toml")
    }
    pub fn dist(&self) -> PathBuf {
        self.root.join("dist")
    }
    /// `None`: for this machine.
    pub fn dist_lib(&self, platform: Option<Platform>) -> PathBuf {
        self.dist_for(platform).join("lib")
    }
    pub fn dist_bin(&self, platform: Option<Platform>) -> PathBuf {
        self.dist_for(platform).join("bin")
    }
    /// Every folder that libraries and binaries are put into.
    pub fn dist_built(&self) -> Vec<PathBuf> {
        let platforms = [None].into_iter().chain(Platform::ALL.map(Some));
        platforms.flat_map(|platform| [self.dist_lib(platform), self.dist_bin(platform)]).collect()
    }
    fn dist_for(&self, platform: Option<Platform>) -> PathBuf {
        platform.map_or_else(|| self.dist(), |platform| self.dist().join(platform.name()))
    }
    /// Where images go that are sent nowhere else.
    pub fn images(&self) -> PathBuf {
        self.dist().join("images")
    }
    /// Where Dockerfiles are written that are asked for nowhere else.
    pub fn docker(&self) -> PathBuf {
        self.dist().join("docker")
    }
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }
    /// Cargo's folder for the launcher, with ours inside.
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }
    pub fn build(&self) -> PathBuf {
        self.target().join("xtask")
    }
    pub fn native_build(&self, library: &str) -> PathBuf {
        self.build().join("native").join(library)
    }
    pub fn test_build(&self, suite: &str) -> PathBuf {
        self.build().join("test").join(suite)
    }
    /// Programs that compile for another platform, and what they keep.
    pub fn cross(&self, name: &str) -> PathBuf {
        self.build().join("cross").join(name)
    }
    pub fn link(&self, digest: &str) -> PathBuf {
        self.links().join(digest)
    }
    pub fn links(&self) -> PathBuf {
        self.build().join("link")
    }
    pub fn run(&self) -> PathBuf {
        self.build().join("run")
    }
    pub fn logs(&self) -> PathBuf {
        self.build().join("logs")
    }
    /// `run`: a name that sorts by time.
    pub fn logs_of_run(&self, run: &str, offline: bool) -> PathBuf {
        self.logs().join(format!("{run}{}", if offline { OFFLINE } else { "" }))
    }
    pub fn last_inputs(&self, step: &str) -> PathBuf {
        self.build().join("last").join(format!("{}.json", step.replace(['/', ':'], "-")))
    }
    /// What a step's result put where: path → digest.
    pub fn placed(&self, step: &str) -> PathBuf {
        self.placed_records().join(format!("{}.json", step.replace(['/', ':'], "-")))
    }
    pub fn placed_records(&self) -> PathBuf {
        self.build().join("placed")
    }
    /// The launcher's: conductor and satellites.
    pub fn tool(&self) -> PathBuf {
        self.build().join("tool")
    }
    pub fn stat_index(&self) -> PathBuf {
        self.build().join("stat-index.json")
    }

    /// `path` as a person in this checkout would write it.
    pub fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}

/// The caches of this user, shared by all checkouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFolder(pub PathBuf);

impl CacheFolder {
    pub fn tag(&self) -> PathBuf {
        self.0.join("CACHEDIR.TAG")
    }
    pub fn store(&self) -> PathBuf {
        self.0.join("store-v2")
    }
    pub fn downloads(&self) -> PathBuf {
        self.0.join("downloads-v1")
    }
    /// A verified file of the gateway's.
    pub fn downloaded(&self, sha256: &str) -> PathBuf {
        self.downloads().join("sha256").join(sha256.get(..2).unwrap_or_default()).join(sha256)
    }
    /// What probes of mirrors found.
    pub fn measured(&self) -> PathBuf {
        self.0.join("measured-v1.json")
    }
    /// Its time is that of the last collection that nobody asked for.
    pub fn last_collection(&self) -> PathBuf {
        self.store().join("last-gc")
    }
    /// Stores and downloads in the formats of other versions of this tool; none in a folder without its tag.
    pub fn other_buckets(&self) -> Vec<PathBuf> {
        if !self.tag().is_file() {
            return Vec::new();
        }
        let ours = [self.store(), self.downloads()];
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let is_bucket = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let version = name.strip_prefix("store-v").or_else(|| name.strip_prefix("downloads-v"));
            version.is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit())) && !ours.contains(path)
        };
        entries.map(|entry| entry.path()).filter(is_bucket).collect()
    }
}
