//! Embeddings for C.

use std::ffi::{c_char, c_int};
use std::mem::offset_of;
use std::ptr;
use std::time::Instant;

use super::error::CallError;
use super::{argument, count, give, guard, handle, limit, take};
use crate::EmbeddingModel;

#[repr(C)]
pub struct EmbeddingResult {
    data: *mut f32,
    length: c_int,
    error: bool,
    model_type: c_int,
    sequence_length: c_int,
    processing_time_ms: f32,
}

const _: () = {
    assert!(size_of::<EmbeddingResult>() == 32);
    assert!(offset_of!(EmbeddingResult, length) == 8);
    assert!(offset_of!(EmbeddingResult, error) == 12);
    assert!(offset_of!(EmbeddingResult, model_type) == 16);
    assert!(offset_of!(EmbeddingResult, sequence_length) == 20);
    assert!(offset_of!(EmbeddingResult, processing_time_ms) == 24);
};

/// `CANDLE_MODEL_TYPE_*` of the header.
const MODEL_TYPE_NONE: c_int = -1;
const MODEL_TYPE_BERT: c_int = 2;

impl EmbeddingResult {
    const FAILED: Self = Self {
        data: ptr::null_mut(),
        length: 0,
        error: true,
        model_type: MODEL_TYPE_NONE,
        sequence_length: 0,
        processing_time_ms: 0.0,
    };

    /// # Safety
    /// As for [`argument`].
    unsafe fn of(
        model: &EmbeddingModel,
        text: *const c_char,
        max_length: c_int,
    ) -> Result<Self, CallError> {
        let started = Instant::now();
        // SAFETY: passed on.
        let text = unsafe { argument("text", text) }?;
        let embedding = model.embed(text, limit(max_length))?;
        Ok(Self {
            length: count(embedding.vector.len())?,
            error: false,
            model_type: MODEL_TYPE_BERT,
            sequence_length: count(embedding.tokens)?,
            processing_time_ms: started.elapsed().as_secs_f32() * 1e3,
            data: give(embedding.vector),
        })
    }
}

/// # Safety
/// `text` is null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_model_embed(
    handle: u64,
    text: *const c_char,
    max_length: c_int,
) -> EmbeddingResult {
    guard(EmbeddingResult::FAILED, || {
        let model = handle::model(handle)?;
        // SAFETY: passed on.
        unsafe { EmbeddingResult::of(&model, text, max_length) }
    })
}

/// # Safety
/// `text` is null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn get_text_embedding(
    text: *const c_char,
    max_length: c_int,
) -> EmbeddingResult {
    guard(EmbeddingResult::FAILED, || {
        // SAFETY: passed on.
        unsafe { EmbeddingResult::of(handle::similarity_model()?, text, max_length) }
    })
}

/// # Safety
/// `data` is null or an [`EmbeddingResult`]'s, with its length, and not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_embedding(data: *mut f32, length: c_int) {
    guard((), || {
        // SAFETY: passed on.
        drop(unsafe { take(data, length) });
        Ok(())
    })
}
