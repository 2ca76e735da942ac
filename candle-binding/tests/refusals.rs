//! Files that are missing, damaged or of another kind: an error that names the file, never a crash or a vector.

mod common;

use std::fs;
use std::path::Path;

use candle_semantic_router::{Device, EmbeddingModel};
use common::{damaged_copy, tiny_model};

/// The report of opening a copy of the tiny model after `damage`.
fn refusal(name: &str, damage: impl FnOnce(&Path)) -> String {
    let dir = damaged_copy(name);
    assert!(EmbeddingModel::open(&dir, Device::Cpu).is_ok(), "the copy is sound");
    damage(&dir);
    let Err(error) = EmbeddingModel::open(&dir, Device::Cpu) else {
        panic!("{name}: the damage went unnoticed")
    };
    let report = error.report();
    assert!(report.contains(dir.to_str().unwrap()), "{report} names the model");
    report
}

fn check(name: &str, damage: impl FnOnce(&Path), parts: &[&str]) {
    let report = refusal(name, damage);
    for part in parts {
        assert!(report.contains(part), "{name}: {report:?} lacks {part:?}");
    }
}

/// Replaces `from`, which must be there, in a text file.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} holds {from}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Rewrites the header of the weights, leaving the tensors as they are.
fn edit_header(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header = serde_json::from_slice(header).unwrap();
    change(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&length, header.as_slice(), data].concat()).unwrap();
}

#[test]
fn missing_directory_and_files() {
    let error = EmbeddingModel::open(Path::new("no/such/model"), Device::Cpu).unwrap_err();
    let report = error.report();
    assert!(report.contains("no/such/model does not exist"), "{report}");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let remove = |dir: &Path| fs::remove_file(dir.join(file)).unwrap();
        check(&format!("missing-{file}"), remove, &[file, "No such file", "hint: "]);
    }
    let only_pickle = |dir: &Path| {
        let weights = dir.join("model.safetensors");
        fs::rename(weights, dir.join("pytorch_model.bin")).unwrap();
    };
    check("pickle", only_pickle, &["convert pytorch_model.bin"]);
}

#[test]
fn truncated_weights() {
    let size = fs::metadata(tiny_model().join("model.safetensors")).unwrap().len();
    for kept in [0, 5, 8, 500, size / 2, size - 1] {
        let cut = |dir: &Path| {
            let file = fs::OpenOptions::new().write(true).open(dir.join("model.safetensors"));
            file.unwrap().set_len(kept).unwrap();
        };
        check(&format!("cut-{kept}"), cut, &["model.safetensors", "damaged", "fetch it again"]);
    }
    let lengthen = |dir: &Path| {
        let file = fs::OpenOptions::new().write(true).open(dir.join("model.safetensors"));
        file.unwrap().set_len(size + 1).unwrap();
    };
    check("trailing-byte", lengthen, &["damaged"]);
}

#[test]
fn header_that_claims_too_much() {
    for (name, claim) in [("all", u64::MAX), ("terabyte", 1 << 40), ("file", 200_000)] {
        let claim_it = |dir: &Path| {
            let path = dir.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            bytes[..8].copy_from_slice(&claim.to_le_bytes());
            fs::write(path, bytes).unwrap();
        };
        check(&format!("claim-{name}"), claim_it, &[&claim.to_string(), "damaged"]);
    }
    let sparse = |dir: &Path| {
        let file = fs::OpenOptions::new().write(true).open(dir.join("model.safetensors"));
        file.unwrap().set_len((4 << 30) + 1).unwrap();
    };
    check("sparse", sparse, &["more than the 4294967296"]);
}

