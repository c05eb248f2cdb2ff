//! A logarithmic axis: where values lie, and where it has marks.

/// Rounded ends and pixels of an axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    /// The lowest and the highest value.
    low: f64,
    high: f64,
    /// Where those are, in pixels; upward axes end above where they begin.
    from: f64,
    to: f64,
}

/// The numbers of a decade that an axis may begin, end and be marked at.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];
/// Ratio of the ends from which on only whole decades are marked.
const WIDE: f64 = 500.0;

impl Axis {
    /// Returns an axis for `values` above zero, between two pixels.
    pub(crate) fn new(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let values = values.into_iter().filter(|v| v.is_finite() && *v > 0.0);
        let (least, most) = values.fold((f64::INFINITY, 0_f64), |(a, b), v| (a.min(v), b.max(v)));
        let (least, most) = if most > 0.0 { (least, most) } else { (1.0, 10.0) };
        let marks: Vec<f64> = marks(least, most).collect();
        // A little tolerance, because powers of ten below one are not exact.
        let low = marks.iter().copied().rfind(|m| *m <= least * 1.000_001).unwrap_or(least);
        let high = marks.iter().copied().find(|m| *m >= most * 0.999_999 && *m > low).unwrap_or(most);
        Self { low, high, from, to }
    }

    /// Returns the highest value.
    pub(crate) fn high(&self) -> f64 {
        self.high
    }

    /// Returns where a value is, in pixels.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + part * (self.to - self.from)
    }

    /// Returns the values that are marked, from the lowest to the highest.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let inside = |m: &f64| *m >= self.low * 0.999_999 && *m <= self.high * 1.000_001;
        let all: Vec<f64> = marks(self.low, self.high).filter(inside).collect();
        let decade = |m: &f64| (m.log10() - m.log10().round()).abs() < 1e-6;
        if self.high / self.low < WIDE { all } else { all.into_iter().filter(decade).collect() }
    }
}

/// Returns every number that an axis may be marked at, from below `least` to above `most`.
fn marks(least: f64, most: f64) -> impl Iterator<Item = f64> {
    let decade = |value: f64| value.log10().floor() as i32;
    (decade(least)..=decade(most) + 1).flat_map(|exponent| STEPS.map(|step| step * 10_f64.powi(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_always_further_along() {
        let up = Axis::new([0.03, 70.0], 200.0, 20.0);
        let places: Vec<f64> = [0.03, 0.1, 1.0, 9.0, 70.0].map(|v| up.at(v)).to_vec();
        assert!(places.is_sorted_by(|a, b| a > b), "{places:?}");
        assert!(places.iter().all(|at| (20.0..=200.0).contains(at)), "{places:?}");
        let tens: Vec<f64> = [0.1, 1.0, 10.0].map(|v| up.at(v)).to_vec();
        assert!(((tens[0] - tens[1]) - (tens[1] - tens[2])).abs() < 1e-9, "decades are equally long");
    }

    #[test]
    fn ends_are_round_and_hold_all_values() {
        let check = |values: &[f64], expect: &[f64]| {
            let ticks = Axis::new(values.iter().copied(), 0.0, 1.0).ticks();
            assert_eq!(ticks.len(), expect.len(), "{ticks:?}");
            assert!(ticks.iter().zip(expect).all(|(a, b)| (a / b - 1.0).abs() < 1e-9), "{ticks:?}");
        };
        check(&[1000.0, 500_000.0], &[1e3, 1e4, 1e5]);
        check(&[0.1, 8.0], &[0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]);
        check(&[12.0, 44.0], &[10.0, 20.0, 50.0]);
        check(&[10.0], &[10.0, 20.0]);
        check(&[], &[1.0, 2.0, 5.0, 10.0]);
    }
}
