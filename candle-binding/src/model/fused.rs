//! CPU kernels for everything between the matrix products: bias, GELU, attention, residual and layer norm.
//!
//! Each has a plain form in candle's own operations: it runs on other devices, and the tests compare the two. The plain
//! forms must not run on the CPU: candle's elementwise operations share one pool for the process, which serves a single
//! caller at a time while the others spin. The loops are free of branches and of calls, so that the compiler turns them
//! into vector code for any target.

use candle_core::{
    CpuStorage, CustomOp1, D, InplaceOp2, InplaceOp3, Layout, Result, Shape, Tensor, bail,
};
use rayon::prelude::*;

use crate::pooling::sum;

// The functions below change `x` in place on the CPU: its storage must be its own, as the result of a matrix product is.

/// Below this many values waking the other threads costs more than they save.
const PARALLEL_VALUES: usize = 1 << 15;

/// `x + bias`, row by row.
pub fn bias(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.broadcast_add(bias);
    }
    x.inplace_op2(bias, &BiasThen(|x| x))?;
    Ok(x)
}

/// `gelu(x + bias)`, row by row, with the exact (erf) GELU: the tanh approximation is visibly off.
pub fn bias_gelu(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.broadcast_add(bias)?.gelu_erf();
    }
    x.inplace_op2(bias, &BiasThen(gelu))?;
    Ok(x)
}

/// Layer norm of `x + bias + residual`, row by row. `parameters` is [3, columns]: the bias, and the norm's weight and
/// bias.
pub fn add_norm(x: Tensor, residual: &Tensor, parameters: &Tensor, eps: f32) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return plain_add_norm(&x, residual, parameters, eps);
    }
    x.inplace_op3(residual, parameters, &AddNorm { eps })?;
    Ok(x)
}

fn plain_add_norm(x: &Tensor, residual: &Tensor, parameters: &Tensor, eps: f32) -> Result<Tensor> {
    let (bias, weight, norm_bias) = (parameters.get(0)?, parameters.get(1)?, parameters.get(2)?);
    let sum = (x.broadcast_add(&bias)? + residual)?;
    candle_nn::ops::layer_norm(&sum, &weight, &norm_bias, eps)
}

/// Scaled dot-product attention within each sequence.
///
/// `packed` is [tokens, 3 · hidden]: query (already scaled), key, value. `lengths` add up to the tokens. The result is
/// [tokens, hidden].
pub fn attention(packed: &Tensor, lengths: &[usize], heads: usize) -> Result<Tensor> {
    if packed.device().is_cpu() {
        packed.apply_op1_no_bwd(&Attention { lengths, heads })
    } else {
        plain_attention(packed, lengths, heads)
    }
}

fn plain_attention(packed: &Tensor, lengths: &[usize], heads: usize) -> Result<Tensor> {
    let width = packed.dim(1)?;
    let (hidden, head_size) = (width / 3, width / 3 / heads);
    let mut start = 0;
    let contexts = lengths.iter().map(|&length| {
        let rows = packed.narrow(0, start, length)?;
        start += length;
        let part = |index| {
            rows.narrow(1, index * hidden, hidden)?
                .reshape((length, heads, head_size))?
                .transpose(0, 1)?
                .contiguous()
        };
        let (query, key, value) = (part(0)?, part(1)?, part(2)?);
        let scores = candle_nn::ops::softmax(&query.matmul(&key.t()?)?, D::Minus1)?;
        scores.matmul(&value)?.transpose(0, 1)?.reshape((length, hidden))
    });
    Tensor::cat(&contexts.collect::<Result<Vec<_>>>()?, 0)
}

/// `then(x + bias)` in place; `x` is [rows, columns], `bias` is [columns].
struct BiasThen<F>(F);

impl<F: Fn(f32) -> f32 + Sync> InplaceOp2 for BiasThen<F> {
    fn name(&self) -> &'static str {
        "bias-then"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let bias = contiguous(bias, bias_layout)?;
        let x = contiguous_mut(x, x_layout)?;
        let add = |row: &mut [f32]| {
            for (x, &bias) in row.iter_mut().zip(bias) {
                *x = (self.0)(*x + bias);
            }
        };
        if x.len() < PARALLEL_VALUES {
            x.chunks_mut(bias.len()).for_each(add);
        } else {
            x.par_chunks_mut(bias.len()).for_each(add);
        }
        Ok(())
    }
}