#[test]
fn inconsistent_header() {
    let bias = "embeddings.LayerNorm.bias";
    let weight = "embeddings.LayerNorm.weight";
    check(
        "overlap",
        |dir| edit_header(dir, |h| h[bias]["data_offsets"] = h[weight]["data_offsets"].clone()),
        &["header is wrong"],
    );
    check(
        "reversed",
        |dir| edit_header(dir, |h| h[bias]["data_offsets"] = serde_json::json!([128, 0])),
        &["header is wrong"],
    );
    check(
        "shape",
        |dir| edit_header(dir, |h| h[bias]["shape"] = serde_json::json!([33])),
        &["header is wrong"],
    );
    check(
        "overflow",
        |dir| edit_header(dir, |h| h[bias]["shape"] = serde_json::json!([1u64 << 40, 1u64 << 40])),
        &["header is wrong"],
    );
    check("type", |dir| edit_header(dir, |h| h[bias]["dtype"] = "I32".into()), &[bias, "I32"]);
    check(
        "renamed",
        |dir| {
            edit_header(dir, |h| {
                h["other"] = h[bias].take();
                h.as_object_mut().unwrap().remove(bias);
            })
        },
        &[bias, "is absent"],
    );
    check(
        "not-json",
        |dir| {
            let path = dir.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            bytes[8] = b'[';
            fs::write(path, bytes).unwrap();
        },
        &["header is wrong"],
    );
}

#[test]
fn weights_of_infinities_are_refused_at_the_first_use() {
    let dir = damaged_copy("infinite");
    let path = dir.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    for value in bytes[8 + header..].chunks_exact_mut(4) {
        value.copy_from_slice(&f32::INFINITY.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
    let model = EmbeddingModel::open(&dir, Device::Cpu).unwrap();
    let report = model.embed("text", None).unwrap_err().report();
    assert!(report.contains("not finite"), "{report}");
}

#[test]
fn configurations_of_another_kind() {
    for (from, to, part) in [
        (r#""model_type": "bert""#, r#""model_type": "modernbert""#, "model_type is modernbert"),
        (r#""hidden_act": "gelu""#, r#""hidden_act": "gelu_new""#, "hidden_act is gelu_new"),
        (r#""num_attention_heads": 4"#, r#""num_attention_heads": 5"#, "divisor of hidden_size"),
        (r#""num_attention_heads": 4"#, r#""num_attention_heads": 0"#, "divisor of hidden_size"),
        (r#""hidden_size": 32"#, r#""hidden_size": 64"#, "has shape [230, 32]"),
        (r#""hidden_size": 32"#, r#""hidden_size": -1"#, "config.json"),
        (r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 3"#, "layer.2"),
        (r#""vocab_size": 230"#, r#""vocab_size": 200"#, "largest id is 229"),
        ("{", "[", "config.json is not what its name promises"),
    ] {
        check("config", |dir| edit(&dir.join("config.json"), from, to), &[part]);
    }
    let cls = |dir: &Path| {
        let path = dir.join("1_Pooling/config.json");
        edit(&path, r#""pooling_mode_cls_token": false"#, r#""pooling_mode_cls_token": true"#);
    };
    check("pooling", cls, &["pooling_mode_cls_token", "1_Pooling/config.json"]);
    let tokenizer = |dir: &Path| {
        let path = dir.join("tokenizer.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, &text[..text.len() / 2]).unwrap();
    };
    check("tokenizer", tokenizer, &["tokenizer.json is not a usable tokenizer"]);
}

#[test]
fn length_limit_follows_the_order_of_the_files() {
    let text = "a ".repeat(100);
    let tokens = |dir: &Path| {
        EmbeddingModel::open(dir, Device::Cpu).unwrap().embed(&text, None).unwrap().tokens
    };
    let dir = damaged_copy("limits");
    assert_eq!(tokens(&dir), 48, "sentence_bert_config.json");
    fs::remove_file(dir.join("sentence_bert_config.json")).unwrap();
    let tokenizer = dir.join("tokenizer_config.json");
    edit(&tokenizer, r#""model_max_length": 64"#, r#""model_max_length": 20"#);
    assert_eq!(tokens(&dir), 20, "tokenizer_config.json");
    // What transformers writes for "unknown": 10^30, as an integer of 31 digits.
    let unknown = r#""model_max_length": 1000000000000000019884624838656"#;
    edit(&tokenizer, r#""model_max_length": 20"#, unknown);
    assert_eq!(tokens(&dir), 64, "max_position_embeddings");
    fs::remove_file(&tokenizer).unwrap();
    assert_eq!(tokens(&dir), 64, "max_position_embeddings");
}
