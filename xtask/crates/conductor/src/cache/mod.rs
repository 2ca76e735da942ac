//! The artifact cache: what decides a result ([`key`]), why one is made again ([`reason`]), where results are kept
//! ([`store`]), who is using them ([`gate`]) or making them ([`lock`]), which may go ([`gc`]), whether they are
//! what they were ([`verify`]), and how unchanged files are recognised
//! without reading them ([`stat`]).

pub mod gate;
pub mod gc;
pub mod key;
pub mod lock;
pub mod measured;
pub mod reason;
pub mod stat;
pub mod store;
pub mod verify;
