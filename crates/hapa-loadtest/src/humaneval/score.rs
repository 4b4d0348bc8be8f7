//! From verdicts to figures.

/// The unbiased estimate of pass@k from `samples` answers of which `passed` passed: the probability that at least one of
/// k drawn without replacement passes (Chen et al., 2021, equation 1). `None` when there are fewer than k.
pub fn pass_at_k(samples: usize, passed: usize, k: usize) -> Option<f64> {
    if k == 0 || samples < k || passed > samples {
        return None;
    }
    let failed = samples - passed;
    if failed < k {
        return Some(1.0);
    }
    let none: f64 = (failed + 1..=samples).map(|n| 1.0 - k as f64 / n as f64).product();
    Some(1.0 - none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_those_of_counting() {
        let near = |found: Option<f64>, expected: f64| {
            assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?} {expected}");
        };
        near(pass_at_k(1, 1, 1), 1.0);
        near(pass_at_k(10, 3, 1), 0.3);
        // 1 - C(7,2)/C(10,2) = 1 - 21/45.
        near(pass_at_k(10, 3, 2), 1.0 - 21.0 / 45.0);
        near(pass_at_k(10, 0, 5), 0.0);
        near(pass_at_k(10, 9, 2), 1.0);
        assert_eq!(pass_at_k(4, 1, 5), None);
        assert_eq!(pass_at_k(4, 5, 1), None);
    }
}
