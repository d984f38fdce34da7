//! Binary search for the highest rate that passes.

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The highest rate that passed; 0 if none did.
    pub rate: f64,
    /// The least rate that was tried.
    pub lowest: f64,
    /// Whether what ended the search was the tester and not the device.
    pub by_tester: bool,
    /// Each rate tried, and the part of its frames that arrived.
    pub tried: Vec<(f64, f64)>,
}

/// What a trial at a rate gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attempt {
    /// Whether it passed.
    pub passed: bool,
    /// Whether the tester kept the rate.
    pub on_time: bool,
    /// The part of frames that arrived.
    pub arrived: f64,
}

/// Searches between 0 and `rate_max` until what is left is at most `resolution` of the result.
pub fn search<E>(
    rate_max: f64,
    resolution: f64,
    mut attempt: impl FnMut(f64) -> Result<Attempt, E>,
) -> Result<Found, E> {
    /// Below this part of the highest rate nothing is looked for.
    const SMALLEST: f64 = 1.0 / 16384.0;
    let (mut low, mut high) = (0.0f64, rate_max);
    let mut found = Found {
        rate: 0.0,
        lowest: rate_max,
        by_tester: false,
        tried: Vec::new(),
    };
    let mut rate = rate_max;
    loop {
        let tried = attempt(rate)?;
        found.lowest = found.lowest.min(rate);
        found.tried.push((rate, tried.arrived));
        if tried.passed {
            low = rate;
            found.rate = rate;
        } else {
            high = rate;
            found.by_tester = !tried.on_time;
        }
        if low >= rate_max || high - low <= resolution * high || high <= SMALLEST * rate_max {
            break;
        }
        rate = f64::midpoint(low, high);
    }
    // The highest rate itself passed: the device may do more than was asked.
    found.by_tester |= found.rate >= rate_max;
    found.tried.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(limit: f64, tester: f64) -> Found {
        let attempt = |rate: f64| {
            let on_time = rate <= tester;
            Ok::<_, ()>(Attempt {
                passed: on_time && rate <= limit,
                on_time,
                arrived: (limit / rate).min(1.0),
            })
        };
        search(1e6, 0.01, attempt).unwrap()
    }

    #[test]
    fn the_limit_is_found() {
        for limit in [200.0, 3000.0, 123_456.0, 999_000.0] {
            let found = device(limit, 2e6);
            assert!(
                found.rate <= limit && found.rate >= limit * 0.98,
                "{found:?}"
            );
            assert!(!found.by_tester);
        }
    }

    #[test]
    fn the_testers_own_limit_is_told() {
        assert!(device(5e5, 1e5).by_tester);
        let whole = device(2e6, 2e6);
        assert!((whole.rate - 1e6).abs() < 1.0 && whole.by_tester);
    }

    #[test]
    fn a_device_that_passes_nothing_has_no_rate() {
        let found = device(0.0, 2e6);
        assert!(found.rate == 0.0 && found.lowest < 100.0, "{found:?}");
    }
}
