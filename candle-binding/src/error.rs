//! What can go wrong with a model, and what to do about it.
//!
//! `Display` names the subject and never repeats its source; [`Error::report`] walks the chain and adds the hint.

use std::path::PathBuf;

/// A failure of loading a model or of inference.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum Error {
    #[error("cannot open the model {}", dir.display())]
    Open { dir: PathBuf, source: Box<Error> },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} has {size_bytes} bytes, more than the {limit_bytes} that such a file may have", path.display())]
    TooLarge { path: PathBuf, size_bytes: u64, limit_bytes: u64 },
    #[error("{} is not what its name promises", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: {key} is {found}, but only {wanted} is supported", path.display())]
    Unsupported { path: PathBuf, key: &'static str, found: String, wanted: &'static str },
    #[error("{} is damaged or incomplete: {problem}", path.display())]
    Weights { path: PathBuf, problem: String },
    #[error("{}: tensor {name} {problem}", path.display())]
    Tensor { path: PathBuf, name: String, problem: String },
    #[error("{} is not a usable tokenizer", path.display())]
    Tokenizer { path: PathBuf, source: Cause },
    #[error("cannot tokenize {length_bytes} bytes of text")]
    Tokenize { length_bytes: usize, source: Cause },
    #[error(
        "max_length {max_length} leaves no room for the {special} special tokens of this model"
    )]
    MaxLength { max_length: usize, special: usize },
    #[error("cannot use the requested device")]
    Device(#[source] candle_core::Error),
    #[error("inference failed on {tokens} tokens")]
    Inference { tokens: usize, source: candle_core::Error },
    #[error("the embedding is not finite")]
    NotFinite,
}

/// The error type of the tokenizers crate.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Error {
    /// The advice computed from the cause, where there is any.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Open { source, .. } => source.hint(),
            Error::Read { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                let dir = path.parent()?;
                Some(if !dir.is_dir() {
                    format!("{} does not exist; fetch the model or correct the path", dir.display())
                } else if path.extension().is_some_and(|e| e == "safetensors")
                    && dir.join("pytorch_model.bin").exists()
                {
                    "only safetensors weights are read; convert pytorch_model.bin".to_owned()
                } else {
                    format!(
                        "the model needs config.json, tokenizer.json and model.safetensors; fetch {} again",
                        dir.display()
                    )
                })
            }
            Error::Weights { path, .. } | Error::TooLarge { path, .. } => Some(format!(
                "compare {} with its published SHA-256 and fetch it again",
                path.display()
            )),
            Error::Tensor { path, .. } => {
                Some(format!("config.json and {} must come from the same model", path.display()))
            }
            Error::MaxLength { special, .. } => {
                Some(format!("use more than {special}, or 0 for the model's own limit"))
            }
            Error::NotFinite => {
                Some("the weights are likely damaged; fetch the model again".to_owned())
            }
            _ => None,
        }
    }

    /// The whole story on one line: subject, causes, hint.
    pub fn report(&self) -> String {
        let mut report = chain(self);
        if let Some(hint) = self.hint() {
            report.push_str("; hint: ");
            report.push_str(&hint);
        }
        report
    }
}

/// `error: its source: the source's source`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
