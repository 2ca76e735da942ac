//! The report for a person: groups, a mark and a word each, the fix below. Colour is never the only sign.

use super::{Check, Finding, Group, Severity};
use crate::language::template;
use crate::settings::Verbosity;
use crate::tr;

/// Spare endpoints that are listed all the same.
const FEW: usize = 3;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub unicode: bool,
    pub color: bool,
}

impl Style {
    fn mark(self, severity: Severity) -> &'static str {
        match (severity, self.unicode) {
            (Severity::Ok, true) => "✓",
            (Severity::Ok, false) => "+",
            (Severity::Info | Severity::Note, true) => "·",
            (Severity::Info | Severity::Note, false) => "-",
            (Severity::Warning, _) => "!",
            (Severity::Error, true) => "✗",
            (Severity::Error, false) => "x",
        }
    }

    fn painted(self, severity: Severity, text: &str) -> String {
        let code = match severity {
            _ if !self.color => return text.to_owned(),
            Severity::Ok => "32;1",
            Severity::Info | Severity::Note => "2",
            Severity::Warning => "33;1",
            Severity::Error => "31;1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The word that `doctor GROUP` knows, explained where it is foreign.
fn heading(group: Group) -> String {
    match template(group.name()) {
        Some(shown) => format!("{shown} ({group})"),
        None => group.to_string(),
    }
}

/// An endpoint that does not serve and is nobody's failure: others do, or nothing here needs it.
fn is_spare(finding: &Finding) -> bool {
    finding.severity == Severity::Info && matches!(finding.check, Check::Dead | Check::Tls | Check::Limited)
}

/// Quiet: errors only. Of spare endpoints there are dozens: verbose lists them, else they are counted.
pub fn text(findings: &[Finding], style: Style, verbosity: Verbosity) -> String {
    let mut text = String::new();
    let mut group = None;
    let spare = findings.iter().filter(|it| is_spare(it)).count();
    let counted = verbosity != Verbosity::Verbose && spare > FEW;
    let mut uncounted = counted;
    for finding in findings.iter().filter(|it| verbosity != Verbosity::Quiet || it.severity == Severity::Error) {
        if group != Some(finding.check.group()) {
            group = Some(finding.check.group());
            text += &format!("{}\n", heading(finding.check.group()));
        }
        if counted && is_spare(finding) {
            if std::mem::take(&mut uncounted) {
                let mark = style.painted(Severity::Info, style.mark(Severity::Info));
                text += &format!(
                    "  {mark} {}\n",
                    tr!("further endpoints that do not answer: {spare}; -v lists them", spare)
                );
            }
            continue;
        }
        let mark = style.painted(finding.severity, style.mark(finding.severity));
        let (subject, message, code) = (&finding.subject, &finding.message, finding.check.id());
        let said = match finding.severity {
            Severity::Error => tr!("{word}: {subject}: {message}", word = tr!("error"), subject, message),
            Severity::Warning => tr!("{word}: {subject}: {message}", word = tr!("warning"), subject, message),
            _ => tr!("{subject}: {message}", subject, message),
        };
        text += &format!("  {mark} {said} [{code}]\n");
        if let Some(fix) = &finding.fix {
            let arrow = if style.unicode { "→" } else { "->" };
            text += &format!("      {arrow} {}\n", fix.shown());
        }
    }
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    text + &tr!(
        "errors: {errors}, warnings: {warnings}; `cargo xtask explain CODE` says what a code means",
        errors,
        warnings
    ) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Check, Fix};

    #[test]
    fn a_report_is_grouped_marked_and_readable_without_colour_and_unicode() {
        let findings = [
            Finding::error(Check::DiskFull, "cache ~/.cache/xtask", "full", Fix::safe("cache gc")),
            Finding::ok(Check::DiskSpace, "build", "free"),
            Finding::warning(Check::PortBusy, "8801", "taken", Fix::Yours("x".into())),
            Finding::info(Check::Engine, "engine", "none"),
        ];
        expect_test::expect![[r"
            disk
              ✗ error: cache ~/.cache/xtask: full [disk.full]
                  → cargo xtask cache gc
              ✓ build: free [disk.space]
            ports
              ! warning: 8801: taken [ports.busy]
                  → x
            engine
              · engine: none [engine.found]
            errors: 1, warnings: 1; `cargo xtask explain CODE` says what a code means
        "]]
        .assert_eq(&text(&findings, Style { unicode: true, color: false }, Verbosity::Normal));
        let plain = text(&findings, Style { unicode: false, color: false }, Verbosity::Quiet);
        assert!(plain.is_ascii() && plain.starts_with("disk\n  x error: ") && plain.lines().count() == 4, "{plain}");
        let coloured = text(&findings, Style { unicode: true, color: true }, Verbosity::Normal);
        assert!(coloured.contains("\x1b[31;1m✗\x1b[0m error: "), "{coloured}");
    }

    #[test]
    fn endpoints_that_nobody_misses_are_counted_unless_all_is_asked_for() {
        let dead = |url: &str| Finding::info(Check::Dead, url, "silent");
        let needed = Finding::error(Check::Dead, "needed", "silent", Fix::safe("mirror use auto"));
        let mut findings = vec![needed, dead("a"), dead("b"), dead("c")];
        let style = Style { unicode: false, color: false };
        assert_eq!(text(&findings, style, Verbosity::Normal).matches("silent").count(), 4);
        findings.push(dead("d"));
        let shown = text(&findings, style, Verbosity::Normal);
        assert!(shown.matches("silent").count() == 1 && shown.contains("do not answer: 4; -v"), "{shown}");
        assert_eq!(text(&findings, style, Verbosity::Verbose).matches("silent").count(), 5);
    }
}
