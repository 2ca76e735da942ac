//! The documents of an image: configuration, manifest, index, and the descriptors that hold them together.
//!
//! Written in the field order of the specification's own Go types, compact, so that one image has one text. Read with
//! unknown fields passed over, but never with two meanings: a document is what its descriptor says it is, no field stands
//! twice or in another case (Go's decoder would take `Layers` for `layers`), and it is bounded before it is parsed.
//! Owns: types, media types, these checks. Never: read or write a file; know where a blob lies.
//! Rules: OCI image specification 1.1, config.md, manifest.md, image-index.md, descriptor.md, annotations.md;
//! CVE-2021-41190 for documents that are both manifest and index.

use crate::digest::Digest;
use crate::layer::Layer;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub mod media_type {
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// The same documents in the form that Docker's registry defined before the specification.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_INDEX)
    }

    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }
}

/// Registries must take manifests up to this size (distribution specification, "Pushing Manifests").
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// The name of an image in a layout's index.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Text by text, sorted.
pub type Annotations = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        let (urls, annotations) = (Vec::new(), Annotations::new());
        let media_type = media_type.into();
        Self { media_type, digest, size, urls, annotations, data: None, platform: None, artifact_type: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name: `amd64`, `arm64`.
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(rename = "os.features", default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    pub fn linux(architecture: &str) -> Self {
        Self { architecture: architecture.into(), os: "linux".into(), ..Self::default() }
    }
}

impl fmt::Display for Platform {
    /// `linux/arm64/v8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
}

impl Index {
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        let media_type = Some(media_type::INDEX.to_owned());
        let annotations = Annotations::new();
        Self { schema_version: 2, media_type, artifact_type: None, manifests, subject: None, annotations }
    }

    /// One image for several platforms: `manifests` as [`Image::write`] describes them, platforms included.
    pub fn blob(&self) -> Blob {
        Blob::of(media_type::INDEX, self)
    }
}

/// The configuration of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(rename = "os.features", default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub config: Execution,
    pub rootfs: RootFs,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

/// How a container of an image is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Execution {
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `8080/tcp`.
    #[serde(default, with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    #[serde(default, with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    pub diff_ids: Vec<Digest>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// A document as it lies in a layout or a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub descriptor: Descriptor,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { descriptor: Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64), bytes }
    }

    fn of(media_type: &str, document: &impl Serialize) -> Self {
        // Writing these types to memory cannot fail: no map has a key that is no text.
        Self::new(media_type, serde_json::to_vec(document).unwrap_or_default())
    }
}

/// An image as it is put together: an empty one, or a base to which layers are added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub platform: Platform,
    /// Bottom first; with the digest of each one's tar.
    pub layers: Vec<(Descriptor, Digest)>,
    pub history: Vec<History>,
    pub execution: Execution,
    /// Seconds since 1970, `SOURCE_DATE_EPOCH`.
    pub created_seconds: i64,
    /// Of the manifest.
    pub annotations: Annotations,
}

/// An image's documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub config: Blob,
    /// Its descriptor names the platform, as an index wants it.
    pub manifest: Blob,
}

impl Image {
    /// Adds a layer on top. `created_by` says in a word what made it; it is shown by `docker history`.
    pub fn push(&mut self, layer: &Layer, created_by: &str) {
        self.layers.push((layer.descriptor.clone(), layer.diff_id));
        let (created, created_by) = (Some(rfc3339(self.created_seconds)), Some(created_by.to_owned()));
        self.history.push(History { created, created_by, ..History::default() });
    }

