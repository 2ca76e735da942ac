//! From token vectors to one sentence vector, and from two sentence vectors to a similarity.
//!
//! Sequences arrive packed end to end without padding, so there is no mask that could be forgotten: the mean runs over
//! exactly the tokens of its sequence.
//! Source: sentence-transformers, `Pooling` (mean) and `Normalize`.

use crate::error::Error;

/// Accumulators of a reduction. Sixteen independent ones let the compiler use vector registers, which a single running
/// sum (floating-point addition is not associative) forbids.
const LANES: usize = 16;

/// Sum of `term(x)` over `values`.
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|&x| term(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += term(x);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Mean over the rows of `hidden` ([tokens, dimension], row-major), scaled to length 1.
///
/// # Errors
/// [`Error::NotFinite`] if the result holds NaN or an infinity.
pub fn mean_normalized(hidden: &[f32], dimension: usize) -> Result<Vec<f32>, Error> {
    let mut mean = vec![0f32; dimension];
    for row in hidden.chunks_exact(dimension) {
        for (total, &x) in mean.iter_mut().zip(row) {
            *total += x;
        }
    }
    // The division by the number of tokens cancels in the normalisation; 1e-12 is torch's guard against a zero vector.
    let tokens = (hidden.len() / dimension.max(1)).max(1) as f32;
    mean.iter_mut().for_each(|x| *x /= tokens);
    let norm = sum(&mean, |x| x * x).sqrt().max(1e-12);
    mean.iter_mut().for_each(|x| *x /= norm);
    if mean.iter().all(|x| x.is_finite()) { Ok(mean) } else { Err(Error::NotFinite) }
}

/// Cosine of two vectors of length 1.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_is_taken_over_the_rows_and_has_length_one() {
        let pooled = mean_normalized(&[1.0, 0.0, 5.0, 8.0], 2).unwrap();
        assert_eq!(pooled, [0.6, 0.8]);
    }

    #[test]
    fn zero_vector_stays_zero_and_nan_is_an_error() {
        assert_eq!(mean_normalized(&[0.0, 0.0], 2).unwrap(), [0.0, 0.0]);
        assert!(matches!(mean_normalized(&[f32::NAN, 1.0], 2), Err(Error::NotFinite)));
    }

    #[test]
    fn sum_covers_whole_lanes_and_the_rest() {
        let values: Vec<f32> = (1..=37).map(|n| n as f32).collect();
        assert_eq!(sum(&values, |x| x), 703.0);
    }
}
