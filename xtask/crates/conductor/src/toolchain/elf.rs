//! What a linker can notice of a shared library.

use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::tr;
use object::{Object as _, ObjectSymbol as _};
use std::path::Path;

/// Digest of the exported dynamic symbols (names, kinds, sizes of data) and of the header: as long as it stays, a program that was linked
/// against the library needs no new link.
pub fn interface(library: &Path, header: &Digest) -> Result<Digest> {
    let bytes = files::read(library)?;
    let unreadable = |error: object::Error| {
        Error::new(Code::BadPackage, tr!("{library} is not a shared library", library = library.display()))
            .because(error)
    };
    let file = object::File::parse(&*bytes).map_err(unreadable)?;
    let mut symbols: Vec<String> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.is_global())
        .filter_map(|symbol| {
            // A function's size may change with every edit and no caller can tell; the size of data is part of a copy relocation.
            let size = if symbol.kind() == object::SymbolKind::Data { symbol.size() } else { 0 };
            Some(format!("{} {:?} {size}", symbol.name().ok()?, symbol.kind()))
        })
        .collect();
    symbols.sort();
    symbols.push(header.to_string());
    Ok(Digest::of(symbols.join("\n").as_bytes()))
}
