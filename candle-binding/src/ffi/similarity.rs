//! Similarities for C.

use std::ffi::{c_char, c_int};
use std::mem::offset_of;

use super::error::CallError;
use super::{argument, count, guard, handle, limit};
use crate::pooling;

#[repr(C)]
pub struct SimilarityResult {
    index: c_int,
    score: f32,
}

const _: () = {
    assert!(size_of::<SimilarityResult>() == 8);
    assert!(offset_of!(SimilarityResult, score) == 4);
};

impl SimilarityResult {
    /// No candidate, or a failure.
    const NONE: Self = Self { index: -1, score: -1.0 };
}

/// # Safety
/// Both texts are null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calculate_similarity(
    text1: *const c_char,
    text2: *const c_char,
    max_length: c_int,
) -> f32 {
    guard(f32::NAN, || {
        let model = handle::similarity_model()?;
        // SAFETY: passed on.
        let texts = unsafe { [argument("text1", text1)?, argument("text2", text2)?] };
        let embeddings = model.embed_many(&texts, limit(max_length))?;
        Ok(pooling::cosine(&embeddings[0].vector, &embeddings[1].vector))
    })
}

/// # Safety
/// `query` and each of the `num_candidates` entries of `candidates` are null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn find_most_similar(
    query: *const c_char,
    candidates: *const *const c_char,
    num_candidates: c_int,
    max_length: c_int,
) -> SimilarityResult {
    guard(SimilarityResult::NONE, || {
        let model = handle::similarity_model()?;
        // SAFETY: passed on.
        let query = unsafe { argument("query", query) }?;
        let length = usize::try_from(num_candidates)
            .map_err(|_| CallError::Negative { name: "num_candidates", value: num_candidates })?;
        if length == 0 {
            return Ok(SimilarityResult::NONE);
        }
        if candidates.is_null() {
            return Err(CallError::Null("candidates"));
        }
        // SAFETY: not null, and the caller vouches for `num_candidates` entries.
        let entries = unsafe { std::slice::from_raw_parts(candidates, length) };
        let mut texts = vec![query];
        for &entry in entries {
            // SAFETY: passed on.
            texts.push(unsafe { argument("an entry of candidates", entry) }?);
        }
        let embeddings = model.embed_many(&texts, limit(max_length))?;
        let (query, candidates) = (&embeddings[0], &embeddings[1..]);
        let mut best = SimilarityResult::NONE;
        for (index, candidate) in candidates.iter().enumerate() {
            let score = pooling::cosine(&query.vector, &candidate.vector);
            if best.index < 0 || score > best.score {
                best = SimilarityResult { index: count(index)?, score };
            }
        }
        Ok(best)
    })
}
