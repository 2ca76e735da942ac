//! The closure of named packages: what has to be there with them.
//!
//! Owns: the choice between alternatives. Never: ask anybody, or depend on the order of anything but the names given.
//! Source: Debian Policy 7.2 (`Depends`, `Pre-Depends`; `Recommends` are not followed) and 7.4.
//!
//! Where only one package can satisfy a clause it is taken; the clauses with a choice wait until nothing else is left, as
//! what others need may settle them. Then the first alternative that any index has is taken, as apt does. Several packages that
//! provide one name are no order to choose by: that is an error, and naming one of them settles it.

use crate::error::{Error, Result};
use crate::index::{Index, Package};
use crate::relation::{Clause, Relation, shown};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// `names` and all that they need, sorted by name. `without`: packages or provided names that are cut off: whoever needs one is
/// content, and what it would have needed in turn is not looked at.
///
/// # Errors: Unknown, Unsatisfied, Ambiguous, Conflict, Unused, Malformed.
pub fn resolve<'a>(index: &'a Index, names: &[String], without: &[String]) -> Result<Vec<&'a Package>> {
    let mut search = Search {
        index,
        without: without.iter().map(String::as_str).collect(),
        cut: BTreeSet::new(),
        chosen: BTreeMap::new(),
        needed_by: BTreeMap::new(),
        queue: VecDeque::new(),
    };
    for name in names {
        if search.without.contains(name.as_str()) {
            return Err(Error::Unused { name: name.clone() });
        }
        let package = index.get(name).ok_or_else(|| Error::Unknown { name: name.clone() })?;
        search.choose(package, None);
    }
    search.close()?;
    if let Some(name) = without.iter().find(|name| !search.cut.contains(name.as_str())) {
        return Err(Error::Unused { name: name.clone() });
    }
    let closure: Vec<_> = search.chosen.into_values().collect();
    for package in &closure {
        for clause in package.excludes()? {
            let meant = |other: &&&Package| {
                other.name != package.name && clause.iter().any(|it| other.satisfies(it, &index.architecture))
            };
            if let Some(other) = closure.iter().find(meant) {
                let (package, other) = (package.name.clone(), other.name.clone());
                return Err(Error::Conflict { package, other, clause: shown(&clause) });
            }
        }
    }
    Ok(closure)
}

struct Search<'a, 'n> {
    index: &'a Index,
    without: BTreeSet<&'n str>,
    /// Those of `without` that cut something.
    cut: BTreeSet<String>,
    chosen: BTreeMap<&'a str, &'a Package>,
    /// Package → the one that it was chosen for.
    needed_by: BTreeMap<&'a str, &'a str>,
    /// Chosen, and not looked at yet.
    queue: VecDeque<&'a Package>,
}

