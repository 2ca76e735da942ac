//! `explain [CODE]`: what the code of an error or a finding means, offline, in every folder and with every file broken.

use super::print_as;
use crate::cli;
use crate::doctor::Check;
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::language;
use crate::settings::Format;
use crate::tr;

pub fn explain(args: &cli::Explain, format: Format) -> Result<()> {
    if let Some(check) = args.code.as_deref().and_then(Check::named) {
        let (id, exit, meaning) = (check.id(), check.failure().exit() as i32, check.meaning());
        let value = serde_json::json!({ "code": id, "exit_code": exit, "explanation": meaning });
        let head = tr!("{id}: a finding of `cargo xtask doctor {group}`", id, group = check.group());
        return print_as(format, "explanation", &value, &format!("{head}\n\n{meaning}"));
    }
    let chosen = match &args.code {
        Some(text) => vec![find(text)?],
        None => Code::ALL.to_vec(),
    };
    for code in chosen {
        let (id, exit) = (code.id(), code.exit() as i32);
        let (title, explanation) = language::explanation(&id).unwrap_or((code.title(), code.explanation()));
        let value = serde_json::json!({
            "code": id, "exit_code": exit, "title": title, "explanation": explanation,
        });
        let text = match args.code {
            Some(_) => tr!("{id}: {title} (exit code {exit})", id, title, exit) + "\n\n" + explanation,
            None => format!("{id}  {title}"),
        };
        print_as(format, "explanation", &value, &text)?;
    }
    Ok(())
}

/// `XT0303`, `xt0303`, `0303` or `303`.
fn find(text: &str) -> Result<Code> {
    let upper = text.to_ascii_uppercase();
    let id = format!("XT{:0>4}", upper.trim_start_matches("XT"));
    Code::ALL.iter().copied().find(|code| code.id() == id).ok_or_else(|| {
        let findings = Check::ALL.iter().map(|check| check.id().to_owned());
        let ids: Vec<String> = Code::ALL.iter().map(|code| code.id()).chain(findings).collect();
        let error = Error::new(Code::UnknownName, tr!("there is no code `{text}`", text));
        did_you_mean(error, if text.contains('.') { text } else { &id }, ids.iter().map(String::as_str))
            .hint(tr!("`cargo xtask explain` lists all"))
    })
}
