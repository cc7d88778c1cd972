//! Which of several endpoints takes a connection: the one with less to do of two
//! drawn by weight ("power of two choices"), and none that failed a moment ago as
//! long as another did not.

/// What is known of an endpoint at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Streams that we have open to it.
    pub(crate) streams: usize,
    /// It failed, and its time-out is not over.
    pub(crate) ejected: bool,
}

/// Chooses one of `count` endpoints; those of weight 0 are never chosen.
pub(crate) fn choose(
    count: usize,
    weight: impl Fn(usize) -> u32,
    standing: impl Fn(usize) -> Standing,
    mut random: impl FnMut() -> u64,
) -> Option<usize> {
    let first = draw(count, &weight, random())?;
    let others = |i| if i == first { 0 } else { weight(i) };
    let Some(second) = draw(count, others, random()) else { return Some(first) };
    let lighter = || {
        // Streams for each unit of weight, the new one counted.
        let share = |of: usize, other: usize| {
            (standing(of).streams as u128 + 1).saturating_mul(u128::from(weight(other)))
        };
        if share(second, first) < share(first, second) { second } else { first }
    };
    Some(match (standing(first).ejected, standing(second).ejected) {
        (false, false) => lighter(),
        (false, true) => first,
        (true, false) => second,
        (true, true) => {
            let healthy = |i| if standing(i).ejected { 0 } else { weight(i) };
            // With none left all are as good as each other: better a try than none.
            draw(count, healthy, random()).unwrap_or_else(lighter)
        }
    })
}

/// Draws one by weight.
fn draw(count: usize, weight: impl Fn(usize) -> u32, random: u64) -> Option<usize> {
    let total: u64 = (0..count).map(|i| u64::from(weight(i))).sum();
    let mut left = random.checked_rem(total)?;
    (0..count).find(|i| {
        let mine = u64::from(weight(*i));
        let found = left < mine;
        left = left.saturating_sub(mine);
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are spread evenly enough (SplitMix64).
    fn numbers() -> impl FnMut() -> u64 {
        let mut state = 0_u64;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    /// How many of `draws` connections each endpoint gets, all of which stay open.
    fn filled<const N: usize>(weights: [u32; N], mut standing: [Standing; N], draws: usize) -> [usize; N] {
        let mut random = numbers();
        let mut counts = [0; N];
        for _ in 0..draws {
            let chosen = choose(N, |i| weights[i], |i| standing[i], &mut random).unwrap();
            counts[chosen] += 1;
            standing[chosen].streams += 1;
        }
        counts
    }

    const FREE: Standing = Standing { streams: 0, ejected: false };
    const OUT: Standing = Standing { streams: 0, ejected: true };

    #[test]
    fn connections_spread_by_weight_and_by_what_is_open_already() {
        for count in filled([1; 4], [FREE; 4], 4000) {
            assert!((990..=1010).contains(&count), "{count}");
        }
        let [one, three] = filled([1, 3], [FREE; 2], 4000);
        assert!((990..=1010).contains(&one), "{one} {three}");
        // Whoever has more to do gets nothing until the other has as much.
        let busy = Standing { streams: 100, ejected: false };
        assert_eq!(filled([1, 1], [busy, FREE], 100), [0, 100]);
    }

    #[test]
    fn who_failed_gets_nothing_unless_all_did() {
        assert_eq!(filled([1, 1, 1], [OUT, FREE, OUT], 100), [0, 100, 0]);
        assert_eq!(filled([5, 1], [OUT, FREE], 100), [0, 100]);
        let [a, b] = filled([1, 1], [OUT, OUT], 100);
        assert_eq!((a, b), (50, 50));
    }

    #[test]
    fn without_weight_there_is_no_choice() {
        assert_eq!(filled([0, 1], [FREE, OUT], 10), [0, 10]);
        assert_eq!(choose(0, |_| 1, |_| FREE, numbers()), None);
        assert_eq!(choose(2, |_| 0, |_| FREE, numbers()), None);
        assert_eq!(choose(1, |_| u32::MAX, |_| FREE, numbers()), Some(0));
    }
}
