//! The built gateway against real sockets, real files and a real cargo. No test needs more than loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apt;
mod children;
mod credentials;
mod fetch;
mod files;
mod gateway;
mod go;
mod hub;
mod large;
mod npm;
mod oci;
mod outside;
mod probe;
mod push;
mod rustup;
mod server;
mod simple;
mod stored;
mod unpack;
mod zips;
