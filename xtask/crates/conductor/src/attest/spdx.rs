//! A bill of materials as SPDX 2.3 JSON.
//!
//! Files are packages of the purpose `FILE`: what the specification calls a file needs a SHA-1, which proves nothing.
//! Rules: <https://spdx.github.io/spdx-spec/v2.3/>.

use super::bom::{Bom, Component, Kind};
use super::{TOOL, TOOL_VERSION};
use crate::digest::Digest;
use serde_json::{Value, json};

const UNKNOWN: &str = "NOASSERTION";

impl Bom {
    pub fn spdx(&self) -> Value {
        let subject = &self.subject;
        let root = subject.purl();
        let digest = subject.digest.to_string();
        let mut packages = vec![package(&root, &subject.name, Some(&digest), Some(&root), "CONTAINER")];
        packages.extend(self.components().map(|(reference, it)| component(reference, it)));
        let describes = relationship("SPDXRef-DOCUMENT", "DESCRIBES", &id(&root));
        let contains = self.held().into_iter().flat_map(|(by, held)| {
            held.into_iter().map(|held| relationship(&id(&by), "CONTAINS", &id(held))).collect::<Vec<_>>()
        });
        json!({
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": subject.name,
            "documentNamespace": format!("urn:uuid:{}", subject.uuid("spdx")),
            "creationInfo": {
                "created": oci::image::rfc3339(subject.created_seconds),
                "creators": [format!("Tool: {TOOL}-{TOOL_VERSION}")],
            },
            "packages": packages,
            "relationships": std::iter::once(describes).chain(contains).collect::<Vec<_>>(),
        })
    }
}

/// Letters, digits, dots and hyphens, and one for each reference.
fn id(reference: &str) -> String {
    let plain: String =
        reference.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("SPDXRef-{plain}-{}", Digest::of(reference.as_bytes()).short())
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn package(reference: &str, name: &str, version: Option<&str>, purl: Option<&str>, purpose: &str) -> Value {
    let mut value = json!({
        "SPDXID": id(reference),
        "name": name,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "primaryPackagePurpose": purpose,
    });
    if let Some(version) = version {
        value["versionInfo"] = json!(version);
    }
    if let Some(purl) = purl {
        let locator =
            json!({ "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl });
        value["externalRefs"] = json!([locator]);
    }
    value
}

fn component(reference: &str, it: &Component) -> Value {
    let purpose = match it.kind {
        Kind::Library => "LIBRARY",
        Kind::File => "FILE",
    };
    let mut value = package(reference, &it.name, it.version.as_deref(), it.purl.as_deref(), purpose);
    if let Some(licence) = &it.licence {
        value["licenseDeclared"] = json!(licence);
    }
    if let Some(sha256) = &it.sha256 {
        value["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
    }
    if let Some(note) = it.note {
        value["comment"] = json!(note);
    }
    if it.kind == Kind::File {
        value["packageFileName"] = json!(it.name);
    }
    value
}
