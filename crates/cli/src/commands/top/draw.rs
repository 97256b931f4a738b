//! Lines of the live view: one for each endpoint, under it one for each of its replicas.

use std::cmp::Reverse;

use galerne_api::v1::live::{Live, LiveEndpoint, LiveRates, LiveReplica};
use galerne_model::units::Milliwatts;

use crate::display;

/// Columns where there is no terminal: nothing is cut there.
pub(super) const WIDTH_PLAIN: usize = 120;
/// Columns of everything behind the name.
const NUMBERS: usize = 63;
/// Narrowest a name is made.
const NAME_MIN: usize = 12;

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    Busy,
    Tokens,
    Slow,
}

/// All that is shown.
pub(super) struct View {
    pub(super) live: Live,
    pub(super) order: Order,
    /// Why there is nothing newer.
    pub(super) trouble: Option<String>,
}

impl Order {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Name => Self::Busy,
            Self::Busy => Self::Tokens,
            Self::Tokens => Self::Slow,
            Self::Slow => Self::Name,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Busy => "requests in flight",
            Self::Tokens => "generated tokens",
            Self::Slow => "time to the first token",
        }
    }

    /// Larger comes first, then names.
    fn rank(self, in_flight: u32, rates: &LiveRates) -> Reverse<u64> {
        Reverse(match self {
            Self::Name => 0,
            Self::Busy => u64::from(in_flight),
            Self::Tokens => rates.completion_tokens_milli,
            Self::Slow => rates.first_token_p99_micros.unwrap_or(0),
        })
    }
}

impl View {
    /// As many lines as there are, or as fit on `height`; none longer than `width`.
    pub(super) fn lines(&self, width: usize, height: Option<usize>) -> Vec<String> {
        let name = width.saturating_sub(NUMBERS).max(NAME_MIN);
        let mut rows = self.rows(name);
        let mut lines = vec![self.summary()];
        lines.extend(self.note());
        lines.push(head(name));
        let above = lines.len();
        // One below.
        let room = height.map(|height| height.saturating_sub(above + 1));
        if let Some(room) = room.filter(|room| rows.len() > *room) {
            let hidden = rows.len() + 1 - room.max(1);
            rows.truncate(room.saturating_sub(1));
            rows.push(format!("… and {hidden} more; a taller window shows them"));
        }
        lines.extend(rows);
        if let Some(room) = room {
            lines.resize(above + room, String::new());
            lines.push(self.foot());
        }
        lines.into_iter().map(|line| cut(&line, width)).collect()
    }

    fn summary(&self) -> String {
        let Live { at, endpoints, .. } = &self.live;
        let sum = |of: fn(&LiveRates) -> u64| endpoints.iter().map(|endpoint| of(&endpoint.rates)).sum();
        let time = at.strftime("%H:%M:%S");
        let mut text = format!(
            "{time} UTC  {} in flight  {} req/s  {} tokens/s in, {} out",
            endpoints.iter().map(|endpoint| u64::from(endpoint.in_flight)).sum::<u64>(),
            rate(sum(|rates| rates.requests_milli)),
            rate(sum(|rates| rates.prompt_tokens_milli)),
            rate(sum(|rates| rates.completion_tokens_milli)),
        );
        let metered =
            endpoints.iter().filter_map(|endpoint| endpoint.power).reduce(|sum, more| Milliwatts(sum.0 + more.0));
        if let Some(power) = metered {
            text.push_str(&format!("  {} W", watts(Some(power))));
        }
        text
    }

    /// Whose work is not in the numbers.
    fn note(&self) -> Option<String> {
        let others = i64::from(self.live.other_gateways);
        (others > 0).then(|| format!("without {}: see the /metrics there", display::counted(others, "other gateway")))
    }

    fn foot(&self) -> String {
        match &self.trouble {
            Some(trouble) => format!("not answered: {trouble}"),
            None => format!("q quit   s sort: {}", self.order.word()),
        }
    }