impl<'a> Search<'a, '_> {
    fn choose(&mut self, package: &'a Package, needed_by: Option<&'a Package>) {
        if self.chosen.insert(&package.name, package).is_none() {
            self.needed_by.extend(needed_by.map(|it| (package.name.as_str(), it.name.as_str())));
            self.queue.push_back(package);
        }
    }

    fn close(&mut self) -> Result<()> {
        let mut open: VecDeque<(&Package, Clause)> = VecDeque::new();
        loop {
            while let Some(package) = self.queue.pop_front() {
                for clause in package.needs()? {
                    if self.settled(&clause) {
                        continue;
                    }
                    match self.able(&clause).as_slice() {
                        [] => return Err(self.unsatisfied(package, &clause)),
                        [only] => self.choose(only, Some(package)),
                        _ => open.push_back((package, clause)),
                    }
                }
            }
            let Some((package, clause)) = open.pop_front() else { return Ok(()) };
            if !self.settled(&clause) {
                let choice = self.decide(package, &clause)?;
                self.choose(choice, Some(package));
            }
        }
    }

    /// Whether something that was chosen satisfies it, or the alternative that would be taken is cut off.
    fn settled(&mut self, clause: &[Relation]) -> bool {
        let (index, mut chosen) = (self.index, self.chosen.values());
        if chosen.any(|package| clause.iter().any(|it| package.satisfies(it, &index.architecture))) {
            return true;
        }
        for relation in clause {
            // A provided name is cut off by its provider's.
            let candidates: Vec<_> = index.candidates(relation).iter().map(|package| package.name.as_str()).collect();
            let mut names = std::iter::once(relation.name.as_str()).chain(candidates.iter().copied());
            if let Some(cut) = names.find(|name| self.without.contains(name)) {
                self.cut.insert(cut.to_owned());
                return true;
            }
            if !candidates.is_empty() {
                return false;
            }
        }
        false
    }

    /// Every package that can satisfy it, each once, in the order of the alternatives.
    fn able(&self, clause: &[Relation]) -> Vec<&'a Package> {
        let mut able: Vec<&'a Package> = Vec::new();
        for relation in clause {
            for package in self.index.candidates(relation) {
                if !able.iter().any(|it| it.name == package.name) {
                    able.push(package);
                }
            }
        }
        able
    }

    /// The first alternative that any index has.
    fn decide(&self, package: &Package, clause: &[Relation]) -> Result<&'a Package> {
        for relation in clause {
            let able = self.able(std::slice::from_ref(relation));
            match able.as_slice() {
                [] => {}
                [first, ..] if first.name == relation.name => return Ok(first),
                [only] => return Ok(only),
                several => {
                    return Err(Error::Ambiguous {
                        needed_by: self.chain(package),
                        clause: shown(clause),
                        providers: several.iter().map(|it| it.name.clone()).collect(),
                    });
                }
            }
        }
        Err(self.unsatisfied(package, clause))
    }

    fn unsatisfied(&self, package: &Package, clause: &[Relation]) -> Error {
        Error::Unsatisfied { needed_by: self.chain(package), clause: shown(clause), found: self.index.found(clause) }
    }

    /// From a named package to this one.
    fn chain(&self, package: &Package) -> Vec<String> {
        let above = |name: &&str| self.needed_by.get(*name).copied();
        let mut chain: Vec<_> =
            std::iter::successors(Some(package.name.as_str()), |it| above(it)).map(str::to_owned).collect();
        chain.reverse();
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name version field: value; field: value`, a package a line.
    fn index(packages: &str) -> Index {
        let mut text = String::new();
        for line in packages.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let [name, version, rest] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let hash = "a".repeat(64);
            text += &format!("Package: {name}\nVersion: {version}\nArchitecture: all\nFilename: pool/{name}.deb\n");
            text += &format!("Size: 1\nSHA256: {hash}\n{}\n\n", rest.replace("; ", "\n"));
        }
        let mut index = Index::new("amd64");
        index.read("x", "base", text.as_bytes()).unwrap();
        index
    }

    /// The names, or the error.
    fn closure(packages: &str, names: &[&str], without: &[&str]) -> String {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        match resolve(&index(packages), &owned(names), &owned(without)) {
            Ok(closure) => closure.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    const PACKAGES: &str = "
        app 1 Depends: libx (>= 2), conf | conf-2.0; Pre-Depends: libc
        libx 2 Depends: libc (>= 1), gcc; Provides: x-api (= 2)
        gcc 1 Depends: libc
        libc 1 Depends: gcc; Recommends: idn
        idn 1 Depends: nothing
        conf 1 Depends: shell
        cdconf 1 Provides: conf-2.0
        shell 1 Priority: x
        old 1 Depends: libx (>= 3) | libx (<< 2)
        user 1 Depends: old
        mawk 1 Provides: awk
        gawk 1 Provides: awk; Conflicts: awk
        script 1 Depends: awk
        either 1 Depends: shell | mawk
        fixed 1 Depends: mawk
        api 1 Depends: x-api (>= 2)
        new-api 1 Depends: x-api (>= 3)
        breaker 1 Breaks: libx (<< 3); Depends: libx
        self 1 Provides: role; Conflicts: role";

    #[test]
    fn a_closure_follows_depends_and_pre_depends_and_circles() {
        assert_eq!(closure(PACKAGES, &["app"], &[]), "app conf gcc libc libx shell");
        assert_eq!(closure(PACKAGES, &["gcc"], &[]), "gcc libc");
        assert_eq!(closure(PACKAGES, &["api"], &[]), "api gcc libc libx");
        assert_eq!(closure(PACKAGES, &["self"], &[]), "self", "a package may conflict with a role of its own");
        assert_eq!(closure(PACKAGES, &[], &[]), "");
    }

    #[test]
    fn what_is_cut_off_is_not_there_and_cuts_something() {
        assert_eq!(closure(PACKAGES, &["app"], &["conf"]), "app gcc libc libx");
        assert_eq!(closure(PACKAGES, &["app"], &["shell"]), "app conf gcc libc libx");
        assert_eq!(closure(PACKAGES, &["script"], &["awk"]), "script");
        assert_eq!(closure(PACKAGES, &["script"], &["mawk"]), "script");
        for unused in ["idn", "gawk", "nowhere", "app", "cdconf"] {
            let error = format!("`without` names `{unused}`, which nothing here depends on");
            assert_eq!(closure(PACKAGES, &["app"], &["conf", unused]), error);
        }
    }

    #[test]
    fn the_first_alternative_is_taken_unless_others_need_another() {
        assert_eq!(closure(PACKAGES, &["either"], &[]), "either shell");
        for names in [["either", "fixed"], ["fixed", "either"]] {
            assert_eq!(closure(PACKAGES, &names, &[]), "either fixed mawk");
            assert_eq!(closure(PACKAGES, &["script", names[0], names[1]], &[]), "either fixed mawk script");
        }
        // Had the second alternative been cut off, nobody would have wanted it.
        assert!(closure(PACKAGES, &["either"], &["mawk"]).starts_with("`without` names `mawk`"));
    }

    #[test]
    fn who_needs_what_is_said() {
        for (names, error) in [
            (["nowhere"], "no index has a package `nowhere`"),
            (["idn"], "idn needs `nothing`, which no index has"),
            (["user"], "user → old needs `libx (>= 3) | libx (<< 2)`, the indexes have libx 2"),
            (["new-api"], "new-api needs `x-api (>= 3)`, which no index has"),
            (["script"], "script needs `awk`, which each of gawk, mawk provides"),
            (["breaker"], "breaker cannot be beside libx: it says `libx (<< 3)`"),
        ] {
            assert_eq!(closure(PACKAGES, &names, &[]), error);
        }
        assert_eq!(closure(PACKAGES, &["gawk", "mawk"], &[]), "gawk cannot be beside mawk: it says `awk`");
    }
}
