//! What the configuration files of a model say: architecture, pooling, length limit.
//!
//! The architecture comes from `config.json`, never from the name of the directory. What this library cannot reproduce
//! exactly is refused; a nearly right vector is worse than none.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::files;
use crate::error::Error;

/// `config.json` of a BERT encoder. Source: transformers, `BertConfig`, defaults included.
#[derive(Debug, Deserialize)]
pub struct Config {
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: String,
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    #[serde(default = "default_token_types")]
    pub type_vocab_size: usize,
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f32,
    #[serde(default = "default_position_type")]
    pub position_embedding_type: String,
}

fn default_positions() -> usize {
    512
}
fn default_token_types() -> usize {
    2
}
fn default_layer_norm_eps() -> f32 {
    1e-12
}
fn default_position_type() -> String {
    "absolute".to_owned()
}

impl Config {
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("config.json");
        let config: Self = files::read_json(&path)?;
        let require = |holds: bool, key, found: &dyn std::fmt::Display, wanted| match holds {
            true => Ok(()),
            false => Err(Error::Unsupported {
                path: path.clone(),
                key,
                found: found.to_string(),
                wanted,
            }),
        };
        require(config.model_type == "bert", "model_type", &config.model_type, "bert")?;
        require(config.hidden_act == "gelu", "hidden_act", &config.hidden_act, "gelu")?;
        require(
            config.position_embedding_type == "absolute",
            "position_embedding_type",
            &config.position_embedding_type,
            "absolute",
        )?;
        require(
            config.num_attention_heads > 0
                && config.hidden_size > 0
                && config.hidden_size.is_multiple_of(config.num_attention_heads),
            "num_attention_heads",
            &config.num_attention_heads,
            "a divisor of hidden_size",
        )?;
        Ok(config)
    }
}

/// Refuses a model that is pooled in another way than by the mean. Models without the file are pooled by the mean, as
/// sentence-transformers does.
pub fn require_mean_pooling(dir: &Path) -> Result<(), Error> {
    let path = dir.join("1_Pooling").join("config.json");
    let modes: HashMap<String, serde_json::Value> =
        files::read_optional_json(&path)?.unwrap_or_default();
    let other = modes.into_iter().find(|(key, value)| {
        key.starts_with("pooling_mode_") && key != "pooling_mode_mean_tokens" && *value == true
    });
    let Some((found, _)) = other else {
        return Ok(());
    };
    Err(Error::Unsupported {
        path,
        key: "the pooling mode",
        found,
        wanted: "pooling_mode_mean_tokens",
    })
}

/// Lengths in tokens, special ones included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Applies when the caller names none.
    pub default: usize,
    /// More positions than these do not exist.
    pub positions: usize,
}

impl Limits {
    /// The default is the first of `sentence_bert_config.json`, `tokenizer_config.json` and the number of positions, so
    /// that vectors equal those of sentence-transformers. `tokenizer.json` has a length as well; it belongs to whoever
    /// exported the file (MiniLM's says 128 where 256 is right) and is ignored.
    pub fn load(dir: &Path, config: &Config) -> Result<Self, Error> {
        // A float: transformers writes 10^30 for "unknown", which no integer type holds.
        #[derive(Deserialize)]
        struct Lengths {
            max_seq_length: Option<f64>,
            model_max_length: Option<f64>,
        }
        let sentence = dir.join("sentence_bert_config.json");
        let tokenizer = dir.join("tokenizer_config.json");
        let declared = files::read_optional_json::<Lengths>(&sentence)?
            .and_then(|lengths| lengths.max_seq_length)
            .or(files::read_optional_json::<Lengths>(&tokenizer)?
                .and_then(|lengths| lengths.model_max_length))
            .filter(|&length| length >= 1.0);
        let positions = config.max_position_embeddings;
        // `as` saturates, so 10^30 becomes the number of positions.
        let default = declared.map_or(positions, |length| (length as usize).min(positions));
        Ok(Self { default, positions })
    }

    /// What applies to a call that asks for `max_length`.
    pub fn apply(self, max_length: Option<usize>) -> usize {
        max_length.map_or(self.default, |length| length.min(self.positions))
    }
}
