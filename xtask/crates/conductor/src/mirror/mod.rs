//! Mirror profiles: which places serve each ecosystem, and what that means for each tool.
//!
//! A profile is an ordered list of endpoints per ecosystem; `direct` is an entry of such a list. Mirrors are untrusted
//! transport: nothing here can switch a verification off, and nothing here opens a connection to the outside, writes a
//! file or prints. [`env`] is the only place that knows a tool's mirror variables. Rules: `[mirror.NAME.ECOSYSTEM]`
//! tables of `xtask.toml`; variables and precedence as each tool documents them.
//!
//! ```text
//! endpoint.rs   one place to ask; hides credentials
//! expand.rs     `${NAME}` in texts
//! names.rs      private names
//! template.rs   places by what is asked for: files, registries
//! profile.rs    the tables, their layers, a resolved profile, its hosts
//! direct.rs     what `direct` means on this machine
//! env.rs        profile x tool -> variables and arguments
//! setup.rs      profile -> what the gateway is told
//! export.rs     variables as shells and files read them
//! bootstrap.rs  a script for a machine without Rust
//! selection.rs  `mirror use`: the text of xtask.local.toml
//! ```

mod bootstrap;
pub mod direct;
mod endpoint;
pub mod env;
mod expand;
mod export;
mod names;
mod profile;
mod selection;
pub mod setup;
mod template;

pub use bootstrap::{Wanted, script};
pub use endpoint::{Endpoint, InvalidUrl, Masked, MirrorUrl, UrlPair};
pub use env::GATEWAY_HOST;
pub use expand::{Unexpanded, Variables};
pub use export::{Shell, posix};
pub use names::{Pattern, Private};
pub use profile::{
    AUTO, Apt, ChecksumDatabase, Crates, Declared, Ecosystem, Egress, Fallthrough, Git, GitPrefix, Go, Host, Hub,
    Layer, Listed, Npm, Profile, ProfileTable, Profiles, Python, Rustup, Section, Unresolved,
};
pub use selection::select;
pub use template::{Files, Oci, OciPlace};
