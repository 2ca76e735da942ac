//! How an image was made, as an in-toto statement with SLSA provenance.
//!
//! Not signed, and as trustworthy as whoever ran the build: what it offers is a record that names each input by hash, so that others
//! can make the image again and compare.
//! Rules: <https://slsa.dev/spec/v1.0/provenance>, in-toto attestation framework 1.0; our build type: docs/attestations.md.

use super::bom::Subject;
use super::{TOOL, TOOL_VERSION};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
const BUILD_TYPE: &str = "urn:xtask:image:v1";
const BUILDER: &str = "urn:xtask:builder:embedded";

/// Something that a build took in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    pub name: String,
    pub uri: Option<String>,
    /// `sha256`, `gitCommit`; with its value.
    pub digest: Option<(&'static str, String)>,
}

/// Everything that decided an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    pub subject: Subject,
    /// What the caller chose.
    pub external: BTreeMap<&'static str, String>,
    /// What followed from the checkout and the machine.
    pub internal: BTreeMap<String, String>,
    pub materials: Vec<Material>,
}

impl Provenance {
    pub fn statement(&self) -> Value {
        let subject = &self.subject;
        let materials: Vec<Value> = self.materials.iter().map(Material::descriptor).collect();
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "name": subject.name, "digest": { "sha256": subject.digest.hex() } }],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": self.external,
                    "internalParameters": self.internal,
                    "resolvedDependencies": materials,
                },
                "runDetails": { "builder": { "id": BUILDER, "version": { TOOL: TOOL_VERSION } } },
            },
        })
    }
}

impl Material {
    fn descriptor(&self) -> Value {
        let mut value = Map::from_iter([("name".to_owned(), json!(self.name))]);
        if let Some(uri) = &self.uri {
            value.insert("uri".to_owned(), json!(uri));
        }
        if let Some((algorithm, digest)) = &self.digest {
            value.insert("digest".to_owned(), json!({ *algorithm: digest }));
        }
        Value::Object(value)
    }
}
