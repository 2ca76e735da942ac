//! The environment: read once, and every variable that we obey or pass on, each named here and nowhere else.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// A snapshot of our own environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(pub BTreeMap<String, OsString>);

impl Environment {
    /// Variables whose name is not Unicode are left out: no tool that we start reads one.
    pub fn of_this_process() -> Self {
        Self(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// A variable of ours whose value is not Unicode: it would be passed over in silence.
    pub fn unreadable(&self) -> Option<&str> {
        let ours = self.0.iter().filter(|(name, _)| name.starts_with(concat!("XTASK", "_")));
        ours.filter(|(_, value)| value.to_str().is_none()).map(|(name, _)| name.as_str()).next()
    }

    /// A value that is set, Unicode and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().filter(|value| !value.is_empty())
    }

    /// The variables in `names` that are set, whatever they hold.
    pub fn only(&self, names: &[impl AsRef<str>]) -> BTreeMap<String, OsString> {
        let names = names.iter().map(AsRef::as_ref);
        names.filter_map(|name| Some((name.to_owned(), self.0.get(name)?.clone()))).collect()
    }

    /// Where PATH finds `program`.
    pub fn find(&self, program: &str) -> Option<std::path::PathBuf> {
        let executable = |path: &std::path::PathBuf| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::metadata(path)
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        };
        std::env::split_paths(self.0.get("PATH")?).map(|folder| folder.join(program)).find(executable)
    }
}

pub const MIRROR: &str = "XTASK_MIRROR";
pub const OFFLINE: &str = "XTASK_OFFLINE";
pub const EGRESS: &str = "XTASK_EGRESS";
pub const FORMAT: &str = "XTASK_FORMAT";
pub const PROGRESS: &str = "XTASK_PROGRESS";
pub const COLOR: &str = "XTASK_COLOR";
/// The language of what a person reads: `en` or `zh`.
pub const LANG: &str = "XTASK_LANG";
/// Where the system's locale stands, strongest first.
pub const LOCALE: &[&str] = &["LC_ALL", "LC_MESSAGES", "LANG"];
pub const CACHE_DIR: &str = "XTASK_CACHE_DIR";
/// The size that the cache is kept below: `10GiB`.
pub const CACHE_MAX_SIZE: &str = "XTASK_CACHE_MAX_SIZE";
/// After how many days without use a result may go.
pub const CACHE_MAX_AGE_DAYS: &str = "XTASK_CACHE_MAX_AGE_DAYS";
/// Seconds to wait for another process that makes the same result.
pub const LOCK_TIMEOUT: &str = "XTASK_LOCK_TIMEOUT";
/// Set by the launcher: how to get a satellite built.
pub const LAUNCHER: &str = "XTASK_LAUNCHER";
/// Set by the launcher: the checkout that it belongs to.
pub const REPO_ROOT: &str = "XTASK_REPO_ROOT";
/// Set by the launcher: the hosts that its own fetch contacted, separated by blanks.
pub const CONTACTED: &str = "XTASK_CONTACTED";
/// For the built-in mirror profile `corporate`: its host, a PEM file, a proxy.
pub const CORP_HOST: &str = "XTASK_CORP_HOST";
pub const CORP_CA: &str = "XTASK_CORP_CA";
pub const CORP_PROXY: &str = "XTASK_CORP_PROXY";
/// Seconds since 1970 that everything in an image is dated with.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Old: what stands before the names of images, and their tag.
pub const DOCKER_REGISTRY: &str = "DOCKER_REGISTRY";
pub const DOCKER_TAG: &str = "DOCKER_TAG";
/// Docker's own: where its engine is, its certificates, its configuration and the context that is in force.
pub const DOCKER_HOST: &str = "DOCKER_HOST";
pub const DOCKER_TLS_VERIFY: &str = "DOCKER_TLS_VERIFY";
pub const DOCKER_CERT_PATH: &str = "DOCKER_CERT_PATH";
pub const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
pub const DOCKER_CONTEXT: &str = "DOCKER_CONTEXT";
/// Folder of `ca.pem`, `cert.pem` and `key.pem` for `images --builder buildkit://HOST`.
pub const BUILDKIT_CERT_PATH: &str = "XTASK_BUILDKIT_CERT_PATH";
/// Image with the compilers of `images --from source`.
pub const TOOLS_IMAGE: &str = "XTASK_TOOLS_IMAGE";
/// Proxies by the names that BuildKit keeps out of images and cache keys.
#[rustfmt::skip]
pub const PROXIES: &[&str] = &[
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
];
/// Where podman and docker keep logins of registries.
pub const REGISTRY_AUTH_FILE: &str = "REGISTRY_AUTH_FILE";
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
pub const HOME: &str = "HOME";
/// For tests: names of parts that must not be skipped, separated by commas, or `all`.
pub const REQUIRE: &str = "XTASK_REQUIRE";
/// Old: the configuration of the running stack.
pub const CONFIG_FILE: &str = "CONFIG_FILE";
/// Old: `1` chooses the feature set `flash-attn`.
pub const ENABLE_FLASH_ATTN: &str = "ENABLE_FLASH_ATTN";
/// What says in which encoding a terminal reads, the strongest first.
pub const CHARACTERS: [&str; 3] = ["LC_ALL", "LC_CTYPE", "LANG"];
pub const NO_COLOR: &str = "NO_COLOR";
pub const CI: &str = "CI";

/// Passed to every child: where things are and how the outside is reached. What a compiler or a build script reads of these
/// cannot be seen from outside; sources that read one at compile time are refused unless it is declared.
#[rustfmt::skip]
pub const PASSED: &[&str] = &[
    "PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
    "CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_HTTP_PROXY", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "RUST_BACKTRACE",
    "GOPATH", "GOCACHE", "GOMODCACHE", "GOTMPDIR", "NETRC", "SSH_AUTH_SOCK",
];

/// Passed on top to tests and services, which are not results.
pub const PASSED_TO_RUN: &[&str] = &[
    "USER",
    "LOGNAME",
    "SHELL",
    "TZ",
    "TERM",
    "CI",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "SR_LOG_LEVEL",
    "SR_LOG_ENCODING",
];

/// In the key of a native library, and passed to cargo.
#[rustfmt::skip]
pub const NATIVE_KEYED: &[&str] = &[
    "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_PROFILE_RELEASE_LTO", "CARGO_PROFILE_RELEASE_OPT_LEVEL",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "CARGO_PROFILE_RELEASE_DEBUG", "CARGO_PROFILE_RELEASE_STRIP",
    "CC", "CXX", "AR", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDA_COMPUTE_CAP", "NVCC_CCBIN", "CUDA_HOME", "CUDA_PATH", "LD_LIBRARY_PATH",
    "SOURCE_DATE_EPOCH",
];

/// In the key of a Go binary, and passed to go.
#[rustfmt::skip]
pub const GO_KEYED: &[&str] = &[
    "CC", "CXX", "CGO_CFLAGS", "CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_LDFLAGS", "GOAMD64", "GOARM64", "GOEXPERIMENT", "GOOS", "GOARCH",
    "LD_LIBRARY_PATH",
];

/// Read by Go for fetching; taken from the user where no profile says otherwise.
pub const GO_FETCH: &[&str] =
    &["GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOAUTH", "GOINSECURE", "GOVCS"];

/// Tell cargo or a satellite what an earlier cargo told us; must not leak into children.
pub const PYTHON: &[&str] = &["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_CONFIG_FILE"];
