//! What each tool is asked and how its answers are read: argv and parsing, no processes.

pub mod abi;
pub mod buildinfo;
pub mod cargo;
pub mod cross;
pub mod elf;
pub mod go;