    /// Each environment variable once, the last value given to a name at the place of the first.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let text = format!("{name}={value}");
        let same = |it: &&mut String| it.split_once('=').map_or(it.as_str(), |(name, _)| name) == name;
        match self.execution.env.iter_mut().find(same) {
            Some(before) => *before = text,
            None => self.execution.env.push(text),
        }
    }

    /// A base of others, from the layers of its verified manifest and its configuration. What that holds beyond the specification
    /// is left out.
    /// # Errors: other layers than the configuration tells, or such as must not be distributed.
    pub fn base(blobs: &[Descriptor], config: Config) -> Result<Self, DocumentError> {
        let refuse = |why: String| Err(DocumentError { document: "manifest", why });
        if blobs.len() != config.rootfs.diff_ids.len() {
            let (layers, ids) = (blobs.len(), config.rootfs.diff_ids.len());
            return refuse(format!("it has {layers} layers and its configuration {ids}"));
        }
        let mut layers = Vec::new();
        for (layer, diff_id) in blobs.iter().zip(&config.rootfs.diff_ids) {
            let mut layer = layer.clone();
            layer.media_type = match layer.media_type.as_str() {
                media_type::LAYER | media_type::LAYER_GZIP | media_type::LAYER_ZSTD => layer.media_type,
                media_type::DOCKER_LAYER_GZIP => media_type::LAYER_GZIP.into(),
                other => {
                    return refuse(format!("layer {} has the media type `{}`", layer.digest, other.escape_debug()));
                }
            };
            layers.push((layer, *diff_id));
        }
        let Config { architecture, os, os_version, os_features, variant, config: execution, history, .. } = config;
        let platform = Platform { architecture, os, os_version, os_features, variant };
        Ok(Self { platform, layers, history, execution, ..Self::default() })
    }

    pub fn write(&self) -> Written {
        let Platform { architecture, os, os_version, os_features, variant } = self.platform.clone();
        let (layers, diff_ids) = self.layers.iter().cloned().unzip();
        let config = Config {
            created: Some(rfc3339(self.created_seconds)),
            author: None,
            architecture,
            os,
            os_version,
            os_features,
            variant,
            config: self.execution.clone(),
            rootfs: RootFs { kind: "layers".into(), diff_ids },
            history: self.history.clone(),
        };
        let config = Blob::of(media_type::CONFIG, &config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.into()),
            artifact_type: None,
            config: config.descriptor.clone(),
            layers,
            subject: None,
            annotations: self.annotations.clone(),
        };
        let mut manifest = manifest.blob();
        manifest.descriptor.platform = Some(self.platform.clone());
        Written { config, manifest }
    }
}

/// A document that is not what its descriptor says, or not only that.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct DocumentError {
    pub document: &'static str,
    pub why: String,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} is not sound: {}", self.document, self.why)
    }
}

impl std::error::Error for DocumentError {}

impl Manifest {
    pub(crate) fn blob(&self) -> Blob {
        Blob::of(media_type::MANIFEST, self)
    }

    /// `expected`: the media type by which the document was found.
    /// # Errors: whatever has not exactly one meaning as an image manifest.
    pub fn parse(bytes: &[u8], expected: &str) -> Result<Self, DocumentError> {
        let known = ["schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations"];
        let manifest: Self = parse("manifest", bytes, &known, &["manifests", "fsLayers"])?;
        agree("manifest", manifest.schema_version, manifest.media_type.as_deref(), expected, media_type::is_manifest)?;
        Ok(manifest)
    }
}

impl Index {
    /// `expected`: the media type by which the document was found.
    /// # Errors: whatever has not exactly one meaning as an index.
    pub fn parse(bytes: &[u8], expected: &str) -> Result<Self, DocumentError> {
        let known = ["schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations"];
        let index: Self = parse("index", bytes, &known, &["config", "layers", "fsLayers"])?;
        agree("index", index.schema_version, index.media_type.as_deref(), expected, media_type::is_index)?;
        Ok(index)
    }
}

impl Config {
    /// # Errors: what is no configuration of an image.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let known = ["created", "author", "architecture", "os", "os.version", "os.features", "variant", "config"];
        let known = [known.as_slice(), &["rootfs", "history"]].concat();
        let config: Self = parse("configuration", bytes, &known, &["manifests", "layers"])?;
        let refuse = |why: &str| Err(DocumentError { document: "configuration", why: why.into() });
        if config.rootfs.kind != "layers" {
            return refuse("its root file system is not made of layers");
        }
        if config.os.is_empty() || config.architecture.is_empty() {
            return refuse("it names no platform");
        }
        Ok(config)
    }
}

fn agree(
    document: &'static str,
    schema_version: u32,
    media_type: Option<&str>,
    expected: &str,
    fits: fn(&str) -> bool,
) -> Result<(), DocumentError> {
    let refuse = |why: String| Err(DocumentError { document, why });
    if schema_version != 2 {
        return refuse(format!("its schema version is {schema_version}, not 2"));
    }
    if !fits(expected) {
        return refuse(format!("it was announced as `{}`", expected.escape_debug()));
    }
    match media_type {
        Some(it) if it != expected => refuse(format!("it says `{}`, announced as `{expected}`", it.escape_debug())),
        _ => Ok(()),
    }
}

