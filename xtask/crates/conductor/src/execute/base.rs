//! Debian bases: the declaration as a policy, the pins as packages, and what is wrong with them in our words.
//!
//! Owns: what `debian` is told. Never: know a format of Debian's; that crate does.

use crate::error::{Code, Error, Result};
use crate::project::DebianBase;
use crate::project::pins::DebianPin;
use crate::tr;
use std::path::{Path, PathBuf};

/// The root file system of a base from its pins and the fetched package of each, in the same order. Contents go into `scratch`, an
/// empty folder that must outlive the tree; what no package has is of the time given.
pub fn base_tree(
    name: &str,
    base: &DebianBase,
    pins: &[DebianPin],
    packages: &[PathBuf],
    modified_seconds: i64,
    scratch: &Path,
) -> Result<oci::Tree> {
    let patterns =
        |texts: &[String]| texts.iter().map(|text| debian::Pattern::new(text)).collect::<debian::Result<_>>();
    let user = |(name, user): (&String, &crate::project::DebianUser)| debian::User {
        name: name.clone(),
        id: user.id,
        home: user.home.clone(),
    };
    let source = |(pin, file): (&DebianPin, &PathBuf)| debian::Source {
        name: pin.name.clone(),
        version: pin.version.clone(),
        architecture: pin.architecture.clone(),
        file: file.clone(),
    };
    let sources: Vec<_> = pins.iter().zip(packages).map(source).collect();
    let made = patterns(&base.exclude).and_then(|exclude| {
        let keep = patterns(&base.keep)?;
        let users = base.users.iter().map(user).collect();
        let policy = debian::Policy { suite: base.suite.clone(), exclude, keep, users, modified_seconds };
        debian::base_tree(&sources, &policy, scratch)
    });
    made.map_err(|error| explain(name, error))
}

/// `name`: of the base that was to be resolved or made.
pub fn explain(name: &str, error: debian::Error) -> Error {
    use debian::Error as E;
    if let E::Io { action, path, cause } = error {
        return Error::disk(action, &path, cause);
    }
    let hint = match &error {
        E::Unknown { .. } => Some(tr!("correct the name in `packages` of [debian-base.{name}]", name)),
        E::Unsatisfied { clause, .. } => {
            let cut = clause.split([' ', ':']).next().unwrap_or_default();
            Some(tr!("if the image can do without it, add \"{cut}\" to `without` of [debian-base.{name}]", cut, name))
        }
        E::Ambiguous { providers, .. } => Some(tr!(
            "add the one that you want to `packages` of [debian-base.{name}] ({providers})",
            name,
            providers = providers.join(", ")
        )),
        E::Conflict { package, other, .. } => {
            Some(tr!("take {package} or {other} out of [debian-base.{name}]", package, other, name))
        }
        E::Unused { name: unused } => {
            Some(tr!("take \"{unused}\" out of `without` of [debian-base.{name}]", unused, name))
        }
        E::Refused { path, .. } | E::Collision { path, .. } => {
            Some(tr!("if the image can do without it, add \"{path}\" to `exclude` of [debian-base.{name}]", path, name))
        }
        E::Malformed { .. } | E::Other { .. } | E::Io { .. } => None,
    };
    let code = match &error {
        E::Refused { .. } | E::Collision { .. } | E::Malformed { .. } | E::Other { .. } => Code::BadPackage,
        _ => Code::CannotPin,
    };
    let it = Error::new(code, tr!("the packages of base {name} cannot be put together", name)).because(error);
    match hint {
        Some(hint) => it.hint(hint),
        None => it,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_has_the_users_of_its_declaration_and_a_pin_that_is_no_package_is_named() {
        let declared = "suite = 'bookworm'\npackages = []\nusers.me = { id = 7, home = '/home/me' }\n";
        let base: DebianBase = toml::from_str(declared).unwrap();
        let folder = crate::files::temporary_folder(&std::env::temp_dir(), "base").unwrap();
        let tree = base_tree("small", &base, &[], &[], 9, &folder).unwrap();
        let home = tree.get("home/me").unwrap();
        assert_eq!((home.uid, home.mode, home.modified_seconds), (7, 0o700, 9));
        let pin = DebianPin {
            name: "app".into(),
            version: "1".into(),
            architecture: "all".into(),
            path: "base/pool/app.deb".into(),
            sha256: crate::digest::Digest::of(b"!"),
            size_bytes: 1,
        };
        let file = folder.join("app.deb");
        crate::files::write(&file, b"!").unwrap();
        let made = base_tree("small", &base, std::slice::from_ref(&pin), std::slice::from_ref(&file), 9, &folder);
        let error = made.unwrap_err();
        assert_eq!(error.code(), Code::BadPackage);
        assert!(error.causes()[0].starts_with("app 1: "), "{error:?}");
        crate::files::remove(&file).unwrap();
        let made = base_tree("small", &base, &[pin], &[file], 9, &folder);
        assert_eq!(made.unwrap_err().code(), Code::Disk);
        crate::files::remove(&folder).unwrap();
    }

    #[test]
    fn each_failure_of_a_base_says_which_line_to_change() {
        use debian::Error as E;
        let chain = || vec!["app".to_owned(), "lib".to_owned()];
        let shown = [
            E::Unknown { name: "libc9".into() },
            E::Unsatisfied { needed_by: chain(), clause: "debconf (>= 9) | x".into(), found: vec!["debconf 1".into()] },
            E::Ambiguous { needed_by: chain(), clause: "awk".into(), providers: vec!["gawk".into(), "mawk".into()] },
            E::Unused { name: "perl".into() },
            E::Collision { path: "usr/x".into(), packages: ["a".into(), "b".into()] },
            E::Malformed { subject: "a 1".into(), why: "it is no package".into() },
        ]
        .map(|error| explain("runtime", error).render());
        expect_test::expect![[r#"
            error[XT0311]: the packages of base runtime cannot be put together
              caused by: no index has a package `libc9`
            hint: correct the name in `packages` of [debian-base.runtime]
            error[XT0311]: the packages of base runtime cannot be put together
              caused by: app → lib needs `debconf (>= 9) | x`, the indexes have debconf 1
            hint: if the image can do without it, add "debconf" to `without` of [debian-base.runtime]
            error[XT0311]: the packages of base runtime cannot be put together
              caused by: app → lib needs `awk`, which each of gawk, mawk provides
            hint: add the one that you want to `packages` of [debian-base.runtime] (gawk, mawk)
            error[XT0311]: the packages of base runtime cannot be put together
              caused by: `without` names `perl`, which nothing here depends on
            hint: take "perl" out of `without` of [debian-base.runtime]
            error[XT0312]: the packages of base runtime cannot be put together
              caused by: `usr/x` is in a and in b
            hint: if the image can do without it, add "usr/x" to `exclude` of [debian-base.runtime]
            error[XT0312]: the packages of base runtime cannot be put together
              caused by: a 1: it is no package"#]]
        .assert_eq(&shown.join("\n"));
    }
}