/// [`add_norm`] in place.
struct AddNorm {
    eps: f32,
}

impl InplaceOp3 for AddNorm {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<()> {
        let x = contiguous_mut(x, x_layout)?;
        let residual = contiguous(residual, residual_layout)?;
        let parameters = contiguous(parameters, parameters_layout)?;
        let columns = parameters.len() / 3;
        let (bias, norm) = parameters.split_at(columns);
        let (weight, norm_bias) = norm.split_at(columns);
        let normalize = |(row, residual): (&mut [f32], &[f32])| {
            for ((x, &residual), &bias) in row.iter_mut().zip(residual).zip(bias) {
                *x += residual + bias;
            }
            let mean = sum(row, |x| x) / columns as f32;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / columns as f32;
            let scale = 1.0 / (variance + self.eps).sqrt();
            for ((x, &weight), &bias) in row.iter_mut().zip(weight).zip(norm_bias) {
                *x = (*x - mean) * scale * weight + bias;
            }
        };
        if x.len() < PARALLEL_VALUES {
            x.chunks_mut(columns).zip(residual.chunks(columns)).for_each(normalize);
        } else {
            x.par_chunks_mut(columns).zip(residual.par_chunks(columns)).for_each(normalize);
        }
        Ok(())
    }
}

struct Attention<'a> {
    lengths: &'a [usize],
    heads: usize,
}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let packed = contiguous(storage, layout)?;
        let (tokens, width) = layout.shape().dims2()?;
        let (heads, hidden) = (self.heads, width / 3);
        let head_size = hidden / heads;
        // Each pair of a sequence and a head is independent of the others.
        let mut tasks = Vec::with_capacity(self.lengths.len() * heads);
        let mut start = 0;
        for &length in self.lengths {
            tasks.extend((0..heads).map(|head| (start, length, head)));
            start += length;
        }
        if start != tokens {
            bail!("the lengths add up to {start}, but there are {tokens} tokens")
        }
        let contexts = tasks
            .par_iter()
            .map(|&(start, length, head)| {
                let rows = &packed[start * width..(start + length) * width];
                let part = |index| Matrix {
                    values: &rows[index * hidden + head * head_size..],
                    rows: length,
                    columns: head_size,
                    row_stride: width,
                    column_stride: 1,
                };
                let mut scores = part(0).times(part(1).transposed())?;
                scores.chunks_exact_mut(length).for_each(softmax);
                Matrix::new(&scores, length).times(part(2))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut output = vec![0f32; tokens * hidden];
        for (&(start, length, head), context) in tasks.iter().zip(&contexts) {
            let rows = output[start * hidden..(start + length) * hidden].chunks_exact_mut(hidden);
            for (row, context) in rows.zip(context.chunks_exact(head_size)) {
                row[head * head_size..(head + 1) * head_size].copy_from_slice(context);
            }
        }
        Ok((CpuStorage::F32(output), (tokens, hidden).into()))
    }
}

/// A strided view of f32 values.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    fn new(values: &'a [f32], columns: usize) -> Self {
        Self {
            values,
            rows: values.len() / columns,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn is_inside(&self) -> bool {
        let last = self.rows.saturating_sub(1) * self.row_stride
            + self.columns.saturating_sub(1) * self.column_stride;
        last < self.values.len()
    }

    /// The product, row-major. Single-threaded: the caller runs many at once.
    fn times(self, right: Matrix) -> Result<Vec<f32>> {
        if self.columns != right.rows || !self.is_inside() || !right.is_inside() {
            bail!("a matrix view reaches beyond its values")
        }
        let (rows, columns) = (self.rows, right.columns);
        let mut product = vec![0f32; rows * columns];
        // SAFETY: both views were just found to lie inside their slices, `product` holds rows · columns values in the
        // given strides, and a fresh allocation overlaps neither operand. The values are initialised f32.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                self.columns,
                product.as_mut_ptr(),
                1,
                columns as isize,
                false,
                self.values.as_ptr(),
                self.column_stride as isize,
                self.row_stride as isize,
                right.values.as_ptr(),
                right.column_stride as isize,
                right.row_stride as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        Ok(product)
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("a contiguous f32 tensor is needed"),
    }
}

fn contiguous_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("a contiguous f32 tensor is needed"),
    }
}

