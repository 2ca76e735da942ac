//! Old habits as data: what each target of the Makefiles that this tool replaces is called now, and which capabilities of that
//! pipeline must survive.
//!
//! Owns: one answer a target, checked below against the real command line. Must never: promise a command that does not exist without
//! saying that it is coming. Source: the Makefiles of the upstream project, whose targets `make-targets.txt` lists.

/// What became of a target or a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A command that exists, and what is worth knowing beside it.
    Now(&'static str, &'static str),
    /// A command that does not exist yet.
    Coming(&'static str),
    /// There is none, for this reason.
    Never(&'static str),
}
use Answer::{Coming, Never, Now};

impl Answer {
    /// In a sentence's place: `cargo xtask build`, `coming: …`, `none: …`.
    pub fn text(self) -> String {
        match self {
            Now(command, "") => command.to_owned(),
            Now(command, note) => format!("{command}    ({note})"),
            Coming(command) => format!("coming: {command}"),
            Never(reason) => format!("none: {reason}"),
        }
    }
}

/// Targets that share an answer, separated by blanks. Those of `src/vllm-sr/Makefile` carry its name.
type Row = (&'static str, Answer);

pub const GROUPS: &[(&str, &[Row])] = &[
    (
        "Build",
        &[
            ("rust rust-ci", Now("cargo xtask build candle-binding", "CPU; nothing is guessed from an installed nvcc")),
            ("rust-flash-attn", Now("cargo xtask build candle-binding --features flash-attn", "needs CUDA")),
            ("build-router", Now("cargo xtask build router", "with the library that it links")),
            ("build build-all", Now("cargo xtask build", "")),
            ("build-cli install-cli", Never(NO_CLI)),
            ("install-controller-gen generate-crd generate-deepcopy generate-api", Never(NO_API_TYPES)),
            ("download-models download-models-lora", Coming("cargo xtask models fetch")),
            ("clean-minimal-models", Never("it did nothing before either")),
            ("clean", Now("cargo xtask clean", "--all takes the caches too")),
        ],
    ),
    (
        "Run",
        &[
            ("run-router prepare-envoy run-envoy", Now("cargo xtask run", "backend, router and Envoy, each pinned")),
            (
                "run-router-e2e run-router-hallucination",
                Now("cargo xtask run", "CONFIG_FILE=… chooses another configuration"),
            ),
            (
                "test-pii test-prompt-guard test-tools test-auto-prompt-reasoning test-auto-prompt-no-reasoning",
                Now("cargo xtask run --once examples/chat.json", "any request as a file"),
            ),
            ("test-vllm", Never("curl asks an endpoint as well; `cargo xtask run` prints those of the stack")),
            ("start-llm-katan test-e2e-vllm", Never(NO_KATAN)),
        ],
    ),
    (
        "Test",
        &[
            ("test", Now("cargo xtask test", "")),
            ("test-rust", Now("cargo xtask test rust", "")),
            (
                "test-rust-module",
                Now("cargo xtask test rust", "one module: `cargo test --release MODULE` in candle-binding/"),
            ),
            ("test-rust-flash-attn test-rust-flash-attn-module", Never("no suite runs on a GPU")),
            (
                "test-binding test-binding-minimal test-binding-lora test-semantic-router",
                Now("cargo xtask test go", "the whole suite; no failure is forgiven"),
            ),
            ("test-cli", Never(NO_CLI)),
            ("test-category-classifier test-pii-classifier test-jailbreak-classifier", Never(NO_TRAINING)),
            ("bench-hallucination bench-hallucination-full", Never(NO_HALLUCINATION)),
            (
                "test-hallucination-detection test-hallucination-detection-manual stop-hallucination-services demo-hallucination demo-hallucination-web demo-hallucination-auto",
                Never(NO_HALLUCINATION),
            ),
        ],
    ),
    (
        "Quality",
        &[
            ("vet", Now("cargo xtask lint vet", "")),
            ("check-go-mod-tidy", Now("cargo xtask lint go-mod-tidy", "rewrites nothing")),
            ("go-lint", Now("cargo xtask lint staticcheck", "")),
            ("go-lint-fix markdown-lint-fix", Never("linters here rewrite nothing; your editor and `gofmt -w` do")),
            ("yaml-lint", Now("cargo xtask lint yaml", "")),
            ("codespell", Now("cargo xtask lint spelling", "")),
            ("shellcheck", Now("cargo xtask lint shell", "")),
            ("markdown-lint", Now("cargo xtask test tool", "links, paths and commands of the documents")),
            ("precommit-check precommit-local", Now("cargo xtask lint", "")),
            ("precommit-install", Never("there is nothing to install: linters are pinned and fetched when first used")),
            (
                "perf-bench perf-bench-quick perf-bench-classification perf-bench-decision perf-bench-cache perf-bench-concurrency perf-compare perf-check perf-report perf-baseline-update perf-watch perf-help perf-e2e",
                Coming("cargo xtask bench [NAME…]"),
            ),
            ("perf-clean", Now("cargo xtask clean", "")),
            (
                "perf-profile-cpu perf-profile-mem perf-flamegraph",
                Never("use `go test -cpuprofile` and `go tool pprof`"),
            ),
            ("help", Now("cargo xtask help", "")),
        ],
    ),
    (
        "Images",
        &[
            (
                "docker-build-extproc",
                Now(
                    "cargo xtask images extproc --to tar:extproc.tar",
                    "then `docker load -i extproc.tar`; no engine is needed to make it",
                ),
            ),
            ("docker-build-all", Now("cargo xtask images", "")),
            (
                "docker-build-llm-katan docker-push-llm-katan docker-run-llm-katan docker-run-llm-katan-custom docker-test-llm-katan",
                Never(NO_KATAN),
            ),
            ("docker-build-dashboard", Never(NO_DASHBOARD)),
            ("docker-build-precommit", Never("linters are pinned and need no image: `cargo xtask lint`")),
            ("docker-push-extproc docker-push-all", Coming("cargo xtask images --to registry:REF")),
            (
                "docker-clean",
                Never("it pruned images of every project; `cargo xtask clean` removes what this tool made"),
            ),
            ("docker-help", Now("cargo xtask help", "")),
        ],
    ),
    (
        "Compose",
        &[
            ("docker-compose-up docker-compose-up-core docker-compose-up-ci", Coming("cargo xtask compose up")),
            ("docker-compose-up-testing", Coming("cargo xtask compose up --profile testing")),
            (
                "docker-compose-up-llm-katan docker-compose-rebuild-llm-katan docker-compose-down-llm-katan",
                Never(NO_KATAN),
            ),
            (
                "docker-compose-rebuild docker-compose-rebuild-testing",
                Coming("cargo xtask compose up, after cargo xtask images"),
            ),
            (
                "docker-compose-down docker-compose-down-core docker-compose-down-testing docker-compose-down-ci",
                Coming("cargo xtask compose down"),
            ),
            ("docker-compose-logs-ci", Coming("cargo xtask compose logs")),
            ("docker-compose-ps-ci", Coming("cargo xtask compose ps")),
        ],
    ),
    (
        "Kubernetes",
        &[
            ("create-cluster setup", Coming("cargo xtask cluster create")),
            ("delete-cluster cleanup undeploy", Coming("cargo xtask cluster delete")),
            ("cluster-info status", Coming("cargo xtask cluster status")),
            ("load-image", Coming("cargo xtask cluster load")),
            ("deploy", Coming("cargo xtask cluster deploy")),
            ("test-deployment test-api", Coming("cargo xtask cluster test")),
            ("logs", Coming("cargo xtask cluster logs")),
            ("port-forward-api port-forward-grpc port-forward-metrics", Coming("cargo xtask cluster port-forward")),
            ("help-kube", Now("cargo xtask help", "")),
            (
                "kube-load-llm-katan-image kube-deploy-llm-katan kube-deploy-llm-katan-gpt35 kube-deploy-llm-katan-claude kube-deploy-llm-katan-multi kube-undeploy-llm-katan kube-status-llm-katan kube-logs-llm-katan kube-test-llm-katan kube-port-forward-llm-katan",
                Never(NO_KATAN),
            ),
            (
                "helm-lint helm-template helm-package helm-install helm-upgrade helm-install-or-upgrade helm-reinstall helm-test helm-dev helm-prod helm-setup helm-uninstall helm-status helm-list helm-history helm-rollback helm-values helm-manifest helm-logs helm-clean helm-cleanup helm-port-forward-api helm-port-forward-grpc helm-port-forward-metrics",
                Never("there is no Helm chart here; the manifests of deploy/ need none"),
            ),
            (
                "openshift-login openshift-logout openshift-deploy openshift-undeploy openshift-deploy-auto openshift-deploy-template openshift-cleanup openshift-status openshift-logs openshift-logs-previous openshift-routes openshift-test openshift-debug openshift-port-forward-api openshift-port-forward-grpc openshift-port-forward-metrics",
                Never("there is nothing of OpenShift here; `oc` does it"),
            ),
            (
                "e2e-test e2e-test-ai-gateway e2e-test-dynamo e2e-test-debug e2e-test-only e2e-test-specific e2e-setup",
                Coming("cargo xtask cluster test"),
            ),
            ("e2e-cleanup", Coming("cargo xtask cluster delete")),
            ("build-e2e e2e-deps e2e-tidy e2e-help", Never("there is no separate test runner to build")),
        ],
    ),
    (
        "Side services, dashboard and site",
        &[
            (
                "start-milvus stop-milvus restart-milvus clean-milvus milvus-status start-milvus-ui stop-milvus-ui test-milvus-cache test-semantic-router-milvus benchmark-hybrid-quick benchmark-hybrid-only benchmark-hybrid-vs-milvus analyze-hybrid-benchmarks plot-hybrid-benchmarks start-redis stop-redis restart-redis clean-redis redis-status redis-info redis-cli verify-redis run-redis-example test-redis-cache test-semantic-router-redis benchmark-redis benchmark-cache-comparison",
                Never("this router has no semantic cache"),
            ),
            (
                "o11y-local o11y-compose o11y-logs o11y-status o11y-clean run-observability stop-observability open-observability",
                Never(
                    "the router serves /metrics, which `cargo xtask run` prints; Prometheus and Grafana are not part of it",
                ),
            ),
            (
                "dashboard-install dashboard-dev-frontend dashboard-dev-backend dashboard-build dashboard-build-frontend dashboard-build-backend dashboard-lint dashboard-lint-fix dashboard-type-check dashboard-go-mod-tidy dashboard-check dashboard-clean",
                Never(NO_DASHBOARD),
            ),
            (
                "docs-install docs-dev docs-build docs-serve docs-clean docs-lint docs-lint-fix docs-crd docs-crd-watch docs-all install-crd-ref-docs",
                Never("the documents are plain Markdown in docs/"),
            ),
        ],
    ),
    (
        "src/vllm-sr/Makefile",
        &[
            ("src/vllm-sr:docker-build", Now("cargo xtask images extproc", "")),
            ("src/vllm-sr:docker-buildx", Coming("cargo xtask images --platform PLATFORM")),
            ("src/vllm-sr:docker-buildx-push", Coming("cargo xtask images --platform PLATFORM --to registry:REF")),
            ("src/vllm-sr:dev-setup", Never("there is nothing to set up: what is missing is fetched when first used")),
            ("src/vllm-sr:dev-serve", Now("cargo xtask run", "")),
            ("src/vllm-sr:dev-test src/vllm-sr:test", Now("cargo xtask test", "")),
            ("src/vllm-sr:install", Never("there is no Python command line to install")),
            (
                "src/vllm-sr:validate src/vllm-sr:generate",
                Now("cargo xtask run", "checks the configuration and writes Envoy's"),
            ),
            ("src/vllm-sr:docker-run", Coming("cargo xtask compose up")),
            ("src/vllm-sr:docker-stop", Coming("cargo xtask compose down")),
            ("src/vllm-sr:docker-logs", Coming("cargo xtask compose logs")),
            ("src/vllm-sr:docker-shell", Never("the images have no shell")),
            ("src/vllm-sr:clean", Now("cargo xtask clean", "")),
        ],
    ),
];

const NO_CLI: &str = "the `vsr` command line is not part of this repository";
const NO_API_TYPES: &str = "the Kubernetes API types are not part of this repository";
const NO_TRAINING: &str = "the programs under src/training are not part of this repository";
const NO_HALLUCINATION: &str = "hallucination detection is not part of this router";
const NO_KATAN: &str = "LLM Katan is not part of this repository; `cargo xtask run` starts a mock backend";
const NO_DASHBOARD: &str = "the dashboard is not part of this repository";

/// Every target with its group and answer.
pub fn targets() -> impl Iterator<Item = (&'static str, &'static str, Answer)> {
    GROUPS.iter().flat_map(|(group, rows)| {
        rows.iter().flat_map(move |(names, answer)| names.split_whitespace().map(move |name| (*group, name, *answer)))
    })
}

/// The answer to one target; a name that only `src/vllm-sr/Makefile` has needs no prefix.
pub fn answer(target: &str) -> Option<Answer> {
    let find = |wanted: &str| targets().find(|(_, name, _)| *name == wanted).map(|(_, _, answer)| answer);
    find(target).or_else(|| find(&format!("src/vllm-sr:{target}")))
}

/// A capability of the old pipeline that must survive, what has it, and the test that uses it.
pub struct Capability {
    /// Row of the parity checklist.
    pub id: &'static str,
    pub what: &'static str,
    pub answer: Answer,
    /// A test's name, where the command exists.
    pub test: &'static str,
}

const fn row(id: &'static str, what: &'static str, answer: Answer, test: &'static str) -> Capability {
    Capability { id, what, answer, test }
}

/// The rows marked M (must) of the parity checklist.
#[rustfmt::skip]
pub const PARITY: &[Capability] = &[
    row("P1", "native library in release form: CPU, CUDA, flash-attn", Now("cargo xtask build candle-binding --features cpu", ""), "test_a_first_build_through_the_mirrors_alone_succeeds_and_leaves_the_tree_clean"),
    row("P2", "router with cgo against that library, found where it is run", Now("cargo xtask build router", ""), "test_the_binary_shows_every_declared_setting_and_finds_its_library"),
    row("P4", "router with a chosen configuration", Now("cargo xtask run", ""), "test_each_example_picks_its_decision_through_envoy_and_ctrl_c_ends_the_stack"),
    row("P5", "test suites of library, binding and router", Now("cargo xtask test rust go", ""), "a_suite_is_run_counted_and_its_first_failure_ends_it"),
    row("P8", "models alone, from a registry map or a folder", Coming("cargo xtask models fetch"), ""),
    row("P9", "local models with no network at all", Now("cargo xtask build --offline", ""), "test_without_dist_and_build_folders_everything_is_restored_with_the_network_unplugged"),
    row("P10", "a hub cache and a mirror of the hub", Coming("cargo xtask models fetch"), ""),
    row("P11", "Go proxy and checksum database through a mirror, in image builds", Now("cargo xtask images --from source", ""), "test_xtask_has_the_same_stages_built_and_leaves_as_little_behind"),
    row("P12", "Python index through a mirror for the mock backend", Now("cargo xtask run --mirror cn", ""), "test_one_request_is_routed_although_nothing_but_the_library_was_there"),
    row("P13", "extproc image with the same paths, ports and entry point", Now("cargo xtask images extproc", ""), "test_the_stack_of_these_images_answers_a_chat_through_envoy"),
    row("P15", "mock backend: its image", Now("cargo xtask images mock-vllm", ""), "test_the_stack_of_these_images_answers_a_chat_through_envoy"),
    row("P21", "docker or podman; registry and tag; push", Coming("cargo xtask images --to registry:REF"), ""),
    row("P22", "compose stack, up and down, logs, selections", Coming("cargo xtask compose up"), ""),
    row("P23", "minimal stack for continuous integration", Coming("cargo xtask compose up"), ""),
    row("P25", "a user's override file, merged last", Coming("cargo xtask compose up"), ""),
    row("P29", "local cluster: create, delete, describe, mount models", Coming("cargo xtask cluster create"), ""),
    row("P30", "side-loading of images", Coming("cargo xtask cluster load"), ""),
    row("P31", "deploy, status, logs, port-forward, test", Coming("cargo xtask cluster deploy"), ""),
    row("P34", "containerd mirrors, pull-through cache, pull policy", Coming("cargo xtask cluster mirrors"), ""),
    row("P42", "old names lead to the new commands", Now("cargo xtask help --from-make", ""), "every_target_of_the_old_makefiles_has_one_answer"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;
    use std::collections::BTreeSet;

    /// The targets as the Makefiles' catalogue groups them: `{a,b}` is either, `[-c]` may be there.
    const CATALOGUE: &str = include_str!("make-targets.txt");

    /// `a[-b]{,-c,-d}` → every name that it stands for.
    fn expand(word: &str) -> Vec<String> {
        let Some(open) = word.find(['[', '{']) else { return vec![word.to_owned()] };
        let close = if word.as_bytes()[open] == b'[' { ']' } else { '}' };
        let end = open + word[open..].find(close).unwrap();
        let mut choices: Vec<&str> = word[open + 1..end].split(',').collect();
        if close == ']' {
            choices.push("");
        }
        let tails = expand(&word[end + 1..]);
        choices.iter().flat_map(|it| tails.iter().map(move |tail| format!("{}{it}{tail}", &word[..open]))).collect()
    }

    #[test]
    fn every_target_of_the_old_makefiles_has_one_answer() {
        let words = CATALOGUE.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
        let catalogue: BTreeSet<String> = words.flat_map(expand).collect();
        let mut answered = BTreeSet::new();
        for (_, name, _) in targets() {
            assert!(answered.insert(name.to_owned()), "{name} has two answers");
        }
        assert!(catalogue.len() > 240, "only {} targets were read", catalogue.len());
        assert_eq!(answered.difference(&catalogue).collect::<Vec<_>>(), [""; 0], "no Makefile has these");
        assert_eq!(catalogue.difference(&answered).collect::<Vec<_>>(), [""; 0], "nothing answers these");
    }

    #[test]
    fn every_command_of_an_answer_is_one_and_none_that_is_coming_has_come() {
        let parses = |command: &str| {
            let words = command.strip_prefix("cargo ").unwrap().split_whitespace();
            Cli::try_parse_from(words).map_err(|error| error.to_string())
        };
        for answer in targets().map(|(_, _, answer)| answer).chain(PARITY.iter().map(|row| row.answer)) {
            match answer {
                Now(command, _) => assert!(parses(command).is_ok(), "{command}: {:?}", parses(command).err()),
                Coming(command) => {
                    let command = command.split(',').next().unwrap();
                    assert!(parses(command).is_err(), "`{command}` is here: say so");
                }
                Never(reason) => assert!(reason.len() > 10, "`{reason}` is no reason"),
            }
        }
    }

    #[test]
    fn a_name_of_the_second_makefile_needs_no_prefix_unless_both_have_it() {
        assert_eq!(answer("docker-shell"), answer("src/vllm-sr:docker-shell"));
        assert_eq!(
            answer("clean").map(Answer::text).as_deref(),
            Some("cargo xtask clean    (--all takes the caches too)")
        );
        assert_eq!(answer("no-such-target"), None);
    }
}
