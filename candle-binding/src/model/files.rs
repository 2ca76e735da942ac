//! Reading a model's small files: the size is checked before memory is reserved.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::Error;

/// The largest tokenizers in use (250,000 pieces) have 17 MB.
pub const JSON_LIMIT_BYTES: u64 = 64 << 20;

/// The whole file, unless it is larger than `limit_bytes`.
pub fn read(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let size_bytes = file.metadata().map_err(failed)?.len();
    if size_bytes > limit_bytes {
        return Err(Error::TooLarge { path: path.to_owned(), size_bytes, limit_bytes });
    }
    let mut bytes = Vec::with_capacity(size_bytes as usize);
    file.take(limit_bytes).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    serde_json::from_slice(&read(path, JSON_LIMIT_BYTES)?)
        .map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// `None` if the file does not exist. One that exists must be readable: an unreadable limit is not "no limit".
pub fn read_optional_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match read_json(path) {
        Ok(value) => Ok(Some(value)),
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
