//! A strict reader for the part of TOML that the launcher needs: which keys hold which strings, lists and booleans.
//!
//! It must never misread: numbers, dates and multi-line strings are skipped as [`Value::Other`], and whatever
//! it does not understand is an error with its line. The conductor has a real parser and the better messages.
//! Rules: <https://toml.io/en/v1.1.0>.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    List(Vec<Value>),
    Flag(bool),
    /// Well-formed, and of no interest here.
    Other,
}

/// Keys by their full path: `[mirror.cn.crates] list = …` is `["mirror", "cn", "crates", "list"]`.
#[derive(Debug, Default)]
pub struct Document {
    pub values: BTreeMap<Vec<String>, Value>,
    /// Headers, so that an empty table is known too.
    pub tables: BTreeSet<Vec<String>>,
}

impl Document {
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        self.values.get(&owned(path))
    }

    /// The names directly below a table.
    pub fn names_below(&self, path: &[&str]) -> BTreeSet<&str> {
        let prefix = owned(path);
        let paths = self.values.keys().chain(&self.tables);
        paths.filter_map(|path| Some(path.strip_prefix(&prefix[..])?.first()?.as_str())).collect()
    }
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|&part| part.to_owned()).collect()
}

/// # Errors
/// The line, counted from 1, of the first thing that is not understood.
pub fn read(text: &str) -> Result<Document, usize> {
    let mut reader = Reader { rest: text, document: Document::default() };
    reader.document().ok_or_else(|| {
        let read = &text[..text.len() - reader.rest.len()];
        read.matches('\n').count() + 1
    })?;
    Ok(reader.document)
}

struct Reader<'a> {
    rest: &'a str,
    document: Document,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Option<()> {
        let mut table = Vec::new();
        loop {
            self.skip_blank_lines();
            if self.rest.is_empty() {
                return Some(());
            }
            if self.take("[[") {
                table = self.path()?;
                self.expect("]]")?;
                // Each element is a table of its own: a number keeps their keys apart.
                let index = (0..).find(|index| !self.document.tables.contains(&child(&table, index)))?;
                table = child(&table, &index);
                self.document.tables.insert(table.clone());
            } else if self.take("[") {
                table = self.path()?;
                self.expect("]")?;
                self.below_no_scalar(&table)?;
                self.document.tables.insert(table.clone());
            } else {
                self.key_and_value(&table)?;
            }
            self.skip_spaces();
            self.skip_comment();
            if !self.rest.is_empty() && !self.take("\n") && !self.take("\r\n") {
                return None;
            }
        }
    }

    fn key_and_value(&mut self, table: &[String]) -> Option<()> {
        let path = [table, &self.path()?].concat();
        self.below_no_scalar(&path)?;
        self.expect("=")?;
        self.skip_spaces();
        let value = self.value(&path)?;
        // A second value for a key is an error in TOML, and so is a guess here.
        self.document.values.insert(path, value).is_none().then_some(())
    }

    /// `mirror = "cn"` and `[mirror.cn.go]` cannot stand in one file.
    fn below_no_scalar(&self, path: &[String]) -> Option<()> {
        let scalar = |end| matches!(self.document.values.get(&path[..end]), Some(Value::Text(_) | Value::Flag(_)));
        (!(1..path.len()).any(scalar)).then_some(())
    }

    /// Dotted keys, each bare or quoted, with spaces around.
    fn path(&mut self) -> Option<Vec<String>> {
        let mut path = Vec::new();
        loop {
            self.skip_spaces();
            path.push(match self.rest.as_bytes().first()? {
                b'"' => self.basic_string()?,
                b'\'' => self.literal_string()?,
                _ => self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))?.to_owned(),
            });
            self.skip_spaces();
            if !self.take(".") {
                return Some(path);
            }
        }
    }

    fn value(&mut self, path: &[String]) -> Option<Value> {
        if self.take("\"\"\"") {
            return self.skip_multi_line('"');
        }
        if self.take("'''") {
            return self.skip_multi_line('\'');
        }
        match self.rest.as_bytes().first()? {
            b'"' => self.basic_string().map(Value::Text),
            b'\'' => self.literal_string().map(Value::Text),
            b'[' => self.list(path),
            b'{' => self.inline_table(path),
            _ => {
                match self.take_while(is_bare)? {
                    "true" => return Some(Value::Flag(true)),
                    "false" => return Some(Value::Flag(false)),
                    _ => {}
                }
                // A date and its time may be separated by one space.
                if self.rest.strip_prefix(' ').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
                    self.take(" ");
                    self.take_while(is_bare)?;
                }
                Some(Value::Other)
            }
        }
    }

    fn list(&mut self, path: &[String]) -> Option<Value> {
        self.expect("[")?;
        let mut items = Vec::new();
        loop {
            self.skip_blank_lines();
            if self.take("]") {
                return Some(Value::List(items));
            }
            items.push(self.value(&child(path, &items.len()))?);
            self.skip_blank_lines();
            if !self.take(",") && !self.rest.starts_with(']') {
                return None;
            }
        }
    }

    fn inline_table(&mut self, path: &[String]) -> Option<Value> {
        self.expect("{")?;
        loop {
            self.skip_blank_lines();
            if self.take("}") {
                self.document.tables.insert(path.to_vec());
                return Some(Value::Other);
            }
            self.key_and_value(path)?;
            self.skip_blank_lines();
            if !self.take(",") && !self.rest.starts_with('}') {
                return None;
            }
        }
    }

    fn literal_string(&mut self) -> Option<String> {
        let (text, rest) = self.rest.strip_prefix('\'')?.split_once('\'')?;
        self.rest = rest;
        (!text.contains('\n')).then(|| text.to_owned())
    }

    fn basic_string(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\n' => return None,
                '\\' => text.push(match chars.next()? {
                    '"' => '"',
                    '\\' => '\\',
                    't' => '\t',
                    'n' => '\n',
                    'r' => '\r',
                    // Unicode escapes and the like have no place in a name or a URL.
                    _ => return None,
                }),
                other => text.push(other),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }

    fn skip_multi_line(&mut self, quote: char) -> Option<Value> {
        let mut quotes = 0;
        let mut chars = self.rest.chars();
        while quotes < 3 {
            match chars.next()? {
                c if c == quote => quotes += 1,
                '\\' if quote == '"' => {
                    chars.next()?;
                    quotes = 0;
                }
                _ => quotes = 0,
            }
        }
        // Up to two quotes may stand directly before the closing three.
        self.rest = chars.as_str().trim_start_matches(quote);
        Some(Value::Other)
    }

    fn skip_blank_lines(&mut self) {
        loop {
            let before = self.rest.len();
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
            self.skip_comment();
            if self.rest.len() == before {
                return;
            }
        }
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn skip_comment(&mut self) {
        if self.rest.starts_with('#') {
            self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
        }
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!taken.is_empty()).then_some(taken)
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Option<()> {
        self.skip_spaces();
        self.take(token).then_some(())
    }
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_' | '.' | ':')
}

