//! Which names a pattern means, for those who write private names down and for the gateway, which obeys them.
//!
//! `*` is any run of characters; for Go modules the patterns mean what they mean in `GOPRIVATE`: they match a path from its
//! beginning, element by element. Source: `go help module-private`, `golang.org/x/mod/module.MatchPrefixPatterns`.

use crate::Ecosystem;

/// Whether `pattern` covers `name` as its ecosystem compares names: Python's are normalised (PEP 503), cargo takes `-` and
/// `_` for the same, hub and npm names are compared without case.
pub fn covers(ecosystem: Ecosystem, pattern: &str, name: &str) -> bool {
    match ecosystem {
        Ecosystem::Go => {
            let pattern = pattern.trim_end_matches('/');
            let elements = pattern.matches('/').count() + 1;
            let prefix: Vec<&str> = name.split('/').take(elements).collect();
            prefix.len() == elements
                && pattern.split('/').zip(prefix).all(|(pattern, element)| glob(pattern.as_bytes(), element.as_bytes()))
        }
        Ecosystem::Python => glob(normalised(pattern).as_bytes(), normalised(name).as_bytes()),
        Ecosystem::Crates => {
            let same = |name: &str| name.to_lowercase().replace('_', "-");
            glob(same(pattern).as_bytes(), same(name).as_bytes())
        }
        _ => glob(pattern.to_lowercase().as_bytes(), name.to_lowercase().as_bytes()),
    }
}

/// `*` in `pattern` is any run of bytes. Linear in practice: only the last `*` is ever tried again.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut position, mut again) = (0, 0, None);
    while position < name.len() {
        if pattern.get(at) == Some(&b'*') {
            again = Some((at + 1, position));
            at += 1;
        } else if pattern.get(at) == Some(&name[position]) {
            (at, position) = (at + 1, position + 1);
        } else if let Some((star, from)) = again {
            (at, position, again) = (star, from + 1, Some((star, from + 1)));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// The one name of all spellings of a Python project: `Foo._Bar` and `foo-bar` are one. Source: PEP 503, "Normalized Names".
pub fn normalised(name: &str) -> String {
    let mut normalised = String::with_capacity(name.len());
    for c in name.chars().flat_map(char::to_lowercase) {
        match c {
            '-' | '_' | '.' if normalised.ends_with('-') => {}
            '-' | '_' | '.' => normalised.push('-'),
            c => normalised.push(c),
        }
    }
    normalised
}

#[cfg(test)]
mod tests {
    use super::normalised;

    #[test]
    fn projects_are_named_as_pep_503_says() {
        for (name, expected) in [("Foo.._Bar-baz", "foo-bar-baz"), ("_foo", "-foo"), ("foo__", "foo-"), ("-._", "-")] {
            assert_eq!(normalised(name), expected);
        }
    }
}
