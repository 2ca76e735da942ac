//! What is said about an image: what it holds, and how it was made.
//!
//! A [`Bom`] is filled once and written in the two forms that scanners read; a [`Provenance`] says what the image was made of, and by
//! whom. Same image, same sources, same text: no clock, no random identity, no path, user or host of this machine stands in one.
//! Owns: these documents. Never: look for a fact; claim what nobody has told (a licence that no package names is not asserted).
//! Rules: docs/attestations.md.

mod bom;
mod cyclonedx;
mod provenance;
pub mod secrets;
mod spdx;

pub use bom::{Bom, Component, Kind, Subject, purl};
pub use provenance::{Material, PREDICATE_TYPE, Provenance};

/// Of the documents here; part of the key of what is made with it.
pub const FORMAT: u32 = 1;

pub const CYCLONEDX: &str = "application/vnd.cyclonedx+json";
pub const SPDX: &str = "application/spdx+json";
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// This tool, as documents name it.
const TOOL: &str = "xtask";
const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::bom::tests::subject;
    use super::*;
    use expect_test::expect;

    fn bom() -> Bom {
        let mut bom = Bom::new(subject());
        let package = |kind, namespace, name: &str, version, qualifiers: &[_]| {
            Component::package(name, Some(version), purl(kind, namespace, name, Some(version), qualifiers))
        };
        let file = Component::file("/app/lib/libx.so", &"0f".repeat(32));
        let within = [file.reference()].into();
        let licence = Some("MIT OR Apache-2.0".to_owned());
        bom.add(Component { licence, within, ..package("cargo", "", "serde", "1.0.0", &[]) });
        bom.add(package("deb", "debian", "libc6", "2.36-9+deb12u14", &[("arch", "amd64"), ("distro", "bookworm")]));
        bom.add(file);
        bom
    }

    // The validators of tests/test_attest.py pass these texts.
    #[test]
    fn one_bill_of_materials_in_two_forms() {
        let text = |value: serde_json::Value| serde_json::to_string_pretty(&value).unwrap();
        expect![[r#"
            {
              "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
              "bomFormat": "CycloneDX",
              "components": [
                {
                  "bom-ref": "file:/app/lib/libx.so",
                  "hashes": [
                    {
                      "alg": "SHA-256",
                      "content": "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
                    }
                  ],
                  "name": "/app/lib/libx.so",
                  "type": "file"
                },
                {
                  "bom-ref": "pkg:cargo/serde@1.0.0",
                  "licenses": [
                    {
                      "expression": "MIT OR Apache-2.0"
                    }
                  ],
                  "name": "serde",
                  "purl": "pkg:cargo/serde@1.0.0",
                  "type": "library",
                  "version": "1.0.0"
                },
                {
                  "bom-ref": "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=bookworm",
                  "name": "libc6",
                  "purl": "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=bookworm",
                  "type": "library",
                  "version": "2.36-9+deb12u14"
                }
              ],
              "dependencies": [
                {
                  "dependsOn": [
                    "pkg:cargo/serde@1.0.0"
                  ],
                  "ref": "file:/app/lib/libx.so"
                },
                {
                  "ref": "pkg:cargo/serde@1.0.0"
                },
                {
                  "ref": "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=bookworm"
                },
                {
                  "dependsOn": [
                    "file:/app/lib/libx.so",
                    "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=bookworm"
                  ],
                  "ref": "pkg:oci/extproc@sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f?arch=amd64"
                }
              ],
              "metadata": {
                "component": {
                  "bom-ref": "pkg:oci/extproc@sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f?arch=amd64",
                  "name": "extproc",
                  "purl": "pkg:oci/extproc@sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f?arch=amd64",
                  "type": "container",
                  "version": "sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f"
                },
                "timestamp": "2024-02-29T12:34:56Z",
                "tools": {
                  "components": [
                    {
                      "name": "xtask",
                      "type": "application",
                      "version": "0.1.0"
                    }
                  ]
                }
              },
              "serialNumber": "urn:uuid:0d77fefa-254a-886a-86b9-b54255913ff0",
              "specVersion": "1.6",
              "version": 1
            }"#]].assert_eq(&text(bom().cyclonedx()));
        expect![[r#"
            {
              "SPDXID": "SPDXRef-DOCUMENT",
              "creationInfo": {
                "created": "2024-02-29T12:34:56Z",
                "creators": [
                  "Tool: xtask-0.1.0"
                ]
              },
              "dataLicense": "CC0-1.0",
              "documentNamespace": "urn:uuid:3a229404-a359-88e0-8bab-fedbc806efba",
              "name": "extproc",
              "packages": [
                {
                  "SPDXID": "SPDXRef-pkg-oci-extproc-sha256-05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f-arch-amd64-643a6845fd5d",
                  "copyrightText": "NOASSERTION",
                  "downloadLocation": "NOASSERTION",
                  "externalRefs": [
                    {
                      "referenceCategory": "PACKAGE-MANAGER",
                      "referenceLocator": "pkg:oci/extproc@sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f?arch=amd64",
                      "referenceType": "purl"
                    }
                  ],
                  "filesAnalyzed": false,
                  "licenseConcluded": "NOASSERTION",
                  "licenseDeclared": "NOASSERTION",
                  "name": "extproc",
                  "primaryPackagePurpose": "CONTAINER",
                  "versionInfo": "sha256:05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f"
                },
                {
                  "SPDXID": "SPDXRef-file--app-lib-libx.so-4290bd46196d",
                  "checksums": [
                    {
                      "algorithm": "SHA256",
                      "checksumValue": "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
                    }
                  ],
                  "copyrightText": "NOASSERTION",
                  "downloadLocation": "NOASSERTION",
                  "filesAnalyzed": false,
                  "licenseConcluded": "NOASSERTION",
                  "licenseDeclared": "NOASSERTION",
                  "name": "/app/lib/libx.so",
                  "packageFileName": "/app/lib/libx.so",
                  "primaryPackagePurpose": "FILE"
                },
                {
                  "SPDXID": "SPDXRef-pkg-cargo-serde-1.0.0-6630bd2a8aff",
                  "copyrightText": "NOASSERTION",
                  "downloadLocation": "NOASSERTION",
                  "externalRefs": [
                    {
                      "referenceCategory": "PACKAGE-MANAGER",
                      "referenceLocator": "pkg:cargo/serde@1.0.0",
                      "referenceType": "purl"
                    }
                  ],
                  "filesAnalyzed": false,
                  "licenseConcluded": "NOASSERTION",
                  "licenseDeclared": "MIT OR Apache-2.0",
                  "name": "serde",
                  "primaryPackagePurpose": "LIBRARY",
                  "versionInfo": "1.0.0"
                },
                {
                  "SPDXID": "SPDXRef-pkg-deb-debian-libc6-2.36-9-2Bdeb12u14-arch-amd64-distro-bookworm-09bda76dba40",
                  "copyrightText": "NOASSERTION",
                  "downloadLocation": "NOASSERTION",
                  "externalRefs": [
                    {
                      "referenceCategory": "PACKAGE-MANAGER",
                      "referenceLocator": "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=bookworm",
                      "referenceType": "purl"
                    }
                  ],
                  "filesAnalyzed": false,
                  "licenseConcluded": "NOASSERTION",
                  "licenseDeclared": "NOASSERTION",
                  "name": "libc6",
                  "primaryPackagePurpose": "LIBRARY",
                  "versionInfo": "2.36-9+deb12u14"
                }
              ],
              "relationships": [
                {
                  "relatedSpdxElement": "SPDXRef-pkg-oci-extproc-sha256-05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f-arch-amd64-643a6845fd5d",
                  "relationshipType": "DESCRIBES",
                  "spdxElementId": "SPDXRef-DOCUMENT"
                },
                {
                  "relatedSpdxElement": "SPDXRef-pkg-cargo-serde-1.0.0-6630bd2a8aff",
                  "relationshipType": "CONTAINS",
                  "spdxElementId": "SPDXRef-file--app-lib-libx.so-4290bd46196d"
                },
                {
                  "relatedSpdxElement": "SPDXRef-file--app-lib-libx.so-4290bd46196d",
                  "relationshipType": "CONTAINS",
                  "spdxElementId": "SPDXRef-pkg-oci-extproc-sha256-05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f-arch-amd64-643a6845fd5d"
                },
                {
                  "relatedSpdxElement": "SPDXRef-pkg-deb-debian-libc6-2.36-9-2Bdeb12u14-arch-amd64-distro-bookworm-09bda76dba40",
                  "relationshipType": "CONTAINS",
                  "spdxElementId": "SPDXRef-pkg-oci-extproc-sha256-05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f-arch-amd64-643a6845fd5d"
                }
              ],
              "spdxVersion": "SPDX-2.3"
            }"#]].assert_eq(&text(bom().spdx()));
    }

    #[test]
    fn provenance_names_inputs_by_hash() {
        let material = |name: &str, digest| Material { name: name.into(), uri: None, digest: Some(digest) };
        let statement = Provenance {
            subject: subject(),
            external: [("image", "extproc".to_owned())].into(),
            internal: [("checkout".to_owned(), "committed".to_owned())].into(),
            materials: vec![
                material("source", ("gitCommit", "ab".into())),
                material("xtask.lock", ("sha256", "cd".into())),
            ],
        }
        .statement();
        expect![[r#"
            {
              "_type": "https://in-toto.io/Statement/v1",
              "predicate": {
                "buildDefinition": {
                  "buildType": "urn:xtask:image:v1",
                  "externalParameters": {
                    "image": "extproc"
                  },
                  "internalParameters": {
                    "checkout": "committed"
                  },
                  "resolvedDependencies": [
                    {
                      "digest": {
                        "gitCommit": "ab"
                      },
                      "name": "source"
                    },
                    {
                      "digest": {
                        "sha256": "cd"
                      },
                      "name": "xtask.lock"
                    }
                  ]
                },
                "runDetails": {
                  "builder": {
                    "id": "urn:xtask:builder:embedded",
                    "version": {
                      "xtask": "0.1.0"
                    }
                  }
                }
              },
              "predicateType": "https://slsa.dev/provenance/v1",
              "subject": [
                {
                  "digest": {
                    "sha256": "05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f"
                  },
                  "name": "extproc"
                }
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&statement).unwrap());
    }
}
