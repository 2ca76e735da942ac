//! Control files: paragraphs of fields.
//!
//! Owns: reading them one paragraph at a time, within bounds. Never: know what a field means.
//! Source: Debian Policy 5.1; deb822(5). Comments are not taken: neither an index nor a package may have one.

use crate::error::{Error, Result};
use std::io::BufRead;

/// The longest of Debian's own, with a few hundred provided names, has some ten KiB.
const MAX_PARAGRAPH_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paragraph {
    /// Names as written, values without the blanks around them; continuation lines stay lines.
    fields: Vec<(String, String)>,
}

impl Paragraph {
    /// Names are compared without case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// # Errors: Malformed where the field is absent.
    pub fn need(&self, subject: &str, name: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| Error::malformed(subject, format!("it has no field {name}")))
    }

    /// Takes in one line. # Errors: why it is none.
    fn take(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        let line = std::str::from_utf8(line).map_err(|_| "a line is no UTF-8".to_owned())?;
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(format!("a line has a control character: {line:?}"));
        }
        if line.starts_with([' ', '\t']) {
            let Some((_, value)) = self.fields.last_mut() else {
                return Err(format!("it begins with a continuation line: {line:?}"));
            };
            value.push('\n');
            value.push_str(line.trim_end());
            return Ok(());
        }
        let field = line.split_once(':').filter(|(name, _)| {
            !name.is_empty() && !name.starts_with(['#', '-']) && name.bytes().all(|byte| (b'!'..=b'~').contains(&byte))
        });
        let Some((name, value)) = field else { return Err(format!("a line is no field: {line:?}")) };
        if self.get(name).is_some() {
            return Err(format!("it has two fields {name}"));
        }
        self.fields.push((name.to_owned(), value.trim().to_owned()));
        Ok(())
    }
}

/// Paragraphs of a text, one after another; ends after the first that is wrong.
pub struct Paragraphs<R> {
    /// For messages.
    subject: String,
    text: Option<R>,
}

impl<R: BufRead> Paragraphs<R> {
    pub fn new(subject: impl Into<String>, text: R) -> Self {
        Self { subject: subject.into(), text: Some(text) }
    }

    fn read(&mut self) -> Result<Option<Paragraph>> {
        let Some(text) = &mut self.text else { return Ok(None) };
        let (mut paragraph, mut line, mut left) = (Paragraph::default(), Vec::new(), MAX_PARAGRAPH_BYTES);
        loop {
            line.clear();
            let read = std::io::Read::take(&mut *text, left as u64)
                .read_until(b'\n', &mut line)
                .map_err(|cause| Error::malformed(&self.subject, format!("it cannot be read: {cause}")))?;
            left -= read;
            if left == 0 {
                let why = format!("a paragraph is longer than {MAX_PARAGRAPH_BYTES} bytes");
                return Err(Error::malformed(&self.subject, why));
            }
            let ended = read == 0;
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            // Blanks alone separate too, as they do for apt.
            if line.trim_ascii().is_empty() {
                match (paragraph.fields.is_empty(), ended) {
                    (false, _) => return Ok(Some(paragraph)),
                    (true, true) => return Ok(None),
                    (true, false) => continue,
                }
            }
            paragraph.take(line).map_err(|why| Error::malformed(&self.subject, why))?;
        }
    }
}

impl<R: BufRead> Iterator for Paragraphs<R> {
    type Item = Result<Paragraph>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.text = None;
        }
        read.transpose()
    }
}

/// The one paragraph of a package's `control` file.
///
/// # Errors: Malformed, also where there is none or another.
pub fn single(subject: &str, text: &[u8]) -> Result<Paragraph> {
    let mut paragraphs = Paragraphs::new(subject, text);
    let first = paragraphs.next().transpose()?;
    match (first, paragraphs.next().transpose()?) {
        (Some(paragraph), None) => Ok(paragraph),
        _ => Err(Error::malformed(subject, "it is not one paragraph")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_their_continuation_lines_are_read() {
        let text = "\n \nPackage: a\ndescription:  short \n long  \n .\n\n\t\nPackage:b";
        let read: Vec<_> = Paragraphs::new("x", text.as_bytes()).collect::<Result<_>>().unwrap();
        let get = |index: usize, name: &str| Paragraph::get(&read[index], name);
        assert_eq!((get(0, "package"), get(0, "Description")), (Some("a"), Some("short\n long\n .")));
        assert_eq!((get(1, "Package"), get(1, "Description"), read.len()), (Some("b"), None, 2));
    }

    #[test]
    fn what_is_no_control_file_is_refused_and_ends_there() {
        let long = format!("A: {}", "x".repeat(MAX_PARAGRAPH_BYTES));
        let many = "A: x\n".to_owned() + &" y\n".repeat(MAX_PARAGRAPH_BYTES / 3);
        for text in [
            " x",
            "x",
            ":x",
            "#A: x",
            "-A: x",
            "A B: x",
            "ä: x",
            "A: 1\na: 2",
            "A: \u{1}",
            "A: x\r\nB: y",
            &long,
            &many,
        ] {
            let mut paragraphs = Paragraphs::new("x", text.as_bytes());
            assert!(paragraphs.next().unwrap().is_err(), "{:.60}", text);
            assert!(paragraphs.next().is_none());
        }
        assert!(Paragraphs::new("x", &b"A: \xff"[..]).next().unwrap().is_err());
        assert!(single("x", b"").is_err() && single("x", b"A: 1\n\nA: 2").is_err());
    }
}
