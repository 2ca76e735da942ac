//! `explain [CODE]`: what an error's code means, offline, in every folder and with every file broken.

use super::print_as;
use crate::cli;
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::settings::Format;

pub fn explain(args: &cli::Explain, format: Format) -> Result<()> {
    let chosen = match &args.code {
        Some(text) => vec![find(text)?],
        None => Code::ALL.to_vec(),
    };
    for code in chosen {
        let (id, exit) = (code.id(), code.exit() as i32);
        let value = serde_json::json!({
            "code": id, "exit_code": exit, "title": code.title(), "explanation": code.explanation(),
        });
        let text = match args.code {
            Some(_) => format!("{id}: {} (exit code {exit})\n\n{}", code.title(), code.explanation()),
            None => format!("{id}  {}", code.title()),
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
        let ids: Vec<String> = Code::ALL.iter().map(|code| code.id()).collect();
        let error = Error::new(Code::UnknownName, format!("there is no code `{text}`"));
        did_you_mean(error, &id, ids.iter().map(String::as_str)).hint("`cargo xtask explain` lists all")
    })
}
