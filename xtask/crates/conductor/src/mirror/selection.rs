//! `mirror use NAME`: the new text of `xtask.local.toml`. Everything the user wrote there stays as it is.

/// `text` with the profile `name` selected. The caller has checked that the profile exists and that `text` is TOML.
///
/// The selection is written as `mirror.use = "NAME"`, which can stand beside `[mirror.NAME.ECOSYSTEM]` tables;
/// the short form `mirror = "NAME"` cannot, so it is replaced.
pub fn select(text: &str, name: &str) -> String {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let first_table = lines.iter().position(|line| header(line).is_some()).unwrap_or(lines.len());
    let table = lines.iter().position(|line| header(line).as_deref() == Some("mirror"));
    // Within `[mirror]`, a dotted key at the top would declare the table twice.
    let (start, end, key, others) = match table {
        Some(table) => {
            let next = lines[table + 1..].iter().position(|line| header(line).is_some());
            (table + 1, next.map_or(lines.len(), |next| table + 1 + next), "use", &["use"][..])
        }
        None => (0, first_table, "mirror.use", &["mirror", "mirror.use"][..]),
    };
    let existing = (start..end).find(|&line| assigned(lines[line]).is_some_and(|key| others.contains(&key.as_str())));
    let previous_ends = start == 0 || lines[start - 1].ends_with('\n');
    let comment =
        existing.and_then(|line| comment(lines[line])).map(|comment| format!(" {comment}")).unwrap_or_default();
    let selection = format!("{}{key} = \"{name}\"{comment}\n", if previous_ends { "" } else { "\n" });
    match existing {
        Some(line) => lines[line] = &selection,
        None => lines.insert(start, &selection),
    }
    lines.concat()
}

/// `a.b` of a line `[ a . b ]`.
fn header(line: &str) -> Option<String> {
    let inner = line.trim_start().strip_prefix('[')?;
    Some(inner.split(']').next()?.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'')).collect())
}

/// `a.b` of a line `a . b = …`.
fn assigned(line: &str) -> Option<String> {
    let (key, _) = line.split_once('=')?;
    Some(key.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'')).collect())
}

/// The comment after a one-line string value.
fn comment(line: &str) -> Option<&str> {
    let value = line.split_once('=')?.1.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (_, rest) = value[1..].split_once(quote)?;
    Some(rest.trim()).filter(|rest| rest.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::Section;

    #[derive(serde::Deserialize)]
    struct File {
        mirror: Section,
    }

    #[track_caller]
    fn check(before: &str, after: &str) {
        assert_eq!(select(before, "cn"), after);
        // A real parser reads what we wrote, and writing it again changes nothing.
        assert_eq!(toml::from_str::<File>(after).unwrap().mirror.selected.as_deref(), Some("cn"));
        assert_eq!(select(after, "cn"), after);
    }

    #[test]
    fn the_selection_is_set_and_everything_else_is_kept() {
        check("", "mirror.use = \"cn\"\n");
        check("# mine\noffline = true", "mirror.use = \"cn\"\n# mine\noffline = true");
        check("# mine\nmirror = 'lab' # fast\n", "# mine\nmirror.use = \"cn\" # fast\n");
        check("mirror . use=\"lab\"\nx = 1\n", "mirror.use = \"cn\"\nx = 1\n");
        let tables = "[mirror.cn.go]\nproxy = ['https://a']\n\n[mirror.lab]\negress = 'direct'\n";
        check(tables, &format!("mirror.use = \"cn\"\n{tables}"));
        check("x = 1\n[mirror]\n[a]\nuse = 'z'\n", "x = 1\n[mirror]\nuse = \"cn\"\n[a]\nuse = 'z'\n");
        check("[mirror]\nuse = 'lab'\n", "[mirror]\nuse = \"cn\"\n");
        check("[mirror]", "[mirror]\nuse = \"cn\"\n");
    }
}
