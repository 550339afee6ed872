//! What the programs that measure have in common: how stacks are built, and how a server and a client
//! run as processes of their own.

pub mod build;
pub mod process;

/// Whatever went wrong; a bench that fails has no figures.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Whole numbers are measured, and fractions of them printed.
#[must_use]
#[allow(clippy::cast_precision_loss)] // nobody makes 2^52 calls
pub fn float(count: u64) -> f64 {
    count as f64
}

/// The value in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle.wrapping_sub(1)), values.get(middle)) {
        (_, None) => f64::NAN,
        (Some(lower), Some(upper)) if values.len() % 2 == 0 => f64::midpoint(*lower, *upper),
        (_, Some(middle)) => *middle,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median([3.0].into_iter()) - 3.0).abs() < 1e-9);
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < 1e-9);
        assert!(median([].into_iter()).is_nan());
    }
}
