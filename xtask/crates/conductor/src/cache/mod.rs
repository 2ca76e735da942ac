//! The artifact cache: what decides a result ([`key`]), why one is made again ([`reason`]), where results are kept
//! ([`store`]) and how unchanged files are recognised without reading them ([`stat`]).

pub mod key;
pub mod reason;
pub mod stat;
pub mod store;
