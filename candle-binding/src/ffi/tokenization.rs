//! Tokens for C.

use std::ffi::{CString, c_char, c_int};
use std::mem::offset_of;
use std::ptr;

use super::error::CallError;
use super::{argument, count, give, guard, handle, limit, take};
use crate::EmbeddingModel;

#[repr(C)]
pub struct TokenizationResult {
    token_ids: *mut c_int,
    token_count: c_int,
    tokens: *mut *mut c_char,
    error: bool,
}

const _: () = {
    assert!(size_of::<TokenizationResult>() == 32);
    assert!(offset_of!(TokenizationResult, token_count) == 8);
    assert!(offset_of!(TokenizationResult, tokens) == 16);
    assert!(offset_of!(TokenizationResult, error) == 24);
};

impl TokenizationResult {
    const FAILED: Self =
        Self { token_ids: ptr::null_mut(), token_count: 0, tokens: ptr::null_mut(), error: true };

    /// # Safety
    /// As for [`argument`].
    unsafe fn of(
        model: &EmbeddingModel,
        text: *const c_char,
        max_length: c_int,
    ) -> Result<Self, CallError> {
        // SAFETY: passed on.
        let text = unsafe { argument("text", text) }?;
        let tokens = model.tokenize(text, limit(max_length))?;
        let mut ids = Vec::with_capacity(tokens.len());
        let mut texts = Vec::with_capacity(tokens.len());
        for token in tokens {
            ids.push(count(token.id as usize)?);
            texts.push(CString::new(token.text).map_err(CallError::NulInToken)?);
        }
        // Nothing below can fail, so nothing that was given away can be lost.
        Ok(Self {
            token_count: count(ids.len())?,
            token_ids: give(ids),
            tokens: give(texts.into_iter().map(CString::into_raw).collect()),
            error: false,
        })
    }
}

/// # Safety
/// `text` is null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_model_tokenize(
    handle: u64,
    text: *const c_char,
    max_length: c_int,
) -> TokenizationResult {
    guard(TokenizationResult::FAILED, || {
        let model = handle::model(handle)?;
        // SAFETY: passed on.
        unsafe { TokenizationResult::of(&model, text, max_length) }
    })
}

/// # Safety
/// `text` is null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tokenize_text(
    text: *const c_char,
    max_length: c_int,
) -> TokenizationResult {
    guard(TokenizationResult::FAILED, || {
        // SAFETY: passed on.
        unsafe { TokenizationResult::of(handle::similarity_model()?, text, max_length) }
    })
}

/// # Safety
/// `result` came from this library and is not yet freed, or its pointers are null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_tokenization_result(result: TokenizationResult) {
    guard((), || {
        // SAFETY: both arrays hold `token_count` values, and each string came from `CString::into_raw`.
        unsafe {
            drop(take(result.token_ids, result.token_count));
            for token in take(result.tokens, result.token_count) {
                if !token.is_null() {
                    drop(CString::from_raw(token));
                }
            }
        }
        Ok(())
    })
}