    fn rows(&self, name: usize) -> Vec<String> {
        let mut endpoints: Vec<&LiveEndpoint> = self.live.endpoints.iter().collect();
        endpoints.sort_by(|a, b| {
            let rank = |one: &LiveEndpoint| self.order.rank(one.in_flight, &one.rates);
            rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
        });
        let mut rows = Vec::new();
        if endpoints.is_empty() {
            rows.push("no endpoints; make one: galerne endpoint create".to_owned());
        }
        for endpoint in endpoints {
            let LiveEndpoint { in_flight, queued, rates, power, .. } = endpoint;
            let state = if endpoint.replicas.is_empty() { "no replica" } else { "" };
            rows.push(row(&endpoint.name, name, *in_flight, *queued, rates, *power, state));
            let mut replicas: Vec<&LiveReplica> = endpoint.replicas.iter().collect();
            replicas.sort_by(|a, b| {
                let rank = |one: &LiveReplica| self.order.rank(one.in_flight, &one.rates);
                rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
            });
            for replica in replicas {
                let LiveReplica { in_flight, queued, rates, power, breaker, .. } = replica;
                let indented = format!("  {}", replica.name);
                rows.push(row(&indented, name, *in_flight, *queued, rates, *power, &display::word(breaker)));
            }
        }
        rows
    }
}

fn head(name: usize) -> String {
    format!(
        "{:<name$} {:>4} {:>5} {:>6} {:>6} {:>6} {:>6} {:>6} {:>5} {}",
        "ENDPOINT", "RUN", "QUEUE", "REQ/S", "IN/S", "OUT/S", "TTFT50", "TTFT99", "W", "BREAKER"
    )
}

fn row(
    title: &str,
    name: usize,
    in_flight: u32,
    queued: u32,
    rates: &LiveRates,
    power: Option<Milliwatts>,
    state: &str,
) -> String {
    let line = format!(
        "{:<name$} {:>4} {:>5} {:>6} {:>6} {:>6} {:>6} {:>6} {:>5} {state}",
        squeeze(title, name),
        in_flight,
        queued,
        rate(rates.requests_milli),
        rate(rates.prompt_tokens_milli),
        rate(rates.completion_tokens_milli),
        time(rates.first_token_p50_micros),
        time(rates.first_token_p99_micros),
        watts(power),
    );
    line.trim_end().to_owned()
}

/// Thousandths per second, in at most six characters.
fn rate(milli: u64) -> String {
    match milli {
        0 => "0".to_owned(),
        1..100_000 => format!("{}.{}", milli / 1_000, milli % 1_000 / 100),
        100_000..10_000_000 => format!("{}", milli / 1_000),
        10_000_000..10_000_000_000 => format!("{}k", milli / 1_000_000),
        _ => format!("{}M", milli / 1_000_000_000),
    }
}

/// A time, in at most six characters.
fn time(micros: Option<u64>) -> String {
    match micros {
        None => "–".to_owned(),
        Some(micros @ 0..10_000) => format!("{}.{}ms", micros / 1_000, micros % 1_000 / 100),
        Some(micros @ 10_000..1_000_000) => format!("{}ms", micros / 1_000),
        Some(micros @ 1_000_000..100_000_000) => format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000),
        Some(micros) => format!("{}s", micros / 1_000_000),
    }
}

fn watts(power: Option<Milliwatts>) -> String {
    match power.map(|power| power.0.max(0)) {
        None => "–".to_owned(),
        Some(milliwatts @ 0..10_000) => format!("{}.{}", milliwatts / 1_000, milliwatts % 1_000 / 100),
        Some(milliwatts) => (milliwatts / 1_000).to_string(),
    }
}

/// The beginning of a text that is too long. What would move the cursor is left out: names are others' words.
fn cut(text: &str, most: usize) -> String {
    let clean: Vec<char> = text.chars().filter(|letter| !letter.is_control()).collect();
    if clean.len() <= most {
        return clean.into_iter().collect();
    }
    clean[..most.saturating_sub(1)].iter().chain(&['…']).collect()
}