fn child(path: &[String], name: &impl ToString) -> Vec<String> {
    [path, &[name.to_string()]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value::Text(value.into())
    }

    #[test]
    fn strings_and_lists_are_found_whatever_stands_around_them() {
        let document = read(
            r##"
            mirror.use = 'cn' # a comment with "quotes" and [brackets]
            when = 1979-05-27 07:32:00
            note = """
            [mirror.fake.crates]
            list = ["no"] \""" """"
            flags = { nested = { deep = "x" }, on = true }

            [mirror . "lab" . crates]
            list = [
              "sparse+http://127.0.0.1/#fragment/", # not a comment before this one
              'direct',
            ]
            [[service]]
            name = "a"
            [[service]]
            name = "b"
            "##,
        )
        .unwrap();
        assert_eq!(document.get(&["mirror", "use"]), Some(&text("cn")));
        assert_eq!(document.get(&["note"]), Some(&Value::Other));
        assert_eq!(document.get(&["flags", "nested", "deep"]), Some(&text("x")));
        assert_eq!(document.get(&["flags", "on"]), Some(&Value::Flag(true)));
        assert_eq!(
            document.get(&["mirror", "lab", "crates", "list"]),
            Some(&Value::List(vec![text("sparse+http://127.0.0.1/#fragment/"), text("direct")]))
        );
        assert_eq!(document.names_below(&["mirror"]), BTreeSet::from(["lab", "use"]));
        assert_eq!(document.get(&["service", "1", "name"]), Some(&text("b")));
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (line, wrong) in [
            (1, "mirror = cn!"),
            (2, "a = 1\nmirror = \"cn"),
            (3, "a = [\n1,\n2"),
            (2, "mirror = 'a'\nmirror = 'b'\n"),
            (1, "mirror = \"a\" b"),
            (1, "mirror 'cn'"),
            (1, "[mirror.cn"),
            (2, "mirror = 'cn'\n[mirror.cn.go]\n"),
        ] {
            assert_eq!(read(wrong).err(), Some(line), "{wrong}");
        }
    }
}
