//! Where the tests find models and golden data, and how they compare vectors.
#![allow(dead_code)] // Each test binary uses its own part.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Largest absolute difference and smallest cosine of an embedding. Source: testdata/golden/README.md, "Tolerances".
const MAX_ABS_DIFFERENCE: f64 = 1e-4;
const MIN_COSINE: f64 = 0.99999;

pub fn golden(path: &str) -> PathBuf {
    Path::new("testdata/golden").join(path)
}

pub fn tiny_model() -> PathBuf {
    golden("tiny/bert_embed")
}

/// Every row of a JSON lines file.
pub fn rows<T: DeserializeOwned>(path: &str) -> Vec<T> {
    let text = fs::read_to_string(golden(path)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The directory of all-MiniLM-L6-v2, whose weights are not in the repository: below `$XTASK_MODELS`, by default the
/// repository's `models/`. Without it the test is skipped, or fails if `$XTASK_REQUIRE` asks for `models` or `all`.
pub fn minilm() -> Option<PathBuf> {
    let models = std::env::var_os("XTASK_MODELS").map_or("../models".into(), PathBuf::from);
    let dir = models.join("all-MiniLM-L6-v2");
    if dir.join("model.safetensors").exists() {
        return Some(dir);
    }
    let required = std::env::var("XTASK_REQUIRE").unwrap_or_default();
    let required = required.split([',', ' ']).any(|word| word == "models" || word == "all");
    assert!(!required, "{} has no model.safetensors, and XTASK_REQUIRE wants it", dir.display());
    println!("skipped: {} has no model.safetensors; set XTASK_MODELS", dir.display());
    None
}

pub fn assert_same_vector(got: &[f32], wanted: &[f64], what: &str) {
    assert_eq!(got.len(), wanted.len(), "dimension of {what}");
    let pairs = || got.iter().map(|&x| x as f64).zip(wanted.iter().copied());
    let difference = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let norm = |pick: fn((f64, f64)) -> f64| pairs().map(|p| pick(p).powi(2)).sum::<f64>().sqrt();
    let cosine = pairs().map(|(a, b)| a * b).sum::<f64>() / (norm(|p| p.0) * norm(|p| p.1));
    assert!(
        difference < MAX_ABS_DIFFERENCE && cosine > MIN_COSINE,
        "{what}: largest difference {difference:e}, cosine {cosine}"
    );
}

/// A copy of the tiny model in a directory of its own, for tests that damage it.
pub fn damaged_copy(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ] {
        fs::copy(tiny_model().join(file), dir.join(file)).unwrap();
    }
    dir
}
