//! The conductor: the tool behind `cargo xtask`, as a library so that its tests can look inside.
//!
//! One sentence for every command: `Args → Settings + Project + Facts → Plan → effects → Events → text or JSON`. In reading
//! order, each module importing only from those below it (a test checks this):
//!
//! - [`command`]: what each command strings together.
//! - [`doctor`]: what is wrong with machine, network and checkout: facts in, findings out.
//! - [`execute`]: obeys a plan; the only caller of the rim.
//! - [`emit`]: declared images as plain files for others.
//! - [`plan`]: decides, purely.
//! - [`satellite`], [`engine`]: speak with the gateway and with container engines, pass on what they tell.
//! - [`cause`]: why an endpoint does not serve, in words.
//! - [`report`]: receives events, tells people and programs.
//! - [`settings`], [`project`], [`facts`]: what is meant, what is declared, what is there.
//! - [`cli`], [`mirror`], [`cache`], [`attest`], [`toolchain`], [`wheel`], [`registry`], [`digest`], [`document`]: nouns.
//! - [`process`], [`files`], [`loopback`], [`crash`]: the rim: spawn, publish, a local socket, the end by a panic.
//! - [`workspace`], [`platform`], [`owner`], [`error`], [`code`], [`interrupt`]: known to all.
//! - [`language`]: in which of two a person is told.

pub mod attest;
pub mod cache;
pub mod cause;
pub mod cli;
pub mod code;
pub mod command;
pub mod crash;
pub mod digest;
pub mod doctor;
pub mod document;
pub mod emit;
pub mod engine;
pub mod error;
pub mod execute;
pub mod facts;
pub mod files;
pub mod interrupt;
pub mod language;
pub mod loopback;
pub mod mirror;
pub mod owner;
pub mod plan;
pub mod platform;
pub mod process;
pub mod project;
pub mod registry;
pub mod report;
pub mod satellite;
pub mod settings;
pub mod toolchain;
pub mod wheel;
pub mod workspace;
