//! Vectors, token ids and rankings equal those of sentence-transformers. Source: testdata/golden/README.md.

mod common;

use std::path::Path;

use candle_semantic_router::{Device, EmbeddingModel, pooling};
use common::{assert_same_vector, minilm, rows, tiny_model};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    text: String,
    n_tokens: usize,
    embedding: Vec<f64>,
    max_length: Option<usize>,
    input_ids: Option<Vec<u32>>,
    tokens: Option<Vec<String>>,
}

fn open(dir: &Path) -> EmbeddingModel {
    EmbeddingModel::open(dir, Device::Cpu).unwrap()
}

fn check_rows(model: &EmbeddingModel, path: &str) {
    let rows: Vec<Row> = rows(path);
    for row in &rows {
        let got = model.embed(&row.text, row.max_length).unwrap();
        let what = format!("{path}: {:?} at {:?}", row.text, row.max_length);
        assert_eq!(got.tokens, row.n_tokens, "{what}");
        assert_same_vector(&got.vector, &row.embedding, &what);
        let tokens = model.tokenize(&row.text, row.max_length).unwrap();
        if let Some(wanted) = &row.input_ids {
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            assert_eq!(&ids, wanted, "{what}");
        }
        if let Some(wanted) = &row.tokens {
            let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
            assert_eq!(&texts, wanted, "{what}");
        }
    }
    // All of them in one call: packing must not let one text see another.
    if rows.iter().all(|row| row.max_length.is_none()) {
        let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        let together = model.embed_many(&texts, None).unwrap();
        assert_eq!(together.len(), rows.len());
        for (got, row) in together.iter().zip(&rows) {
            assert_same_vector(&got.vector, &row.embedding, &row.text);
        }
    }
}

#[test]
fn tiny_model_gives_the_reference_vectors() {
    check_rows(&open(&tiny_model()), "tiny/bert_embed/expected.jsonl");
}

/// Candle's elementwise operations start a pool that serves one caller at a time while the others spin. Inference must
/// not use them; the threads' names tell.
#[test]
#[cfg(target_os = "linux")]
fn minilm_does_not_start_the_spinning_pool() {
    let Some(dir) = minilm() else { return };
    // Small tensors never reach that pool.
    open(&dir).embed(&"some text ".repeat(1000), None).unwrap();
    let names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .collect();
    assert!(!names.iter().any(|name| name.starts_with("candle-bp")), "{names:?}");
}

#[test]
fn minilm_gives_the_reference_vectors_and_tokens() {
    let Some(dir) = minilm() else { return };
    let model = open(&dir);
    check_rows(&model, "minilm/minilm.jsonl");
    check_rows(&model, "minilm/max_length.jsonl");
}

#[test]
fn minilm_gives_the_reference_similarities() {
    #[derive(Deserialize)]
    struct Pair {
        text_a: String,
        text_b: String,
        cosine: f32,
    }
    let Some(dir) = minilm() else { return };
    let model = open(&dir);
    for pair in rows::<Pair>("minilm/pairs.jsonl") {
        let a = model.embed(&pair.text_a, None).unwrap();
        let b = model.embed(&pair.text_b, None).unwrap();
        let cosine = pooling::cosine(&a.vector, &b.vector);
        assert!((cosine - pair.cosine).abs() < 1e-4, "{}: {cosine}", pair.text_a);
    }
}

#[test]
fn minilm_ranks_as_the_reference_does() {
    #[derive(Deserialize)]
    struct Ranking {
        query: String,
        candidates: Vec<String>,
        order: Vec<usize>,
        scores: Vec<f32>,
    }
    let Some(dir) = minilm() else { return };
    let model = open(&dir);
    for ranking in rows::<Ranking>("minilm/ranking.jsonl") {
        let query = model.embed(&ranking.query, None).unwrap().vector;
        let candidates: Vec<&str> = ranking.candidates.iter().map(String::as_str).collect();
        let mut scores: Vec<(usize, f32)> = model
            .embed_many(&candidates, None)
            .unwrap()
            .iter()
            .map(|candidate| pooling::cosine(&query, &candidate.vector))
            .enumerate()
            .collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        let order: Vec<usize> = scores.iter().map(|score| score.0).collect();
        assert_eq!(order, ranking.order, "{}", ranking.query);
        for ((_, got), wanted) in scores.iter().zip(&ranking.scores) {
            assert!((got - wanted).abs() < 1e-4, "{}: {got}", ranking.query);
        }
    }
}
