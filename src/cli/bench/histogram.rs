//! Latencies, counted in buckets that grow with what they hold, so that any latency is kept to within 3 %.

/// How often each latency occurred, in nanoseconds.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

/// Buckets to each doubling.
const STEPS: u64 = 32;
const STEPS_BITS: u32 = STEPS.trailing_zeros();
/// 18 minutes; what is longer counts as that.
const NANOS_MAX: u64 = 1 << 40;

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; bucket(NANOS_MAX) + 1],
            total: 0,
        }
    }

    pub(super) fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos.min(NANOS_MAX))] += 1;
        self.total += 1;
    }

    /// The latency that `share` of all stayed below, in nanoseconds; 0 where there are none.
    pub(super) fn quantile(&self, share: f64) -> u64 {
        let mut left = (self.total as f64 * share).ceil() as u64;
        for (index, count) in self.counts.iter().enumerate() {
            if left <= *count {
                return if *count == 0 { 0 } else { upper_bound(index) };
            }
            left -= count;
        }
        NANOS_MAX
    }
}

/// The first 64 buckets hold one value each; from there on, 32 hold each doubling.
fn bucket(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(STEPS_BITS + 1);
    let index = u64::from(shift) * STEPS + (nanos >> shift);
    usize::try_from(index).expect("a bucket's number is below 2,048")
}

/// The largest value in a bucket.
fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / STEPS).saturating_sub(1);
    ((index - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_at_most_three_percent_below_the_bound_of_its_bucket() {
        let values = (0..40).flat_map(|bits| {
            let power = 1_u64 << bits;
            [power - 1, power, power + 1, power + power / 3, power + power / 2]
        });
        for value in values.chain([NANOS_MAX]) {
            let bound = upper_bound(bucket(value));
            assert!(
                bound >= value && (bound - value) as f64 <= value as f64 / 31.0,
                "{value} {bound}"
            );
            assert_eq!(bucket(bound), bucket(value));
        }
    }

    #[test]
    fn quantiles_count_from_the_shortest() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), 0);
        for nanos in 1..=60 {
            histogram.record(nanos);
        }
        assert_eq!(histogram.quantile(0.5), 30);
        assert_eq!(histogram.quantile(1.0), 60);
        histogram.record(u64::MAX);
        assert!(histogram.quantile(1.0) >= NANOS_MAX);
    }
}
