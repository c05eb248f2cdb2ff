//! The two numbers that say what many runs have in common and how a cost grows.

/// Returns the middle of the values, or of the two in the middle the mean.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Returns the exponent with which a cost grows from one point (size, cost) to another: 1 is linear, 2 quadratic.
pub(crate) fn exponent(from: (f64, f64), to: (f64, f64)) -> Option<f64> {
    let exponent = (to.1 / from.1).ln() / (to.0 / from.0).ln();
    exponent.is_finite().then_some(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_not_moved_by_one_slow_run() {
        assert_eq!(median(&[1.0, 90.0, 2.0]).to_bits(), 2_f64.to_bits());
        assert_eq!(median(&[4.0, 2.0]).to_bits(), 3_f64.to_bits());
        assert_eq!(median(&[7.0]).to_bits(), 7_f64.to_bits());
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn exponents_tell_linear_from_quadratic() {
        let check = |from, to, expect: f64| {
            let found = exponent(from, to).unwrap();
            assert!((found - expect).abs() < 1e-9, "{found} is not {expect}");
        };
        check((10.0, 3.0), (1000.0, 300.0), 1.0);
        check((10.0, 3.0), (100.0, 300.0), 2.0);
        check((10.0, 3.0), (100.0, 3.0), 0.0);
        assert_eq!(exponent((10.0, 3.0), (10.0, 4.0)), None);
        assert_eq!(exponent((10.0, 0.0), (20.0, 4.0)), None);
    }
}
