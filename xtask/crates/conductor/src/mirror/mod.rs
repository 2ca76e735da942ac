//! Mirror profiles: which places serve each ecosystem, and what that means for each tool.
//!
//! A profile is an ordered list of endpoints per ecosystem; `direct` is an entry of such a list. Mirrors are untrusted
//! transport: nothing here can switch a verification off, and nothing here opens a connection to the outside, writes a
//! file or prints. [`env`] is the only place that knows a tool's mirror variables. Rules: `[mirror.NAME.ECOSYSTEM]`
//! tables of `xtask.toml`; variables and precedence as each tool documents them.
//!
//! ```text
//! endpoint.rs   one place to ask; hides credentials
//! profile.rs    the tables, their layers, a resolved profile, its hosts
//! direct.rs     what `direct` means on this machine
//! env.rs        profile x tool -> variables and arguments
//! selection.rs  `mirror use`: the text of xtask.local.toml
//! ```

pub mod direct;
mod endpoint;
pub mod env;
mod profile;
mod selection;

pub use endpoint::{Endpoint, InvalidUrl, Masked, MirrorUrl, UrlPair};
pub use profile::{
    Apt, ChecksumDatabase, Crates, Ecosystem, Egress, Fallthrough, Go, Hub, Layer, Listed, Npm, Profile, ProfileTable,
    Profiles, Python, Rustup, Section, UnknownProfile,
};
pub use selection::select;
