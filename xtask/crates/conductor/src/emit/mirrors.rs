//! A profile as the files that tools read, to be given to a build as secrets.
//!
//! Owns: the form of each file; which settings, `mirror/env.rs` decides. Never: hold a credential that was not asked for.

use crate::mirror::Masked;
use crate::mirror::env::{Tool, ToolEnvironment};

/// What of a profile a secret holds.
pub struct Settings {
    /// Of the secret.
    pub id: &'static str,
    pub file_name: &'static str,
    pub text: Masked,
}

impl Settings {
    pub fn holds_credential(&self) -> bool {
        self.text.expose() != self.text.to_string()
    }
}

/// Files for those tools that a profile tells something.
pub fn settings(mapping: impl Fn(Tool) -> ToolEnvironment) -> Vec<Settings> {
    let apt = mapping(Tool::Apt).files.remove("debian.sources");
    let cargo = mapping(Tool::Cargo);
    let offline = cargo.set.get("CARGO_NET_OFFLINE").map(|value| value.map(|value| format!("net.offline={value}")));
    let cargo = cargo.arguments.into_iter().filter(|word| word.expose() != "--config").chain(offline);
    let go = mapping(Tool::Go).set.into_iter().filter(|(name, _)| GO.contains(&name.as_str()));
    let go = go.map(|(name, value)| value.map(|value| format!("{name}={value}")));
    let pip = mapping(Tool::Pip).set.into_iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("PIP_")?.to_lowercase().replace('_', "-");
        Some(value.map(|value| format!("{name} = {value}")))
    });
    let section = |lines: Option<Masked>| lines.map(|lines| lines.map(|lines| format!("[global]\n{lines}")));
    [
        ("apt", "debian.sources", apt),
        ("cargo", "config.toml", lines(cargo)),
        ("go", "go.env", lines(go)),
        ("pip", "pip.conf", section(lines(pip))),
    ]
    .into_iter()
    .filter_map(|(id, file_name, text)| Some(Settings { id, file_name, text: text? }))
    .collect()
}

/// What a profile decides about Go; the rest the stages set themselves.
const GO: [&str; 4] = ["GOPROXY", "GOSUMDB", "GONOPROXY", "GOVCS"];

fn lines(lines: impl Iterator<Item = Masked>) -> Option<Masked> {
    let lines: Vec<Masked> = lines.collect();
    let text = |shown: &dyn Fn(&Masked) -> String| lines.iter().map(|line| shown(line) + "\n").collect::<String>();
    (!lines.is_empty()).then(|| Masked::new(text(&|line| line.expose().to_owned()), text(&ToString::to_string)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_becomes_the_files_of_its_tools_and_a_credential_is_noticed() {
        let masked = |text: &str| Masked::new(text, text.replace("secret", "***"));
        let mapping = |tool| {
            let mut it = ToolEnvironment::default();
            match tool {
                Tool::Cargo => {
                    for setting in
                        ["source.crates-io.replace-with=\"m\"", "source.m.registry=\"sparse+https://m.lab/\""]
                    {
                        it.arguments.extend([masked("--config"), masked(setting)]);
                    }
                }
                Tool::Go => {
                    for (name, value) in [("GOPROXY", "https://u:secret@go.lab"), ("GOTOOLCHAIN", "local")] {
                        it.set.insert(name.to_owned(), masked(value));
                    }
                }
                Tool::Pip => drop(it.set.insert("PIP_INDEX_URL".to_owned(), masked("https://py.lab/simple"))),
                _ => {}
            }
            it
        };
        let told: Vec<_> =
            settings(mapping).iter().map(|it| (it.id, it.holds_credential(), it.text.to_string())).collect();
        assert_eq!(
            told,
            [
                (
                    "cargo",
                    false,
                    "source.crates-io.replace-with=\"m\"\nsource.m.registry=\"sparse+https://m.lab/\"\n".to_owned()
                ),
                ("go", true, "GOPROXY=https://u:***@go.lab\n".to_owned()),
                ("pip", false, "[global]\nindex-url = https://py.lab/simple\n".to_owned()),
            ]
        );
    }
}
