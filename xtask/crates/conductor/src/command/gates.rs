//! What every image has to pass before it is put anywhere, and that looks into its files.
//!
//! Owns: whose files and whose credentials are looked at, and what is said then. Never: show a credential; pass what was not looked at.

use crate::attest::secrets::{Search, Secrets};
use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::image::{MadeImage, MadeLayer};
use crate::execute::push::auth_files;
use crate::facts::Wants;
use crate::files;
use crate::project::Project;
use crate::project::image::Content;
use crate::report::{Event, Finding, Severity};
use crate::settings::Settings;
use crate::tr;
use oci::read::{LayerFile, LayerReader, Limits, ReadError};
use std::collections::BTreeSet;
use std::path::Path;

/// The credentials of this run are in no layer of ours, no document, and nothing that is attached. Base layers are made of packages
/// whose every byte is pinned, or are themselves pinned.
pub fn no_secret_leaves(workshop: &Workshop, images: &[(&str, &MadeImage)]) -> Result<()> {
    let secrets = secrets(workshop)?;
    for origin in &secrets.too_short {
        workshop.sink.send(Event::Finding(Finding {
            code: "image.short-credential".to_owned(),
            severity: Severity::Warning,
            subject: origin.clone(),
            message: tr!("this credential is too short to be looked for in images"),
            fix: None,
        }));
    }
    let Some(search) = secrets.search() else { return Ok(()) };
    let mut seen = BTreeSet::new();
    for (name, image) in images {
        let attached = image.referrers.iter().flat_map(|referrer| referrer.blobs.iter().chain([&referrer.manifest]));
        for document in [&image.documents.config, &image.documents.manifest].into_iter().chain(attached) {
            if let Some(origin) = search.find(&document.bytes) {
                return Err(leaked(name, &document.descriptor.media_type, origin));
            }
        }
        // What a builder made has layers of its own choice.
        let declared = match image.layers.iter().all(|layer| layer.key.is_some()) {
            true => workshop.project.declaration.image.get(*name).map_or(0, |image| image.layer.len()),
            false => image.layers.len(),
        };
        for layer in image.layers.iter().rev().take(declared) {
            let Some(blob) = layer.blob.as_ref().filter(|_| seen.insert(layer.record.descriptor.digest)) else {
                continue;
            };
            let found = find_in_layer(&search, layer, blob).map_err(|error| {
                Error::new(Code::AlteredObject, tr!("cannot read {path}", path = blob.display())).because(error)
            })?;
            if let Some((path, origin)) = found {
                return Err(leaked(name, &path, origin));
            }
        }
    }
    Ok(())
}

fn leaked(image: &str, path: &str, origin: &str) -> Error {
    Error::new(Code::LeakedSecret, tr!("{path} of image {image} holds the credential of {origin}", path, image, origin))
        .hint(tr!("take it out of that file; revoke it, if the file was handed out before"))
}

/// The file that holds a secret, and who told that.
fn find_in_layer<'s>(
    search: &'s Search,
    layer: &MadeLayer,
    blob: &Path,
) -> std::result::Result<Option<(String, &'s str)>, ReadError> {
    let file =
        LayerFile { path: blob.to_owned(), descriptor: layer.record.descriptor.clone(), diff_id: layer.record.diff_id };
    let mut reader = LayerReader::open(&file, Limits::default())?;
    while let Some((path, entry)) = reader.next()? {
        let named = match &entry.kind {
            oci::Kind::Symlink(target) => format!("{path} {target}"),
            _ => path.to_string(),
        };
        let found = match search.find(named.as_bytes()) {
            None if matches!(entry.kind, oci::Kind::File(_)) => search.find_in(&mut reader.content())?,
            found => found,
        };
        if let Some(origin) = found {
            return Ok(Some((format!("/{path}"), origin)));
        }
    }
    // Bytes that were not those of the layer were not looked at.
    reader.finish()?;
    Ok(None)
}

/// Every credential that this run may use, wherever it was told.
fn secrets(workshop: &Workshop) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    if let Some(profile) = workshop.outside.profile() {
        secrets.of_profile(profile);
    }
    let environment = &workshop.settings.environment;
    for (name, value) in &environment.0 {
        secrets.of_variable(name, &value.to_string_lossy());
    }
    for path in auth_files(workshop.settings).iter().filter(|path| path.is_file()) {
        secrets.of_registries(&files::read_text(path)?, &path.display().to_string());
    }
    Ok(secrets)
}

