//! Text to token ids, exactly as `tokenizer.json` says, except for its padding and truncation.
//!
//! Those two are settings of whoever exported the file, not of the model: padding to a fixed length would enter the
//! mean, and the length limit is decided in `config.rs`. The tokenizer is never changed after loading, so calls share it.

use std::path::Path;

use tokenizers::{Encoding, PostProcessor, TruncationDirection};

use super::config::Limits;
use super::{Token, files};
use crate::error::Error;

#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    limits: Limits,
    /// Special tokens that the model adds to each text ([CLS] and [SEP]).
    special: usize,
}

impl Tokenizer {
    /// # Errors
    /// Also if the vocabulary has ids of `vocab_size` or above, for which the model has no embedding.
    pub fn load(dir: &Path, limits: Limits, vocab_size: usize) -> Result<Self, Error> {
        let path = dir.join("tokenizer.json");
        let bytes = files::read(&path, files::JSON_LIMIT_BYTES)?;
        let failed = |source| Error::Tokenizer { path: path.clone(), source };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(failed)?;
        inner.with_padding(None).with_truncation(None).map_err(failed)?;
        let largest = inner.get_vocab(true).into_values().max();
        if let Some(id) = largest.filter(|&id| id as usize >= vocab_size) {
            return Err(failed(
                format!("its largest id is {id}, but config.json has a vocab_size of {vocab_size}")
                    .into(),
            ));
        }
        let special =
            inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        Ok(Self { inner, limits, special })
    }

    /// At least one id, at most `max_length` of them (`None`: the model's limit).
    pub fn ids(&self, text: &str, max_length: Option<usize>) -> Result<Vec<u32>, Error> {
        Ok(self.encode(text, max_length)?.get_ids().to_vec())
    }

    pub fn tokens(&self, text: &str, max_length: Option<usize>) -> Result<Vec<Token>, Error> {
        // The fast encoding leaves the tokens' texts out; the vocabulary has them.
        let token = |id| Token { id, text: self.inner.id_to_token(id).unwrap_or_default() };
        let ids = self.ids(text, max_length)?;
        Ok(ids.into_iter().map(token).collect())
    }

    fn encode(&self, text: &str, max_length: Option<usize>) -> Result<Encoding, Error> {
        let max_length = self.limits.apply(max_length);
        let room = max_length
            .checked_sub(self.special.max(1))
            .ok_or(Error::MaxLength { max_length, special: self.special })?;
        let failed = |source| Error::Tokenize { length_bytes: text.len(), source };
        // Truncation comes between the text's own tokens and the special ones. Doing it here rather than by the
        // tokenizer's setting allows a length per call without a copy of the tokenizer.
        let mut encoding = self.inner.encode_fast(text, false).map_err(failed)?;
        encoding.truncate(room, 0, TruncationDirection::Right);
        encoding.take_overflowing();
        self.inner.post_process(encoding, None, true).map_err(failed)
    }
}