/// `foreign`: fields that would make it another kind of document too.
fn parse<T: DeserializeOwned>(
    document: &'static str,
    bytes: &[u8],
    known: &[&str],
    foreign: &[&str],
) -> Result<T, DocumentError> {
    let refuse = |why: String| DocumentError { document, why };
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(refuse(format!("it has {} bytes, more than {MAX_DOCUMENT_BYTES}", bytes.len())));
    }
    let fields: BTreeMap<String, IgnoredAny> =
        serde_json::from_slice(bytes).map_err(|cause| refuse(cause.to_string()))?;
    for field in fields.keys() {
        if foreign.iter().any(|it| it.eq_ignore_ascii_case(field)) {
            return Err(refuse(format!("it has the field `{field}` of another kind of document")));
        }
        if !known.contains(&field.as_str()) && known.iter().any(|it| it.eq_ignore_ascii_case(field)) {
            return Err(refuse(format!("its field `{field}` is written in another case")));
        }
    }
    serde_json::from_slice(bytes).map_err(|cause| refuse(cause.to_string()))
}

/// Docker writes `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A set, which the specification writes as a map to empty objects.
mod keys {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, IgnoredAny, Serializer, or_default};

    pub fn serialize<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Empty {}
        serializer.collect_map(set.iter().map(|key| (key, Empty {})))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(transparent)]
        struct Map(BTreeMap<String, IgnoredAny>);
        Ok(or_default::<D, Map>(deserializer)?.0.into_keys().collect())
    }
}

