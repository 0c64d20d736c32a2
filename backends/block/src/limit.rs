//! Rate limits of a disk, in bytes and in requests per second: two token buckets.

use std::num::NonZeroU64;

use crate::Limits;

const SECOND_NS: u64 = 1_000_000_000;

/// How much may come at once after a rest: what the rate allows in a tenth of a second, and two
/// requests at least, so that one that comes late leaves something for the next.
const BURST_PARTS: u64 = 10;

/// The limits of one disk, whatever queue a request comes by.
#[derive(Debug)]
pub(crate) struct Limiter {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// A token bucket that a request may overdraw, so that one larger than the bucket passes, too; the
/// next one waits the longer.
#[derive(Debug)]
struct Bucket {
    /// Tokens a second.
    rate: NonZeroU64,
    /// Tokens, times [`SECOND_NS`].
    level: i128,
    /// When the level was that.
    since_ns: u64,
}

impl Limiter {
    /// Full buckets at this time.
    pub(crate) fn new(limits: Limits, now_ns: u64) -> Self {
        let bucket = |rate| Bucket::new(rate, now_ns);
        Self { requests: limits.iops.map(bucket), bytes: limits.bps.map(bucket) }
    }

    /// Whether there is nothing to wait for, ever.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.requests.is_none() && self.bytes.is_none()
    }

    /// Lets a request that moves this many bytes through.
    ///
    /// # Errors
    /// It has to wait until this time, in nanoseconds.
    pub(crate) fn take(&mut self, now_ns: u64, bytes: u64) -> Result<(), u64> {
        let mut ready_ns = now_ns;
        for bucket in self.requests.iter_mut().chain(&mut self.bytes) {
            ready_ns = ready_ns.max(bucket.ready_ns(now_ns));
        }
        if ready_ns > now_ns {
            return Err(ready_ns);
        }
        self.requests.iter_mut().for_each(|bucket| bucket.spend(1));
        self.bytes.iter_mut().for_each(|bucket| bucket.spend(bytes));
        Ok(())
    }
}

impl Bucket {
    fn new(rate: NonZeroU64, now_ns: u64) -> Self {
        let mut bucket = Self { rate, level: 0, since_ns: now_ns };
        bucket.level = bucket.full();
        bucket
    }

    fn full(&self) -> i128 {
        i128::from((self.rate.get() / BURST_PARTS).max(2)) * i128::from(SECOND_NS)
    }

    /// When the next request may come.
    fn ready_ns(&mut self, now_ns: u64) -> u64 {
        let rate = i128::from(self.rate.get());
        let passed = now_ns.saturating_sub(self.since_ns);
        self.level = self.full().min(self.level + i128::from(passed) * rate);
        self.since_ns = now_ns.max(self.since_ns);
        // A whole token, as fractions of requests do not come.
        let missing = i128::from(SECOND_NS) - self.level;
        if missing <= 0 {
            return now_ns;
        }
        let wait = missing.div_euclid(rate) + i128::from(missing.rem_euclid(rate) > 0);
        now_ns.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn spend(&mut self, tokens: u64) {
        self.level -= i128::from(tokens) * i128::from(SECOND_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(iops: u64, bps: u64) -> Limiter {
        Limiter::new(Limits { iops: NonZeroU64::new(iops), bps: NonZeroU64::new(bps) }, 0)
    }

    /// How many requests of `bytes` pass until `end_ns`, by somebody who comes back when told.
    fn passed(limiter: &mut Limiter, bytes: u64, end_ns: u64) -> u64 {
        let (mut now, mut count) = (0, 0);
        loop {
            match limiter.take(now, bytes) {
                Ok(()) => count += 1,
                Err(later) if later > end_ns => return count,
                Err(later) => {
                    assert!(later > now, "whoever comes back when told is not told the same again");
                    now = later;
                }
            }
        }
    }

    #[test]
    fn in_the_long_run_the_rate_holds_beyond_one_burst() {
        assert_eq!(passed(&mut limiter(100, 0), 4096, 10 * SECOND_NS), 1000 + 10);
        assert_eq!(passed(&mut limiter(3, 0), 0, 10 * SECOND_NS), 30 + 2);
        let bytes = passed(&mut limiter(0, 1 << 20), 4096, 10 * SECOND_NS) * 4096;
        let expected = (10 << 20) + (1 << 20) / BURST_PARTS;
        assert!(bytes.abs_diff(expected) <= 4096, "{bytes}");
        let both = passed(&mut limiter(100, 4096), 4096, 10 * SECOND_NS);
        assert!((10..=12).contains(&both), "the stricter one holds: {both}");
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_is_paid_for_afterwards() {
        let mut limiter = limiter(0, 1000);
        assert_eq!(limiter.take(0, 5000), Ok(()));
        let later = limiter.take(0, 1).unwrap_err();
        assert_eq!(later, (5000 - 100 + 1) * SECOND_NS / 1000);
        assert!(limiter.take(later - 1, 1).is_err());
        assert_eq!(limiter.take(later, 1), Ok(()));
    }

    #[test]
    fn nothing_is_saved_up_beyond_a_burst_and_a_clock_that_stands_gives_nothing() {
        let mut limiter = limiter(10, 0);
        assert!(limiter.take(1000 * SECOND_NS, 0).is_ok());
        assert!(limiter.take(1000 * SECOND_NS, 0).is_ok());
        let again = limiter.take(1000 * SECOND_NS, 0).unwrap_err();
        assert_eq!(again, 1000 * SECOND_NS + SECOND_NS / 10);
        assert!(limiter.take(0, 0).is_err(), "nor one that goes back");
        assert!(!limiter.is_unlimited());
        let mut none = Limiter::new(Limits::default(), 0);
        assert!(none.is_unlimited());
        assert_eq!(none.take(0, u64::MAX), Ok(()));
    }
}
