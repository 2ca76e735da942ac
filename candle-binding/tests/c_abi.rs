//! The golden data again, through the C ABI, alone and from many threads.

mod common;

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::slice;
use std::thread;

use candle_semantic_router as _; // Links the exports.
use common::{assert_same_vector, minilm, rows, tiny_model};
use serde::Deserialize;

// As a C program would declare them; tests/abi.rs compares header and library.
#[repr(C)]
struct EmbeddingResult {
    data: *mut f32,
    length: c_int,
    error: bool,
    model_type: c_int,
    sequence_length: c_int,
    processing_time_ms: f32,
}

#[repr(C)]
struct TokenizationResult {
    token_ids: *mut c_int,
    token_count: c_int,
    tokens: *mut *mut c_char,
    error: bool,
}

unsafe extern "C" {
    safe fn candle_last_error() -> *const c_char;
    safe fn candle_model_close(model: u64) -> bool;
    fn candle_model_open(model_dir: *const c_char, use_cpu: bool) -> u64;
    fn candle_model_embed(model: u64, text: *const c_char, max_length: c_int) -> EmbeddingResult;
    fn candle_model_tokenize(
        model: u64,
        text: *const c_char,
        max_length: c_int,
    ) -> TokenizationResult;
    fn free_embedding(data: *mut f32, length: c_int);
    fn free_tokenization_result(result: TokenizationResult);
}

fn reason() -> String {
    let text = candle_last_error();
    assert!(!text.is_null());
    // SAFETY: the library's, and valid until its next call from this thread.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

fn open(dir: &Path) -> u64 {
    let dir = CString::new(dir.to_str().unwrap()).unwrap();
    // SAFETY: NUL-terminated.
    let model = unsafe { candle_model_open(dir.as_ptr(), true) };
    assert_ne!(model, 0, "{}", reason());
    model
}

fn embed(model: u64, text: &str, max_length: c_int) -> (Vec<f32>, usize) {
    let text = CString::new(text).unwrap();
    // SAFETY: NUL-terminated; the result is copied, then given back once.
    unsafe {
        let result = candle_model_embed(model, text.as_ptr(), max_length);
        assert!(!result.error, "{}", reason());
        assert!(result.model_type == 2 && result.processing_time_ms > 0.0);
        let vector = slice::from_raw_parts(result.data, result.length as usize).to_vec();
        free_embedding(result.data, result.length);
        (vector, result.sequence_length as usize)
    }
}

fn ids(model: u64, text: &str, max_length: c_int) -> Vec<c_int> {
    let text = CString::new(text).unwrap();
    // SAFETY: as above.
    unsafe {
        let result = candle_model_tokenize(model, text.as_ptr(), max_length);
        assert!(!result.error && !result.tokens.is_null(), "{}", reason());
        let ids = slice::from_raw_parts(result.token_ids, result.token_count as usize).to_vec();
        free_tokenization_result(result);
        ids
    }
}

#[derive(Deserialize)]
struct Row {
    text: String,
    n_tokens: usize,
    embedding: Vec<f64>,
    #[serde(default)]
    max_length: c_int,
    input_ids: Option<Vec<c_int>>,
}

fn check_rows(model: u64, path: &str) {
    for row in rows::<Row>(path) {
        let (vector, tokens) = embed(model, &row.text, row.max_length);
        assert_eq!(tokens, row.n_tokens, "{}", row.text);
        assert_same_vector(&vector, &row.embedding, &row.text);
        let ids = ids(model, &row.text, row.max_length);
        assert_eq!(ids.len(), row.n_tokens, "{}", row.text);
        assert!(row.input_ids.is_none_or(|wanted| ids == wanted), "{}", row.text);
    }
}

#[test]
fn vectors_and_tokens_equal_the_reference() {
    let tiny = open(&tiny_model());
    check_rows(tiny, "tiny/bert_embed/expected.jsonl");
    assert!(candle_model_close(tiny));
    let Some(dir) = minilm() else { return };
    let model = open(&dir);
    check_rows(model, "minilm/minilm.jsonl");
    check_rows(model, "minilm/max_length.jsonl");
    assert!(candle_model_close(model));
}

#[test]
fn eight_threads_get_what_one_gets() {
    let Some(dir) = minilm() else { return };
    let model = open(&dir);
    let text = |i: usize| "route this to 模型 ".repeat(1 + i % 4) + &i.to_string();
    let serial: Vec<_> = (0..16).map(|i| embed(model, &text(i), 0)).collect();
    thread::scope(|scope| {
        for start in 0..8 {
            let serial = &serial;
            scope.spawn(move || {
                for i in (start..start + 200).map(|i| i % serial.len()) {
                    assert!(embed(model, &text(i), 0) == serial[i], "{}", text(i));
                }
            });
        }
    });
    assert!(candle_model_close(model));
}
