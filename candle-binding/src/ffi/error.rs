//! The reason of the last failure, one per thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::ptr;

use crate::Error;
use crate::error::chain;

/// What can go wrong with a call, beside the model's own failures.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum CallError {
    #[error("{0} is NULL")]
    Null(&'static str),
    #[error("{name} is not valid UTF-8")]
    Utf8 { name: &'static str, source: std::str::Utf8Error },
    #[error("{name} is {value}, which is negative")]
    Negative { name: &'static str, value: i32 },
    #[error("{0} values are more than a C int can count")]
    TooMany(usize),
    #[error("a token of the vocabulary holds a NUL byte")]
    NulInToken(#[source] std::ffi::NulError),
    #[error("there is no open model with the handle {0}; hint: candle_model_open gives one")]
    UnknownModel(u64),
    #[error("the similarity model is not initialized; hint: call init_similarity_model first")]
    NotInitialized,
    #[error("a bug in the library, please report it: {0}")]
    Panic(String),
    #[error(transparent)]
    Model(#[from] Error),
}

impl CallError {
    pub fn from_panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self::Panic(text.unwrap_or_else(|| "a panic without a message".to_owned()))
    }

    fn report(&self) -> String {
        match self {
            CallError::Model(error) => error.report(),
            other => chain(other),
        }
    }
}

thread_local! {
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

pub fn clear() {
    LAST.set(None);
}

pub fn set(error: &CallError) {
    // A path may not hold NUL, but a message from a dependency might.
    let text = error.report().replace('\0', "\u{fffd}");
    LAST.set(CString::new(text).ok());
}

#[unsafe(no_mangle)]
pub extern "C" fn candle_last_error() -> *const c_char {
    LAST.with_borrow(|last| last.as_ref().map_or(ptr::null(), |text| text.as_ptr()))
}
