//! The Go module proxy protocol: module zips, and the hash by which Go knows them.
//!
//! Owns: the escaped form of module paths, `h1:`. Never: compare zip bytes, since proxies may re-zip.
//! Rules: `go help goproxy`; golang.org/x/mod module.EscapePath and sumdb/dirhash.Hash1.

use crate::Gateway;
use crate::connect::base64;
use crate::downloads::{Pin, copy, hex};
use crate::fetch::{Errand, Fetched, fetch};
use crate::unpack::{Archive, Refusal};
use crate::url::{Url, encode_path};
use protocol::{Ecosystem, Failure, FailureKind, Upstream};
use sha2::{Digest, Sha256};
use std::path::Path;

/// More than Go itself accepts in a module zip (500 MiB), so that we are never the stricter one.
const MAX_ZIP_CONTENT_BYTES: u64 = 1 << 30;
const MAX_ZIP_ENTRIES: u64 = 1 << 18;

pub async fn module(
    gateway: &Gateway,
    errand: &Errand,
    module: &str,
    version: &str,
    h1: &str,
) -> Result<Fetched, Failure> {
    let subject = format!("module {module}@{version}");
    let pin = Pin::h1(h1).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::Go, subject, pin, None);
    let relative = format!("{}/@v/{}.zip", encode_path(&escape(module)), encode_path(&escape(version)));
    let upstreams = gateway.upstreams(Ecosystem::Go, module).await;
    fetch(gateway, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&relative)).await
}

/// Capitals become `!` and the small letter: a proxy may keep its files where names fold case.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
        escaped
    })
}

/// dirhash.Hash1 of the files of a zip: the sha256 of the sorted lines `<sha256>  <name>\n`, in base64.
/// # Errors: Integrity where this is no zip that Go could read; Disk.
pub fn directory_hash(path: &Path) -> Result<String, Refusal> {
    let mut archive = Archive::open(path, MAX_ZIP_ENTRIES)?;
    let names = archive.names()?;
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|a, b| names[*a].cmp(&names[*b]));
    let hashes = archive.read_each(&order, MAX_ZIP_CONTENT_BYTES, |_, _, mut reader| {
        let mut hasher = Sha256::new();
        copy(&mut reader, &mut |piece| hasher.update(piece)).map_err(|cause| Refusal {
            kind: FailureKind::Integrity,
            message: format!("it is not a sound zip archive: {cause}"),
        })?;
        Ok(hex(&hasher.finalize()))
    })?;
    let mut summary = Sha256::new();
    for (index, hash) in order.iter().zip(hashes) {
        summary.update(format!("{hash}  {}\n", names[*index]));
    }
    Ok(format!("h1:{}", base64(&summary.finalize())))
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn capitals_are_escaped_as_go_escapes_them() {
        assert_eq!(escape("github.com/Azure/azure-sdk"), "github.com/!azure/azure-sdk");
    }
}