/// No configuration in an image asks for a feature that the library beside it will lack. Asked before anything is made.
pub fn features_suffice(settings: &Settings, project: &Project, wants: &Wants, images: &[&str]) -> Result<()> {
    for name in images {
        let contents =
            || project.declaration.image[*name].layer.iter().flat_map(|layer| &layer.files).map(|it| &it.from);
        let is_yaml = |path: &&String| path.ends_with(".yaml") || path.ends_with(".yml");
        for library in contents().filter_map(|it| if let Content::Library(library) = it { Some(library) } else { None })
        {
            let Some(declared) = project.declaration.native_library.get(library) else { continue };
            let chosen = declared.features.get(&wants.features).map(Vec::as_slice).unwrap_or_default();
            let lacking = declared.feature_of_setting.iter().filter(|(_, feature)| !chosen.contains(feature));
            for (setting, feature) in lacking {
                let files = contents().filter_map(|it| if let Content::Path(path) = it { Some(path) } else { None });
                for path in files.filter(is_yaml) {
                    let text = files::read_text(&settings.workspace.root.join(path))?;
                    let Some(line) = line_that_says(&text, setting) else { continue };
                    let sets = declared.features.iter().filter(|(_, features)| features.contains(feature));
                    let sets: Vec<String> = sets.map(|(set, _)| format!("--features {set}")).collect();
                    let message = tr!(
                        "{path}:{line} in image {name} says `{setting}`, and {library} is built without `{feature}`",
                        path,
                        line,
                        name,
                        setting,
                        library,
                        feature
                    );
                    let error = Error::new(Code::LacksFeature, message);
                    return Err(match sets.is_empty() {
                        true => error.hint(tr!("change that line")),
                        false => error.hint(tr!("build with {sets}, or change that line", sets = sets.join(" / "))),
                    });
                }
            }
        }
    }
    Ok(())
}

/// The first line of a YAML text that has this setting, `key: value`, in block or flow style; booleans however they are spelt
/// (YAML 1.1, which Go's decoders follow for booleans).
fn line_that_says(text: &str, setting: &str) -> Option<usize> {
    let (key, wanted) = setting.split_once(':').map(|(key, value)| (key.trim(), value.trim()))?;
    let boolean = |value: &str| match value.to_ascii_lowercase().as_str() {
        "false" | "no" | "off" | "n" => Some(false),
        "true" | "yes" | "on" | "y" => Some(true),
        _ => None,
    };
    let same = |value: &str| value == wanted || boolean(value).is_some() && boolean(value) == boolean(wanted);
    let says = |line: &str| {
        let is_comment = |at: usize| at == 0 || line[..at].ends_with([' ', '\t']);
        let end = line.match_indices('#').map(|(at, _)| at).find(|at| is_comment(*at)).unwrap_or(line.len());
        let line = &line[..end];
        line.match_indices(key).any(|(at, _)| {
            let begins =
                line[..at].chars().next_back().is_none_or(|c| matches!(c, ' ' | '\t' | '{' | ',' | '"' | '\''));
            let rest = line[at + key.len()..].trim_start_matches(['"', '\'']).trim_start();
            let value = rest.strip_prefix(':').map(|rest| rest.split([',', '}']).next().unwrap_or(rest).trim());
            begins && value.is_some_and(same)
        })
    };
    text.lines().position(says).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyYAML 6 makes of these lines.
    #[test]
    fn a_setting_is_found_however_it_is_written_and_nowhere_else() {
        let said = [
            "use_cpu: false",
            "  use_cpu:   false  # fast",
            "bert_model: { model_id: x, use_cpu: false }",
            "bert_model: {use_cpu: No, model_id: x}",
            "- use_cpu: OFF",
            "\"use_cpu\": false",
        ];
        for line in said {
            assert_eq!(line_that_says(&format!("a: 1\n{line}\n"), "use_cpu: false"), Some(2), "{line}");
        }
        let others = [
            "use_cpu: true",
            "# use_cpu: false",
            "a: 1 # use_cpu: false",
            "do_not_use_cpu: false",
            "use_cpus: false",
            "use_cpu: falsehood",
            "a: use_cpu",
        ];
        for line in others {
            assert_eq!(line_that_says(line, "use_cpu: false"), None, "{line}");
        }
        assert_eq!(line_that_says("device: cuda:0", "device: cuda:0"), Some(1));
    }
}