/// `x · Φ(x)`, Φ being the normal distribution's.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function with an absolute error below 5e-7.
///
/// Source: the rational approximation of Eigen's and XLA's `erf` for f32. Beyond ±4 the result rounds to ±1.
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let horner = |coefficients: &[f32]| coefficients.iter().fold(0.0, |sum, c| sum * square + c);
    let numerator = horner(&[
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ]);
    let denominator =
        horner(&[-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2]);
    x * numerator / denominator
}

fn softmax(row: &mut [f32]) {
    let largest = row.iter().fold(f32::NEG_INFINITY, |largest, &x| largest.max(x));
    row.iter_mut().for_each(|x| *x = exp(*x - largest));
    let total = sum(row, |x| x);
    row.iter_mut().for_each(|x| *x /= total);
}

/// `e^x` for x <= 0 with a relative error below 2e-7; below -87 it is nearly 0.
///
/// Source: Cephes, `expf`: x = n·ln 2 + r, a polynomial for e^r, and n goes into the exponent's bits.
fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2^23 leaves the rounded integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let coefficients =
        [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    let tail = coefficients.iter().fold(0.0, |sum, c| sum * r + c);
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) << 23;
    (1.0 + r + r * r * tail) * f32::from_bits(exponent.wrapping_add(1f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Numbers without a pattern between -1 and 1, the same on every run.
    fn noise(rows: usize, columns: usize) -> Tensor {
        let value = |i: usize| ((i as f32 + 1.0) * 12.9898).sin() * 43_758.547 % 1.0;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn assert_close(a: &Tensor, b: &Tensor) {
        let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        let largest = difference.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(largest < 2e-6, "largest difference {largest}");
    }

    #[test]
    fn attention_equals_its_plain_form_and_stays_within_each_sequence() {
        let (lengths, heads) = ([5, 1, 17, 2], 3);
        let packed = noise(25, 3 * 12);
        let fused = attention(&packed, &lengths, heads).unwrap();
        assert_close(&fused, &plain_attention(&packed, &lengths, heads).unwrap());
        assert!(attention(&packed, &[24], heads).is_err());
    }

    #[test]
    fn bias_and_gelu_equal_their_plain_forms() {
        let row = noise(1, 40).flatten_all().unwrap();
        let x = (noise(7, 40) * 6.0).unwrap();
        let sum = x.broadcast_add(&row).unwrap();
        assert_close(&bias(x.copy().unwrap(), &row).unwrap(), &sum);
        assert_close(&bias_gelu(x, &row).unwrap(), &sum.gelu_erf().unwrap());
    }

    #[test]
    fn residual_and_norm_equal_their_plain_form() {
        let (residual, parameters) = (noise(7, 40), noise(3, 40));
        let x = (noise(7, 40) * 3.0).unwrap();
        let plain = plain_add_norm(&x, &residual, &parameters, 1e-5).unwrap();
        assert_close(&add_norm(x, &residual, &parameters, 1e-5).unwrap(), &plain);
    }

    #[test]
    fn rows_shared_among_threads_equal_rows_on_one() {
        let rows = PARALLEL_VALUES / 40 + 1;
        let (x, parameters) = (noise(rows, 40), noise(3, 40));
        let row = parameters.get(0).unwrap();
        let plain = plain_add_norm(&x, &x, &parameters, 1e-5).unwrap();
        let residual = x.copy().unwrap();
        assert_close(&add_norm(x.copy().unwrap(), &residual, &parameters, 1e-5).unwrap(), &plain);
        assert_close(&bias(x.copy().unwrap(), &row).unwrap(), &x.broadcast_add(&row).unwrap());
    }

    #[test]
    fn erf_and_exp_keep_their_promised_errors() {
        for step in -120_000..=120_000 {
            let x = step as f32 * 1e-4;
            let erf_wanted = Tensor::new(&[x as f64], &Device::Cpu).unwrap().erf().unwrap();
            let erf_wanted = erf_wanted.to_vec1::<f64>().unwrap()[0];
            assert!((erf(x) as f64 - erf_wanted).abs() < 5e-7, "erf({x}) = {}", erf(x));
            let x = -x.abs() * 7.0;
            let exp_wanted = (x as f64).exp();
            assert!((exp(x) as f64 / exp_wanted - 1.0).abs() < 2e-7, "exp({x}) = {}", exp(x));
        }
        assert!(exp(-1000.0) < 1e-37);
    }
}
