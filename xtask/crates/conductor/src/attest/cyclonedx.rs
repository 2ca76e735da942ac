//! A bill of materials as CycloneDX 1.6 JSON.
//!
//! Rules: <https://cyclonedx.org/docs/1.6/json/>; `dependencies` say which file holds which package.

use super::bom::{Bom, Component, Kind};
use super::{TOOL, TOOL_VERSION};
use serde_json::{Value, json};

impl Bom {
    pub fn cyclonedx(&self) -> Value {
        let subject = &self.subject;
        let dependencies = self.held().into_iter().map(|(by, held)| match held.is_empty() {
            true => json!({ "ref": by }),
            false => json!({ "ref": by, "dependsOn": held }),
        });
        json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": format!("urn:uuid:{}", subject.uuid("cyclonedx")),
            "version": 1,
            "metadata": {
                "timestamp": oci::image::rfc3339(subject.created_seconds),
                "tools": { "components": [{ "type": "application", "name": TOOL, "version": TOOL_VERSION }] },
                "component": {
                    "type": "container",
                    "bom-ref": subject.purl(),
                    "name": subject.name,
                    "version": subject.digest.to_string(),
                    "purl": subject.purl(),
                },
            },
            "components": self.components().map(|(reference, it)| component(reference, it)).collect::<Vec<_>>(),
            "dependencies": dependencies.collect::<Vec<_>>(),
        })
    }
}

fn component(reference: &str, it: &Component) -> Value {
    let kind = match it.kind {
        Kind::Library => "library",
        Kind::File => "file",
    };
    let mut value = json!({ "type": kind, "bom-ref": reference, "name": it.name });
    let optional = [
        ("description", it.note.map(|it| json!(it))),
        ("version", it.version.as_ref().map(|it| json!(it))),
        ("hashes", it.sha256.as_ref().map(|it| json!([{ "alg": "SHA-256", "content": it }]))),
        ("licenses", it.licence.as_ref().map(|it| json!([{ "expression": it }]))),
        ("purl", it.purl.as_ref().map(|it| json!(it))),
    ];
    for (name, part) in optional {
        if let Some(part) = part {
            value[name] = part;
        }
    }
    value
}