/// `2024-02-29T12:34:56Z`, proleptic Gregorian, as RFC 3339 wants it; years outside 0 to 9999 are clamped.
pub fn rfc3339(seconds: i64) -> String {
    const YEAR_0: i64 = -62_167_219_200;
    const YEAR_9999_END: i64 = 253_402_300_799;
    let seconds = seconds.clamp(YEAR_0, YEAR_9999_END);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years that begin in March.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn image() -> Image {
        let mut image =
            Image { platform: Platform::linux("arm64"), created_seconds: 1_709_210_096, ..Image::default() };
        image.execution = Execution {
            user: "65532".into(),
            exposed_ports: ["8080/tcp".into(), "50051/tcp".into()].into(),
            entrypoint: vec!["/app/server".into()],
            working_dir: "/app".into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..Execution::default()
        };
        image.set_env("PATH", "/bin");
        image.set_env("A", "1");
        image.set_env("PATH", "/usr/bin");
        let descriptor = Descriptor::new(media_type::LAYER_GZIP, digest("layer"), 5);
        image.push(&Layer { descriptor, diff_id: digest("tar") }, "router");
        image
    }

    #[test]
    fn an_image_has_one_text_in_the_order_of_the_specification() {
        let Written { config, manifest } = image().write();
        let expected = format!(
            concat!(
                r#"{{"created":"2024-02-29T12:34:56Z","architecture":"arm64","os":"linux","#,
                r#""config":{{"User":"65532","ExposedPorts":{{"50051/tcp":{{}},"8080/tcp":{{}}}},"#,
                r#""Env":["PATH=/usr/bin","A=1"],"Entrypoint":["/app/server"],"WorkingDir":"/app","Labels":{{"a":"b"}}}},"#,
                r#""rootfs":{{"type":"layers","diff_ids":["{}"]}},"#,
                r#""history":[{{"created":"2024-02-29T12:34:56Z","created_by":"router"}}]}}"#,
            ),
            digest("tar")
        );
        assert_eq!(String::from_utf8(config.bytes.clone()).unwrap(), expected);
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"#,
                r#""layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":5}}]}}"#,
            ),
            Digest::of(&config.bytes),
            config.bytes.len(),
            digest("layer")
        );
        assert_eq!(String::from_utf8(manifest.bytes).unwrap(), expected);
        assert_eq!(manifest.descriptor.platform, Some(Platform::linux("arm64")));
    }

    #[test]
    fn a_base_keeps_its_layers_history_and_execution() {
        let written = image().write();
        let manifest = Manifest::parse(&written.manifest.bytes, media_type::MANIFEST).unwrap();
        let base = Image::base(&manifest.layers, Config::parse(&written.config.bytes).unwrap()).unwrap();
        assert_eq!(base, Image { created_seconds: 0, ..image() });
        // As Docker writes it: null for what is empty, fields of its own, its own media types.
        let docker = format!(
            concat!(
                r#"{{"architecture":"amd64","os":"linux","container":"x","config":{{"Hostname":"","User":"","Env":null,"#,
                r#""Cmd":["sh"],"Volumes":null,"Labels":null,"OnBuild":null,"Entrypoint":null}},"#,
                r#""rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            ),
            digest("tar")
        );
        let mut manifest = manifest;
        manifest.layers[0].media_type = media_type::DOCKER_LAYER_GZIP.into();
        let base = Image::base(&manifest.layers, Config::parse(docker.as_bytes()).unwrap()).unwrap();
        assert_eq!(base.execution, Execution { cmd: vec!["sh".into()], ..Execution::default() });
        assert_eq!(base.layers[0].0.media_type, media_type::LAYER_GZIP);
        manifest.layers[0].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        assert!(Image::base(&manifest.layers, Config::parse(docker.as_bytes()).unwrap()).is_err());
        manifest.layers.clear();
        assert!(Image::base(&manifest.layers, Config::parse(docker.as_bytes()).unwrap()).is_err());
    }

    #[test]
    fn a_document_has_one_meaning() {
        let text = String::from_utf8(image().write().manifest.bytes).unwrap();
        let index = String::from_utf8(Index::new(vec![image().write().manifest.descriptor]).blob().bytes).unwrap();
        let refused = |text: &str, media_type: &str| {
            let parsed = if media_type::is_index(media_type) {
                Index::parse(text.as_bytes(), media_type).map(drop)
            } else {
                Manifest::parse(text.as_bytes(), media_type).map(drop)
            };
            parsed.map_or_else(|error| error.to_string(), |()| panic!("{text}"))
        };
        let with = |field: &str| text.replacen('{', &format!("{{{field},"), 1);
        let (manifest, index_type) = (media_type::MANIFEST, media_type::INDEX);
        let cases = [
            (with(r#""manifests":[]"#), manifest, "another kind"),
            (with(r#""Manifests":[]"#), manifest, "another kind"),
            (with(r#""fsLayers":[]"#), manifest, "another kind"),
            (with(r#""Layers":[]"#), manifest, "another case"),
            (with(r#""layers":[]"#), manifest, "duplicate field"),
            (text.clone(), index_type, "another kind"),
            (index.clone(), manifest, "another kind"),
            (text.clone(), media_type::DOCKER_MANIFEST, "announced as"),
            (text.clone(), "text/html", "announced as"),
            (text.replace(":2,", ":1,"), manifest, "schema version"),
            (text.replace("sha256:", "sha512:"), manifest, "not `sha256:`"),
            (text.replace(r#""size":5"#, r#""size":-5"#), manifest, "invalid value"),
            (text.replace(r#""size":5"#, r#""size":5.0"#), manifest, "invalid type"),
            (text.replace(r#""layers":["#, r#""layers":[["#), manifest, "expected"),
            (format!("{text}{text}"), manifest, "trailing"),
            (text[..text.len() - 1].to_owned(), manifest, "EOF"),
            (format!("{text}{}", " ".repeat(MAX_DOCUMENT_BYTES)), manifest, "bytes, more than"),
            ("[]".into(), manifest, "invalid type"),
        ];
        for (text, media_type, reason) in cases {
            let error = refused(&text, media_type);
            assert!(error.contains(reason), "{reason}: {error}");
        }
        assert!(Index::parse(index.as_bytes(), index_type).is_ok());
        let config = String::from_utf8(image().write().config.bytes).unwrap();
        for (from, to) in [("layers", "files"), ("linux", ""), (r#""rootfs":"#, r#""roots":"#), ("arm64", "")] {
            assert!(Config::parse(config.replacen(from, to, 1).as_bytes()).is_err(), "{from}");
        }
    }

    #[test]
    fn seconds_become_a_date() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
            (i64::MIN, "0000-01-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
