//! Open models: by handle, and the one similarity model of the process.
//!
//! Handles are numbers, not pointers: a stale one is looked up and not found. Calls hold their own reference, so closing
//! a model never pulls it from under them.

use std::collections::HashMap;
use std::ffi::c_char;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, RwLock};

use super::error::CallError;
use super::{argument, guard};
use crate::{Device, EmbeddingModel};

static MODELS: LazyLock<RwLock<HashMap<u64, Arc<EmbeddingModel>>>> =
    LazyLock::new(Default::default);
static NEXT: AtomicU64 = AtomicU64::new(1);

static SIMILARITY: OnceLock<EmbeddingModel> = OnceLock::new();
/// Held while the similarity model is being opened. A `OnceLock` alone would load it twice when two threads race; it
/// stays empty after a failure, so the next call tries again.
static OPENING: Mutex<()> = Mutex::new(());

pub fn model(handle: u64) -> Result<Arc<EmbeddingModel>, CallError> {
    let models = MODELS.read().unwrap_or_else(PoisonError::into_inner);
    models.get(&handle).cloned().ok_or(CallError::UnknownModel(handle))
}

pub fn similarity_model() -> Result<&'static EmbeddingModel, CallError> {
    SIMILARITY.get().ok_or(CallError::NotInitialized)
}

/// # Safety
/// As for [`argument`].
unsafe fn open(model_dir: *const c_char, use_cpu: bool) -> Result<EmbeddingModel, CallError> {
    // SAFETY: passed on.
    let dir = unsafe { argument("model_dir", model_dir) }?;
    let device = if use_cpu { Device::Cpu } else { Device::Fastest };
    Ok(EmbeddingModel::open(Path::new(dir), device)?)
}

/// # Safety
/// `model_dir` is null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_model_open(model_dir: *const c_char, use_cpu: bool) -> u64 {
    guard(0, || {
        // SAFETY: passed on.
        let model = Arc::new(unsafe { open(model_dir, use_cpu) }?);
        let handle = NEXT.fetch_add(1, Ordering::Relaxed);
        MODELS.write().unwrap_or_else(PoisonError::into_inner).insert(handle, model);
        Ok(handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn candle_model_close(handle: u64) -> bool {
    guard(false, || {
        let closed = MODELS.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        // The lock is released before a model of many megabytes is.
        closed.map(|_| true).ok_or(CallError::UnknownModel(handle))
    })
}

/// # Safety
/// `model_dir` is null or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn init_similarity_model(model_dir: *const c_char, use_cpu: bool) -> bool {
    guard(false, || {
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        if SIMILARITY.get().is_none() {
            // SAFETY: passed on.
            let model = unsafe { open(model_dir, use_cpu) }?;
            SIMILARITY.get_or_init(|| model);
        }
        Ok(true)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn is_similarity_model_initialized() -> bool {
    guard(false, || Ok(SIMILARITY.get().is_some()))
}
