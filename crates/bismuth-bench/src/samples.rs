//! Percentiles of samples, and the spread of a figure over several rounds.

use std::fmt;
use std::time::Duration;

/// Times of one thing, sorted.
#[derive(Debug)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that `percent` of the samples do not exceed; zero without samples.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// How many times as long as `reference` this takes, by the medians.
    pub(crate) fn ratio_to(&self, reference: &Self) -> f64 {
        self.median().as_secs_f64() / reference.median().as_secs_f64()
    }

    /// Says whether the median keeps within what was promised.
    pub(crate) fn verdict(&self, bound: Duration) -> &'static str {
        if self.median() <= bound {
            "held"
        } else {
            "MISSED"
        }
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1e3;
        write!(
            out,
            "p50 {:.3} ms, p10 {:.3}, p90 {:.3}, p99 {:.3}, n {}",
            ms(50),
            ms(10),
            ms(90),
            ms(99),
            self.count()
        )
    }
}

/// One figure per turn, sorted.
#[derive(Debug)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    pub(crate) fn new(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_unstable_by(f64::total_cmp);
        Self(figures)
    }

    /// The middle one, or the mean of the two; not a number without figures.
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.get(middle) {
            None => f64::NAN,
            Some(upper) if self.0.len() % 2 == 1 => *upper,
            Some(upper) => f64::midpoint(self.0[middle - 1], *upper),
        }
    }
}

/// The median, and in brackets the smallest and the largest. The precision is that of the formatter.
impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = out.precision().unwrap_or(2);
        let (least, most) = (self.0.first(), self.0.last());
        write!(
            out,
            "{:.digits$} ({:.digits$} to {:.digits$})",
            self.median(),
            least.unwrap_or(&f64::NAN),
            most.unwrap_or(&f64::NAN)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_taken() {
        let samples = Samples::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(samples.median(), Duration::from_millis(50));
        assert_eq!(samples.percentile(99), Duration::from_millis(99));
        assert_eq!(samples.percentile(100), Duration::from_millis(100));
        assert_eq!(Samples::new(Vec::new()).median(), Duration::ZERO);
    }

    #[test]
    fn a_spread_shows_minimum_and_maximum() {
        assert_eq!(
            format!("{:.1}", Spread::new([3.0, 1.0, 2.0])),
            "2.0 (1.0 to 3.0)"
        );
        assert!((Spread::new([1.0, 2.0]).median() - 1.5).abs() < 1e-9);
        assert!(Spread::new([]).median().is_nan());
    }
}
