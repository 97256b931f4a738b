//! Shares of an endpoint's traffic: which requests a canary answers, which are copied to a shadow.

/// Thousandths in the whole.
const WHOLE: u64 = 1_000;

/// Where one request goes, by the shares of its endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drawn {
    /// The position of the canary that answers it; absent when the endpoint itself does.
    pub canary: Option<usize>,
    /// The position of the shadow that gets a copy.
    pub shadow: Option<usize>,
}

/// Draws for one request; shares are in thousandths and each list's sum is at most 1,000. `chance` is any number, another
/// each time.
pub fn draw(canaries: &[u32], shadows: &[u32], chance: u64) -> Drawn {
    // Two draws that do not hang together: a shadow sees of canary and endpoint what each of them has.
    Drawn { canary: of(canaries, chance % WHOLE), shadow: of(shadows, (chance / WHOLE) % WHOLE) }
}

fn of(shares: &[u32], drawn: u64) -> Option<usize> {
    let mut below = 0;
    shares.iter().position(|share| {
        below += u64::from(*share);
        drawn < below
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_its_share_and_the_endpoint_the_rest() {
        let mut canaries = [0; 3];
        let mut shadows = [0; 2];
        for chance in 0..1_000_000 {
            let drawn = draw(&[50, 200], &[100], chance);
            canaries[drawn.canary.map_or(2, |at| at)] += 1;
            shadows[drawn.shadow.map_or(1, |at| at)] += 1;
        }
        assert_eq!((canaries, shadows), ([50_000, 200_000, 750_000], [100_000, 900_000]));
        assert_eq!(draw(&[], &[], 7), Drawn::default());
        assert_eq!(draw(&[1_000], &[], 999).canary, Some(0));
    }
}