/// A name that is too long, without its middle: replicas of an endpoint differ at the end.
fn squeeze(text: &str, most: usize) -> String {
    let clean: Vec<char> = text.chars().filter(|letter| !letter.is_control()).collect();
    if clean.len() <= most {
        return clean.into_iter().collect();
    }
    let tail = most / 3;
    let head = most.saturating_sub(tail + 1);
    clean[..head].iter().chain(&['…']).chain(&clean[clean.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use galerne_api::v1::route::RouteBreaker;
    use jiff::Timestamp;

    use super::*;

    fn rates(requests_milli: u64, first: Option<u64>) -> LiveRates {
        LiveRates {
            requests_milli,
            prompt_tokens_milli: requests_milli * 1_200,
            cached_tokens_milli: requests_milli * 800,
            completion_tokens_milli: requests_milli * 240,
            first_token_p50_micros: first,
            first_token_p99_micros: first.map(|first| first * 9),
        }
    }

    fn replica(name: &str, in_flight: u32, rates: LiveRates, breaker: RouteBreaker) -> LiveReplica {
        LiveReplica {
            replica_id: "replica_00000000000000000000000000000000".parse().expect("an id"),
            name: name.to_owned(),
            in_flight,
            others: 0,
            queued: in_flight / 8,
            kv_thousandths: Some(412),
            rates,
            power: (breaker == RouteBreaker::Closed).then_some(Milliwatts(412_345)),
            breaker,
            breaker_openings: 0,
        }
    }

    fn endpoint(name: &str, replicas: Vec<LiveReplica>) -> LiveEndpoint {
        LiveEndpoint {
            endpoint_id: "endpoint_00000000000000000000000000000000".parse().expect("an id"),
            name: name.to_owned(),
            in_flight: replicas.iter().map(|replica| replica.in_flight).sum(),
            queued: 2,
            rates: replicas.first().map(|replica| replica.rates).unwrap_or_default(),
            power: replicas.iter().find_map(|replica| replica.power),
            replicas,
        }
    }

    fn view(order: Order) -> View {
        let mistral = endpoint(
            "mistral-small-3.2-24b-instruct",
            vec![
                replica("mistral-small-3.2-24b-instruct-0", 17, rates(12_340, Some(85_000)), RouteBreaker::Closed),
                replica("mistral-small-3.2-24b-instruct-1", 0, rates(0, None), RouteBreaker::HalfOpen),
            ],
        );
        let smol = endpoint("smol", vec![replica("smol-0", 3, rates(800, Some(1_200_000)), RouteBreaker::Closed)]);
        let at = Timestamp::from_second(1_780_000_000).expect("in range");
        let live = Live { at, other_gateways: 1, endpoints: vec![smol, mistral, endpoint("asleep", Vec::new())] };
        View { live, order, trouble: None }
    }

    #[test]
    fn a_screen_of_80_by_24_is_filled_and_not_passed() {
        let lines = view(Order::Name).lines(80, Some(24));
        assert_eq!(lines.len(), 24);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let lines = view(Order::Name).lines(60, Some(6));
        assert_eq!(lines.len(), 6);
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{lines:#?}");
        assert!(lines[4].starts_with("… and 5 more"), "{lines:#?}");
        assert_eq!(view(Order::Name).lines(80, Some(1)).len(), 4, "no screen is too small to draw on");
    }

    #[test]
    fn the_order_goes_round_and_endpoints_keep_their_replicas() {
        let first = |order: Order| view(order).lines(120, None)[3].clone();
        assert!(first(Order::Name).starts_with("asleep"));
        assert!(first(Order::Busy).starts_with("mistral"));
        assert!(first(Order::Tokens).starts_with("mistral"));
        assert!(first(Order::Slow).starts_with("smol"));
        let order = Order::Name;
        assert_eq!(order.next().next().next().next(), order);
        let lines = view(Order::Slow).lines(120, None);
        assert!(lines[4].starts_with("  smol-0"), "{lines:#?}");
    }

    #[test]
    fn numbers_keep_to_six_characters() {
        for milli in [0, 999, 99_999, 100_000, 9_999_999, 10_000_000, 9_999_999_999, 999_999_999_999] {
            assert!(rate(milli).chars().count() <= 6, "{}", rate(milli));
        }
        for micros in [0, 9_999, 10_000, 999_999, 1_000_000, 99_999_999, 100_000_000] {
            assert!(time(Some(micros)).chars().count() <= 6, "{}", time(Some(micros)));
        }
        assert_eq!(
            (rate(12_340), time(Some(85_400)), watts(Some(Milliwatts(8_460)))),
            ("12.3".into(), "85ms".into(), "8.4".into())
        );
    }

    #[test]
    fn a_name_moves_no_cursor() {
        assert_eq!((cut("a\x1b[2Jb", 9), squeeze("a\x1b[2Jb", 9)), ("a[2Jb".into(), "a[2Jb".into()));
    }

    #[test]
    fn replicas_of_a_long_name_can_be_told_apart() {
        assert_eq!(squeeze("mistral-small-3.2-24b-instruct-1", 17), "mistral-sma…uct-1");
        assert_eq!(squeeze("smol-0", 6), "smol-0");
    }
}
