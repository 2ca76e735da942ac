//! The BERT encoder's forward pass, over sequences packed end to end.
//!
//! Packing ([tokens of all sequences, hidden]) needs neither padding nor a mask: each linear layer sees one tall matrix
//! and only attention knows where a sequence ends. Three things are decided once, at load: query, key and value are one
//! matrix, the 1/√d of attention is part of the query's weights, and the token type (always 0) part of the positions.
//! Source: transformers, `modeling_bert.py`; checked against its outputs by tests/golden.rs.

use candle_core::{DType, Result, Tensor};

use super::config::Config;
use super::fused;
use super::weights::Weights;
use crate::error::Error;

#[derive(Debug)]
pub struct Encoder {
    word_embeddings: Tensor,
    /// Position plus token type 0: [positions, hidden].
    position_embeddings: Tensor,
    norm: AddNorm,
    layers: Vec<Layer>,
    heads: usize,
    hidden_size: usize,
}

#[derive(Debug)]
struct Layer {
    query_key_value: Linear,
    attention_output: Tensor,
    attention_norm: AddNorm,
    intermediate: Linear,
    output: Tensor,
    output_norm: AddNorm,
}

/// `x · weight + bias`; the weight is [in, out], transposed at load.
#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

/// Residual connection and layer norm, with the bias of the linear layer before: [3, hidden].
#[derive(Debug)]
struct AddNorm {
    parameters: Tensor,
    eps: f32,
}

impl Encoder {
    pub fn load(config: &Config, weights: &mut Weights) -> std::result::Result<Self, Error> {
        let hidden = config.hidden_size;
        let mut table = |name: &str, rows| {
            weights.tensor(&format!("embeddings.{name}.weight"), &[rows, hidden])
        };
        let word_embeddings = table("word_embeddings", config.vocab_size)?;
        let positions = table("position_embeddings", config.max_position_embeddings)?;
        let token_types = table("token_type_embeddings", config.type_vocab_size)?;
        let position_embeddings =
            token_types.get(0).and_then(|first| fused::bias(positions, &first)).map_err(prepare)?;
        let no_bias = Tensor::zeros(hidden, DType::F32, word_embeddings.device());
        let norm =
            AddNorm::load("embeddings.LayerNorm", no_bias.map_err(prepare)?, config, weights)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(index, config, weights))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            word_embeddings,
            position_embeddings,
            norm,
            layers,
            heads: config.num_attention_heads,
            hidden_size: hidden,
        })
    }

    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Last hidden states [tokens of all sequences, hidden] f32, in the order of the sequences.
    pub fn forward(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        let device = self.word_embeddings.device();
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
        let ids = Tensor::new(sequences.concat(), device)?;
        let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let positions = Tensor::new(positions, device)?;
        let words = self.word_embeddings.index_select(&ids, 0)?;
        let positions = self.position_embeddings.index_select(&positions, 0)?;
        let mut hidden = self.norm.forward(words, &positions)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &lengths, self.heads)?;
        }
        Ok(hidden)
    }
}

impl Layer {
    fn load(
        index: usize,
        config: &Config,
        weights: &mut Weights,
    ) -> std::result::Result<Self, Error> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let at = |part: &str| format!("encoder.layer.{index}.{part}");
        let mut linear = |part: &str, input, output| -> std::result::Result<Linear, Error> {
            let name = at(part);
            let weight = weights.tensor(&format!("{name}.weight"), &[output, input])?;
            let bias = weights.tensor(&format!("{name}.bias"), &[output])?;
            Linear::new(&weight, bias).map_err(prepare)
        };
        let query = linear("attention.self.query", hidden, hidden)?;
        let key = linear("attention.self.key", hidden, hidden)?;
        let value = linear("attention.self.value", hidden, hidden)?;
        let attention_output = linear("attention.output.dense", hidden, hidden)?;
        let intermediate = linear("intermediate.dense", hidden, inner)?;
        let output = linear("output.dense", inner, hidden)?;
        let mut norm = |part: &str, bias| AddNorm::load(&at(part), bias, config, weights);
        let head_size = hidden / config.num_attention_heads;
        Ok(Self {
            query_key_value: Linear::fuse(query, key, value, head_size).map_err(prepare)?,
            attention_output: attention_output.weight,
            attention_norm: norm("attention.output.LayerNorm", attention_output.bias)?,
            intermediate,
            output: output.weight,
            output_norm: norm("output.LayerNorm", output.bias)?,
        })
    }

    fn forward(&self, hidden: &Tensor, lengths: &[usize], heads: usize) -> Result<Tensor> {
        let packed = hidden.matmul(&self.query_key_value.weight)?;
        let packed = fused::bias(packed, &self.query_key_value.bias)?;
        let context = fused::attention(&packed, lengths, heads)?;
        let attended =
            self.attention_norm.forward(context.matmul(&self.attention_output)?, hidden)?;
        let inner = attended.matmul(&self.intermediate.weight)?;
        let inner = fused::bias_gelu(inner, &self.intermediate.bias)?;
        self.output_norm.forward(inner.matmul(&self.output)?, &attended)
    }
}

impl Linear {
    fn new(weight: &Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self { weight: weight.t()?.contiguous()?, bias })
    }

    fn fuse(query: Self, key: Self, value: Self, head_size: usize) -> Result<Self> {
        let scale = 1.0 / (head_size as f64).sqrt();
        Ok(Self {
            weight: Tensor::cat(&[(query.weight * scale)?, key.weight, value.weight], 1)?,
            bias: Tensor::cat(&[(query.bias * scale)?, key.bias, value.bias], 0)?,
        })
    }
}

impl AddNorm {
    fn load(
        name: &str,
        bias: Tensor,
        config: &Config,
        weights: &mut Weights,
    ) -> std::result::Result<Self, Error> {
        let shape = [config.hidden_size];
        let weight = weights.tensor(&format!("{name}.weight"), &shape)?;
        let norm_bias = weights.tensor(&format!("{name}.bias"), &shape)?;
        let parameters = Tensor::stack(&[bias, weight, norm_bias], 0).map_err(prepare)?;
        Ok(Self { parameters, eps: config.layer_norm_eps })
    }

    fn forward(&self, x: Tensor, residual: &Tensor) -> Result<Tensor> {
        fused::add_norm(x, residual, &self.parameters, self.eps)
    }
}

/// Rearranging weights at load cannot fail for shapes that were checked; if it does, it is the device's doing.
fn prepare(source: candle_core::Error) -> Error {
    Error::Device(source)
}
