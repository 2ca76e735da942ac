//! Documents about an image, attached without changing it: artifact manifests that name it as their `subject`.
//!
//! ```text
//! image manifest  ◀─subject─  artifact manifest  ─layer─▶  the document
//! ```
//! A layout lists such a manifest in its index beside the images, without a name. A registry that knows the referrers API finds it by
//! its subject once it is pushed; for one that does not, whoever pushes keeps [`index`] under the tag [`fallback_tag`].
//! Owns: how a document is attached. Never: look into one.
//! Rules: OCI image specification 1.1, manifest.md, "Guidelines for Artifact Usage"; distribution specification 1.1, "Listing
//! Referrers", "Pushing Manifests with Subject", "Referrers Tag Schema".

use crate::digest::Digest;
use crate::image::{Annotations, Blob, Descriptor, Index, Manifest, media_type};

/// The configuration of what needs none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A document about an image, with the manifest that attaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its descriptor says what a list of referrers has to say: artifact type and annotations.
    pub manifest: Blob,
    /// What the manifest needs: its configuration and the document.
    pub blobs: Vec<Blob>,
}

impl Referrer {
    /// Attaches a document of this media type, which is the artifact's type too, to the image or index `subject`.
    pub fn new(subject: &Descriptor, artifact_type: &str, document: Vec<u8>, annotations: Annotations) -> Self {
        let config = Blob::new(EMPTY, b"{}".to_vec());
        let document = Blob::new(artifact_type, document);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: Some(artifact_type.to_owned()),
            config: config.descriptor.clone(),
            layers: vec![document.descriptor.clone()],
            subject: Some(Descriptor::new(&subject.media_type, subject.digest, subject.size)),
            annotations: annotations.clone(),
        };
        let mut manifest = manifest.blob();
        manifest.descriptor.artifact_type = Some(artifact_type.to_owned());
        manifest.descriptor.annotations = annotations;
        Self { manifest, blobs: vec![config, document] }
    }

    /// Everything that has to be at a target, the manifest last.
    pub fn into_blobs(self) -> impl Iterator<Item = Blob> {
        self.blobs.into_iter().chain([self.manifest])
    }
}

/// The tag under which a registry without the referrers API keeps the list of what refers to `subject`.
pub fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The list of what refers to one subject: what the referrers API answers, and what the fallback tag names.
pub fn index(referrers: impl IntoIterator<Item = Descriptor>) -> Blob {
    Index::new(referrers.into_iter().collect()).blob()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are those of the specification's examples, with our digests.
    #[test]
    fn an_attached_document_names_its_subject_and_leaves_it_as_it_is() {
        let subject = Descriptor::new(media_type::MANIFEST, Digest::of(b"image"), 5);
        let annotations: Annotations = [("a".to_owned(), "b".to_owned())].into();
        let referrer = Referrer::new(&subject, "application/spdx+json", b"{\"x\":1}".to_vec(), annotations.clone());
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""artifactType":"application/spdx+json","config":{{"mediaType":"application/vnd.oci.empty.v1+json","#,
                r#""digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}},"#,
                r#""layers":[{{"mediaType":"application/spdx+json","digest":"{}","size":7}}],"#,
                r#""subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":5}},"#,
                r#""annotations":{{"a":"b"}}}}"#,
            ),
            Digest::of(b"{\"x\":1}"),
            subject.digest
        );
        assert_eq!(String::from_utf8(referrer.manifest.bytes.clone()).unwrap(), expected);
        let descriptor = &referrer.manifest.descriptor;
        assert_eq!(descriptor.artifact_type.as_deref(), Some("application/spdx+json"));
        assert_eq!(descriptor.annotations, annotations);
        let parsed = Manifest::parse(&referrer.manifest.bytes, media_type::MANIFEST).unwrap();
        assert_eq!(parsed.subject, Some(subject.clone()));
        let listed = index([descriptor.clone()]);
        assert_eq!(Index::parse(&listed.bytes, media_type::INDEX).unwrap().manifests, std::slice::from_ref(descriptor));
        assert_eq!(fallback_tag(&subject.digest), subject.digest.to_string().replace(':', "-"));
        assert_eq!(referrer.clone().into_blobs().last(), Some(referrer.manifest));
    }
}
