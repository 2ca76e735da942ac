//! The C ABI. `include/candle_semantic_router.h` is its contract; tests/abi.rs holds the two together.
//!
//! Every export that can fail goes through [`guard`]: arguments are checked before they are used, a panic becomes an
//! error, the reason becomes this thread's last error. No model code here, and no C type elsewhere.

mod embedding;
mod error;
mod handle;
mod similarity;
mod tokenization;

use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use error::CallError;

const ABI_VERSION: u32 = 1;

#[unsafe(no_mangle)]
pub extern "C" fn candle_semantic_router_abi_1() -> u32 {
    ABI_VERSION
}

/// Runs the body of an export. Whatever goes wrong in it becomes `failed` and this thread's last error.
fn guard<T>(failed: T, body: impl FnOnce() -> Result<T, CallError>) -> T {
    error::clear();
    // AssertUnwindSafe: models are immutable, and the locks of `handle` are released by panics.
    let result = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|payload| Err(CallError::from_panic(payload.as_ref())));
    result.unwrap_or_else(|error| {
        error::set(&error);
        failed
    })
}

/// A borrowed argument as UTF-8.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that outlives `'a`.
unsafe fn argument<'a>(name: &'static str, text: *const c_char) -> Result<&'a str, CallError> {
    if text.is_null() {
        return Err(CallError::Null(name));
    }
    // SAFETY: not null; termination and lifetime are the caller's obligation.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|source| CallError::Utf8 { name, source })
}

/// `max_length` as the header defines it: 0 and less mean the model's own limit.
fn limit(max_length: c_int) -> Option<usize> {
    usize::try_from(max_length).ok().filter(|&length| length > 0)
}

/// A count for C. What is counted are tokens and dimensions, far below the type's limit.
fn count(length: usize) -> Result<c_int, CallError> {
    c_int::try_from(length).map_err(|_| CallError::TooMany(length))
}

/// Gives `values` to the caller, who returns them through [`take`].
fn give<T>(values: Vec<T>) -> *mut T {
    Box::into_raw(values.into_boxed_slice()).cast()
}

/// Takes back what [`give`] gave away. Null is nothing.
///
/// # Safety
/// `values` is null or came from [`give`] with `length` values, and is not used afterwards.
unsafe fn take<T>(values: *mut T, length: c_int) -> Vec<T> {
    match usize::try_from(length) {
        Ok(length) if !values.is_null() => {
            let slice = std::ptr::slice_from_raw_parts_mut(values, length);
            // SAFETY: the caller's obligation.
            unsafe { Box::from_raw(slice) }.into_vec()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> Option<String> {
        let text = error::candle_last_error();
        // SAFETY: not null, and no call of the library comes between.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned())
    }

    #[test]
    fn panic_becomes_an_error_and_success_clears_it() {
        assert_eq!(guard(-1, || panic!("index {} is gone", 7)), -1);
        assert!(last_error().unwrap().ends_with("please report it: index 7 is gone"));
        assert_eq!(guard(-1, || Ok(5)), 5);
        assert_eq!(last_error(), None);
    }

    #[test]
    fn last_error_belongs_to_its_thread_and_survives_a_nul_in_the_message() {
        guard((), || Err(CallError::Panic("a\0b".to_owned())));
        std::thread::spawn(|| assert_eq!(last_error(), None)).join().unwrap();
        assert!(last_error().unwrap().ends_with("a\u{fffd}b"));
    }
}
